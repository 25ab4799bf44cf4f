//! A file or directory of manifests as a source: read once, then followed by inotify.
//!
//! What is followed: writes (when the writer closes the file), renames, removals, symlinks that are
//! flipped anywhere on the way to a file (as the kubelet does with `..data` of a ConfigMap), the
//! directory itself replaced, moved away, or made only later. One file replaced by rename(2) costs
//! the reading of that file and nothing else.
//!
//! A path that is gone leaves the objects as they are until it is back; files that are then missing
//! from it are gone.

pub mod file;
#[cfg(test)]
mod tests;
mod walk;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustc_hash::FxHashSet;

use self::walk::{Step, Walk, walk};
use self::watch::{Seen, Watched, Watches};
use super::manifest::{Changes, FileProblem, ManifestStore, is_manifest, list, read_text};
use crate::model::event::Event;

/// How often the way to the source is looked up again when it changes under our feet.
const ATTEMPTS: usize = 8;

/// Where the source's path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere, yet or any more.
    Missing,
    /// To a directory (without symlinks).
    Dir(PathBuf),
    /// To a file.
    File,
}

/// A manifest source that is followed.
#[derive(Debug)]
pub struct DirSource {
    /// As given, made absolute.
    path: PathBuf,
    place: Place,
    watches: Watches,
    /// Directories on the way to the source.
    way: FxHashSet<PathBuf>,
    /// Names at which the way to the source may turn elsewhere.
    turns: BTreeSet<(PathBuf, OsString)>,
    /// Names that files reached by symlinks depend on.
    links: BTreeMap<(PathBuf, OsString), BTreeSet<PathBuf>>,
    store: ManifestStore,
    unreadable: BTreeMap<Arc<str>, String>,
    /// Files whose way cannot be watched: they are read, and changes of that way go unseen.
    unwatched: BTreeMap<Arc<str>, String>,
    is_synced: bool,
}

impl DirSource {
    /// A source that has not been read yet. The path need not exist.
    ///
    /// # Errors
    /// inotify cannot be had, or the path is empty.
    pub fn open(path: &Path) -> Result<DirSource> {
        ensure!(!path.as_os_str().is_empty(), "the path of the manifests is empty");
        ensure!(path.to_str().is_some(), "the path of the manifests is no UTF-8: {}", path.display());
        let path = std::path::absolute(path).with_context(|| format!("make {} absolute", path.display()))?;
        Ok(DirSource {
            path,
            place: Place::Missing,
            watches: Watches::new()?,
            way: FxHashSet::default(),
            turns: BTreeSet::new(),
            links: BTreeMap::new(),
            store: ManifestStore::new(),
            unreadable: BTreeMap::new(),
            unwatched: BTreeMap::new(),
            is_synced: false,
        })
    }

    /// The path, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether everything has been read once.
    pub fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Reads everything; the events end with [`Event::Synced`] if the path exists.
    ///
    /// # Errors
    /// The path's directories cannot be watched.
    pub fn start(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        self.reopen(&mut events)?;
        Ok(events)
    }

    /// What has changed since the last call; does not wait. To be called whenever the descriptor is readable.
    ///
    /// # Errors
    /// inotify failed, or the path's directories cannot be watched.
    pub fn poll(&mut self) -> Result<Vec<Event>> {
        let mut dirty = BTreeSet::new();
        let mut reopen = false;
        for seen in self.watches.read()? {
            match seen {
                Seen::Overflow => reopen = true,
                Seen::Gone(dir) => reopen |= self.way.contains(&dir),
                Seen::Name { dir, name, created } => {
                    if created && !has_content_when_created(&dir.join(&name)) {
                        continue;
                    }
                    if self.place == Place::Dir(dir.clone()) && name.to_str().is_some_and(is_manifest) {
                        dirty.insert(self.path.join(&name));
                    }
                    let at = (dir, name);
                    reopen |= self.turns.contains(&at);
                    dirty.extend(self.links.get(&at).into_iter().flatten().cloned());
                }
            }
        }
        reopen |= self.place == Place::Missing && !dirty.is_empty();
        let mut events = Vec::new();
        if reopen {
            self.reopen(&mut events)?;
        } else if !dirty.is_empty() {
            self.relink(&dirty);
            dirty.iter().for_each(|file| self.read(file, &mut events));
        }
        Ok(events)
    }

    /// Everything that is wrong now, by file and document.
    pub fn problems(&self) -> Vec<FileProblem> {
        let mut problems = self.store.problems();
        let lasting = self.unreadable.iter().chain(&self.unwatched);
        problems.extend(lasting.map(|(file, message)| FileProblem::whole(file.clone(), message.clone())));
        if self.place == Place::Missing {
            let until =
                if self.is_synced { "Services stay as they were until it is back" } else { "waiting for it" };
            problems.push(FileProblem::whole(
                self.path.to_string_lossy().into(),
                format!("does not exist; {until}"),
            ));
        }
        problems.sort();
        problems
    }

    /// Reads everything anew, as after an overflow: for a caller whose [`poll`](Self::poll) failed.
    ///
    /// # Errors
    /// The path's directories cannot be watched.
    pub fn rescan(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        self.reopen(&mut events)?;
        Ok(events)
    }

