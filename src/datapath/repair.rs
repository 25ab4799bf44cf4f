//! Self-repair: pins that somebody removed, programs that somebody detached (SYNC-6).
//!
//! The maps live as long as this process holds them, whatever becomes of their pins; a link dies with its
//! pin. Both are put back as they were, so that the next agent finds them.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use libbpf_rs::MapHandle;

use super::load::{self, GROUPS};
use super::pins::{self, Side, TreeLock};
use super::{Datapath, sys};

impl Datapath {
    /// Looks whether the published data path is whole, and puts back what is missing. Returns what that
    /// was, in words; nothing is touched where all is well. Costs some dozen system calls.
    ///
    /// # Errors
    /// Something is missing and cannot be put back: as [`publish`](Self::publish).
    pub fn repair(&mut self) -> Result<Vec<String>> {
        if !self.live || self.sides.iter().any(|side| *side != Side::Place) {
            return Ok(Vec::new());
        }
        let mut repaired = Vec::new();
        self.repair_root(&mut repaired)?;
        for group in GROUPS {
            let dir = self.tree.dir(group, Side::Place);
            pins::make_dir(&dir)?;
            for name in group.maps {
                let (_, map) =
                    self.maps.iter().find(|(known, _)| known == name).context("every map is held")?;
                if repin(map, &dir.join(name)).with_context(|| format!("pin {name} again"))? {
                    repaired
                        .push(format!("the pin {} was not that of the live map", dir.join(name).display()));
                }
            }
        }
        let lost = self.attachments();
        let lost = lost.iter().filter_map(|one| Some(format!("{}: {}", one.name, one.problem.as_ref()?)));
        let lost: Vec<String> = lost.collect();
        if !lost.is_empty() {
            self.publish()?;
            repaired.extend(lost);
        }
        Ok(repaired)
    }

    /// A tree that was removed is made anew, and locked: the lock on the old one is on nothing.
    fn repair_root(&mut self, repaired: &mut Vec<String>) -> Result<()> {
        let there = fs::metadata(self.tree.root()).map(|meta| meta.ino()).ok();
        if there == Some(self.lock.inode()?) {
            return Ok(());
        }
        pins::make_dir(self.tree.root())?;
        self.lock = TreeLock::take(&self.tree)?;
        repaired.push(format!("{} was removed", self.tree.root().display()));
        Ok(())
    }
}

/// Pins a map at a path where it is not. `false` if it is there.
fn repin(map: &MapHandle, pin: &std::path::Path) -> Result<bool> {
    let id = sys::map_id(map.as_fd())?;
    let there = sys::get(pin).and_then(|fd| sys::map_id(fd.as_fd()));
    if there.as_ref().is_ok_and(|there| *there == id) {
        return Ok(false);
    }
    if pin.symlink_metadata().is_ok() {
        fs::remove_file(pin).with_context(|| format!("remove {}", pin.display()))?;
    }
    sys::pin(map.as_fd(), pin)?;
    load::restrict(pin)?;
    Ok(true)
}
