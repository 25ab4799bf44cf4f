//! Which file gives which object.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::object::{Entry, Raw, entries};
use super::problem::{FileProblem, Severity};
use super::text;
use crate::cluster::convert::{Converter, Problem};
use crate::cluster::object::Key;
use crate::model::event::Event;

/// What a change of a file came to.
#[derive(Debug, Default)]
pub struct Changes {
    /// Objects that came, changed or went.
    pub events: Vec<Event>,
    /// Files to hand to [`ManifestStore::update`] again (or to `remove`, if they are gone): they give
    /// an object that another file gave until now. Until then the object stays as it was.
    pub reread: Vec<Arc<str>>,
}

/// The files of a source, and the objects they give.
#[derive(Debug, Default)]
pub struct ManifestStore {
    files: BTreeMap<Arc<str>, Vec<Document>>,
    /// Who gives each object.
    owners: FxHashMap<Key, Owner>,
    /// Files that give an object too, after its owner by path.
    shadows: BTreeMap<Key, BTreeSet<Arc<str>>>,
    /// Files with problems, so that asking for them costs nothing where there are none.
    troubled: BTreeSet<Arc<str>>,
    converter: Converter,
}

#[derive(Debug)]
struct Owner {
    file: Arc<str>,
    /// Hash of the version last announced; `None` if that was not this file's.
    hash: Option<u64>,
}

/// What is remembered of a document.
#[derive(Debug)]
struct Document {
    /// Hash of its text: a document that did not change is not parsed again.
    hash: u64,
    /// The line of the file that it begins at, from 0.
    line: usize,
    /// The objects it names.
    keys: Vec<Key>,
    /// Some object of it could not be told by name, or it could not be parsed at all.
    nameless: bool,
    problems: Vec<Finding>,
}

/// A problem, without the place that a [`Document`] knows.
#[derive(Debug)]
struct Finding {
    line: Option<usize>,
    object: Option<String>,
    problem: Problem,
    severity: Severity,
}

impl ManifestStore {
    /// A store without files.
    pub fn new() -> ManifestStore {
        ManifestStore::default()
    }

    /// A file is there, or has a new text.
    pub fn update(&mut self, path: &str, text: &str) -> Changes {
        let (path, old) = match self.files.remove_entry(path) {
            Some((path, documents)) => (path, documents),
            None => (path.into(), Vec::new()),
        };
        let before: FxHashSet<Key> = old.iter().flat_map(|document| &document.keys).cloned().collect();
        let mut old: FxHashMap<u64, Document> =
            old.into_iter().map(|document| (document.hash, document)).collect();
        let mut changes = Changes::default();
        let mut named = FxHashSet::default();
        let mut documents = Vec::new();
        for found in text::split(text) {
            let hash = hash_of(found.text);
            let known = old.remove(&hash).filter(|known| self.still_holds(&path, known, &named));
            let mut document = match known {
                Some(known) => known,
                None => self.read(&path, found.text, hash, &named, &mut changes),
            };
            document.line = found.line;
            named.extend(document.keys.iter().cloned());
            documents.push(document);
        }
        self.settle(&path, &mut documents, &before, named, &mut changes);
        if documents.iter().all(|document| document.problems.is_empty()) {
            self.troubled.remove(&path);
        } else {
            self.troubled.insert(path.clone());
        }
        self.files.insert(path, documents);
        changes
    }

    /// A file is gone.
    pub fn remove(&mut self, path: &str) -> Changes {
        let mut changes = Changes::default();
        self.troubled.remove(path);
        if let Some((path, documents)) = self.files.remove_entry(path) {
            for key in documents.iter().flat_map(|document| &document.keys) {
                self.release(&path, key, &mut changes);
            }
        }
        changes
    }

    /// The paths of all files, sorted.
    pub fn files(&self) -> impl Iterator<Item = &Arc<str>> {
        self.files.keys()
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        self.owners.len()
    }

