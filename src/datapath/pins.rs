//! The tree of pins: `<bpf-root>/beeline/{tables,flow}-LAYOUT` and `links/`, its lock, and how a
//! new folder takes the place of an old one.
//!
//! A folder is built aside (`…-new`, or `…-grown`), becomes live when the links take programs that
//! use its maps, and is renamed into place after that. So a folder under its own name is always
//! complete, and after a kill the links say which folder is live.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{RenameFlags, renameat2};

use super::load::{GROUPS, Group};
use super::sys;
use crate::host::{mount, run};

/// Which of a group's folders. bpffs reserves dots in names, hence the dashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `GROUP-LAYOUT`: live, or live when it was left.
    Place,
    /// `GROUP-LAYOUT-new`: being filled for the first time.
    New,
    /// `GROUP-LAYOUT-grown`: being copied to, with larger maps.
    Grown,
    /// `GROUP-LAYOUT-old`: on its way out.
    Old,
}

impl Side {
    const ALL: [Side; 4] = [Side::Place, Side::New, Side::Grown, Side::Old];

    fn suffix(self) -> &'static str {
        match self {
            Side::Place => "",
            Side::New => "-new",
            Side::Grown => "-grown",
            Side::Old => "-old",
        }
    }
}

/// The folders of one agent under a bpffs. Knows paths; changes nothing by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree under `bpf_root`.
    pub fn new(bpf_root: &Path) -> Tree {
        Tree { root: bpf_root.join("beeline") }
    }

    /// `<bpf-root>/beeline`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a group.
    pub fn dir(&self, group: &Group, side: Side) -> PathBuf {
        self.root.join(format!("{}-{}{}", group.name, group.layout, side.suffix()))
    }

    /// The folder of the pinned links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Where the log of a rejected unit is saved. The name carries the tree, since a machine may run several agents.
    pub fn log(&self, unit: &str) -> PathBuf {
        Path::new(run::DIR).join(format!("{}{unit}.log", self.log_prefix()))
    }

    /// What the names of this tree's files in [`run::DIR`] start with.
    pub fn log_prefix(&self) -> String {
        format!("{}-", run::name_of(&self.root))
    }

    /// Groups of other layouts that lie here, as `group-layout`: another version's tables.
    pub fn strangers(&self) -> Vec<String> {
        let known = |name: &str| {
            GROUPS.iter().any(|group| name.starts_with(&format!("{}-{}", group.name, group.layout)))
        };
        names(&self.root).into_iter().filter(|name| name != "links" && !known(name)).collect()
    }
}

/// The names in a folder, sorted; none if it cannot be read.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Makes sure that `bpf_root` is a bpffs: mounts one at [`mount::BPFFS`] if that has none.
///
/// # Errors
/// Another root is no bpffs (the message names the command), or the mount fails.
pub fn ensure_bpffs(bpf_root: &Path) -> Result<()> {
    if mount::is_bpffs(bpf_root) {
        return Ok(());
    }
    let shown = bpf_root.display();
    if bpf_root != Path::new(mount::BPFFS) {
        bail!(
            "{shown} is not on a bpffs, which keeps the tables: mount -t bpf bpf {shown}, or name one with --bpf-root"
        );
    }
    mount::mount_bpffs(bpf_root)
}

/// The lock of a tree: whoever holds it writes the tables. It is an flock(2) on the folder itself,
/// gone with the process.
#[derive(Debug)]
pub struct TreeLock {
    dir: File,
}

/// Why a tree could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the lock.
    #[error("{} is held by {}: one agent per --bpf-root; stop that one, or choose another root", .root.display(), .holder)]
    Held {
        /// The tree.
        root: PathBuf,
        /// Process id and name, as far as they can be seen.
        holder: String,
    },
    /// The folder cannot be opened or locked.
    #[error("lock {}: {source}", .root.display())]
    Io {
        /// The tree.
        root: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl TreeLock {
    /// The inode of the folder that is locked, also after somebody has removed it.
    pub(crate) fn inode(&self) -> Result<u64> {
        Ok(self.dir.metadata().context("look at the locked folder")?.ino())
    }

    /// Who holds the lock, without touching it: `pid 4711 (beeline run …)`. `None` if nobody does.
    pub fn holder(tree: &Tree) -> Option<String> {
        holder(&File::open(&tree.root).ok()?)
    }

    /// Locks the tree, which must exist.
    ///
    /// # Errors
    /// Another agent holds it, or the folder cannot be opened.
    pub fn take(tree: &Tree) -> Result<TreeLock, LockError> {
        let fail = |source| LockError::Io { root: tree.root.clone(), source };
        loop {
            let dir = File::open(&tree.root).map_err(fail)?;
            match dir.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => {
                    let holder = holder(&dir).unwrap_or_else(|| "another process".into());
                    return Err(LockError::Held { root: tree.root.clone(), holder });
                }
                Err(fs::TryLockError::Error(source)) => return Err(fail(source)),
            }
            // A cleanup may have removed the folder between open and lock: then the lock is on nothing.
            let (mine, there) = (dir.metadata().map_err(fail)?, fs::metadata(&tree.root).map_err(fail)?);
            if mine.ino() == there.ino() {
                return Ok(TreeLock { dir });
            }
        }
    }
}

