//! The cgroup2 tree: found by itself, also beside v1; sub-cgroups made, filled and removed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::mount::{Mount, mounts, parse};

/// How long [`remove`] waits for processes that were killed to leave.
const PATIENCE: Duration = Duration::from_secs(5);

/// The root of the cgroup2 tree, from `/proc/self/mountinfo`.
///
/// # Errors
/// No cgroup2 is mounted; the message says how to mount it.
pub fn root() -> Result<PathBuf> {
    root_of(&mounts()?).context(
        "no cgroup2 is mounted; mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified`, or name one with --cgroup-root",
    )
}

/// The cgroup2 root according to the text of a `mountinfo` file: the mount that shows the whole tree,
/// else the first (inside a cgroup namespace a mount shows a part of it).
pub fn root_in(mountinfo: &str) -> Option<PathBuf> {
    root_of(&parse(mountinfo))
}

fn root_of(mounts: &[Mount]) -> Option<PathBuf> {
    let v2 = || mounts.iter().filter(|m| m.fstype == "cgroup2");
    v2().find(|m| m.root == Path::new("/")).or_else(|| v2().next()).map(|m| m.target.clone())
}

/// The mount of the v1 memory controller, where there is one.
///
/// # Errors
/// `/proc/self/mountinfo` cannot be read.
pub fn v1_memory_root() -> Result<Option<PathBuf>> {
    let memory = |m: &Mount| m.fstype == "cgroup" && m.super_options.split(',').any(|o| o == "memory");
    Ok(mounts()?.into_iter().find(memory).map(|m| m.target))
}

/// Makes a cgroup and those above it. One that exists is no error.
///
/// # Errors
/// The path lies on no cgroup file system, or may not be written.
pub fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create cgroup {}", path.display()))
}

/// The processes directly in a cgroup.
///
/// # Errors
/// The cgroup does not exist.
pub fn processes(path: &Path) -> Result<Vec<u32>> {
    let file = path.join("cgroup.procs");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// The cgroup2 cgroup a process is in, as a path below [`root`].
///
/// # Errors
/// The process is gone, or no cgroup2 is mounted.
pub fn of_process(pid: u32) -> Result<PathBuf> {
    let file = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let relative = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .with_context(|| format!("{file} names no cgroup2 cgroup"))?;
    Ok(root()?.join(relative))
}

/// Moves a process (all its threads) into a cgroup. Sockets it opened before stay with the cgroup it
/// had then.
///
/// # Errors
/// The cgroup or the process does not exist, or the cgroup has controllers enabled for children.
pub fn put(path: &Path, pid: u32) -> Result<()> {
    fs::write(path.join("cgroup.procs"), pid.to_string())
        .with_context(|| format!("move process {pid} into cgroup {}", path.display()))
}

/// The names of the cgroups directly below `path`, sorted.
///
/// # Errors
/// The cgroup does not exist.
pub fn children(path: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(path).with_context(|| format!("read cgroup {}", path.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// The id of a cgroup, as BPF programs see it (`bpf_get_current_cgroup_id`): its inode number.
///
/// # Errors
/// The cgroup does not exist.
pub fn id(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).with_context(|| format!("stat cgroup {}", path.display()))?.ino())
}

/// Removes a cgroup with all below it. Nothing is moved and nothing is killed: a cgroup with processes
/// is an error. One that does not exist is none.
///
/// # Errors
/// A process is still inside; the message names it.
pub fn remove(path: &Path) -> Result<()> {
    remove_until(path, Instant::now() + PATIENCE)
}

fn remove_until(path: &Path, deadline: Instant) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for child in children(path)? {
        remove_until(&path.join(child), deadline)?;
    }
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => {
                let inside = processes(path).unwrap_or_default();
                return Err(error).with_context(|| {
                    format!("remove cgroup {}, processes inside: {inside:?}", path.display())
                });
            }
        }
    }
}

/// Kills every process in a cgroup and below it, and waits until it is empty. With `cgroup.kill`
/// (Linux 5.14, 661ee6281472) in one step, before by going through the members until none is left.
///
/// # Errors
/// Processes remain after five seconds.
pub fn kill_all(path: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = members_below(path);
        if members.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes {members:?} in cgroup {} do not end", path.display());
        }
        if fs::write(path.join("cgroup.kill"), "1").is_err() {
            for &pid in &members {
                super::process::kill(pid, libc::SIGKILL).ok();
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn members_below(path: &Path) -> HashSet<u32> {
    let mut members: HashSet<u32> = processes(path).unwrap_or_default().into_iter().collect();
    for child in children(path).unwrap_or_default() {
        members.extend(members_below(&path.join(child)));
    }
    members
}

#[cfg(test)]
mod tests {
    use super::root_in;
    use std::path::Path;

    const BESIDE_V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 master:2 - cgroup2 cgroup2 rw
";

    #[test]
    fn cgroup2_is_found_beside_v1() {
        assert_eq!(root_in(BESIDE_V1).as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_mount_of_the_whole_tree_wins_over_a_part_of_it() {
        let text = "\
41 31 0:38 /pod1 /in\\040here rw - cgroup2 none rw
42 31 0:38 / /sys/fs/cgroup rw - cgroup2 none rw
";
        assert_eq!(root_in(text).as_deref(), Some(Path::new("/sys/fs/cgroup")));
        let part = text.lines().next().unwrap_or_default();
        assert_eq!(root_in(part).as_deref(), Some(Path::new("/in here")));
    }

    #[test]
    fn without_cgroup2_there_is_no_root() {
        assert_eq!(root_in("35 31 0:32 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n"), None);
    }
}
