//! k8s-openapi objects to `model` values: the only place that knows both.
//!
//! A conversion slims at once: what no rule reads is dropped (SVC-11, SYNC-12). It never prints;
//! what a person should hear of comes back as [`Problem`]s that name the field.
//!
//! Three things can happen to an object, and [`Outcome`] keeps them apart:
//! * it is of use: `Ok` with a value, and a warning for each part that was skipped;
//! * it is fine but nothing for us (an FQDN slice): `Ok` without a value, so that what an earlier
//!   version of it brought goes away;
//! * the API server would never have admitted it (a port 99999): `Err`, so that the caller can go on
//!   with the last good version.

pub mod decode;
mod node;
mod service;
mod slice;

pub use slice::TRIGGER_ANNOTATION;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rustc_hash::FxHashSet;

use crate::model::addr::{Protocol, parse_ip};
use crate::model::names::ObjectName;

/// What is wrong with a field of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// The path of the field, like `spec.ports[0].port`.
    pub field: String,
    /// What is wrong and what it means.
    pub message: String,
}

impl Problem {
    /// A problem of a field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// An object that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<T> {
    /// The slimmed object; `None` if it is nothing for this proxy.
    pub value: Option<T>,
    /// Parts that were skipped, by field.
    pub warnings: Vec<Problem>,
}

/// A conversion's result; `Err` names the one field that makes the object unusable.
pub type Outcome<T> = Result<Converted<T>, Problem>;

/// Converts objects, and shares the texts that repeat in them (names of nodes, zones, namespaces).
#[derive(Debug, Default)]
pub struct Converter {
    texts: FxHashSet<Arc<str>>,
    sweep_at: usize,
}

impl Converter {
    /// A converter that shares nothing yet.
    pub fn new() -> Converter {
        Converter::default()
    }

    /// The shared copy of a text. Texts that nobody else holds any more are dropped from time to
    /// time, so that names that come and go do not pile up.
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() >= self.sweep_at {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = (self.texts.len() * 2).max(1024);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }

    /// A name whose texts are shared.
    pub fn share_name(&mut self, name: &ObjectName) -> ObjectName {
        ObjectName { namespace: self.share(&name.namespace), name: self.share(&name.name) }
    }

    /// The same for a text that may be missing or empty: both are `None`.
    fn share_some(&mut self, text: Option<&str>) -> Option<Arc<str>> {
        text.filter(|text| !text.is_empty()).map(|text| self.share(text))
    }

    /// Name and namespace of a namespaced object (EP-1: both are needed).
    fn object_name(&mut self, meta: &ObjectMeta) -> Result<ObjectName, Problem> {
        let namespace =
            label_text(required(meta.namespace.as_deref(), "metadata.namespace")?, "metadata.namespace")?;
        let name = required(meta.name.as_deref(), "metadata.name")?;
        Ok(ObjectName { namespace: self.share(namespace), name: self.share(name) })
    }
}

/// A text that must be there.
fn required<'a>(text: Option<&'a str>, field: &str) -> Result<&'a str, Problem> {
    text.filter(|text| !text.is_empty()).ok_or_else(|| Problem::new(field, "is missing"))
}

/// The longest DNS label: of namespaces, Services and ports of a Service.
const LABEL_MAX: usize = 63;

/// A text that the API server would only take as a DNS label. Its length and characters are what rows
/// of names hold whole, so that a restart finds them.
fn label_text<'a>(text: &'a str, field: &str) -> Result<&'a str, Problem> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if text.len() > LABEL_MAX {
        return Err(Problem::new(field, format!("has {} bytes, and {LABEL_MAX} are allowed", text.len())));
    }
    match text.chars().find(|c| !fits(*c)) {
        Some(bad) => Err(Problem::new(field, format!("has the character {bad:?}, which no name may have"))),
        None => Ok(text),
    }
}

/// Whether a label is present, whatever its value.
fn has_label(meta: &ObjectMeta, label: &str) -> bool {
    meta.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

/// A label's value.
fn label<'a>(meta: &'a ObjectMeta, label: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(label).map(String::as_str)
}

/// A port number; 0 stays 0, and the caller says what that means.
///
/// # Errors
/// The number does not fit.
fn port_number(number: i32, field: impl FnOnce() -> String) -> Result<u16, Problem> {
    u16::try_from(number)
        .map_err(|_| Problem::new(field(), format!("{number} is no port number (0 to 65535)")))
}

/// A protocol name; nil and empty are TCP, the API's default (EP-3).
///
/// # Errors
/// The protocol is none that a Service can carry (SVC-9).
fn protocol(name: Option<&str>, field: impl FnOnce() -> String) -> Result<Protocol, Problem> {
    let name = name.unwrap_or_default();
    if name.is_empty() {
        return Ok(Protocol::Tcp);
    }
    Protocol::from_name(name).ok_or_else(|| {
        Problem::new(
            field(),
            format!("protocol '{name}' is none of TCP, UDP, SCTP; the port is skipped (SVC-9)"),
        )
    })
}

/// An address, leniently parsed (SVC-13).
///
/// # Errors
/// It is no address.
fn address(text: &str, field: impl FnOnce() -> String) -> Result<IpAddr, Problem> {
    parse_ip(text).ok_or_else(|| Problem::new(field(), format!("'{text}' is no IP address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shared_and_forgotten_when_nobody_holds_them() {
        let mut converter = Converter::new();
        let kept = converter.share("node-a");
        assert!(Arc::ptr_eq(&kept, &converter.share("node-a")));
        for n in 0..5000 {
            converter.share(&format!("pod-{n}"));
        }
        assert!(converter.texts.len() < 2048, "{} texts piled up", converter.texts.len());
        assert!(Arc::ptr_eq(&kept, &converter.share("node-a")));
    }
}
