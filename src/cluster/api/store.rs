//! What arrives of a kind becomes what the source says: converted at once, and never twice.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashSet;

use super::failure::Failure;
use super::known::Known;
use crate::cluster::convert::decode::Decoded;
use crate::cluster::convert::{Converter, Problem};
use crate::cluster::manifest::Severity;
use crate::cluster::object::{Key, Kind};
use crate::model::event::Event;
use crate::model::names::ObjectName;

/// Something a watcher says.
#[derive(Debug)]
pub(super) enum Said {
    /// An object came, changed or went.
    Event(Event),
    /// What is wrong with an object now; nothing, if nothing is any more.
    Object(Key, Vec<(Problem, Severity)>),
    /// A list of that kind is complete.
    Listed(Kind),
    /// What is wrong with the watch of that kind now.
    Trouble(Kind, Option<String>),
}

/// The objects of a kind.
#[derive(Debug)]
pub(super) struct Store {
    kind: Kind,
    known: Known,
    converter: Arc<Mutex<Converter>>,
    /// Objects with problems that were said.
    faulty: FxHashSet<ObjectName>,
}

impl Store {
    /// None yet. The converter is shared, so that names are in memory once.
    pub fn new(kind: Kind, converter: Arc<Mutex<Converter>>) -> Store {
        Store { kind, known: Known::default(), converter, faulty: FxHashSet::default() }
    }

    /// Whether no object is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// A list begins.
    pub fn begin_list(&mut self) {
        self.known.begin_list();
    }

    /// The list is complete: what it did not name is gone.
    pub fn end_list(&mut self, said: &mut Vec<Said>) {
        for name in self.known.end_list() {
            self.drop_object(name, said);
        }
        said.push(Said::Listed(self.kind));
    }

    /// No word of before can arrive any more.
    pub fn bookmark(&mut self) {
        self.known.forget_gone();
    }

    /// An object is there, or changed. Returns its version.
    ///
    /// # Errors
    /// It is no object.
    pub fn there(&mut self, text: &[u8], said: &mut Vec<Said>) -> Result<Option<String>, Failure> {
        let Decoded { name, version, outcome } = self.decode(text)?;
        let was_there = self.known.contains(&name);
        if !self.known.is_there(&name, number(version.as_deref())) {
            return Ok(version);
        }
        let mut problems = Vec::new();
        match outcome {
            Ok(converted) => {
                // What others keep in the cluster and is nothing for us is no trouble (EP-1, EP-2).
                let severity = if converted.value.is_some() { Severity::Warning } else { Severity::Note };
                problems.extend(converted.warnings.into_iter().map(|found| (found, severity)));
                match converted.value {
                    Some(object) => said.push(Said::Event(object.event())),
                    None if was_there => said.extend(self.key(&name).gone().map(Said::Event)),
                    None => {}
                }
            }
            // The last good version stays.
            Err(problem) => problems.push((problem, Severity::Error)),
        }
        self.tell(name, problems, said);
        Ok(version)
    }

    /// An object was deleted, or is none of ours any more (SVC-2). Returns its version.
    ///
    /// # Errors
    /// It is no object.
    pub fn deleted(&mut self, text: &[u8], said: &mut Vec<Said>) -> Result<Option<String>, Failure> {
        let Decoded { name, version, .. } = self.decode(text)?;
        if self.known.is_gone(&name, number(version.as_deref())) {
            self.drop_object(name, said);
        }
        Ok(version)
    }

    fn decode(&self, text: &[u8]) -> Result<Decoded, Failure> {
        let mut converter = self.converter.lock().unwrap_or_else(PoisonError::into_inner);
        converter.decode(self.kind, &text).map_err(|problem| Failure::Garbage(problem.to_string()))
    }

    fn drop_object(&mut self, name: ObjectName, said: &mut Vec<Said>) {
        said.extend(self.key(&name).gone().map(Said::Event));
        self.tell(name, Vec::new(), said);
    }

    /// Says what is wrong with an object, or that nothing is any more.
    fn tell(&mut self, name: ObjectName, problems: Vec<(Problem, Severity)>, said: &mut Vec<Said>) {
        let is_news = match problems.is_empty() {
            true => self.faulty.remove(&name),
            false => {
                self.faulty.insert(name.clone());
                true
            }
        };
        if is_news {
            said.push(Said::Object(self.key(&name), problems));
        }
    }

    fn key(&self, name: &ObjectName) -> Key {
        Key { kind: self.kind, name: name.clone() }
    }
}

/// The later of two versions. They are numbers that grow (the API promises it); where one is none, what
/// came last counts.
pub(super) fn later(one: Option<String>, other: String) -> String {
    match one {
        Some(one) if number(Some(&one)) > number(Some(&other)) && number(Some(&other)).is_some() => one,
        _ => other,
    }
}

fn number(version: Option<&str>) -> Option<u64> {
    version?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        let mut store = Store::new(Kind::ServiceCidr, Arc::default());
        store.begin_list();
        store
    }

    fn cidr(version: u32, spec: &str) -> String {
        format!(r#"{{"metadata":{{"name":"c","resourceVersion":"{version}"}},"spec":{spec}}}"#)
    }

    #[test]
    fn a_bad_object_keeps_its_last_good_version_and_is_named_until_it_is_mended() {
        let (mut store, mut said) = (store(), Vec::new());
        store.there(cidr(1, r#"{"cidrs":["10.0.0.0/8"]}"#).as_bytes(), &mut said).unwrap();
        assert!(matches!(said[..], [Said::Event(Event::ServiceCidr(..))]), "{said:?}");
        said.clear();
        store.there(cidr(2, r#"{"cidrs":7}"#).as_bytes(), &mut said).unwrap();
        let [Said::Object(_, problems)] = &said[..] else { panic!("{said:?}") };
        assert_eq!((problems[0].0.field.as_str(), problems[0].1), ("spec.cidrs", Severity::Error));
        said.clear();
        store.deleted(cidr(3, "null").as_bytes(), &mut said).unwrap();
        assert!(
            matches!(&said[..], [Said::Event(Event::ServiceCidrGone(_)), Said::Object(_, none)] if none.is_empty())
        );
    }

    #[test]
    fn what_is_no_object_is_an_error_and_changes_nothing() {
        let (mut store, mut said) = (store(), Vec::new());
        for text in ["", "null", "{", "{\"metadata\":{}}", "\u{fffd}"] {
            assert!(store.there(text.as_bytes(), &mut said).is_err(), "{text}");
            assert!(store.deleted(text.as_bytes(), &mut said).is_err(), "{text}");
        }
        assert!(said.is_empty() && store.is_empty());
    }

    #[test]
    fn the_later_version_is_where_a_watch_goes_on() {
        let later = |one: Option<&str>, other: &str| later(one.map(str::to_owned), other.to_owned());
        assert_eq!(later(None, "5"), "5");
        assert_eq!(later(Some("10"), "9"), "10");
        assert_eq!(later(Some("9"), "10"), "10");
        assert_eq!(later(Some("x"), "9"), "9");
        assert_eq!(later(Some("9"), "x"), "x");
    }
}
