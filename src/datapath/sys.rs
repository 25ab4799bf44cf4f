//! bpf(2) as this room uses it: thin, typed, with the errno kept ([`io::Error`]), because callers
//! branch on it (`E2BIG` is a full map, `EPERM` at attach is a foreign program).

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The result of a libbpf call: a value, or minus an errno.
fn check(ret: c_int) -> io::Result<c_int> {
    if ret < 0 { Err(io::Error::from_raw_os_error(-ret)) } else { Ok(ret) }
}

/// A descriptor that libbpf just returned.
fn owned(ret: c_int) -> io::Result<OwnedFd> {
    let fd = check(ret)?;
    // SAFETY: `fd` is a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Attaches a program to a cgroup by a link.
pub(crate) fn link_create(
    prog: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    // SAFETY: both descriptors are open; no options.
    owned(unsafe {
        libbpf_sys::bpf_link_create(prog.as_raw_fd(), cgroup.as_raw_fd(), attach_type, std::ptr::null())
    })
}

/// Replaces the program of a link, atomically.
pub(crate) fn link_update(link: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open; no options.
    check(unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), prog.as_raw_fd(), std::ptr::null()) })
        .map(drop)
}

/// Detaches the program of a link at once. Closing or unpinning a link does so some time later.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an open descriptor.
    check(unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) }).map(drop)
}

/// Asks for a link without program and cgroup: `EBADF` where links exist.
pub(crate) fn link_create_nothing() -> io::Result<()> {
    // SAFETY: invalid descriptors are refused; no options.
    check(unsafe {
        libbpf_sys::bpf_link_create(-1, -1, libbpf_sys::BPF_CGROUP_INET4_CONNECT, std::ptr::null())
    })
    .map(drop)
}

/// Asks to update no link: `EBADF` where links can be updated.
pub(crate) fn link_update_nothing() -> io::Result<()> {
    // SAFETY: invalid descriptors are refused; no options.
    check(unsafe { libbpf_sys::bpf_link_update(-1, -1, std::ptr::null()) }).map(drop)
}

/// The cookie of a socket, as BPF programs see it (`bpf_get_socket_cookie`).
pub(crate) fn socket_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let at: *mut u64 = &mut cookie;
    // SAFETY: `at` and `len` describe 8 bytes that outlive the call.
    let ret = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE, at.cast(), &mut len)
    };
    if ret == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Pins an object.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: an open descriptor and a NUL-terminated path that outlives the call.
    check(unsafe { libbpf_sys::bpf_obj_pin(fd.as_raw_fd(), path.as_ptr()) }).map(drop)
}

/// Opens a pinned object.
pub(crate) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: a NUL-terminated path that outlives the call.
    owned(unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) })
}

/// Opens a program by its id.
pub(crate) fn prog_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes an integer, returns a descriptor or an error.
    owned(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) })
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkFacts {
    pub prog_id: u32,
    /// The id of the cgroup; 0 once the cgroup is gone.
    pub cgroup_id: u64,
}

pub(crate) fn link_facts(link: BorrowedFd<'_>) -> io::Result<LinkFacts> {
    let mut info = libbpf_sys::bpf_link_info::default();
    let mut len = size_of_val(&info) as u32;
    let at: *mut libbpf_sys::bpf_link_info = &mut info;
    // SAFETY: `at` points to a zeroed struct of `len` bytes.
    check(unsafe { libbpf_sys::bpf_obj_get_info_by_fd(link.as_raw_fd(), at.cast::<c_void>(), &mut len) })?;
    if info.type_ != libbpf_sys::BPF_LINK_TYPE_CGROUP {
        return Err(io::Error::other(format!("is a link of type {}, not of a cgroup", info.type_)));
    }
    // SAFETY: the kernel filled the cgroup member, as the type says.
    let cgroup_id = unsafe { info.__bindgen_anon_1.cgroup.cgroup_id };
    Ok(LinkFacts { prog_id: info.prog_id, cgroup_id })
}

/// What the kernel says of a program.
#[derive(Clone, Debug)]
pub(crate) struct ProgFacts {
    pub name: String,
    /// The kernel's hash of its instructions, in hex.
    pub tag: String,
    /// The maps it uses.
    pub maps: Vec<u32>,
}

pub(crate) fn prog_facts(prog: BorrowedFd<'_>) -> io::Result<ProgFacts> {
    let mut maps = [0u32; 64];
    let mut info =
        libbpf_sys::bpf_prog_info { nr_map_ids: 64, map_ids: maps.as_mut_ptr() as u64, ..Default::default() };
    let mut len = size_of_val(&info) as u32;
    // SAFETY: `info` is zeroed but for `map_ids`, which points to room for `nr_map_ids` ids.
    check(unsafe { libbpf_sys::bpf_prog_get_info_by_fd(prog.as_raw_fd(), &mut info, &mut len) })?;
    // SAFETY: the kernel terminates names within the field.
    let name = unsafe { CStr::from_ptr(info.name.as_ptr()) }.to_string_lossy().into_owned();
    let used = (info.nr_map_ids as usize).min(maps.len());
    let tag = info.tag.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(ProgFacts { name, tag, maps: maps[..used].to_vec() })
}

/// The id of a map.
pub(crate) fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = libbpf_sys::bpf_map_info::default();
    let mut len = size_of_val(&info) as u32;
    // SAFETY: `info` is a zeroed struct of `len` bytes.
    check(unsafe { libbpf_sys::bpf_map_get_info_by_fd(map.as_raw_fd(), &mut info, &mut len) })?;
    Ok(info.id)
}

