//! One value of a document to objects: which kind it is, lists unrolled, slimmed at once.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::convert::{Converted, Converter, Outcome, Problem, TRIGGER_ANNOTATION};
use crate::model::event::Event;
use crate::model::names::ObjectName;
use crate::model::node::Node;
use crate::model::service::Service;
use crate::model::slice::EndpointSlice;

/// The kinds that are read. Namespaces and Pods are checked, and give no event yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1 Service
    Service,
    /// discovery.k8s.io/v1 EndpointSlice
    EndpointSlice,
    /// v1 Node
    Node,
    /// networking.k8s.io/v1 ServiceCIDR
    ServiceCidr,
    /// v1 Namespace
    Namespace,
    /// v1 Pod
    Pod,
}

impl Kind {
    const ALL: [Kind; 6] =
        [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr, Kind::Namespace, Kind::Pod];

    /// The kind's name, and the API version that is read.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Kind::Service => ("Service", "v1"),
            Kind::EndpointSlice => ("EndpointSlice", "discovery.k8s.io/v1"),
            Kind::Node => ("Node", "v1"),
            Kind::ServiceCidr => ("ServiceCIDR", "networking.k8s.io/v1"),
            Kind::Namespace => ("Namespace", "v1"),
            Kind::Pod => ("Pod", "v1"),
        }
    }

    fn is_namespaced(self) -> bool {
        matches!(self, Kind::Service | Kind::EndpointSlice | Kind::Pod)
    }
}

/// Kind, namespace and name: what identifies an object over versions and files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// Namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for Key {
    /// Like `Service default/web`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.names().0, self.name)
    }
}

impl Key {
    /// The event that says the object is gone; none for kinds that give no events.
    pub(super) fn gone(&self) -> Option<Event> {
        match self.kind {
            Kind::Service => Some(Event::ServiceGone(self.name.clone())),
            Kind::EndpointSlice => Some(Event::SliceGone(self.name.clone())),
            Kind::Node => Some(Event::NodeGone(self.name.name.clone())),
            Kind::ServiceCidr => Some(Event::ServiceCidrGone(self.name.name.clone())),
            Kind::Namespace | Kind::Pod => None,
        }
    }
}

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

/// An object as the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Service(Box<Service>),
    Slice(Box<EndpointSlice>),
    Node(Box<Node>),
    ServiceCidr(Arc<str>, Vec<IpNet>),
}

impl Object {
    /// The event that says the object is there.
    pub fn event(self) -> Event {
        match self {
            Object::Service(service) => Event::Service(service),
            Object::Slice(slice) => Event::Slice(slice),
            Object::Node(node) => Event::Node(node),
            Object::ServiceCidr(name, cidrs) => Event::ServiceCidr(name, cidrs),
        }
    }
}

impl Raw {
    /// The object; without a value if it is nothing for this proxy.
    ///
    /// # Errors
    /// The first field of a wrong type or value.
    pub fn convert(self, converter: &mut Converter) -> Outcome<Object> {
        match self.key.kind {
            Kind::Service => {
                let object: core::Service = typed(self.value)?;
                Ok(map(converter.service(&object)?, |service| Object::Service(Box::new(service))))
            }
            Kind::EndpointSlice => {
                let object: discovery::EndpointSlice = typed(self.value)?;
                Ok(map(converter.slice(&object)?, |slice| Object::Slice(Box::new(slice))))
            }
            Kind::Node => {
                let object: core::Node = typed(self.value)?;
                Ok(map(converter.node(&object)?, |node| Object::Node(Box::new(node))))
            }
            Kind::ServiceCidr => {
                let object: networking::ServiceCIDR = typed(self.value)?;
                Ok(map(converter.service_cidr(&object)?, |(name, cidrs)| Object::ServiceCidr(name, cidrs)))
            }
            Kind::Namespace => typed::<core::Namespace>(self.value).map(|_| nothing()),
            Kind::Pod => typed::<core::Pod>(self.value).map(|_| nothing()),
        }
    }
}

fn nothing() -> Converted<Object> {
    Converted { value: None, warnings: Vec::new() }
}

fn map<T>(converted: Converted<T>, object: impl FnOnce(T) -> Object) -> Converted<Object> {
    Converted { value: converted.value.map(object), warnings: converted.warnings }
}

/// A value as a Kubernetes type. Unknown fields are ignored (SYNC-12).
fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| Problem::new(error.path().to_string(), error.inner().to_string()))
}
