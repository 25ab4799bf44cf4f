//! How much memory a process holds and how much a memory cgroup is charged with. All in bytes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Resident memory (VmRSS) of this process.
///
/// # Errors
/// /proc is not mounted.
pub fn rss() -> Result<u64> {
    kib_in("/proc/self/status", "VmRSS:")
}

/// Resident memory (VmRSS) of a process.
///
/// # Errors
/// The process is gone.
pub fn rss_of(pid: u32) -> Result<u64> {
    kib_in(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The most resident memory (VmHWM) a process has had.
///
/// # Errors
/// The process is gone.
pub fn peak_of(pid: u32) -> Result<u64> {
    kib_in(&format!("/proc/{pid}/status"), "VmHWM:")
}

fn kib_in(path: &str, field: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|value| value.trim().strip_suffix("kB"))
        .and_then(|value| value.trim().parse().ok())
        .with_context(|| format!("{path} shows no {field} a kernel thread or a zombie"))?;
    Ok(kib * 1024)
}

/// Gives memory that was freed back to the kernel, after a burst of work such as a first list.
pub fn trim() {
    // SAFETY: malloc_trim takes a number, may be called from any thread, and returns nothing to own.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What a memory cgroup is charged with now: `memory.current` (v2) or `memory.usage_in_bytes` (v1).
///
/// # Errors
/// The path is no memory cgroup.
pub fn charged(path: &Path) -> Result<u64> {
    for file in ["memory.current", "memory.usage_in_bytes"] {
        if let Ok(text) = fs::read_to_string(path.join(file)) {
            return text.trim().parse().with_context(|| format!("read {file} of {}", path.display()));
        }
    }
    bail!(
        "{} shows neither memory.current nor memory.usage_in_bytes: no memory controller is on there; with cgroup2, \
         `echo +memory > cgroup.subtree_control` in each cgroup above switches it on",
        path.display()
    )
}