/// The ids of the programs attached to exactly this cgroup, and the flags of the attachment.
pub(crate) fn prog_query(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<(Vec<u32>, u32)> {
    let mut ids = [0u32; 64];
    let (mut count, mut flags) = (64u32, 0u32);
    // SAFETY: `ids` has room for `count` ids; the others are plain out-arguments.
    check(unsafe {
        libbpf_sys::bpf_prog_query(
            cgroup.as_raw_fd(),
            attach_type,
            0,
            &mut flags,
            ids.as_mut_ptr(),
            &mut count,
        )
    })?;
    Ok((ids[..(count as usize).min(64)].to_vec(), flags))
}

/// Creates a map that belongs to no object.
pub(crate) fn map_create(
    map_type: u32,
    name: &CStr,
    [key, value, entries]: [u32; 3],
    flags: u32,
    inner: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let opts = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
        map_flags: flags,
        inner_map_fd: inner.map_or(0, |fd| fd.as_raw_fd() as u32),
        ..Default::default()
    };
    // SAFETY: a NUL-terminated name and initialized options that outlive the call.
    owned(unsafe { libbpf_sys::bpf_map_create(map_type, name.as_ptr(), key, value, entries, &opts) })
}

/// Puts one element. The slices hold exactly one key and one value of the map.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    // SAFETY: the callers pass slices of the map's key and value size; the kernel only reads them.
    check(unsafe {
        libbpf_sys::bpf_map_update_elem(map.as_raw_fd(), key.as_ptr().cast(), value.as_ptr().cast(), 0)
    })
    .map(drop)
}

/// Deletes one element; `false` if there was none.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    // SAFETY: the callers pass a slice of the map's key size; the kernel only reads it.
    match check(unsafe { libbpf_sys::bpf_map_delete_elem(map.as_raw_fd(), key.as_ptr().cast()) }) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads one element into `value`; `false` if there is none.
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    // SAFETY: the callers pass slices of the map's key and value size.
    match check(unsafe {
        libbpf_sys::bpf_map_lookup_elem(map.as_raw_fd(), key.as_ptr().cast(), value.as_mut_ptr().cast())
    }) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Puts `count` elements, given as keys and values one after the other.
pub(crate) fn update_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    mut count: u32,
) -> io::Result<()> {
    let opts = batch_opts();
    // SAFETY: the slices hold `count` keys and values of the map's sizes; the kernel only reads them.
    check(unsafe {
        libbpf_sys::bpf_map_update_batch(
            map.as_raw_fd(),
            keys.as_ptr().cast(),
            values.as_ptr().cast(),
            &mut count,
            &opts,
        )
    })
    .map(drop)
}

/// Reads up to `count` elements. `cursor` is where the last call ended (`None` at first) and is moved on.
/// Returns how many were read and whether more may follow. `elem_flags` is 0, or `BPF_F_LOCK` for values with
/// a lock in them.
pub(crate) fn lookup_batch(
    map: BorrowedFd<'_>,
    cursor: &mut Option<[u8; 4]>,
    keys: &mut [u8],
    values: &mut [u8],
    mut count: u32,
    elem_flags: u64,
) -> io::Result<(u32, bool)> {
    let opts = libbpf_sys::bpf_map_batch_opts { elem_flags, ..batch_opts() };
    let mut start = cursor.unwrap_or_default();
    let from: *mut c_void = if cursor.is_some() { start.as_mut_ptr().cast() } else { std::ptr::null_mut() };
    let mut next = [0u8; 4];
    // SAFETY: `keys` and `values` have room for `count` elements; a hash map's cursor has 4 bytes.
    let done = check(unsafe {
        libbpf_sys::bpf_map_lookup_batch(
            map.as_raw_fd(),
            from,
            next.as_mut_ptr().cast(),
            keys.as_mut_ptr().cast(),
            values.as_mut_ptr().cast(),
            &mut count,
            &opts,
        )
    });
    *cursor = Some(next);
    match done {
        Ok(_) => Ok((count, true)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok((count, false)),
        Err(e) => Err(e),
    }
}

fn batch_opts() -> libbpf_sys::bpf_map_batch_opts {
    libbpf_sys::bpf_map_batch_opts {
        sz: size_of::<libbpf_sys::bpf_map_batch_opts>() as _,
        ..Default::default()
    }
}

/// The key after `key` (the first if `None`), written to `next`; `false` at the end.
pub(crate) fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let from = key.map_or(std::ptr::null(), |key| key.as_ptr().cast());
    // SAFETY: the slices have the map's key size.
    match check(unsafe { libbpf_sys::bpf_map_get_next_key(map.as_raw_fd(), from, next.as_mut_ptr().cast()) })
    {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Loads a program of a few instructions, to ask the kernel whether it would.
pub(crate) fn prog_load(
    prog_type: u32,
    attach_type: u32,
    name: &CStr,
    insns: &[libbpf_sys::bpf_insn],
) -> io::Result<OwnedFd> {
    let mut opts = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as _,
        expected_attach_type: attach_type,
        ..Default::default()
    };
    // SAFETY: NUL-terminated strings, `insns.len()` instructions and initialized options, all outliving the call.
    owned(unsafe {
        libbpf_sys::bpf_prog_load(
            prog_type,
            name.as_ptr(),
            c"Dual BSD/GPL".as_ptr(),
            insns.as_ptr(),
            insns.len() as _,
            &mut opts,
        )
    })
}