    /// Finds out where the path leads now, watches the way, and reads everything.
    fn reopen(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let way = self.watch_way()?;
        self.place = match &way.end {
            None => Place::Missing,
            Some(end) if end.is_dir() => Place::Dir(end.clone()),
            Some(_) => Place::File,
        };
        let files: BTreeSet<PathBuf> = match &self.place {
            Place::Missing => {
                self.watches.keep(&self.way);
                return Ok(());
            }
            Place::File => [self.path.clone()].into(),
            Place::Dir(_) => match list(&self.path) {
                Ok(files) => files.into_iter().collect(),
                Err(error) => {
                    self.cannot_list(&error);
                    return Ok(());
                }
            },
        };
        self.links.clear();
        self.unwatched.clear();
        self.relink(&files);
        let gone = self.store.files().filter(|file| !files.contains(Path::new(&***file)));
        let gone: Vec<PathBuf> = gone.map(|file| PathBuf::from(&**file)).collect();
        self.unreadable.retain(|file, _| files.contains(Path::new(&**file)));
        files.iter().chain(&gone).for_each(|file| self.read(file, events));
        if !self.is_synced {
            self.is_synced = true;
            events.push(Event::Synced);
        }
        Ok(())
    }

    /// Watches the way to the source. The way is looked up again after the watches are in place, so
    /// that nothing that happens in between is missed.
    fn watch_way(&mut self) -> Result<Walk> {
        for _ in 0..ATTEMPTS {
            let way = walk(&self.path);
            let mut is_watched = true;
            self.way = way.steps.iter().map(|step| step.dir.clone()).collect();
            self.turns = BTreeSet::new();
            for step in &way.steps {
                let what = if step.is_open { Watched::Names } else { Watched::Itself };
                is_watched &= self.watches.add(&step.dir, what).is_ok();
                if step.is_open {
                    self.turns.insert((step.dir.clone(), step.name.clone()));
                }
            }
            if let Some(end) = &way.end {
                let content = if end.is_dir() { Some(end.as_path()) } else { end.parent() };
                let content = content.unwrap_or(end).to_path_buf();
                is_watched &= self.watches.add(&content, Watched::Names).is_ok();
                self.way.insert(content);
            }
            if is_watched && walk(&self.path) == way {
                return Ok(way);
            }
        }
        // It still changes, or a watch is refused: then say why.
        let way = walk(&self.path);
        for step in &way.steps {
            self.watches.add(&step.dir, Watched::Names)?;
        }
        Ok(way)
    }

    /// The directory cannot be read: its objects stay as they are. One that went away between two looks
    /// is missing, and its parent's watch tells when it is back.
    fn cannot_list(&mut self, error: &anyhow::Error) {
        if self.path.exists() {
            self.unreadable.insert(self.path.to_string_lossy().into(), format!("cannot be read: {error:#}"));
        } else {
            self.place = Place::Missing;
        }
    }

    /// Watches what these files depend on besides the directory's own entries: for a file reached
    /// through symlinks every name on the way, for a single file its own name. A file whose way cannot
    /// be watched is a problem of that file alone.
    fn relink(&mut self, files: &BTreeSet<PathBuf>) {
        self.links.retain(|_, dependents| {
            dependents.retain(|file| !files.contains(file));
            !dependents.is_empty()
        });
        for file in files {
            let name: Arc<str> = file.to_string_lossy().into();
            self.unwatched.remove(&name);
            let is_link = fs::symlink_metadata(file).is_ok_and(|meta| meta.is_symlink());
            if (is_link || self.place == Place::File)
                && let Err(error) = self.watch_file(file)
            {
                self.unwatched.insert(name, format!("cannot be followed: {error:#}"));
            }
        }
        let mut needed = self.way.clone();
        needed.extend(self.links.keys().map(|(dir, _)| dir.clone()));
        self.watches.keep(&needed);
    }

    /// Watches the names that lead to a file. A directory on the way may go between the look and the
    /// watch, as with a symlink that is flipped twice: then it is looked up again.
    fn watch_file(&mut self, file: &Path) -> Result<()> {
        let mut watched = Ok(());
        for _ in 0..ATTEMPTS {
            let way = walk(file);
            let last = way.steps.len().saturating_sub(1);
            let steps = way.steps.iter().enumerate();
            let open: Vec<_> = steps.filter(|(at, step)| step.is_open || *at == last).collect();
            watched = open.iter().try_for_each(|(_, step)| self.watches.add(&step.dir, Watched::Names));
            if watched.is_err() {
                continue;
            }
            for (_, Step { dir, name, .. }) in open {
                self.links.entry((dir.clone(), name.clone())).or_default().insert(file.to_path_buf());
            }
            if walk(file) == way {
                break;
            }
        }
        watched
    }

    /// Reads a file and, where an object moves from one file to another, the other too.
    fn read(&mut self, file: &Path, events: &mut Vec<Event>) {
        let mut next: Vec<Arc<str>> = vec![file.to_string_lossy().into()];
        while let Some(file) = next.pop() {
            let changes = match read_text(Path::new(&*file)) {
                Ok(Some(text)) => {
                    self.unreadable.remove(&file);
                    self.store.update(&file, &text)
                }
                Ok(None) if self.place == Place::File => {
                    // The source itself is gone: its objects stay until it is back.
                    self.place = Place::Missing;
                    Changes::default()
                }
                Ok(None) => {
                    self.unreadable.remove(&file);
                    self.store.remove(&file)
                }
                Err(error) => {
                    self.unreadable.insert(file, format!("cannot be read: {error}"));
                    Changes::default()
                }
            };
            events.extend(changes.events);
            next.extend(changes.reread);
        }
    }
}

impl AsRawFd for DirSource {
    fn as_raw_fd(&self) -> RawFd {
        self.watches.as_raw_fd()
    }
}

/// Whether a name that has just been made already stands for content: a directory, a symlink or a
/// further hard link. A new file gets its content later, and closing it is an event of its own.
fn has_content_when_created(file: &Path) -> bool {
    fs::symlink_metadata(file).is_ok_and(|meta| meta.is_dir() || meta.is_symlink() || meta.nlink() > 1)
}
