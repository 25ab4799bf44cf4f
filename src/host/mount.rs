//! Mounts: what is mounted where, and bpffs.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Where bpffs is expected when nobody says otherwise.
pub const BPFFS: &str = "/sys/fs/bpf";

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The part of the file system that is shown, `/` for all of it.
    pub root: PathBuf,
    /// The directory it is mounted on.
    pub target: PathBuf,
    /// `bpf`, `cgroup2`, `tmpfs`, …
    pub fstype: String,
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
    let super_options = back.nth(1).unwrap_or_default().to_owned();
    Some(Mount { root: unescape(root), target: unescape(target), fstype, super_options })
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
    nix::mount::mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0750"))
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

/// A bpffs that is there as long as this value: mounted if it was missing, and unmounted on drop only
/// if this value mounted it.
#[derive(Debug)]
pub struct BpffsGuard {
    path: PathBuf,
    mounted: bool,
    made_dir: bool,
}

impl BpffsGuard {
    /// Sees to a bpffs at `path`, and to the directory it is mounted on.
    ///
    /// # Errors
    /// The directory cannot be made or the mount is refused.
    pub fn ensure(path: &Path) -> Result<Self> {
        let mut guard = Self { path: path.to_owned(), mounted: false, made_dir: false };
        if is_bpffs(path) {
            return Ok(guard);
        }
        if !path.is_dir() {
            fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
            guard.made_dir = true;
        }
        mount_bpffs(path)?;
        guard.mounted = true;
        Ok(guard)
    }

    /// Where the bpffs is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the mount in place for good.
    pub fn keep(mut self) {
        self.mounted = false;
        self.made_dir = false;
    }
}

impl Drop for BpffsGuard {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = unmount(&self.path)
        {
            tracing::warn!("{error:#}");
        }
        if self.made_dir {
            fs::remove_dir(&self.path).ok();
        }
    }
}
