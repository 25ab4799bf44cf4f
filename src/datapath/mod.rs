//! bpf(2), bpffs and the programs: loading, pins, attachment, and the tables as pinned maps.
//!
//! [`Datapath`] is the agent's: it holds the tree's lock and writes. [`maps::Reader`] is everybody's: it
//! takes no lock and only reads.

pub mod attach;
pub mod feature;
pub mod flows;
mod grow;
pub mod kernel;
pub mod load;
pub mod maps;
pub mod pins;
pub mod remove;
mod repair;
mod skel;
pub mod stats;
mod sys;
pub mod wire;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapHandle};

use crate::plan::table::{FrontendKey, Limits, Map, Op, ServiceId, TableError, Tables};
use attach::{Attachment, Cgroup};
use load::{GROUPS, Knobs, Loaded, Place, Placement, Program, SOCKET};
use maps::{OpenError, PinnedTables, Reader};
use pins::{Side, Tree, TreeLock};

/// What an agent is told of its data path.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cgroup v2 folder to attach to: every process below it is served.
    pub cgroup_root: PathBuf,
    /// A bpffs; the pins lie in its folder `beeline`.
    pub bpf_root: PathBuf,
    /// `max_entries` of new maps. Pinned tables keep theirs.
    pub limits: Limits,
    /// `max_entries` of a new `bl_flows`: sockets that dialled a Service and are still open.
    pub flows: u32,
    /// Constants of the programs; [`Knobs::probe`] unless a test says otherwise.
    pub knobs: Knobs,
    /// Grace periods are waited for. Only a test that shows what they are good for switches that off.
    pub quiesce: bool,
}

/// The smallest tables: a handful of Services.
pub const SMALLEST: Limits =
    Limits { frontends: 1024, services: 512, slots: 4096, backends: 2048, names: 1024 };

/// Sockets in `bl_flows` unless told otherwise. Its buckets take 4 MiB of kernel memory.
const FLOWS: u32 = 1 << 18;

impl Options {
    /// Options with everything but the places at its default.
    pub fn new(cgroup_root: &Path, bpf_root: &Path) -> Options {
        Options {
            cgroup_root: cgroup_root.to_owned(),
            bpf_root: bpf_root.to_owned(),
            limits: SMALLEST,
            flows: FLOWS,
            knobs: Knobs::probe(),
            quiesce: true,
        }
    }
}

/// The data path of one agent: its programs and the tables they read. Dropping it leaves the published
/// data path in place; only [`remove::remove_all`] takes it down.
#[derive(Debug)]
pub struct Datapath {
    tree: Tree,
    lock: TreeLock,
    cgroup: Cgroup,
    options: Options,
    sides: Sides,
    programs: Vec<Program>,
    maps: Vec<(&'static str, MapHandle)>,
    tables: PinnedTables,
    fresh: bool,
    /// The links have taken the programs: their tables stay, wherever they lie.
    live: bool,
}

/// Where each group lies now, in the order of [`GROUPS`].
type Sides = [Side; GROUPS.len()];

impl Datapath {
    /// Locks the tree, repairs it, adopts the pinned maps of this layout or creates new ones, and loads the
    /// programs. Nothing is attached or flipped yet: [`publish`](Self::publish) does that, once the caller
    /// has filled fresh tables.
    ///
    /// # Errors
    /// No bpffs, no cgroup v2, another agent holds the lock (the message says who), or the kernel refuses
    /// a map or a program. What is live stays as it is.
    pub fn open(options: &Options) -> Result<Datapath> {
        let cgroup = Cgroup::open(&options.cgroup_root)?;
        pins::ensure_bpffs(&options.bpf_root)?;
        let tree = Tree::new(&options.bpf_root);
        pins::make_dir(tree.root())?;
        let lock = TreeLock::take(&tree)?;
        let sides = adopt(&tree)?;
        let fresh = sides[0] == Side::New;
        let placement = placement(&tree, &sides, options)?;
        let loaded = load::load(&SOCKET, &placement, options.knobs, &tree.log(SOCKET.name));
        let Loaded { programs, maps } = match loaded {
            Ok(loaded) => loaded,
            Err(e) => {
                discard(&tree, &sides);
                return Err(e);
            }
        };
        let tables = PinnedTables::new(&maps, options.quiesce)?;
        tables.fill_sieve(false).context("fill bl_sieve from bl_frontends")?;
        Ok(Datapath {
            tree,
            lock,
            cgroup,
            options: options.clone(),
            sides,
            programs,
            maps,
            tables,
            fresh,
            live: false,
        })
    }

