//! Mounts: what is mounted where, and bpffs.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Where bpffs is expected when nobody says otherwise.
pub const BPFFS: &str = "/sys/fs/bpf";

/// The source of mounts of ours, by which they are known in /proc/mounts.
const OURS: &str = "beeline";

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The part of the file system that is shown, `/` for all of it.
    pub root: PathBuf,
    /// The directory it is mounted on.
    pub target: PathBuf,
    /// `bpf`, `cgroup2`, `tmpfs`, …
    pub fstype: String,
    /// What is mounted, as whoever mounted it said.
    pub source: String,
    /// Options of the file system, separated by commas.
    pub super_options: String,
}

/// All mounts of this process's mount namespace, in the order they were made.
///
/// # Errors
/// /proc is not mounted.
pub fn mounts() -> Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?))
}

/// The mounts in the text of a `mountinfo` file; lines that cannot be read are left out.
pub fn parse(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let (root, target) = (front.next()?, front.next()?);
    let mut back = back.split(' ');
    let fstype = back.next()?.to_owned();
    let source = back.next().unwrap_or_default().to_owned();
    let super_options = back.next().unwrap_or_default().to_owned();
    Some(Mount { root: unescape(root), target: unescape(target), fstype, source, super_options })
}

/// Undoes the kernel's `\040` for blanks, tabs, newlines and backslashes.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match octal {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Whether `path` exists and lies on a bpffs.
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a bpffs of its own at `path`, which must be a directory.
///
/// # Errors
/// CAP_SYS_ADMIN is missing, or the kernel has no bpffs.
pub fn mount_bpffs(path: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some(OURS), path, Some("bpf"), flags, Some("mode=0750"))
        .with_context(|| format!("mount a bpffs at {}", path.display()))
}

/// Unmounts what is mounted at `path`, at once, even if somebody has files open there. Nothing mounted
/// there is no error.
///
/// # Errors
/// CAP_SYS_ADMIN is missing.
pub fn unmount(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("unmount {}", path.display())),
    }
}

/// Unmounts the bpffs at `path` if [`mount_bpffs`] mounted it and nothing is in it any more; says whether it did.
///
/// # Errors
/// /proc is not mounted, CAP_SYS_ADMIN is missing, or somebody has it open.
pub fn unmount_ours(path: &Path) -> Result<bool> {
    let top = mounts()?.into_iter().rfind(|mount| mount.target == path);
    let is_ours = top.is_some_and(|mount| mount.fstype == "bpf" && mount.source == OURS);
    // The kernel puts iterators of its own there (`maps.debug`); pins have no dots in their names.
    let is_pin = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| !entry.file_name().as_encoded_bytes().contains(&b'.'))
    };
    if !is_ours || fs::read_dir(path).is_ok_and(|mut entries| entries.any(is_pin)) {
        return Ok(false);
    }
    umount2(path, MntFlags::empty()).with_context(|| format!("unmount {}", path.display()))?;
    Ok(true)
}
