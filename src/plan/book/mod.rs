//! Keeps the tables true with the fewest writes.
//!
//! The book knows what every row holds (*have*), by ServicePort. A change says what it should hold
//! (*want*); the difference is planned ([`diff`]), written in an order in which every reader sees
//! the old or the new at each step ([`write`]), and booked write by write. So a refused write, a
//! crash and a restart need nothing of their own: the next plan starts from what is there.
//!
//! Nothing here reads a clock or touches a map: `now` is an argument (time since any epoch), and the
//! tables are a [`Tables`].

mod audit;
mod diff;
mod frontends;
mod node;
mod port;
mod recover;
mod settle;
mod size;
mod texts;
mod write;

use std::collections::BTreeMap;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

pub use size::limits_for;

use self::diff::{Plan, Refusal};
use self::frontends::Frontends;
use self::node::NodeBook;
use self::port::Port;
use self::settle::{Cause, Pending};
use self::texts::Texts;
use super::compile::PortRows;
use super::ids::{Epoch, Epochs, IdPool, RangePool};
use super::table::{BackendId, Limits, NetnsClass, Prefix, Settings, TableError, Tables};
use crate::model::addr::{Family, Protocol};
use crate::model::names::{ObjectName, ServicePortName};

/// What the tables should hold from now on. What is not named stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// ServicePorts by name; `None` removes. Of several changes to one name the last counts.
    pub ports: Vec<(ServicePortName, Option<PortRows>)>,
    /// All prefixes.
    pub prefixes: Option<Vec<Prefix>>,
    /// The classes of all network namespaces, by cookie.
    pub netns: Option<Vec<(u64, NetnsClass)>>,
    /// The settings row.
    pub settings: Option<Settings>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// The ServicePorts that are now as wanted and were not before; those that are gone included.
    pub written: Vec<ServicePortName>,
    /// What failed in this call. It stays pending and is tried again.
    pub failed: Vec<(String, TableError)>,
    /// Some map is used to 80 % or was full: the sizes to grow to.
    pub grow: Option<Limits>,
    /// When [`Book::maintain`] wants to be called next, on the clock of `now`; `None`: nothing waits.
    pub wake: Option<Duration>,
}

/// The outcome of one call while it is worked on.
#[derive(Debug, Default)]
struct Outcome {
    written: Vec<ServicePortName>,
    failed: Vec<(String, TableError)>,
}

/// Want, have and ids of all tables.
#[derive(Debug)]
pub struct Book {
    limits: Limits,
    ports: FxHashMap<ServicePortName, Port>,
    frontends: Frontends,
    texts: Texts,
    services: IdPool,
    backends: IdPool,
    slots: RangePool,
    /// By backend id: the generation in its row, also of rows that are not in use.
    generations: Vec<u32>,
    /// The generation of rows that never had one.
    born: u32,
    epochs: Epochs,
    /// Found rows written by an earlier process: nothing is handed out before a first grace period.
    gate: bool,
    /// The first change has come: until then nothing that was found is touched (SYNC-1).
    started: bool,
    pending: BTreeMap<ServicePortName, Pending>,
    node: NodeBook,
    /// Since when something waits for a grace period.
    grace_wanted: Option<Duration>,
    /// Why the last grace period failed, and how often in a row.
    grace_failed: Option<(TableError, u32)>,
    /// One goes on aside.
    grace_running: Option<Epoch>,
}

impl Book {
    /// The book of empty tables.
    pub fn new(limits: Limits) -> Book {
        Book {
            limits,
            ports: FxHashMap::default(),
            frontends: Frontends::default(),
            texts: Texts::new(),
            services: IdPool::new(0, limits.services),
            backends: IdPool::new(1, limits.backends),
            slots: RangePool::new(limits.slots),
            generations: Vec::new(),
            born: 0,
            epochs: Epochs::default(),
            gate: false,
            started: false,
            pending: BTreeMap::new(),
            node: NodeBook::default(),
            grace_wanted: None,
            grace_failed: None,
            grace_running: None,
        }
    }

    /// Makes the tables hold what the changes say, as far as that is possible now. Equal objects
    /// touch nothing (SYNC-14). What was refused, or waits for a grace period, goes on in
    /// [`Book::maintain`]; all else is done when this returns.
    pub fn sync(&mut self, changes: Changes, tables: &mut dyn Tables, now: Duration) -> Settled {
        self.started = true;
        let mut out = Outcome::default();
        self.release();
        self.node.want(changes.prefixes, changes.netns, changes.settings);
        let mut seen = FxHashSet::default();
        let mut last: Vec<_> = changes.ports.into_iter().rev().collect();
        last.retain(|(name, _)| seen.insert(name.clone()));
        last.reverse();
        self.pass(last, tables, now, &mut out);
        if self.gate && self.pending.values().any(Pending::waits) && self.quiesce(tables, now, &mut out) {
            self.retry(tables, now, &mut out);
        }
        self.write_node(tables, now, &mut out);
        self.finish(out, now)
    }