    /// Everything that is wrong now, by file and document.
    pub fn problems(&self) -> Vec<FileProblem> {
        let files = self.troubled.iter().filter_map(|path| self.files.get_key_value(path));
        let mut problems: Vec<_> =
            files.flat_map(|(path, documents)| file_problems(path, documents)).collect();
        problems.extend(
            self.shadows
                .iter()
                .flat_map(|(key, paths)| paths.iter().filter_map(|path| self.shadow_problem(key, path))),
        );
        problems.sort();
        problems
    }

    /// Whether a document with the same text as before still means the same: nothing before it in the
    /// file names its objects now, and all that it gives has been announced.
    fn still_holds(&self, path: &Arc<str>, document: &Document, named: &FxHashSet<Key>) -> bool {
        let announced = |key| {
            let owner = self.owners.get(key);
            owner.is_some_and(|owner| owner.file != *path || owner.hash.is_some())
        };
        !document.nameless
            && document.keys.iter().all(|key| !named.contains(key) && announced(key))
            && !document.problems.iter().any(|finding| finding.problem.message == GIVEN_BEFORE)
    }

    /// Parses a document and claims the objects it gives.
    fn read(
        &mut self,
        path: &Arc<str>,
        text: &str,
        hash: u64,
        named: &FxHashSet<Key>,
        changes: &mut Changes,
    ) -> Document {
        let mut document =
            Document { hash, line: 0, keys: Vec::new(), nameless: false, problems: Vec::new() };
        match text::parse(text) {
            Ok(values) => {
                let mut seen = FxHashSet::default();
                for entry in values.into_iter().flat_map(entries) {
                    self.take(
                        path,
                        entry,
                        &mut document,
                        |key| named.contains(key) || !seen.insert(key.clone()),
                        changes,
                    );
                }
            }
            Err(error) => {
                document.nameless = true;
                let problem = Problem::new("", format!("cannot be parsed: {}", error.message));
                let line = error.line;
                document.problems.push(Finding { line, object: None, problem, severity: Severity::Error });
            }
        }
        document
    }

    /// Takes one object of a document.
    fn take(
        &mut self,
        path: &Arc<str>,
        entry: Entry,
        document: &mut Document,
        mut is_taken: impl FnMut(&Key) -> bool,
        changes: &mut Changes,
    ) {
        match entry {
            Entry::Good(raw) if is_taken(&raw.key) => {
                document.find(Some(&raw.key), Problem::new("", GIVEN_BEFORE), Severity::Warning);
            }
            Entry::Good(raw) => self.claim(path, raw, document, changes),
            Entry::Bad(key, problem) => {
                document.find(Some(&key), problem, Severity::Error);
                document.keys.push(key);
            }
            Entry::Nameless(problem) => {
                document.nameless = true;
                document.find(None, problem, Severity::Error);
            }
            Entry::Unknown(kind) => {
                let problem = Problem::new("", format!("{kind} is not a kind that is read; ignored"));
                if !document.problems.iter().any(|known| known.problem == problem) {
                    document.find(None, problem, Severity::Note);
                }
            }
        }
    }

    /// A file gives an object. It becomes the owner unless one before it by path is.
    fn claim(&mut self, path: &Arc<str>, raw: Raw, document: &mut Document, changes: &mut Changes) {
        let key = Key { kind: raw.key.kind, name: self.converter.share_name(&raw.key.name) };
        let hash = raw.hash;
        document.keys.push(key.clone());
        let converted = match raw.convert(&mut self.converter) {
            Ok(converted) => converted,
            Err(problem) => return document.find(Some(&key), problem, Severity::Error),
        };
        for warning in converted.warnings {
            document.find(Some(&key), warning, Severity::Warning);
        }
        let before = self.owners.get(&key).map(|owner| (owner.file.clone(), owner.hash));
        if let Some((owner, _)) = before.as_ref().filter(|(owner, _)| owner != path) {
            let later = owner.max(path);
            self.shadows.entry(key.clone()).or_default().insert(later.clone());
            if later == path {
                return;
            }
        }
        self.unshadow(&key, path);
        self.owners.insert(key.clone(), Owner { file: path.clone(), hash: Some(hash) });
        match (converted.value, before) {
            (_, Some((owner, Some(announced)))) if owner == *path && announced == hash => {}
            (Some(object), _) => changes.events.push(object.event()),
            (None, Some(_)) => changes.events.extend(key.gone()),
            (None, None) => {}
        }
    }

