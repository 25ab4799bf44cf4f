//! What the agent knows and the maps do not, for the servers to read.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::plan::table::{Map, TableError};

/// The board: the agent writes after each step, the servers read when they are asked. Nobody holds it for
/// longer than it takes to copy a few numbers.
#[derive(Debug, Default)]
pub struct Board(Mutex<Told>);

/// What is on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The source has delivered its whole first list, and the tables hold it (SYNC-1).
    pub synced: bool,
    /// Rows in use of the maps that are sized to need; none before the first step.
    pub used: Vec<(Map, u32)>,
    /// Rows that could not be written, by map and reason.
    pub pending: BTreeMap<(Map, Reason), u64>,
    /// Objects of the source that cannot be read, or not in full, by severity.
    pub problems: BTreeMap<&'static str, u64>,
}

/// Why a row could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The map is full.
    Full,
    /// The kernel said something else.
    Refused,
}

impl Reason {
    /// Both.
    pub const ALL: [Reason; 2] = [Reason::Full, Reason::Refused];

    /// The value of the label.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::Refused => "refused",
        }
    }

    fn of(error: &TableError) -> Reason {
        match error {
            TableError::Full { .. } => Reason::Full,
            TableError::Kernel { .. } => Reason::Refused,
        }
    }
}

impl Board {
    /// What is on it, to read or to change.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// Replaces the rows that are pending.
    pub fn set_pending<'a>(&mut self, errors: impl Iterator<Item = &'a TableError>) {
        self.pending.clear();
        for error in errors {
            *self.pending.entry((error.map(), Reason::of(error))).or_default() += 1;
        }
    }

    /// Replaces the problems of the source.
    pub fn set_problems(&mut self, severities: impl Iterator<Item = &'static str>) {
        self.problems.clear();
        for severity in severities {
            *self.problems.entry(severity).or_default() += 1;
        }
    }
}