impl Drop for TreeLock {
    /// Gives the lock back also where a process that was forked and has not called exec yet shares it.
    fn drop(&mut self) {
        let _ = self.dir.unlock();
    }
}

/// Who holds the flock on a folder, from `/proc/locks`: `pid 4711 (beeline run …)`.
fn holder(dir: &File) -> Option<String> {
    let meta = dir.metadata().ok()?;
    let (major, minor) = (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev()));
    let id = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let line = locks
        .lines()
        .find(|line| line.contains("FLOCK") && line.split_whitespace().any(|word| word == id))?;
    let pid = line.split_whitespace().nth(4)?;
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
    Some(format!("pid {pid} ({})", command.trim()))
}

/// Makes a folder of ours, readable by the group. One that exists is fine.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o750).create(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e).with_context(|| format!("create {}", dir.display())),
    }
}

/// Removes a folder of pins, if it is there. What the pins kept alive goes with them unless a link uses it.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("remove {}", dir.display())),
    }
}

/// Puts the folder `from` in the place of `to` and removes what was there.
pub(crate) fn replace_dir(from: &Path, to: &Path, old: &Path) -> Result<()> {
    let what = || format!("put {} in the place of {}", from.display(), to.display());
    if !to.exists() {
        return fs::rename(from, to).with_context(what);
    }
    match renameat2(nix::fcntl::AT_FDCWD, from, nix::fcntl::AT_FDCWD, to, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => remove_dir(from),
        // bpffs cannot exchange before 5.17 (6429e46304ac): two renames, and a start finds what lies between.
        Err(_) => {
            remove_dir(old)?;
            fs::rename(to, old).with_context(what)?;
            fs::rename(from, to).with_context(what)?;
            remove_dir(old)
        }
    }
}

/// The ids of all maps that the programs of the pinned links use: the live ones.
pub(crate) fn live_maps(tree: &Tree) -> Vec<u32> {
    let mut live = Vec::new();
    for name in names(&tree.links()) {
        let maps = sys::get(&tree.links().join(name))
            .and_then(|link| sys::link_facts(link.as_fd()))
            .and_then(|facts| sys::prog_by_id(facts.prog_id))
            .and_then(|prog| sys::prog_facts(prog.as_fd()));
        live.extend(maps.map(|facts| facts.maps).unwrap_or_default());
    }
    live.sort_unstable();
    live.dedup();
    live
}

/// Repairs what a killed start left in a group, and says whether the group can be adopted.
///
/// Of the complete folders the one that the linked programs use most is kept and put in place. Half-flipped
/// growth ties: then the folder in place stays, whose rows are the same. All others are removed.
pub(crate) fn repair(tree: &Tree, group: &Group, live: &[u32]) -> Result<bool> {
    let mut chosen = None;
    for side in Side::ALL.into_iter().filter(|side| is_complete(&tree.dir(group, *side), group)) {
        let used = used_maps(&tree.dir(group, side), group, live);
        let best = chosen.map_or(0, |(_, most)| most);
        if used > best || (side == Side::Place && chosen.is_none()) {
            chosen = Some((side, used));
        }
    }
    let chosen = chosen.map(|(side, _)| side);
    if let Some(side) = chosen.filter(|side| *side != Side::Place) {
        replace_dir(&tree.dir(group, side), &tree.dir(group, Side::Place), &tree.dir(group, Side::Old))?;
    }
    for side in Side::ALL.into_iter().filter(|side| chosen.is_none() || *side != Side::Place) {
        remove_dir(&tree.dir(group, side))?;
    }
    Ok(chosen.is_some())
}

fn is_complete(dir: &Path, group: &Group) -> bool {
    group.maps.iter().all(|map| dir.join(map).exists())
}

/// How many maps of the folder the linked programs use.
fn used_maps(dir: &Path, group: &Group, live: &[u32]) -> usize {
    let is_live = |map: &&&str| {
        let id = sys::get(&dir.join(map)).and_then(|fd| sys::map_id(fd.as_fd()));
        id.is_ok_and(|id| live.contains(&id))
    };
    group.maps.iter().filter(is_live).count()
}

/// Puts a filled folder in place, once it is live.
pub(crate) fn settle(tree: &Tree, group: &Group, from: Side) -> Result<()> {
    if from == Side::Place {
        return Ok(());
    }
    replace_dir(&tree.dir(group, from), &tree.dir(group, Side::Place), &tree.dir(group, Side::Old))
}

/// Removes the folders of other layouts, once nothing live uses them.
pub(crate) fn remove_strangers(tree: &Tree) -> Result<()> {
    tree.strangers().iter().try_for_each(|name| remove_dir(&tree.root.join(name)))
}
