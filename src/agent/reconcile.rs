//! Events in, rows out: `World`, `Book` and the tables, put together. No runtime, no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use rustc_hash::FxHashSet;

use crate::model::addr::Family;
use crate::model::event::Event;
use crate::model::names::{ObjectName, ServicePortName};
use crate::plan::book::{Book, Changes, Settled, limits_for};
use crate::plan::compile::{PortRows, compile, compile_node};
use crate::plan::health::{Effect, Lacking, checks, lacking, lacks_check};
use crate::plan::table::{Limits, Map, NetnsClass, Rows, Settings, TableError, Tables};
use crate::plan::world::World;

/// What does not come from objects: who writes, from what, and the namespaces that are known.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Version and source; the rest of the row is filled in.
    pub settings: Settings,
    /// Classes of network namespaces, by cookie: the agent's own (DEC-4).
    pub netns: Vec<(u64, NetnsClass)>,
}

/// What a step came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// ServicePorts that are now as wanted and were not before.
    pub written: Vec<ServicePortName>,
    /// What failed in this step; it stays pending and is tried again.
    pub failed: Vec<(String, TableError)>,
    /// What follows the tables, for Services whose rows are in force now (SYNC-7).
    pub effects: Vec<(ObjectName, Effect)>,
    /// By family, whether a change of this step concerned it.
    pub touched: [bool; 2],
    /// Sizes the tables should grow to.
    pub grow: Option<Limits>,
    /// When [`Reconciler::maintain`] wants to be called, on the clock of `now`.
    pub wake: Option<Duration>,
    /// This step programmed the first complete state.
    pub is_first: bool,
}

impl From<Settled> for Outcome {
    fn from(settled: Settled) -> Outcome {
        let Settled { written, failed, grow, wake } = settled;
        Outcome { written, failed, grow, wake, ..Outcome::default() }
    }
}

/// Keeps the tables true to a source.
#[derive(Debug)]
pub struct Reconciler<T> {
    world: World,
    book: Book,
    tables: T,
    identity: Identity,
    /// The ServicePorts of each Service that were asked for: what a change does not name any more goes.
    ports: BTreeMap<ObjectName, Vec<ServicePortName>>,
    /// Follows the tables, once they hold it.
    effects: BTreeMap<ObjectName, Effect>,
    is_started: bool,
    wake: Option<Duration>,
}

impl<T: Tables> Reconciler<T> {
    /// A reconciler of a world that may know objects already, and tables that hold what `book` says.
    pub fn new(world: World, book: Book, tables: T, identity: Identity) -> Reconciler<T> {
        Reconciler {
            world,
            book,
            tables,
            identity,
            ports: BTreeMap::new(),
            effects: BTreeMap::new(),
            is_started: false,
            wake: None,
        }
    }

    /// Takes events in. Returns whether there is something to [`sync`](Self::sync).
    pub fn absorb(&mut self, events: Vec<Event>) -> bool {
        events.into_iter().for_each(|event| self.world.apply(event));
        self.world.is_synced() && (!self.is_started || self.world.is_dirty())
    }

    /// Takes events in and writes what they change.
    pub fn step(&mut self, events: Vec<Event>, now: Duration) -> Outcome {
        self.absorb(events);
        self.sync(now)
    }

    /// Writes what has changed. Before the source is synced nothing is written, and nothing that an
    /// earlier process wrote is removed (SYNC-1).
    ///
    /// When this returns the maps are done; what follows them is to be made from the one outcome, in
    /// the order of SYNC-7.
    pub fn sync(&mut self, now: Duration) -> Outcome {
        if !self.world.is_synced() {
            return Outcome { wake: self.wake, ..Outcome::default() };
        }
        let is_first = !self.is_started;
        let dirty = self.world.take_dirty();
        if !is_first && dirty.is_empty() {
            return Outcome { wake: self.wake, ..Outcome::default() };
        }
        let mut changes = Changes::default();
        if is_first {
            changes = self.everything();
        } else {
            changes.ports = dirty.services.iter().flat_map(|name| self.service_changes(name)).collect();
            if dirty.node {
                self.node_changes(&mut changes);
            }
        }
        self.is_started = true;
        let touched =
            Family::ALL.map(|family| is_first || changes.ports.iter().any(|(name, _)| name.family == family));
        self.note_triggers();
        let settled = self.book.sync(changes, &mut self.tables, now);
        // As in kube-proxy a change whose sync failed is in no latency (MET-2): it says more of the trouble
        // than of the way through.
        for (service, effect) in &mut self.effects {
            if self.book.is_refused(service) {
                effect.triggers.clear();
            }
        }
        self.wake = settled.wake;
        Outcome { is_first, touched, effects: self.effects(), ..settled.into() }
    }

    /// Does what is due: grace periods, retries. To be called at [`Outcome::wake`].
    pub fn maintain(&mut self, now: Duration) -> Outcome {
        let settled = self.book.maintain(&mut self.tables, now);
        self.wake = settled.wake;
        Outcome { effects: self.effects(), ..settled.into() }
    }

    /// What follows the tables for those Services whose rows are in force now. All others wait: a
    /// health check never reports what is not programmed (HC-10).
    fn effects(&mut self) -> Vec<(ObjectName, Effect)> {
        let book = &self.book;
        self.effects.extract_if(.., |service, _| book.awaits(service) == [false; 2]).collect()
    }

