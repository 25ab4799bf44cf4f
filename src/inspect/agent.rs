//! What a running agent knows and the tables do not: problems of its source, rows that wait.
//!
//! The agent writes it to a small file, atomically and only when it changes, and removes it when it
//! ends. The file says whose it is: one that outlived its agent is not believed.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::status::Pending;

/// Where the files lie, one for each `--bpf-root`.
pub const STATE_DIR: &str = "/run/beeline";

/// The state of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// The agent's process.
    pub pid: u32,
    /// When that process started, in clock ticks after boot: a pid alone may be somebody else's by now.
    pub started: u64,
    /// Rows that could not be written, then what is wrong with the source, by file, document and field.
    pub pending: Vec<Pending>,
    /// Settings of the kernel that were wanted and could not be made (DEC-7); `doctor` shows them.
    #[serde(default)]
    pub sysctls: Vec<Pending>,
}

/// The state file of the agent with this `--bpf-root`.
pub fn state_path(bpf_root: &Path) -> PathBuf {
    let root = bpf_root.canonicalize().unwrap_or_else(|_| bpf_root.to_path_buf());
    let mut hasher = DefaultHasher::new();
    root.hash(&mut hasher);
    Path::new(STATE_DIR).join(format!("{:016x}.json", hasher.finish()))
}

/// The state of the agent with this `--bpf-root`; `None` if none runs, or it has not said anything yet.
pub fn read_state(bpf_root: &Path) -> Option<AgentState> {
    living(&state_path(bpf_root))
}

/// What a state file says, if the agent that wrote it still runs.
pub fn living(file: &Path) -> Option<AgentState> {
    let state: AgentState = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    (start_time(state.pid).ok()? == state.started).then_some(state)
}

/// When a process started, in clock ticks after boot.
///
/// # Errors
/// There is no such process.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command, in parentheses, may hold anything; start time is the 20th field after it.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let field = after.split_whitespace().nth(19).and_then(|field| field.parse().ok());
    field.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no start time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_start_time() {
        let own = start_time(std::process::id()).unwrap();
        assert!(own > 0);
        assert_eq!(start_time(std::process::id()).unwrap(), own);
        assert!(start_time(u32::MAX).is_err());
    }

    #[test]
    fn every_root_has_a_file_of_its_own() {
        assert_ne!(state_path(Path::new("/a")), state_path(Path::new("/b")));
        assert_eq!(state_path(Path::new("/proc/self/..")), state_path(Path::new("/proc")));
    }
}
