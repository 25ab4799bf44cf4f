//! What is wrong with a file, in words that lead to the place.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object or document is not used as it is now; its last good version stays.
    Error,
    /// Part of the object is skipped.
    Warning,
    /// Nothing is wrong: a kind that is not read.
    Note,
}

/// A problem with its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FileProblem {
    /// The file.
    pub file: Arc<str>,
    /// Which document of it, from 1; 0 is the file as a whole.
    pub document: usize,
    /// The line of the file, from 1, where it is known: of a syntax error, else of the document.
    pub line: Option<usize>,
    /// Kind, namespace and name, as far as they are known.
    pub object: Option<String>,
    /// The path of the field; may be empty.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
}

impl FileProblem {
    /// An error of a file as a whole.
    pub fn whole(file: Arc<str>, message: String) -> FileProblem {
        let (field, severity) = (String::new(), Severity::Error);
        FileProblem { file, document: 0, line: None, object: None, field, message, severity }
    }

    /// Where it is, like `web.yaml: document 2 (line 9): Service default/web: spec.ports[0].port`.
    pub fn place(&self) -> String {
        let mut place = self.file.to_string();
        if self.document > 0 {
            place += &format!(": document {}", self.document);
        }
        if let Some(line) = self.line {
            place += &format!(" (line {line})");
        }
        for part in self.object.iter().chain(Some(&self.field).filter(|field| !field.is_empty())) {
            place += &format!(": {part}");
        }
        place
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.message)
    }
}
