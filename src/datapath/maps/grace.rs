//! A proven grace period for BPF programs.
//!
//! An update of a map-in-map returns after every program that was running when it began has ended
//! (`maybe_wait_bpf_programs()`, 1ae80cf31938); since 6.12 only if it succeeds, so the return code counts. Not membarrier(2), which waits for nothing on one CPU, and no timer: both were measured to
//! hand out ids that a reader still held.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::super::sys;

/// The map-in-map, and two maps that take turns in it.
#[derive(Debug)]
pub(crate) struct Grace {
    outer: OwnedFd,
    inner: [OwnedFd; 2],
    turn: usize,
}

impl Grace {
    pub(crate) fn new() -> io::Result<Grace> {
        let array = || sys::map_create(libbpf_sys::BPF_MAP_TYPE_ARRAY, c"bl_grace_inner", [4, 4, 1], 0, None);
        let inner = [array()?, array()?];
        let outer = sys::map_create(
            libbpf_sys::BPF_MAP_TYPE_ARRAY_OF_MAPS,
            c"bl_grace",
            [4, 4, 1],
            0,
            Some(inner[0].as_fd()),
        )?;
        Ok(Grace { outer, inner, turn: 0 })
    }

    /// Waits. An error means that nothing was waited for.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let fd = self.inner[self.turn].as_raw_fd() as u32;
        sys::update(self.outer.as_fd(), &0u32.to_ne_bytes(), &fd.to_ne_bytes())?;
        self.turn ^= 1;
        Ok(())
    }
}
