//! From the values of a file to a typed configuration: strict first, then lenient (CFG-1).

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::fields::{Kind, field, is_section};
use super::types::{API_VERSION, KIND, KubeProxyConfiguration};
use crate::config::duration::GoDuration;
use crate::config::tree::{self, Node, Tree};

/// Why a configuration cannot be used: the field and the line, as far as there are any.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", self.place())]
pub struct FieldError {
    /// The path of the field; empty if it is about the whole file.
    pub field: String,
    /// The line, from 1.
    pub line: Option<u64>,
    /// What is wrong.
    pub message: String,
}

impl FieldError {
    /// An error at a field.
    pub fn new(field: &str, line: Option<u64>, message: impl Into<String>) -> FieldError {
        FieldError { field: field.to_owned(), line, message: message.into() }
    }

    fn place(&self) -> String {
        match (self.field.as_str(), self.line) {
            ("", None) => String::new(),
            ("", Some(line)) => format!("line {line}: "),
            (field, None) => format!("{field}: "),
            (field, Some(line)) => format!("{field} (line {line}): "),
        }
    }
}

/// A file, decoded and not judged yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// What the file says; what it does not say is empty.
    pub given: KubeProxyConfiguration,
    /// The fields it says something about, with their lines.
    pub lines: BTreeMap<String, u64>,
    /// What strict decoding does not like: unknown fields and fields that stand there twice.
    pub strict: Vec<String>,
}

/// Decodes the text of a file.
///
/// # Errors
/// It is neither YAML nor JSON, is of another kind, or a field has the wrong type.
pub fn decode(text: &str) -> Result<Decoded, FieldError> {
    let tree = tree::parse(text).map_err(|error| FieldError::new("", Some(error.line), error.message))?;
    let Node::Map(entries) = &tree.node else {
        let message = format!("holds {}, not a {API_VERSION} {KIND}", tree.node.kind());
        return Err(FieldError::new("", Some(tree.line), message));
    };
    check_kind(entries, tree.line)?;
    let mut walk = Walk::default();
    let value = walk.map("", entries)?;
    let given = typed(value)?;
    Ok(Decoded { given, lines: walk.lines, strict: walk.strict })
}

/// Values by path as a configuration, as a file would say them.
///
/// # Errors
/// A value does not fit its field.
pub fn typed(value: Value) -> Result<KubeProxyConfiguration, FieldError> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| FieldError::new(&error.path().to_string(), None, error.inner().to_string()))
}

/// That it is a file of this kind, before anything else is said of it.
fn check_kind(entries: &[(String, Tree)], first: u64) -> Result<(), FieldError> {
    for (key, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let last = entries.iter().rev().find(|(name, _)| name == key);
        let (line, found) = match last.map(|(_, tree)| (tree.line, &tree.node)) {
            Some((_, Node::Text(text))) if text == wanted => continue,
            Some((line, Node::Text(text))) => (line, format!("'{text}'")),
            Some((line, node)) => (line, node.kind().to_owned()),
            None => (first, "missing".to_owned()),
        };
        let hint = match found.as_str() {
            "'ConfigMap'" => "; give the file that its data holds",
            _ => "",
        };
        return Err(FieldError::new(key, Some(line), format!("is {found}, and must be '{wanted}'{hint}")));
    }
    Ok(())
}

#[derive(Default)]
struct Walk {
    lines: BTreeMap<String, u64>,
    strict: Vec<String>,
}

impl Walk {
    /// The known fields of a map; what is null says nothing, the last of two counts.
    fn map(&mut self, at: &str, entries: &[(String, Tree)]) -> Result<Value, FieldError> {
        let mut map = Map::new();
        let mut seen = Vec::new();
        for (key, tree) in entries {
            let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            if seen.contains(&key) {
                self.strict.push(format!("duplicate field \"{path}\" (line {})", tree.line));
            }
            seen.push(key);
            let value = match (field(&path), &tree.node) {
                (None, _) if !is_section(&path) => {
                    self.strict.push(format!("unknown field \"{path}\" (line {})", tree.line));
                    continue;
                }
                (_, Node::Null) => {
                    map.remove(key);
                    continue;
                }
                (None, Node::Map(inner)) => self.map(&path, inner)?,
                (None, node) => return Err(wrong(&path, tree.line, node, "a map")),
                (Some(field), _) => {
                    self.lines.insert(path.clone(), tree.line);
                    self.value(&path, field.kind, tree)?
                }
            };
            map.insert(key.clone(), value);
        }
        Ok(Value::Object(map))
    }

