//! One value of a document to objects: which kind it is, lists unrolled, slimmed at once.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use crate::cluster::convert::{Converter, Outcome, Problem, TRIGGER_ANNOTATION};
use crate::cluster::object::{Key, Kind, Object};
use crate::model::names::ObjectName;

/// What one object of a document came to.
#[derive(Debug)]
pub(super) enum Entry {
    /// It can be used; converted only when it differs from what is known.
    Good(Raw),
    /// It cannot: the last good version stays.
    Bad(Key, Problem),
    /// Something that does not even say what it is.
    Nameless(Problem),
    /// A kind nobody here reads, like `apps/v1 Deployment`.
    Unknown(String),
}

/// An object that says who it is, and a hash of what it says.
#[derive(Debug)]
pub(super) struct Raw {
    pub key: Key,
    pub hash: u64,
    value: Value,
}

/// The objects of one value: itself, or the items of a list.
pub(super) fn entries(value: Value) -> Vec<Entry> {
    let Value::Object(mut map) = value else {
        return vec![Entry::Nameless(Problem::new(
            "",
            "is no object: a manifest is a mapping with apiVersion and kind",
        ))];
    };
    let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    match (kind.strip_suffix("List"), map.get("items")) {
        (Some(item_kind), Some(Value::Array(_))) => {
            let Some(Value::Array(items)) = map.remove("items") else { return Vec::new() };
            items.into_iter().enumerate().map(|(at, item)| list_item(item, at, item_kind, &version)).collect()
        }
        _ => vec![entry(Value::Object(map), &kind, &version)],
    }
}

/// An item of a list. Items of a typed list (`ServiceList`) need not repeat what they are.
fn list_item(item: Value, at: usize, list_kind: &str, list_version: &str) -> Entry {
    let own = |field: &str, inherited: &str| {
        let own = item.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        own.unwrap_or(inherited).to_owned()
    };
    let kind = own("kind", list_kind);
    let version = own("apiVersion", if list_kind.is_empty() { "" } else { list_version });
    let place = |problem: Problem| {
        let dot = if problem.field.is_empty() { "" } else { "." };
        Problem::new(format!("items[{at}]{dot}{}", problem.field), problem.message)
    };
    match entry(item, &kind, &version) {
        Entry::Bad(key, problem) => Entry::Bad(key, place(problem)),
        Entry::Nameless(problem) => Entry::Nameless(place(problem)),
        good => good,
    }
}

fn entry(mut value: Value, kind: &str, version: &str) -> Entry {
    for (field, text) in [("kind", kind), ("apiVersion", version)] {
        if text.is_empty() {
            return Entry::Nameless(Problem::new(field, "is missing"));
        }
    }
    let Some(kind) = Kind::ALL.into_iter().find(|known| known.names() == (kind, version)) else {
        return Entry::Unknown(format!("{version} {kind}"));
    };
    let Some(name) = value.pointer("/metadata/name").and_then(Value::as_str).filter(|name| !name.is_empty())
    else {
        return Entry::Nameless(Problem::new("metadata.name", format!("is missing in a {}", kind.names().0)));
    };
    // As kubectl does: what names no namespace is in `default`.
    let namespace = match value.pointer("/metadata/namespace") {
        _ if !kind.is_namespaced() => "",
        None | Some(Value::Null) => "default",
        Some(namespace) => namespace.as_str().unwrap_or_default(),
    };
    let key = Key { kind, name: ObjectName::new(namespace, name) };
    if kind.is_namespaced() && namespace.is_empty() {
        return Entry::Bad(key, Problem::new("metadata.namespace", "is not a name"));
    }
    slim(&mut value, &key.name.namespace);
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    Entry::Good(Raw { key, hash: hasher.finish(), value })
}

/// Drops what no rule reads and what changes without meaning (SVC-16), and fills in the namespace.
fn slim(value: &mut Value, namespace: &str) {
    let Some(object) = value.as_object_mut() else { return };
    object.remove("apiVersion");
    object.remove("kind");
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else { return };
    const READ: [&str; 6] =
        ["namespace", "name", "labels", "annotations", "creationTimestamp", "deletionTimestamp"];
    metadata.retain(|field, _| READ.contains(&field.as_str()));
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.retain(|name, _| name == TRIGGER_ANNOTATION);
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    if !namespace.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
    }
}

impl Raw {
    /// The object; without a value if it is nothing for this proxy.
    ///
    /// # Errors
    /// The first field of a wrong type or value.
    pub fn convert(self, converter: &mut Converter) -> Outcome<Object> {
        converter.decode(self.key.kind, &&self.value)?.outcome
    }
}
