//! inotify, with directories by path.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use rustc_hash::{FxHashMap, FxHashSet};

/// What changes which file a name stands for, or what is in it.
const NAMES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE);

/// What takes a directory away from its path.
const SELF: AddWatchFlags = AddWatchFlags::IN_MOVE_SELF.union(AddWatchFlags::IN_DELETE_SELF);

/// `IN_MASK_ADD`: a watch of the same directory keeps what it already watches.
const ADD: AddWatchFlags = AddWatchFlags::from_bits_retain(nix::libc::IN_MASK_ADD);

/// What is to be watched of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// Its entries, and the directory itself.
    Names,
    /// Only the directory itself: a busy parent, like /tmp, does not wake us.
    Itself,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Seen {
    /// A name of a directory. `created` is true for `IN_CREATE`: a file of that name may not have its content yet.
    Name { dir: PathBuf, name: OsString, created: bool },
    /// A watched directory was moved, removed or unmounted.
    Gone(PathBuf),
    /// The queue overflowed: anything may have happened.
    Overflow,
}

/// Watched directories.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: Inotify,
    dirs: FxHashMap<PathBuf, (WatchDescriptor, Watched)>,
    paths: FxHashMap<WatchDescriptor, PathBuf>,
}

impl Watches {
    /// Nothing watched yet.
    ///
    /// # Errors
    /// The user's limit of inotify instances is reached.
    pub fn new() -> Result<Watches> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .context("open inotify (if too many are in use, raise fs.inotify.max_user_instances)")?;
        Ok(Watches { inotify, dirs: FxHashMap::default(), paths: FxHashMap::default() })
    }

    /// Watches a directory, which is given without symlinks. Watching twice adds up.
    ///
    /// # Errors
    /// It is gone, may not be read, or the limit of watches is reached.
    pub fn add(&mut self, dir: &Path, what: Watched) -> Result<()> {
        if self.dirs.get(dir).is_some_and(|(_, known)| *known == Watched::Names || *known == what) {
            return Ok(());
        }
        let flags = match what {
            Watched::Names => NAMES | SELF,
            Watched::Itself => SELF,
        };
        let wd = self
            .inotify
            .add_watch(dir, flags | ADD | AddWatchFlags::IN_ONLYDIR)
            .with_context(|| format!("watch the directory {}", dir.display()))?;
        self.dirs.insert(dir.to_path_buf(), (wd, what));
        self.paths.insert(wd, dir.to_path_buf());
        Ok(())
    }

    /// Stops watching everything but these directories.
    pub fn keep(&mut self, needed: &FxHashSet<PathBuf>) {
        let inotify = &self.inotify;
        let paths = &mut self.paths;
        self.dirs.retain(|dir, (wd, _)| {
            let keep = needed.contains(dir);
            if !keep {
                paths.remove(wd);
                // It fails only if the kernel dropped the watch already, with its directory.
                let _ = inotify.rm_watch(*wd);
            }
            keep
        });
    }

    /// A directory is not at its path any more, nor is what was below it.
    fn forget(&mut self, gone: &Path) {
        let needed = self.dirs.keys().filter(|dir| !dir.starts_with(gone)).cloned().collect();
        self.keep(&needed);
    }

    /// Everything that has happened until now; empty if nothing has.
    ///
    /// # Errors
    /// inotify cannot be read.
    pub fn read(&mut self) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        loop {
            match self.inotify.read_events() {
                Ok(events) => seen.extend(events.into_iter().filter_map(|event| self.translate(event))),
                Err(Errno::EAGAIN) => return Ok(seen),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("read inotify"),
            }
        }
    }

    fn translate(&mut self, event: InotifyEvent) -> Option<Seen> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return Some(Seen::Overflow);
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            let dir = self.paths.remove(&event.wd)?;
            self.dirs.remove(&dir);
            return Some(Seen::Gone(dir));
        }
        let dir = self.paths.get(&event.wd)?.clone();
        match event.name {
            Some(name) => {
                Some(Seen::Name { dir, name, created: event.mask.contains(AddWatchFlags::IN_CREATE) })
            }
            None if event.mask.intersects(SELF | AddWatchFlags::IN_UNMOUNT) => {
                self.forget(&dir);
                Some(Seen::Gone(dir))
            }
            None => None,
        }
    }
}

impl AsRawFd for Watches {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Watches {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
