//! Keeps the state file true: what `status` shows of a running agent.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::process::ProcessId;
use crate::host::run;
use crate::inspect::agent::{AgentState, living, state_path};

/// The state file of this process. Removed on drop.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    own: ProcessId,
    written: Option<AgentState>,
}

impl StateFile {
    /// The file of the agent with this `--bpf-root`; nothing is written yet. What agents that were
    /// killed left is removed.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn new(bpf_root: &Path) -> Result<StateFile> {
        sweep();
        Ok(StateFile { path: state_path(bpf_root), own: ProcessId::own()?, written: None })
    }

    /// Writes the state if it differs from what was written last; a reader sees the old or the new.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn write(&mut self, mut state: AgentState) -> Result<()> {
        (state.pid, state.started) = (self.own.pid, self.own.start_time);
        if self.written.as_ref() == Some(&state) {
            return Ok(());
        }
        let shown = self.path.display();
        self.replace(&serde_json::to_vec_pretty(&state)?).with_context(|| format!("write {shown}"))?;
        self.written = Some(state);
        Ok(())
    }

    fn replace(&self, content: &[u8]) -> std::io::Result<()> {
        if let Some(dir) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        }
        let aside = self.path.with_extension(format!("{}.new", self.own.pid));
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&aside)?;
        std::io::Write::write_all(&mut file, content)?;
        fs::rename(&aside, &self.path)
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the files of agents that do not run any more.
fn sweep() {
    let entries = fs::read_dir(run::DIR).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| path.extension() == Some("json".as_ref()));
    for path in files.filter(|path| living(path).is_none()) {
        remove(&path);
    }
}

/// Removes the file that an agent left when it was killed. Returns it if there was one.
pub fn remove_left(bpf_root: &Path) -> Option<PathBuf> {
    let path = state_path(bpf_root);
    remove(&path).then_some(path)
}

/// Removes a state file, and its directory if no other agent has a file there.
fn remove(path: &Path) -> bool {
    let removed = fs::remove_file(path).is_ok();
    if let Some(dir) = path.parent() {
        let _ = fs::remove_dir(dir);
    }
    removed
}