    /// What waits for rows, and in which families.
    pub fn waiting(&self) -> impl Iterator<Item = (&ObjectName, &Effect, [bool; 2])> {
        self.effects.iter().map(|(service, effect)| (service, effect, self.book.awaits(service)))
    }

    /// Puts the times of changes to what will follow the tables.
    fn note_triggers(&mut self) {
        for (service, mut times) in self.world.take_triggers() {
            // Slices without a Service change nothing.
            if let Some(effect) = self.effects.get_mut(&service) {
                effect.triggers.append(&mut times);
            }
        }
    }

    /// Compares the tables as they were `found` with what was written, and repairs what differs: as a
    /// restart would, from what is there, so that nothing in use moves. Returns what differed; with it,
    /// what the repair came to. While something is under way there is nothing to compare.
    pub fn audit(&mut self, found: &Rows, now: Duration) -> Option<(Vec<String>, Outcome)> {
        let damage = if self.book.is_at_rest() { self.book.audit(found) } else { Vec::new() };
        if damage.is_empty() {
            return None;
        }
        self.book = Book::recover(found, self.tables.limits());
        let changes = self.everything();
        let settled = self.book.sync(changes, &mut self.tables, now);
        self.wake = settled.wake;
        Some((damage, Outcome { effects: self.effects(), ..settled.into() }))
    }

    /// Nothing waits to be written: only then an audit has something to compare.
    pub fn is_at_rest(&self) -> bool {
        self.book.is_at_rest()
    }

    /// The tables have other sizes now.
    pub fn resized(&mut self) {
        self.book.set_limits(self.tables.limits());
    }

    /// The objects.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Rows that could not be written, with the reason.
    pub fn pending(&self) -> Vec<(String, TableError)> {
        self.book.pending()
    }

    /// By family, whether changes are not in force (HLT-3).
    pub fn is_behind(&self) -> [bool; 2] {
        self.book.is_behind()
    }

    /// Rows in use of the maps that are sized to need.
    pub fn used(&self) -> Vec<(Map, u32)> {
        self.book.usage().into_iter().map(|(map, used, _)| (map, used)).collect()
    }

    /// How many ServicePorts there are, each family counted.
    pub fn service_ports(&self) -> usize {
        self.ports.values().map(Vec::len).sum()
    }

    /// The tables.
    pub fn tables(&mut self) -> &mut T {
        &mut self.tables
    }

    /// All that there is, and the removal of all that the tables hold besides.
    fn everything(&mut self) -> Changes {
        let netns = Some(self.identity.netns.clone());
        let mut changes = Changes { ports: self.every_port(), netns, ..Changes::default() };
        self.node_changes(&mut changes);
        changes
    }

    /// All ServicePorts that there are, and those that the tables hold besides.
    fn every_port(&mut self) -> Vec<(ServicePortName, Option<PortRows>)> {
        let services: Vec<_> = self.world.service_ports().cloned().collect();
        let mut changes: Vec<_> = services.iter().flat_map(|name| self.service_changes(name)).collect();
        let wanted: FxHashSet<&ServicePortName> = self.ports.values().flatten().collect();
        let leftovers = self.book.known().filter(|name| !wanted.contains(name));
        changes.extend(leftovers.map(|name| (name.clone(), None)));
        changes
    }

    /// The rows of a Service, and the removal of the ports it had and has no more.
    fn service_changes(&mut self, service: &ObjectName) -> Vec<(ServicePortName, Option<PortRows>)> {
        let rows = compile(&self.world, service);
        let effect = self.effects.entry(service.clone()).or_default();
        let object = self.world.service(service);
        effect.checks = object.map_or([None; 2], |object| checks(object, &rows));
        effect.lacks_check = object.is_some_and(lacks_check);
        effect.lacking = object.map_or_else(Lacking::default, |object| lacking(object, &rows));
        let names: Vec<_> = rows.iter().map(|(name, _)| name.clone()).collect();
        let mut changes: Vec<_> = rows.into_iter().map(|(name, rows)| (name, Some(rows))).collect();
        let before = match names.is_empty() {
            true => self.ports.remove(service),
            false => self.ports.insert(service.clone(), names.clone()),
        };
        let gone = before.into_iter().flatten().filter(|name| !names.contains(name));
        changes.extend(gone.map(|name| (name, None)));
        changes
    }

    fn node_changes(&self, changes: &mut Changes) {
        let node = compile_node(&self.world);
        changes.prefixes = Some(node.prefixes);
        changes.settings = Some(Settings {
            node: node.node,
            zone: node.zone,
            masquerade_all: node.masquerade_all,
            local_detector: node.local_detector,
            synced: true,
            ..self.identity.settings.clone()
        });
    }
}

/// The sizes of tables that a world fits into, at least `least`: so that the first load makes the
/// maps once.
pub fn size_for(world: &World, least: Limits) -> Limits {
    let rows: Vec<_> = world.service_ports().flat_map(|service| compile(world, service)).collect();
    let backends = || rows.iter().flat_map(|(_, port)| &port.backends);
    let texts: FxHashSet<_> =
        backends().flat_map(|backend| [&backend.node, &backend.zone]).flatten().collect();
    limits_for(rows.iter().map(|(_, port)| port), u32::try_from(texts.len()).unwrap_or(u32::MAX), least)
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
