//! What is pinned, opened for reading: no lock is taken and nothing is written.

use std::collections::HashMap;

use serde::Serialize;

use super::status::Pending;
use crate::plan::table::{Rows, ServiceId};

/// All that the nouns read, as values.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Every row of the tables.
    pub rows: Rows,
    /// What was counted, by service index.
    pub counters: HashMap<ServiceId, Counters>,
    /// How full the maps are.
    pub maps: Vec<MapUse>,
    /// The places in the kernel the socket path needs.
    pub hooks: Vec<Hook>,
    /// What this kernel cannot do for the socket path, with what is lost.
    pub narrowed: Vec<String>,
    /// The programs that are attached.
    pub programs: Vec<Program>,
    /// An agent holds the tree's lock.
    pub agent: bool,
    /// What a living agent could not do yet.
    pub pending: Vec<Pending>,
    /// The kernel's release.
    pub kernel: String,
}

/// The counters of one ServicePort and family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Given a backend.
    pub connections: u64,
    /// Refused for want of a backend (REJ-1).
    pub refused: u64,
    /// Dropped for want of a local backend (REJ-2).
    pub dropped: u64,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapUse {
    /// The map's name.
    pub name: String,
    /// Rows in use.
    pub used: u64,
    /// `max_entries`.
    pub max: u64,
}

/// A place in the kernel where one of our programs belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program's name.
    pub name: String,
    /// A link of ours holds it there, and the cgroup it was made for still exists.
    pub attached: bool,
}

/// An attached program, and the one this binary carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Program {
    /// The program's name.
    pub name: String,
    /// The kernel's tag of the attached program; `None` if none is attached.
    pub loaded_tag: Option<String>,
    /// The tag the kernel gives this binary's program; `None` if it could not be asked.
    pub shipped_tag: Option<String>,
}
