//! How much memory a process holds and how much a memory cgroup is charged with. All in bytes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cgroup;

/// Resident memory (VmRSS) of this process.
///
/// # Errors
/// /proc is not mounted.
pub fn rss() -> Result<u64> {
    rss_in("/proc/self/status")
}

/// Resident memory (VmRSS) of a process.
///
/// # Errors
/// The process is gone.
pub fn rss_of(pid: u32) -> Result<u64> {
    rss_in(&format!("/proc/{pid}/status"))
}

fn rss_in(path: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().strip_suffix("kB"))
        .and_then(|value| value.trim().parse().ok())
        .with_context(|| format!("{path} shows no VmRSS: a kernel thread or a zombie"))?;
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

/// A cgroup that is charged with the memory its processes use, kernel memory of BPF maps included.
/// Removed on drop.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
}

impl MemoryGroup {
    /// Makes a group called `name` (it may have slashes) below the root of the memory controller: of
    /// v1 where that has it, else of cgroup2, where the controller is switched on for children of the
    /// root.
    ///
    /// # Errors
    /// The kernel has no memory controller, or it may not be used here.
    pub fn create(name: &str) -> Result<Self> {
        let root = match cgroup::v1_memory_root()? {
            Some(root) => root,
            None => v2_root()?,
        };
        let path = root.join(name);
        cgroup::create(&path)?;
        Ok(Self { path })
    }

    /// Where the group lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the group is charged with now; see [`charged`].
    ///
    /// # Errors
    /// See [`charged`].
    pub fn charged(&self) -> Result<u64> {
        charged(&self.path)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = cgroup::remove(&self.path) {
            tracing::warn!("{error:#}");
        }
    }
}

fn v2_root() -> Result<PathBuf> {
    let root = cgroup::root()?;
    let has = |file: &str| -> Result<bool> {
        let path = root.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(text.split_whitespace().any(|controller| controller == "memory"))
    };
    if !has("cgroup.controllers")? {
        bail!("no memory controller at {}: the kernel has none, or v1 holds it unmounted", root.display());
    }
    if !has("cgroup.subtree_control")? {
        bail!(
            "the memory controller is off at {0}; switch it on with `echo +memory > {0}/cgroup.subtree_control`",
            root.display()
        );
    }
    Ok(root)
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
    bail!("{} shows neither memory.current nor memory.usage_in_bytes: it is no memory cgroup", path.display())
}
