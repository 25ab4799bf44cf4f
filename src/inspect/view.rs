//! What is pinned, opened for reading: no lock is taken and nothing is written.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::agent::read_state;
use super::status::Pending;
use crate::datapath::attach::{self, Attachment};
use crate::datapath::load::{self, Knobs, SOCKET};
use crate::datapath::maps::{self, Reader};
use crate::datapath::pins::{Tree, TreeLock};
use crate::datapath::stats::Stats;
use crate::host::caps;
use crate::plan::table::{Lookup, Rows, ServiceId};

/// How much of a view is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Rows and counters.
    Rows,
    /// Also how full the maps are, which programs are attached, and the agent.
    Full,
}

/// A privilege that reading needs (exit code 4).
#[derive(Debug, thiserror::Error)]
#[error("{name} is missing: {what} needs it; run as root, or give {name}")]
pub struct MissingPrivilege {
    /// The capability.
    pub name: &'static str,
    /// What was to be done.
    pub what: &'static str,
    /// What the kernel would say.
    pub source: std::io::Error,
}

/// All that the nouns read, as values.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Every row of the tables.
    pub rows: Rows,
    /// What was counted, by service index.
    pub counters: HashMap<ServiceId, Stats>,
    /// How full the maps are.
    pub maps: Vec<MapUse>,
    /// The places in the kernel the socket path needs.
    pub hooks: Vec<Hook>,
    /// What this kernel cannot do for the socket path, with what is lost.
    pub narrowed: Vec<String>,
    /// The programs that are attached.
    pub programs: Vec<Program>,
    /// An agent runs: it holds the tree's lock.
    pub agent: bool,
    /// What a living agent could not do yet.
    pub pending: Vec<Pending>,
    /// What a living agent had to put back.
    pub repaired: u64,
    /// The kernel's release.
    pub kernel: String,
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

impl From<maps::MapUse> for MapUse {
    fn from(found: maps::MapUse) -> MapUse {
        MapUse { name: found.name.to_owned(), used: found.used.into(), max: found.max.into() }
    }
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

/// The pinned tables as `resolve` looks at them.
///
/// # Errors
/// As [`View::open`].
pub fn tables(bpf_root: &Path) -> Result<Box<dyn Lookup>> {
    Ok(Box::new(Reader::open(bpf_root)?))
}

impl View {
    /// Looks at what is pinned under a bpffs.
    ///
    /// # Errors
    /// [`OpenError`](crate::datapath::maps::OpenError) if there is nothing to read, [`MissingPrivilege`], or a
    /// map that cannot be read.
    pub fn open(bpf_root: &Path, depth: Depth) -> Result<View> {
        let reader = Reader::open(bpf_root)?;
        let mut view = View {
            rows: reader.rows().context("read the tables")?,
            counters: reader.stats().context("read the counters")?.into_iter().collect(),
            kernel: kernel(),
            ..View::default()
        };
        if depth == Depth::Full {
            view.look_around(&reader, bpf_root)?;
        }
        Ok(view)
    }

    /// Fills what is not in the tables themselves.
    fn look_around(&mut self, reader: &Reader, bpf_root: &Path) -> Result<()> {
        if caps::effective()? & caps::SYS_ADMIN == 0 {
            let what = "looking at attached programs by id";
            let source = std::io::ErrorKind::PermissionDenied.into();
            return Err(MissingPrivilege { name: "CAP_SYS_ADMIN", what, source }.into());
        }
        let knobs = Knobs::probe();
        let usage = reader.usage().context("count the rows of the maps")?;
        self.maps = usage.into_iter().map(MapUse::from).collect();
        let attached = attach::inspect(reader.tree(), &SOCKET, None);
        self.hooks = hooks(&attached);
        self.narrowed = narrowed(knobs);
        self.programs = programs(&attached, load::shipped_tags(&SOCKET, knobs).unwrap_or_default());
        let state = read_state(bpf_root);
        self.agent = state.is_some() || agent_runs(reader.tree());
        let state = state.unwrap_or_default();
        (self.pending, self.repaired) = (state.pending, state.repaired);
        Ok(())
    }
}

/// Whether an agent holds the tree's lock, from `/proc/locks`: nothing is locked to find out.
pub(super) fn agent_runs(tree: &Tree) -> bool {
    TreeLock::holder(tree).is_some()
}

/// The places the socket path needs, from what is attached.
pub(super) fn hooks(attached: &[Attachment]) -> Vec<Hook> {
    attached.iter().map(|a| Hook { name: a.name.clone(), attached: a.problem.is_none() }).collect()
}

/// What the socket path loses on this kernel.
fn narrowed(knobs: Knobs) -> Vec<String> {
    let mut lost = Vec::new();
    if !knobs.has_set_retval {
        lost.push(
            "no bpf_set_retval (Linux 5.18): a Service without endpoints is left alone instead of refused at connect()"
                .to_owned(),
        );
    }
    if !knobs.may_read_kernel {
        lost.push(
            "no bpf_probe_read_kernel (lockdown): every socket is looked up, also those that never dialled a Service"
                .to_owned(),
        );
    }
    lost
}

fn programs(attached: &[Attachment], shipped: Vec<(&'static str, String)>) -> Vec<Program> {
    let shipped: HashMap<&str, String> = shipped.into_iter().collect();
    let program = |a: &Attachment| Program {
        name: a.name.clone(),
        loaded_tag: a.loaded_tag.clone(),
        shipped_tag: shipped.get(a.name.as_str()).cloned(),
    };
    attached.iter().map(program).collect()
}

/// The kernel's release.
fn kernel() -> String {
    nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}
