//! What a living agent tells the nouns beyond the tables: rows it could not write and objects it could not read.
//!
//! The agent writes the file (atomically, on change), the nouns read it, and only while an agent holds the
//! tree's lock: what a dead one left says nothing.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::status::Pending;
use crate::datapath::pins::{RUN_DIR, Tree};

/// The content of the file, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunState {
    /// What could not be done yet; empty if all is well.
    pub pending: Vec<Pending>,
}

impl RunState {
    /// The file of a tree's agent: `/run/beeline/…-agent.json`. A machine may run several agents.
    pub fn path(tree: &Tree) -> PathBuf {
        Path::new(RUN_DIR).join(format!("{}agent.json", tree.log_prefix()))
    }

    /// What the agent wrote; `None` if there is no file or it cannot be read.
    pub fn read(tree: &Tree) -> Option<RunState> {
        serde_json::from_slice(&fs::read(RunState::path(tree)).ok()?).ok()
    }
}