    fn value(&mut self, path: &str, kind: Kind, tree: &Tree) -> Result<Value, FieldError> {
        let line = tree.line;
        let items = |list: &[Tree]| -> Result<Value, FieldError> {
            let texts =
                list.iter().enumerate().map(|(at, item)| scalar(&format!("{path}[{at}]"), Kind::Text, item));
            Ok(Value::Array(texts.collect::<Result<_, _>>()?))
        };
        match (kind, &tree.node) {
            (Kind::Texts, Node::List(list)) => items(list),
            (Kind::Texts, node) => Err(wrong(path, line, node, "a list of texts")),
            (Kind::Gates, Node::Map(gates)) => {
                let gate = |(name, value): &(String, Tree)| {
                    Ok((name.clone(), scalar(&format!("{path}.{name}"), Kind::Bool, value)?))
                };
                Ok(Value::Object(gates.iter().map(gate).collect::<Result<_, _>>()?))
            }
            (Kind::Gates, node) => Err(wrong(path, line, node, "a map of truth values")),
            (Kind::VModule, Node::List(list)) => {
                let items =
                    list.iter().enumerate().map(|(at, item)| self.vmodule(&format!("{path}[{at}]"), item));
                Ok(Value::Array(items.collect::<Result<_, _>>()?))
            }
            (Kind::VModule, node) => Err(wrong(path, line, node, "a list of filePattern and verbosity")),
            _ => scalar(path, kind, tree),
        }
    }

    fn vmodule(&mut self, path: &str, tree: &Tree) -> Result<Value, FieldError> {
        let Node::Map(entries) = &tree.node else {
            return Err(wrong(path, tree.line, &tree.node, "a map of filePattern and verbosity"));
        };
        let mut map = Map::new();
        for (key, tree) in entries {
            let at = format!("{path}.{key}");
            let kind = match key.as_str() {
                "filePattern" => Kind::Text,
                "verbosity" => Kind::Level,
                _ => {
                    self.strict.push(format!("unknown field \"{at}\" (line {})", tree.line));
                    continue;
                }
            };
            if tree.node != Node::Null {
                map.insert(key.clone(), scalar(&at, kind, tree)?);
            }
        }
        Ok(Value::Object(map))
    }
}

/// A value that holds no others, as JSON has it.
fn scalar(path: &str, kind: Kind, tree: &Tree) -> Result<Value, FieldError> {
    let (line, node) = (tree.line, &tree.node);
    let no = |wanted: &str| Err(wrong(path, line, node, wanted));
    match (kind, node) {
        (Kind::Text, Node::Text(text)) => Ok(text.clone().into()),
        (Kind::Text, _) => no("text (put it in quotes)"),
        (Kind::Bool, Node::Bool(value)) => Ok((*value).into()),
        // YAML 1.1, which kube-proxy reads, has more words.
        (Kind::Bool, Node::Text(text))
            if matches!(text.to_lowercase().as_str(), "yes" | "on" | "no" | "off") =>
        {
            Ok(matches!(text.to_lowercase().as_str(), "yes" | "on").into())
        }
        (Kind::Bool, _) => no("true or false"),
        (Kind::Int, Node::Number(number)) => match whole(number).and_then(|n| i32::try_from(n).ok()) {
            Some(value) => Ok(value.into()),
            None => Err(range(path, line, number, "a whole number of 32 bits")),
        },
        (Kind::Int, _) => no("a whole number"),
        (Kind::Level, Node::Number(number)) => match whole(number).and_then(|n| u32::try_from(n).ok()) {
            Some(value) => Ok(value.into()),
            None => Err(range(path, line, number, "a whole number of 32 bits from 0")),
        },
        (Kind::Level, _) => no("a whole number"),
        (Kind::Number, Node::Number(number)) => Ok(Value::Number(number.clone())),
        (Kind::Number, _) => no("a number"),
        (Kind::Duration | Kind::Flush, Node::Text(text)) => match text.parse::<GoDuration>() {
            Ok(duration) => Ok(duration.to_string().into()),
            Err(message) => Err(FieldError::new(path, Some(line), message)),
        },
        (Kind::Flush, Node::Number(number)) => match whole(number) {
            Some(nanos) => Ok(nanos.into()),
            None => Err(range(path, line, number, "a whole number of nanoseconds")),
        },
        (Kind::Duration | Kind::Flush, _) => no("a duration like \"30s\""),
        (Kind::Quantity, Node::Number(number)) => Ok(number.to_string().into()),
        (Kind::Quantity, Node::Text(text)) if is_quantity(text) => Ok(text.clone().into()),
        (Kind::Quantity, Node::Text(text)) => {
            Err(FieldError::new(path, Some(line), format!("'{text}' is no number of bytes like 512 or 4Ki")))
        }
        (Kind::Quantity, _) => no("a number of bytes like 512 or 4Ki"),
        (Kind::Texts | Kind::Gates | Kind::VModule, _) => no("another form"),
    }
}

/// Whether a text is a `resource.Quantity`.
pub fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 16] =
        ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let is_power = |suffix: &str| {
        suffix.strip_prefix(['e', 'E']).is_some_and(|power| !power.is_empty() && power.parse::<i32>().is_ok())
    };
    number.chars().any(|c| c.is_ascii_digit())
        && number.matches('.').count() <= 1
        && (SUFFIXES.contains(&suffix) || is_power(suffix))
}

/// A number as a whole one; `2.0` is whole, too.
fn whole(number: &Number) -> Option<i64> {
    number
        .as_i64()
        .or_else(|| number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15).map(|n| n as i64))
}

fn wrong(path: &str, line: u64, node: &Node, wanted: &str) -> FieldError {
    FieldError::new(path, Some(line), format!("is {}, and must be {wanted}", node.kind()))
}

fn range(path: &str, line: u64, number: &Number, wanted: &str) -> FieldError {
    FieldError::new(path, Some(line), format!("{number} is not {wanted}"))
}
