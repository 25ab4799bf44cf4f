//! Text to documents to values: YAML or JSON, several documents in one file.
//!
//! Documents are split before they are parsed, so that one that does not parse takes none of the
//! others of its file with it, and one that did not change is not parsed again.

use serde_json::Value;
use serde_saphyr::{DefaultMessageFormatter, MessageFormatter};

/// One document of a file, not parsed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Document<'a> {
    /// Its text, with the marker that opens it.
    pub text: &'a str,
    /// The line of the file that it begins at, from 0.
    pub line: usize,
}

/// Why a document could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ParseError {
    /// The line within the document, from 0, if the parser knows.
    pub line: Option<usize>,
    /// What the parser said.
    pub message: String,
}

/// Splits a file at its document markers. YAML allows `---` and `...` at the start of a line nowhere
/// but as markers, so lines are enough. What comes before the first marker is a document only if it
/// holds more than comments and directives; these then belong to the first document.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    let mut marked = false;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let end = is_marker(line, "...");
        if end || is_marker(line, "---") {
            if marked || has_content(&text[start..offset]) {
                documents.push(Document { text: &text[start..offset], line: start_line });
            }
            if end || marked || has_content(&text[start..offset]) {
                let skipped = if end { line.len() } else { 0 };
                (start, start_line) = (offset + skipped, number + usize::from(end));
            }
            marked = !end;
        }
        offset += line.len();
    }
    if has_content(&text[start..]) {
        documents.push(Document { text: &text[start..], line: start_line });
    }
    documents
}

/// Whether a line is this marker: alone, or followed by white space.
fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether a text holds more than blank lines, comments, directives and markers.
fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !(line.is_empty() || line.starts_with('#') || line.starts_with('%'))
    })
}

/// The values of a document: one, none if it is empty, or several where JSON values follow each other.
///
/// # Errors
/// The text is neither JSON nor YAML.
pub(super) fn parse(text: &str) -> Result<Vec<Value>, ParseError> {
    if !has_content(text) {
        return Ok(Vec::new());
    }
    let body = text.strip_prefix("---").unwrap_or(text).trim_start();
    if body.starts_with('{') {
        // JSON is YAML too, but its own parser is several times faster and knows streams of values.
        let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(body).into_iter().collect();
        if let Ok(values) = values {
            return Ok(values);
        }
    }
    match serde_saphyr::from_str_with_options(text, options()) {
        Ok(Value::Null) => Ok(Vec::new()),
        Ok(value) => Ok(vec![value]),
        Err(error) => Err(ParseError {
            line: error.location().map(|at| (at.line() as usize).saturating_sub(1)),
            // Its line counts from the document.
            message: DefaultMessageFormatter.format_message(&error).into_owned(),
        }),
    }
}

/// The parser's limits guard against aliases that multiply; the size of a list is no attack.
fn options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    if let Some(budget) = &mut options.budget {
        budget.max_events = usize::MAX;
        budget.max_nodes = usize::MAX;
        budget.max_total_scalar_bytes = usize::MAX;
        budget.max_total_comment_bytes = usize::MAX;
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(String, usize)> {
        split(text).into_iter().map(|d| (d.text.trim_end().to_owned(), d.line)).collect()
    }

    #[test]
    fn markers_at_the_start_of_a_line_split_a_file() {
        let got = texts("a: 1\n---\nb: |\n  ---\n  x\n--- # third\nc: 3\n...\n# trailing\n");
        assert_eq!(
            got,
            [("a: 1".into(), 0), ("---\nb: |\n  ---\n  x".into(), 1), ("--- # third\nc: 3".into(), 5)]
        );
    }

    #[test]
    fn comments_and_directives_before_the_first_marker_are_no_document() {
        assert_eq!(
            texts("# licence\n%YAML 1.2\n---\na: 1\n"),
            [("# licence\n%YAML 1.2\n---\na: 1".into(), 0)]
        );
        assert_eq!(texts("---\na: 1\n---\n---\nb: 1\n").len(), 3, "an empty document counts, as in YAML");
        assert_eq!(texts("# nothing\n\n"), []);
    }

    #[test]
    fn an_unparsable_document_tells_its_line_and_no_other_suffers() {
        let documents = split("a: 1\n---\nb: [1\nc: 2\n---\nd: 4\n");
        let results: Vec<_> = documents.iter().map(|d| parse(d.text)).collect();
        assert!(results[0].is_ok() && results[2].is_ok());
        let error = results[1].as_ref().unwrap_err();
        assert!(error.line.is_some(), "{error:?}");
        assert!(!error.message.contains('\n') && !error.message.is_empty());
    }

    #[test]
    fn json_may_be_a_stream_and_anchors_work() {
        assert_eq!(parse("{\"a\": 1}\n{\"a\": 2}").unwrap().len(), 2);
        assert_eq!(parse("{a: 1}").unwrap(), [serde_json::json!({"a": 1})], "flow YAML is not JSON");
        let anchored = parse("x: &x {k: 1}\ny: *x\nz:\n  <<: *x\n").unwrap();
        assert_eq!(anchored, [serde_json::json!({"x": {"k": 1}, "y": {"k": 1}, "z": {"k": 1}})]);
    }

    #[test]
    fn a_key_given_twice_is_an_error() {
        let error = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert!(error.message.contains("duplicate"), "{error:?}");
        assert_eq!(error.line, Some(2));
    }
}
