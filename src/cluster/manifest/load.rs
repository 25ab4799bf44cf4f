//! A file or directory read once, as offline commands do.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{FileProblem, ManifestStore};
use crate::model::event::Event;

/// Whether a file name is one that is read: `.yaml`, `.yml`, `.json`, and not hidden or a back-up of
/// an editor (`.web.yaml.swp`, `web.yaml~`).
pub fn is_manifest(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end))
}

/// The manifest files of a directory, sorted by name; sub-directories are not entered.
///
/// # Errors
/// The directory cannot be read.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("read the directory {}", dir.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("read the directory {}", dir.display()))?;
        if entry.file_name().to_str().is_some_and(is_manifest) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Everything a file or directory holds, as events that end with [`Event::Synced`], and what is wrong in it.
///
/// # Errors
/// The path, or a file of the directory, cannot be read.
pub fn load(path: &Path) -> Result<(Vec<Event>, Vec<FileProblem>)> {
    let files = if path.is_dir() { list(path)? } else { vec![path.to_path_buf()] };
    let mut store = ManifestStore::new();
    let mut events = Vec::new();
    for file in files.iter().filter(|file| !file.is_dir()) {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        events.extend(store.update(&file.to_string_lossy(), &text).events);
    }
    events.push(Event::Synced);
    Ok((events, store.problems()))
}