    /// Waits for a grace period when one is due, hands out again what rested, and tries again what
    /// is pending and due. Call it at [`Settled::wake`]; earlier does no harm.
    pub fn maintain(&mut self, tables: &mut dyn Tables, now: Duration) -> Settled {
        let mut out = Outcome::default();
        if self.started {
            self.release();
            self.grace(tables, now, &mut out);
            self.retry(tables, now, &mut out);
            self.write_node(tables, now, &mut out);
        }
        self.finish(out, now)
    }

    /// The ServicePorts that the tables hold and that nobody asked to remove.
    pub fn known(&self) -> impl Iterator<Item = &ServicePortName> {
        let removing = |name: &ServicePortName| self.pending.get(name).is_some_and(Pending::removes);
        self.ports.keys().filter(move |name| !removing(name))
    }

    /// By family, whether some port of a Service is not as wanted yet.
    pub fn awaits(&self, service: &ObjectName) -> [bool; 2] {
        let mut awaits = [false; 2];
        for (name, _) in self.pending_of(service) {
            awaits[name.family.index()] = true;
        }
        awaits
    }

    /// Whether a write for some port of a Service was refused, and has not been made since.
    pub fn is_refused(&self, service: &ObjectName) -> bool {
        self.pending_of(service).any(|(_, pending)| pending.error().is_some())
    }

    fn pending_of(&self, service: &ObjectName) -> impl Iterator<Item = (&ServicePortName, &Pending)> {
        let first = ServicePortName {
            service: service.clone(),
            port: "".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        self.pending.range(first..).take_while(move |(name, _)| name.service == *service)
    }

    /// By family, whether changes are not in force for another reason than a full map, which hurts
    /// what does not fit and nothing else.
    pub fn is_behind(&self) -> [bool; 2] {
        let is_full = |error: &TableError| matches!(error, TableError::Full { .. });
        let common =
            self.grace_failed.is_some() || self.node.pending().iter().any(|(_, error)| !is_full(error));
        let mut behind = [common; 2];
        for (name, pending) in &self.pending {
            behind[name.family.index()] |= !pending.error().is_some_and(is_full);
        }
        behind
    }

    /// Plans and writes these ServicePorts.
    fn pass(
        &mut self,
        wants: Vec<(ServicePortName, Option<PortRows>)>,
        tables: &mut dyn Tables,
        now: Duration,
        out: &mut Outcome,
    ) {
        let mut plans: Vec<Plan> = Vec::new();
        for (name, mut want) in wants {
            match self.plan(&name, &mut want, tables) {
                Ok(Some(plan)) => plans.push(plan),
                Ok(None) => drop(self.pending.remove(&name)),
                Err(Refusal::Wait) => self.postpone(name, want, Cause::Grace, now),
                Err(Refusal::Full(error)) => {
                    out.failed.push((describe(&name), error.clone()));
                    self.postpone(name, want, Cause::Error(error), now);
                }
            }
        }
        if !plans.is_empty() {
            self.carry_out(plans, tables, now, out);
        }
    }

    /// The same book for fresh tables beside flow rows and affinity records of earlier ones: its
    /// generations start after `born`, so that no {id, generation} stored then is taken for one of
    /// these. Seconds since the epoch do: no id gets a new owner once a second for ever.
    #[must_use]
    pub fn born(self, born: u32) -> Book {
        Book { born, ..self }
    }

    /// The generation in a backend's row.
    fn generation(&self, id: BackendId) -> u32 {
        self.generations.get(id.0 as usize).copied().unwrap_or(self.born)
    }

    fn set_generation(&mut self, id: BackendId, generation: u32) {
        let at = id.0 as usize;
        if self.generations.len() <= at {
            self.generations.resize(at + 1, self.born);
        }
        self.generations[at] = generation;
    }

    fn raise_generation(&mut self, id: BackendId) {
        self.set_generation(id, self.generation(id).wrapping_add(1));
    }
}

/// A ServicePort as errors name it.
fn describe(name: &ServicePortName) -> String {
    if name.service.name.is_empty() {
        return format!("row {} of bl_services, which has no name", name.port);
    }
    format!("{name} ({}, {})", name.protocol, name.family)
}