    /// A file does not stand behind the owner of an object any more.
    fn unshadow(&mut self, key: &Key, path: &Arc<str>) {
        if let Some(paths) = self.shadows.get_mut(key) {
            paths.remove(path);
            if paths.is_empty() {
                self.shadows.remove(key);
            }
        }
    }

    /// After all documents of a file have been read: what it gave before and does not name any more
    /// goes, unless a document that cannot be read may be the one that names it.
    fn settle(
        &mut self,
        path: &Arc<str>,
        documents: &mut [Document],
        before: &FxHashSet<Key>,
        named: FxHashSet<Key>,
        changes: &mut Changes,
    ) {
        let missing = before.iter().filter(|key| !named.contains(*key));
        if let Some(unread) = documents.iter_mut().find(|document| document.nameless) {
            unread.keys.extend(missing.filter(|key| self.owners.contains_key(*key)).cloned());
            return;
        }
        let mut missing: Vec<_> = missing.collect();
        missing.sort();
        for key in missing {
            self.release(path, key, changes);
        }
    }

    /// A file does not give an object any more.
    fn release(&mut self, path: &Arc<str>, key: &Key, changes: &mut Changes) {
        self.unshadow(key, path);
        if self.owners.get(key).is_none_or(|owner| owner.file != *path) {
            return;
        }
        if let Some(heir) = self.shadows.get(key).and_then(BTreeSet::first).cloned() {
            self.unshadow(key, &heir);
            changes.reread.push(heir.clone());
            self.owners.insert(key.clone(), Owner { file: heir, hash: None });
        } else {
            self.owners.remove(key);
            changes.events.extend(key.gone());
        }
    }

    /// The warning at a file whose object another file gives.
    fn shadow_problem(&self, key: &Key, path: &Arc<str>) -> Option<FileProblem> {
        let documents = self.files.get(path)?;
        let at = documents.iter().position(|document| document.keys.contains(key))?;
        Some(FileProblem {
            file: path.clone(),
            document: at + 1,
            line: Some(documents[at].line + 1),
            object: Some(key.to_string()),
            field: String::new(),
            message: format!(
                "{} gives it too and comes first by name; this one is not used",
                self.owners[key].file
            ),
            severity: Severity::Warning,
        })
    }
}

/// Why a second object of one name in one file is not used.
const GIVEN_BEFORE: &str = "is given before in this file; this one is not used";

impl Document {
    fn find(&mut self, key: Option<&Key>, problem: Problem, severity: Severity) {
        self.problems.push(Finding { line: None, object: key.map(Key::to_string), problem, severity });
    }
}

/// The problems of a file, with their places; a kind that is not read is named once.
fn file_problems(path: &Arc<str>, documents: &[Document]) -> Vec<FileProblem> {
    let mut noted = FxHashSet::default();
    let mut problems = Vec::new();
    for (at, document) in documents.iter().enumerate() {
        for finding in &document.problems {
            if finding.severity == Severity::Note && !noted.insert(&finding.problem.message) {
                continue;
            }
            problems.push(FileProblem {
                file: path.clone(),
                document: at + 1,
                line: Some(document.line + finding.line.unwrap_or(0) + 1),
                object: finding.object.clone(),
                field: finding.problem.field.clone(),
                message: finding.problem.message.clone(),
                severity: finding.severity,
            });
        }
    }
    problems
}

fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
