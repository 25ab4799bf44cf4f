//! Reading a whole map.

use std::io;
use std::os::fd::AsFd;

use libbpf_rs::{MapCore, MapHandle};

use super::super::sys;

/// Elements per call.
const BATCH: u32 = 4096;

/// Calls `each` with key and value of every element of a hash map, in no order. Elements that come or go
/// meanwhile may be seen or not.
pub(crate) fn scan_hash(map: &MapHandle, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
    let (key, value) = (map.key_size() as usize, map.value_size() as usize);
    let mut room = BATCH;
    let (mut keys, mut values) = (vec![0; key * room as usize], vec![0; value * room as usize]);
    let mut cursor = None;
    loop {
        let before = cursor;
        let (count, more) = match sys::lookup_batch(map.as_fd(), &mut cursor, &mut keys, &mut values, room, 0)
        {
            Ok(done) => done,
            // One bucket holds more than fits: ask again with more room.
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && room < map.max_entries() => {
                (room, cursor) = (room * 2, before);
                keys.resize(key * room as usize, 0);
                values.resize(value * room as usize, 0);
                continue;
            }
            Err(e) => return Err(e),
        };
        for (key, value) in keys.chunks_exact(key).zip(values.chunks_exact(value)).take(count as usize) {
            each(key, value);
        }
        if !more {
            return Ok(());
        }
    }
}

/// Calls `each` with index and value of `count` rows of an array, from row `first`. Through system calls, since
/// a map opened read only cannot be mapped (`bpf_map_mmap()` wants `VM_SHARED`, which mmap(2) drops for it).
pub(crate) fn scan_array(
    map: &MapHandle,
    first: u32,
    count: u32,
    each: impl FnMut(u32, &[u8]),
) -> io::Result<()> {
    scan_rows(map, first, count, 0, each)
}

/// The same for every row of an array whose values have a lock: each is copied while nobody writes it.
pub(crate) fn scan_locked(map: &MapHandle, each: impl FnMut(u32, &[u8])) -> io::Result<()> {
    scan_rows(map, 0, u32::MAX, u64::from(libbpf_sys::BPF_F_LOCK), each)
}

fn scan_rows(
    map: &MapHandle,
    first: u32,
    count: u32,
    elem_flags: u64,
    mut each: impl FnMut(u32, &[u8]),
) -> io::Result<()> {
    let end = first.saturating_add(count).min(map.max_entries());
    let value = map.value_size() as usize;
    let room = BATCH.min(end.saturating_sub(first));
    let (mut keys, mut values) = (vec![0; 4 * room as usize], vec![0; value * room as usize]);
    let mut row = first;
    while row < end {
        // The cursor of an array is the row before.
        let mut cursor = row.checked_sub(1).map(u32::to_ne_bytes);
        let asked = room.min(end - row);
        let (count, _) =
            sys::lookup_batch(map.as_fd(), &mut cursor, &mut keys, &mut values, asked, elem_flags)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (row, value) in (row..).zip(values.chunks_exact(value)).take(count as usize) {
            each(row, value);
        }
        row += count;
    }
    Ok(())
}

/// Calls `each` with every key, one call per key: for maps without batches (LPM before 5.19).
pub(crate) fn scan_keys(map: &MapHandle, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut next = vec![0; map.key_size() as usize];
    let mut key: Option<Vec<u8>> = None;
    while sys::next_key(map.as_fd(), key.as_deref(), &mut next)? {
        each(&next);
        key = Some(next.clone());
    }
    Ok(())
}
