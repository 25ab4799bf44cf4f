//! One file whose content should stay what it was: a configuration. Followed like a manifest, through
//! every symlink on the way, so that a ConfigMap that the kubelet flips is seen, too.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustc_hash::FxHashSet;

use super::ATTEMPTS;
use super::walk::walk;
use super::watch::{Seen, Watched, Watches};

/// A file that is compared with what it was.
#[derive(Debug)]
pub struct FileWatch {
    /// Made absolute.
    path: PathBuf,
    text: Vec<u8>,
    watches: Watches,
    names: BTreeSet<(PathBuf, OsString)>,
}

impl FileWatch {
    /// Watches a file that was read as `text` before. [`changed`](Self::changed) may be true at once.
    ///
    /// # Errors
    /// inotify cannot be had, or a directory on the way cannot be watched.
    pub fn open(path: &Path, text: &str) -> Result<FileWatch> {
        let path = std::path::absolute(path).with_context(|| format!("make {} absolute", path.display()))?;
        let (text, watches) = (text.as_bytes().to_owned(), Watches::new()?);
        let mut file = FileWatch { path, text, watches, names: BTreeSet::new() };
        file.watch()?;
        Ok(file)
    }

    /// The file, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is another text now. A file that is gone is no other text: it may be on its way. To be
    /// called whenever the descriptor is readable.
    ///
    /// # Errors
    /// inotify failed, or a directory on the way cannot be watched.
    pub fn changed(&mut self) -> Result<bool> {
        let concerns = |seen: Seen| match seen {
            Seen::Overflow | Seen::Gone(_) => true,
            Seen::Name { dir, name, .. } => self.names.contains(&(dir, name)),
        };
        if self.watches.read()?.into_iter().any(concerns) {
            self.watch()?;
        }
        self.differs()
    }

    /// Whether the file holds another text. An empty one is a file whose writer has not come to the content.
    fn differs(&self) -> Result<bool> {
        match fs::read(&self.path) {
            Ok(now) => Ok(!now.is_empty() && now != self.text),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error).with_context(|| format!("read {}", self.path.display())),
        }
    }

    /// Watches every name that leads to the file; looked up again after the watches are in place.
    fn watch(&mut self) -> Result<()> {
        let mut watched = Ok(());
        for _ in 0..ATTEMPTS {
            let way = walk(&self.path);
            let last = way.steps.len().saturating_sub(1);
            self.names.clear();
            watched = Ok(());
            for (at, step) in way.steps.iter().enumerate() {
                let is_name = step.is_open || at == last;
                let what = if is_name { Watched::Names } else { Watched::Itself };
                watched = watched.and(self.watches.add(&step.dir, what));
                if is_name {
                    self.names.insert((step.dir.clone(), step.name.clone()));
                }
            }
            let needed: FxHashSet<PathBuf> = way.steps.iter().map(|step| step.dir.clone()).collect();
            self.watches.keep(&needed);
            if watched.is_ok() && walk(&self.path) == way {
                break;
            }
        }
        watched
    }
}

impl AsRawFd for FileWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.watches.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn another_text_is_a_change_and_the_same_one_is_not() {
        // SYNC-16
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.conf");
        let replace = |text: &str| {
            fs::write(dir.path().join("aside"), text).unwrap();
            fs::rename(dir.path().join("aside"), &path).unwrap();
        };
        replace("mode: a");
        let mut file = FileWatch::open(&path, "mode: a").unwrap();
        assert!(!file.changed().unwrap());
        replace("mode: a");
        assert!(!file.changed().unwrap(), "the same text in another file");
        fs::remove_file(&path).unwrap();
        assert!(!file.changed().unwrap(), "gone is not changed");
        replace("mode: a");
        assert!(!file.changed().unwrap(), "back again");
        fs::write(&path, "mode: b").unwrap();
        assert!(file.changed().unwrap(), "written in place");
        assert!(
            FileWatch::open(&path, "mode: a").unwrap().changed().unwrap(),
            "changed before it was watched"
        );
    }

    #[test]
    fn a_config_map_that_is_flipped_is_seen() {
        // SYNC-16
        let dir = tempfile::tempdir().unwrap();
        let version = |name: &str, text: &str| {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("config.conf"), text).unwrap();
        };
        let flip = |name: &str| {
            symlink(name, dir.path().join("..data_tmp")).unwrap();
            fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        };
        version("..1", "mode: a");
        version("..2", "mode: a");
        version("..3", "mode: b");
        flip("..1");
        symlink("..data/config.conf", dir.path().join("config.conf")).unwrap();
        let mut file = FileWatch::open(&dir.path().join("config.conf"), "mode: a").unwrap();
        flip("..2");
        assert!(!file.changed().unwrap(), "another version, the same text");
        fs::remove_dir_all(dir.path().join("..1")).unwrap();
        assert!(!file.changed().unwrap());
        flip("..3");
        let mut poll =
            [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&file.watches), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut poll, 1000u16), Ok(1), "the descriptor says so");
        assert!(file.changed().unwrap());
    }
}
