//! Bodies cut into objects as they arrive, however they arrive: a list of any size is decoded object
//! by object, and never in memory as a whole.

use super::failure::Failure;

/// No object of the API is as large: etcd takes 1.5 MiB.
const LARGEST: usize = 16 << 20;

/// The lines of a watch.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes in and hands out the lines that are complete; empty ones are left out.
    ///
    /// # Errors
    /// What `take` says, or a line without end.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if self.rest.is_empty() {
                take_some(line, &mut take)?;
            } else {
                self.rest.extend_from_slice(line);
                let whole = std::mem::take(&mut self.rest);
                take_some(&whole, &mut take)?;
            }
        }
        self.rest.extend_from_slice(bytes);
        bounded("a line", self.rest.len())
    }
}

/// Refuses what has no end.
fn bounded(what: &str, size: usize) -> Result<(), Failure> {
    match size {
        ..=LARGEST => Ok(()),
        _ => Err(Failure::Garbage(format!("{what} has more than {} MiB", LARGEST >> 20))),
    }
}

fn take_some(line: &[u8], take: &mut impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    match line.trim_ascii() {
        [] => Ok(()),
        line => take(line),
    }
}

/// The items of a list, and what is around them.
#[derive(Debug, Default)]
pub struct Items {
    /// The list without its items: a small document.
    frame: Vec<u8>,
    /// What is known of an item that is not complete.
    item: Vec<u8>,
    depth: u32,
    in_string: bool,
    is_escaped: bool,
    in_items: bool,
}

impl Items {
    /// Takes bytes in and hands out the items that are complete.
    ///
    /// # Errors
    /// What `take` says, or an item or list without end.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut from = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if self.in_string {
                self.in_string = self.is_escaped || *byte != b'"';
                self.is_escaped = !self.is_escaped && *byte == b'\\';
                continue;
            }
            let is_edge = match byte {
                b'"' => {
                    self.in_string = true;
                    false
                }
                b'{' | b'[' => {
                    self.depth += 1;
                    *byte == b'[' && self.depth == 2 && self.begins_items(&bytes[from..at])
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.in_items && self.depth == 1
                }
                b',' => self.in_items && self.depth == 2,
                _ => false,
            };
            if !is_edge {
                continue;
            }
            if self.in_items {
                self.end_item(&bytes[from..at], &mut take)?;
                // The bracket that ends the items belongs to the frame, a comma between them does not.
                self.in_items = *byte == b',';
                from = if self.in_items { at + 1 } else { at };
            } else {
                self.frame.extend_from_slice(&bytes[from..=at]);
                self.in_items = true;
                from = at + 1;
            }
        }
        let rest = if self.in_items { &mut self.item } else { &mut self.frame };
        rest.extend_from_slice(&bytes[from..]);
        bounded("an item", self.item.len().max(self.frame.len()))
    }

    /// Whether the array that begins here is that of the items.
    fn begins_items(&self, since: &[u8]) -> bool {
        const KEY: &[u8] = b"\"items\"";
        let mut before = [&self.frame[self.frame.len().saturating_sub(32)..], since].concat();
        before.truncate(before.trim_ascii_end().len());
        before.strip_suffix(b":").is_some_and(|before| before.trim_ascii_end().ends_with(KEY))
    }

    fn end_item(
        &mut self,
        tail: &[u8],
        take: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.item.is_empty() {
            return take_some(tail, take);
        }
        self.item.extend_from_slice(tail);
        let whole = std::mem::take(&mut self.item);
        take_some(&whole, take)
    }

    /// What was around the items, once all has been taken in.
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"kind":"L","metadata":{"continue":"x\"[","items":[1]}, "items" : [{"a":[{"b":"}],\\"}]}, 2,{"items":[3]}],"z":[4]}"#;

    /// The items and the frame, fed in pieces of a size.
    fn items(text: &str, size: usize) -> (Vec<String>, String) {
        let (mut items, mut found) = (Items::default(), Vec::new());
        for piece in text.as_bytes().chunks(size) {
            let take = |item: &[u8]| {
                found.push(String::from_utf8(item.to_vec()).unwrap());
                Ok(())
            };
            items.feed(piece, take).unwrap();
        }
        (found, String::from_utf8(items.frame().to_vec()).unwrap())
    }

    #[test]
    fn a_list_is_cut_into_its_items_wherever_its_pieces_end() {
        let whole = items(LIST, LIST.len());
        assert_eq!(whole.0, [r#"{"a":[{"b":"}],\\"}]}"#, "2", r#"{"items":[3]}"#]);
        assert_eq!(
            whole.1,
            r#"{"kind":"L","metadata":{"continue":"x\"[","items":[1]}, "items" : [],"z":[4]}"#
        );
        for size in 1..LIST.len() {
            assert_eq!(items(LIST, size), whole, "pieces of {size}");
        }
    }

    #[test]
    fn a_list_without_items_has_none() {
        for text in [r#"{"items":[]}"#, r#"{"items":null}"#, r#"{"kind":"Status"}"#, "[1,2]", "", "}]]"] {
            assert_eq!(items(text, 3), (Vec::new(), text.to_owned()));
        }
    }

    #[test]
    fn lines_are_whole_or_not_handed_out() {
        let text = "one\n\n two \r\nthree\nfou";
        for size in 1..text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                let take = |line: &[u8]| {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                    Ok(())
                };
                lines.feed(piece, take).unwrap();
            }
            assert_eq!(found, ["one", "two", "three"], "pieces of {size}");
            assert_eq!(lines.rest, b"fou");
        }
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let piece = vec![b'x'; 1 << 20];
        let mut lines = Lines::default();
        assert!((0..17).any(|_| lines.feed(&piece, |_| Ok(())).is_err()));
        let mut items = Items::default();
        items.feed(b"{\"items\":[", |_| Ok(())).unwrap();
        assert!((0..17).any(|_| items.feed(&piece, |_| Ok(())).is_err()));
    }
}
