//! Mapped arrays: rows that are written by aligned atomic stores, without a system call.
//!
//! A mapping counts as resident memory as a whole, so large arrays are seen through a few windows.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use libbpf_rs::{MapCore, MapHandle};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::plan::table::{Map, TableError};

/// Bytes of one window: a multiple of every page size in use (4 to 64 KiB).
const WINDOW: usize = 64 << 10;

/// A piece of a map in this process's memory.
#[derive(Debug)]
pub(crate) struct Mapping {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is shared with the kernel anyway, and only ever read and written atomically.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` (a multiple of the page size).
    pub(crate) fn new(map: BorrowedFd<'_>, offset: usize, len: usize, write: bool) -> io::Result<Mapping> {
        let prot = if write { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        let size = NonZeroUsize::new(len).ok_or_else(|| io::Error::other("an empty mapping"))?;
        // SAFETY: a new shared mapping at an address the kernel picks; nothing existing is replaced.
        let at = unsafe { mmap(None, size, prot, MapFlags::MAP_SHARED, map, offset as i64) }?;
        Ok(Mapping { at: at.cast(), len })
    }

    /// The 8 bytes at `at`, which is a multiple of 8.
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len, "word {at} of a mapping of {} bytes", self.len);
        let word = self.at.as_ptr().wrapping_add(at).cast();
        // SAFETY: in bounds and aligned (asserted; mappings start at a page), valid as long as `self`,
        // and nobody in this process accesses the memory in another way.
        unsafe { AtomicU64::from_ptr(word) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `at` and `len` are what `mmap` returned; no reference outlives `self`.
        let _ = unsafe { munmap(self.at.cast(), self.len) };
    }
}

/// The bytes an array takes: the kernel rounds a row up to 8 bytes and the whole to pages.
pub(crate) fn mapped_len(map: &MapHandle) -> usize {
    let page =
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as usize;
    (stride(map) * map.max_entries() as usize).next_multiple_of(page)
}

/// Bytes from one row to the next.
pub(crate) fn stride(map: &MapHandle) -> usize {
    (map.value_size() as usize).next_multiple_of(8)
}

/// An mmapable array that is written.
#[derive(Debug)]
pub(crate) struct Array {
    map: MapHandle,
    name: Map,
    window: usize,
    keep: usize,
    /// Window number and mapping, the one used last at the end.
    windows: Vec<(usize, Mapping)>,
}

impl Array {
    /// An array seen through at most `keep` windows.
    pub(crate) fn windowed(map: MapHandle, name: Map, keep: usize) -> Array {
        Array { map, name, window: WINDOW, keep, windows: Vec::new() }
    }

    /// An array mapped as a whole, on first use.
    pub(crate) fn whole(map: MapHandle, name: Map) -> Array {
        let window = mapped_len(&map);
        Array { map, name, window, keep: 1, windows: Vec::new() }
    }

    /// The map behind it.
    pub(crate) fn map(&self) -> &MapHandle {
        &self.map
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> u32 {
        self.map.max_entries()
    }

    /// The mapping that holds a row, and where the row starts in it.
    pub(crate) fn row(&mut self, row: u32) -> Result<(&Mapping, usize), TableError> {
        if row >= self.rows() {
            return Err(TableError::Full { map: self.name, limit: self.rows() });
        }
        let at = row as usize * stride(&self.map);
        let number = at / self.window;
        self.bring(number)?;
        let (_, mapping) = self.windows.last().expect("bring() leaves the window last");
        Ok((mapping, at % self.window))
    }

    /// Makes a window the last one, mapping it if need be.
    fn bring(&mut self, number: usize) -> Result<(), TableError> {
        if self.windows.last().is_some_and(|(at, _)| *at == number) {
            return Ok(());
        }
        if let Some(at) = self.windows.iter().position(|(at, _)| *at == number) {
            let window = self.windows.remove(at);
            self.windows.push(window);
            return Ok(());
        }
        if self.windows.len() == self.keep {
            self.windows.remove(0);
        }
        let offset = number * self.window;
        let len = self.window.min(mapped_len(&self.map) - offset);
        let mapping = Mapping::new(self.map.as_fd(), offset, len, true).map_err(|e| TableError::Kernel {
            map: self.name,
            message: format!("map {len} bytes at {offset}: {e}"),
        })?;
        self.windows.push((number, mapping));
        Ok(())
    }
}
