//! A YAML or JSON text as values that know their lines, so that whoever judges them can name the place.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DefaultMessageFormatter, MessageFormatter, Spanned};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The line in the file, from 1.
    pub line: u64,
    /// What stands there.
    pub node: Node,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// `null`, `~`, or nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number, whole or not.
    Number(serde_json::Number),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// Keys with their values, in the order of the file; a key may stand there twice.
    Map(Vec<(String, Tree)>),
}

impl Node {
    /// What it is, in an error.
    pub fn kind(&self) -> &'static str {
        match self {
            Node::Null => "nothing",
            Node::Bool(_) => "a truth value",
            Node::Number(_) => "a number",
            Node::Text(_) => "text",
            Node::List(_) => "a list",
            Node::Map(_) => "a map",
        }
    }
}

/// Why a text is no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: u64,
    /// What the parser said.
    pub message: String,
}

/// Reads a text of one document.
///
/// # Errors
/// It is neither YAML nor JSON, or holds several documents.
pub fn parse(text: &str) -> Result<Tree, ParseError> {
    if text.trim().is_empty() {
        return Ok(Tree { line: 1, node: Node::Null });
    }
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| ParseError {
        line: error.location().map_or(1, |at| at.line().max(1)),
        message: message(&error),
    })
}

/// The parser's words, without the line.
fn message(error: &serde_saphyr::Error) -> String {
    match error {
        serde_saphyr::Error::MultipleDocuments { .. } => {
            "a second document begins here, and one is wanted".to_owned()
        }
        error => DefaultMessageFormatter.format_message(error).into_owned(),
    }
}

/// `yes` and `n` are text, for a name may be that. Both of two equal keys come through, for the reader to judge; limits against aliases that multiply stay.
fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    options.strict_booleans = true;
    options.duplicate_keys = serde_saphyr::DuplicateKeyPolicy::LastWins;
    options
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree, D::Error> {
        let spanned = Spanned::<Node>::deserialize(deserializer)?;
        Ok(Tree { line: spanned.referenced.line(), node: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // What JSON has no number for is text, as in Go's way through JSON.
        Ok(serde_json::Number::from_f64(value).map_or_else(|| Node::Text(value.to_string()), Node::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Node, Tree>()? {
            let key = match key {
                Node::Text(text) => text,
                Node::Bool(value) => value.to_string(),
                Node::Number(number) => number.to_string(),
                other => return Err(A::Error::custom(format!("a key is {}, not text", other.kind()))),
            };
            map.push((key, value));
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(tree: &Tree) -> Vec<(&str, u64)> {
        let Node::Map(entries) = &tree.node else { panic!("it is {}", tree.node.kind()) };
        entries.iter().map(|(key, value)| (key.as_str(), value.line)).collect()
    }

    #[test]
    fn values_know_their_lines() {
        let tree = parse("a: 1\nb:\n  c: [x,\n    y]\na: 2\nd: ~\n").unwrap();
        assert_eq!(entries(&tree), [("a", 1), ("b", 3), ("a", 5), ("d", 6)]);
        let Node::Map(all) = tree.node else { unreachable!("seen above") };
        assert_eq!(all[3].1.node, Node::Null);
        let Node::Map(b) = &all[1].1.node else { panic!("b is a map") };
        let Node::List(c) = &b[0].1.node else { panic!("c is a list") };
        assert_eq!((c[0].line, c[1].line), (3, 4));
    }

    #[test]
    fn json_is_read_too() {
        let tree = parse("{\n  \"a\": {\"b\": true},\n  \"c\": \"0x10\", \"d\": 1.5}").unwrap();
        assert_eq!(entries(&tree), [("a", 2), ("c", 3), ("d", 3)]);
    }

    #[test]
    fn what_cannot_be_parsed_has_a_line() {
        let error = parse("a: 1\nb: [1\nc: 2\n").unwrap_err();
        assert!(error.line > 1 && !error.message.contains('\n'), "{error}");
        assert!(parse(&"[".repeat(100_000)).is_err(), "depth is bounded");
        assert!(parse("a: 1\n---\nb: 2\n").is_err(), "one document");
        assert_eq!(parse(" \n").unwrap().node, Node::Null);
    }
}
