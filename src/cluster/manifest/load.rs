//! A file or directory read once, as offline commands do.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
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

/// The text of a file; `None` if there is none of that name.
///
/// # Errors
/// It cannot be read, is no regular file, or no UTF-8.
pub fn read_text(file: &Path) -> io::Result<Option<String>> {
    // Not blocking, so that a FIFO of that name does not hang the agent.
    let opened = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(file);
    let mut opened = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let meta = opened.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::with_capacity(usize::try_from(meta.len()).unwrap_or(0) + 1);
    opened.read_to_string(&mut text)?;
    Ok(Some(text))
}

/// Everything a file or directory holds, as events that end with [`Event::Synced`], and what is wrong in it.
/// A file of a directory that cannot be read is a problem like any other.
///
/// # Errors
/// The path itself cannot be read.
pub fn load(path: &Path) -> Result<(Vec<Event>, Vec<FileProblem>)> {
    let is_dir = path.is_dir();
    let files = if is_dir { list(path)? } else { vec![path.to_path_buf()] };
    let (mut store, mut events, mut unreadable) = (ManifestStore::new(), Vec::new(), Vec::new());
    for file in files.iter().filter(|file| !file.is_dir()) {
        let name = file.to_string_lossy();
        let text = read_text(file).and_then(|text| text.ok_or_else(|| io::ErrorKind::NotFound.into()));
        match text {
            Ok(text) => events.extend(store.update(&name, &text).events),
            Err(error) if is_dir => {
                unreadable.push(FileProblem::whole(name.into(), format!("cannot be read: {error}")));
            }
            Err(error) => return Err(error).with_context(|| format!("read {name}")),
        }
    }
    events.push(Event::Synced);
    let mut problems = store.problems();
    problems.append(&mut unreadable);
    problems.sort();
    Ok((events, problems))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_a_problem_and_no_more() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("a.yaml"), [0xff]).unwrap();
        std::os::unix::fs::symlink("nowhere", temp.path().join("b.yaml")).unwrap();
        let cidr = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: c}\nspec: {cidrs: [172.30.0.0/16]}\n";
        fs::write(temp.path().join("c.yaml"), cidr).unwrap();
        let (events, problems) = load(temp.path()).unwrap();
        assert_eq!(events.len(), 2, "{events:?}");
        let named: Vec<_> = problems.iter().map(|p| p.file.rsplit('/').next().unwrap()).collect();
        assert_eq!(named, ["a.yaml", "b.yaml"]);
        assert!(load(&temp.path().join("a.yaml")).is_err(), "a single file is the path itself");
    }
}
