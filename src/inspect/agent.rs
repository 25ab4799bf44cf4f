//! What a running agent knows and the tables do not: problems of its source, rows that wait.
//!
//! The agent writes it to a small file, atomically and only when it changes, and removes it when it
//! ends. The file says whose it is: one that outlived its agent is not believed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::status::Pending;
use crate::host::process::ProcessId;
use crate::host::run;

/// The state of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// The agent's process.
    pub pid: u32,
    /// When that process started, in clock ticks after boot: a pid alone may be somebody else's by now.
    pub started: u64,
    /// Rows that could not be written, then what is wrong with the source, by file, document and field.
    pub pending: Vec<Pending>,
    /// How much this agent found changed by others, or detached, and put back (SYNC-6).
    #[serde(default)]
    pub repaired: u64,
    /// Settings of the kernel that were wanted and could not be made (DEC-7); `doctor` shows them.
    #[serde(default)]
    pub sysctls: Vec<Pending>,
}

/// The state file of the agent with this `--bpf-root`.
pub fn state_path(bpf_root: &Path) -> PathBuf {
    let root = bpf_root.canonicalize().unwrap_or_else(|_| bpf_root.to_path_buf());
    Path::new(run::DIR).join(format!("{}.json", run::name_of(&root)))
}

/// The state of the agent with this `--bpf-root`; `None` if none runs, or it has not said anything yet.
pub fn read_state(bpf_root: &Path) -> Option<AgentState> {
    living(&state_path(bpf_root))
}

/// What a state file says, if the agent that wrote it still runs.
pub fn living(file: &Path) -> Option<AgentState> {
    let state: AgentState = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    ProcessId { pid: state.pid, start_time: state.started }.alive().then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_root_has_a_file_of_its_own() {
        assert_ne!(state_path(Path::new("/a")), state_path(Path::new("/b")));
        assert_eq!(state_path(Path::new("/proc/self/..")), state_path(Path::new("/proc")));
    }
}