    /// The tables are new and empty: nothing was adopted, and nothing is served from them before
    /// [`publish`](Self::publish). If `false`, rows and ids are to be recovered from [`reader`](Self::reader).
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Attaches the programs, or has the links take them; then the tables are live and the pins in place.
    /// Publishing twice repairs attachments that went away.
    ///
    /// # Errors
    /// A program could not be attached; then every link is again what it was, and what was live stays live.
    /// Or a folder could not be put in place: its tables are live, and a start puts it there.
    pub fn publish(&mut self) -> Result<()> {
        attach::attach(&self.tree, &self.cgroup, &self.programs)?;
        if !std::mem::replace(&mut self.live, true) {
            self.tables.fill_sieve(true).context("fill bl_sieve from bl_frontends")?;
            self.tables.tend_homes().context("find who is at home in bl_services")?;
        }
        for (group, side) in GROUPS.iter().zip(&mut self.sides) {
            pins::settle(&self.tree, group, *side)?;
            *side = Side::Place;
        }
        attach::remove_unknown(&self.tree, &[SOCKET])?;
        pins::remove_strangers(&self.tree)
    }

    /// The tables are what the attached programs read.
    pub fn is_published(&self) -> bool {
        self.sides == [Side::Place; GROUPS.len()]
            && self.attachments().iter().all(|one| one.problem.is_none())
    }

    /// What is attached now.
    pub fn attachments(&self) -> Vec<Attachment> {
        attach::inspect(&self.tree, &SOCKET, Some(&self.cgroup))
    }

    /// The programs this binary loaded, with their tags.
    pub fn programs(&self) -> &[Program] {
        &self.programs
    }

    /// The write side.
    pub fn tables(&mut self) -> &mut PinnedTables {
        &mut self.tables
    }

    /// A read side on the same maps, also before they are published.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn reader(&self) -> Result<Reader, OpenError> {
        Reader::open_sides(&self.tree, &self.sides)
    }

    /// One of the maps.
    fn map(&self, map: Map) -> Result<&MapHandle> {
        let found = self.maps.iter().find(|(name, _)| *name == map.name());
        Ok(&found.with_context(|| format!("no map {}", map.name()))?.1)
    }
}

impl Drop for Datapath {
    /// What was never published goes; a kill leaves it to the next start.
    fn drop(&mut self) {
        if !self.live {
            discard(&self.tree, &self.sides);
        }
    }
}

/// Writes go to the tables; the agent hands the data path itself to its planner.
impl Tables for Datapath {
    fn apply(&mut self, op: &Op) -> Result<(), TableError> {
        self.tables.apply(op)
    }

    fn apply_all(&mut self, ops: &[Op]) -> Vec<(usize, TableError)> {
        self.tables.apply_all(ops)
    }

    fn quiesce(&mut self) -> Result<(), TableError> {
        self.tables.quiesce()
    }

    fn begin_quiesce(&mut self) -> bool {
        self.tables.begin_quiesce()
    }

    fn ended(&mut self) -> Option<Result<(), TableError>> {
        self.tables.ended()
    }

    fn homes(&self, key: &FrontendKey) -> Vec<ServiceId> {
        self.tables.homes(key)
    }

    fn limits(&self) -> Limits {
        self.tables.limits()
    }
}

/// Repairs every group and says which ones are adopted.
fn adopt(tree: &Tree) -> Result<Sides> {
    let live = pins::live_maps(tree);
    let mut sides = [Side::Place; GROUPS.len()];
    for (group, side) in GROUPS.iter().zip(&mut sides) {
        if !pins::repair(tree, group, &live)? {
            *side = Side::New;
            pins::remove_dir(&tree.dir(group, Side::New))?;
            pins::make_dir(&tree.dir(group, Side::New))?;
        }
    }
    Ok(sides)
}

/// Removes the folders that were never published.
fn discard(tree: &Tree, sides: &Sides) {
    for (group, _) in GROUPS.iter().zip(sides).filter(|(_, side)| **side == Side::New) {
        let _ = pins::remove_dir(&tree.dir(group, Side::New));
    }
}

/// Every map with its pin and size: pinned ones keep theirs.
fn placement(tree: &Tree, sides: &Sides, options: &Options) -> Result<Placement> {
    let mut places = Vec::new();
    for (group, side) in GROUPS.iter().zip(sides) {
        for map in group.maps {
            let pin = tree.dir(group, *side).join(map);
            let pinned = (*side == Side::Place).then(|| MapHandle::from_pinned_path(&pin));
            let pinned = pinned.transpose().with_context(|| format!("open {}", pin.display()))?;
            let size = match &pinned {
                Some(map) => Some(map.max_entries()),
                None => size_of(map, &options.limits, options.flows),
            };
            places.push(Place { map, pin: Some(pin), size });
        }
    }
    Ok(places)
}

/// `max_entries` of a map that is sized to need.
fn size_of(map: &str, limits: &Limits, flows: u32) -> Option<u32> {
    match map {
        "bl_frontends" => Some(limits.frontends),
        "bl_services" => Some(limits.services),
        "bl_slots" => Some(limits.slots),
        "bl_backends" | "bl_endpoints" => Some(limits.backends),
        "bl_names" => Some(limits.names),
        "bl_flows" => Some(flows),
        "bl_flows_more" => Some(flows / 4),
        _ => None,
    }
}
