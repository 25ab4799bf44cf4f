//! Taking everything of a tree away.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::attach;
use super::load::SOCKET;
use super::pins::{self, LockError, Tree, TreeLock, names};
use crate::host::{mount, run};

/// What was removed, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The programs that were detached.
    pub programs: Vec<String>,
    /// Folders and files that are gone.
    pub paths: Vec<PathBuf>,
    /// The bpffs that a start had mounted.
    pub unmounted: bool,
}

impl Removed {
    /// Nothing of ours was there.
    pub fn is_empty(&self) -> bool {
        self == &Removed::default()
    }
}

/// Detaches every program of the tree, those that translate first, and removes its pins and files, and the bpffs if
/// a start of ours mounted it and nobody else uses it. Sockets that are connected stay connected.
///
/// # Errors
/// An agent holds the lock (nothing is removed then), or something cannot be removed.
pub fn remove_all(bpf_root: &Path) -> Result<Removed> {
    let tree = Tree::new(bpf_root);
    let mut removed = Removed::default();
    match TreeLock::take(&tree) {
        Ok(_lock) => {
            removed.programs = attach::detach_all(&tree, &[SOCKET])?;
            for name in names(tree.root()) {
                let dir = tree.root().join(name);
                pins::remove_dir(&dir)?;
                removed.paths.push(dir);
            }
            fs::remove_dir(tree.root()).with_context(|| format!("remove {}", tree.root().display()))?;
            removed.paths.push(tree.root().to_owned());
        }
        Err(LockError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e.into()),
    }
    removed.paths.extend(remove_logs(&tree)?);
    removed.unmounted = mount::unmount_ours(bpf_root)?;
    Ok(removed)
}

/// Removes this tree's files in [`run::DIR`], and the folder when it is empty.
fn remove_logs(tree: &Tree) -> Result<Vec<PathBuf>> {
    let dir = Path::new(run::DIR);
    let mine = names(dir).into_iter().filter(|name| name.starts_with(&tree.log_prefix()));
    let mut removed = Vec::new();
    for path in mine.map(|name| dir.join(name)) {
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        removed.push(path);
    }
    // Another tree's files keep it.
    let _ = fs::remove_dir(dir);
    Ok(removed)
}
