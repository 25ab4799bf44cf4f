//! The book of tables that an earlier process wrote: ids by name, nothing in use moves.
//!
//! Whatever that process was doing when it ended, each row tells on its own what it holds; the first
//! plan of each ServicePort then finds what is missing. Rows that belong to no name become nameless
//! ServicePorts, and go the way of any Service that is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Book;
use super::node::NodeBook;
use super::port::{Bits, Port, Rec};
use super::settle::Cause;
use super::texts::Texts;
use crate::model::addr::{Family, Protocol};
use crate::model::names::{ObjectName, ServicePortName};
use crate::plan::ids::{IdPool, Range};
use crate::plan::table::{
    BackendId, BackendRow, EndpointInfo, FrontendKey, FrontendKind, Limits, Rows, ServiceId, TextId, Which,
};

/// ServicePorts as found, by row.
type Found = BTreeMap<ServiceId, Port>;

impl Book {
    /// The book of these rows. Nothing is written before the first [`Book::sync`] (SYNC-1), and
    /// nothing is handed out before a first grace period: who knows what was freed a moment ago.
    pub fn recover(rows: &Rows, limits: Limits) -> Book {
        let mut book = Book::new(limits);
        book.gate = *rows != Rows::default();
        book.texts = Texts::recover(rows);
        book.node = NodeBook::recover(rows);
        book.born = rows.backends.iter().map(|(_, row)| row.state.generation).max().unwrap_or(0);
        for (id, row) in &rows.backends {
            book.set_generation(*id, row.state.generation);
        }
        let mut found = services(rows);
        let lists = slots_of(rows);
        book.find_backends(rows, &lists, &mut found);
        for (id, port) in &mut found {
            book.find_sets(*id, port, &lists);
        }
        book.find_frontends(rows, &mut found);
        let taken: BTreeSet<u32> = found.keys().map(|id| id.0).collect();
        book.services = IdPool::with_used(0, limits.services, &taken);
        let recs = found.values().flat_map(|port| &port.recs);
        let taken: BTreeSet<u32> = recs.map(|rec| rec.id.0).collect();
        book.backends = IdPool::with_used(1, limits.backends, &taken);
        book.shelve_found(rows, found);
        book
    }

    /// Backend rows that are in use: eligible or serving, shown, or in a slot of their owner.
    fn find_backends(
        &mut self,
        rows: &Rows,
        lists: &BTreeMap<(ServiceId, Which), &[BackendId]>,
        found: &mut Found,
    ) {
        let infos: FxHashMap<BackendId, EndpointInfo> = rows.endpoints.iter().copied().collect();
        let mut linked: FxHashSet<(ServiceId, BackendId)> = FxHashSet::default();
        for ((id, _), list) in lists {
            linked.extend(list.iter().map(|backend| (*id, *backend)));
        }
        let valid = 1..self.limits.backends;
        for (id, row) in rows.backends.iter().filter(|(id, _)| valid.contains(&id.0)) {
            let info = infos.get(id).filter(|info| info.used);
            let state = Bits::of_state(row.state);
            if state != Bits::NONE || info.is_some() || linked.contains(&(row.service, *id)) {
                let rec = self.found_rec(*id, row, info);
                found.entry(row.service).or_insert_with(Port::new).recs.push(rec);
            }
        }
        for port in found.values_mut() {
            port.recs.sort_by_key(|rec| (rec.addr, rec.port));
            port.recs.shrink_to_fit();
        }
    }

    fn found_rec(&mut self, id: BackendId, row: &BackendRow, info: Option<&EndpointInfo>) -> Rec {
        let mut rec = Rec::new(row.addr, row.port);
        rec.id = id;
        rec.set(Bits::ROW.or(Bits::of_state(row.state)));
        if let Some(info) = info {
            rec.set(Bits::of_info(info.ready, info.serving, info.terminating, info.local));
            let known = |text: TextId| {
                if self.texts.text(text).is_some() { text } else { TextId(0) }
            };
            (rec.node, rec.zone) = (known(info.node), known(info.zone).0 as u16);
            self.texts.mention_id(rec.node);
            self.texts.mention_id(TextId(u32::from(rec.zone)));
        }
        rec
    }

    /// Marks the members of each set, and takes its slots. A set whose slots are not a sorted list
    /// of the ServicePort's own backends, each once, is written anew.
    fn find_sets(
        &mut self,
        id: ServiceId,
        port: &mut Port,
        lists: &BTreeMap<(ServiceId, Which), &[BackendId]>,
    ) {
        for which in Which::ALL {
            let at = which as usize;
            let list = lists.get(&(id, which)).copied().unwrap_or_default();
            let members: BTreeSet<BackendId> = list.iter().copied().collect();
            port.recs
                .iter_mut()
                .filter(|rec| members.contains(&rec.id))
                .for_each(|rec| rec.set(Bits::SLOT[at]));
            let sorted = port.recs.iter().filter(|rec| rec.has(Bits::SLOT[at])).map(|rec| rec.id);
            let count = port.sets[at].count;
            port.broken[at] |= list.len() != count as usize || !sorted.eq(list.iter().copied());
            let range = Range { base: port.sets[at].base, len: count };
            port.ranges[at] = (count > 0 && self.slots.reserve(range)).then_some(range);
            port.broken[at] |= count > 0 && port.ranges[at].is_none();
        }
    }

    /// Gives each frontend to the ServicePort it leads to, and each active address to those whose
    /// ClusterIP it is.
    fn find_frontends(&mut self, rows: &Rows, found: &mut Found) {
        let mut owners: BTreeMap<FrontendKey, BTreeSet<ServiceId>> = BTreeMap::new();
        for (key, value) in &rows.frontends {
            let Some(id) = value.service else { continue };
            found.entry(id).or_insert_with(Port::new).frontends.push((*key, value.kind));
            if value.kind == FrontendKind::ClusterIp {
                owners.entry(FrontendKey::Active { addr: key.addr() }).or_default().insert(id);
            }
        }
        // An index that is never handed out, however much the map grows.
        let nobody = BTreeSet::from([ServiceId(super::size::MAX_SERVICES)]);
        for (key, value) in &rows.frontends {
            let ids = match value.service {
                Some(id) => BTreeSet::from([id]),
                None => owners.get(key).unwrap_or(&nobody).clone(),
            };
            for id in ids {
                if value.service.is_none() {
                    found.entry(id).or_insert_with(Port::new).frontends.push((*key, value.kind));
                }
                self.frontends.hold(*key, *value);
            }
        }
        for port in found.values_mut() {
            port.frontends.sort_unstable_by_key(|(key, _)| *key);
            port.frontends.shrink_to_fit();
        }
    }

    /// Keeps what was found by name; what has none is to be removed.
    fn shelve_found(&mut self, rows: &Rows, found: Found) {
        let names: BTreeMap<ServiceId, &ServicePortName> =
            rows.names.iter().map(|(id, row)| (*id, &row.name)).collect();
        for (id, mut port) in found {
            port.id = Some(id);
            match names.get(&id).filter(|name| !self.ports.contains_key(**name)) {
                Some(name) => drop(self.ports.insert((*name).clone(), port)),
                None => {
                    let name = nameless(id);
                    self.ports.insert(name.clone(), port);
                    self.postpone(name, None, Cause::Grace, Duration::ZERO);
                }
            }
        }
    }
}

/// What a row without a name is called among the others; no Service has an empty name.
fn nameless(id: ServiceId) -> ServicePortName {
    let port: Arc<str> = id.0.to_string().into();
    ServicePortName { service: ObjectName::new("", ""), port, protocol: Protocol::Tcp, family: Family::V4 }
}

/// The rows that have a name or words of their own.
fn services(rows: &Rows) -> Found {
    let mut found = Found::new();
    for (id, name) in &rows.names {
        found.entry(*id).or_insert_with(Port::new).named = Some(name.rules);
    }
    for (id, row) in &rows.services {
        let port = found.entry(*id).or_insert_with(Port::new);
        (port.sets, port.policy, port.broken) = (row.sets, row.policy, [false; 2]);
    }
    found
}

fn slots_of(rows: &Rows) -> BTreeMap<(ServiceId, Which), &[BackendId]> {
    rows.slots.iter().map(|(id, which, list)| ((*id, *which), &list[..])).collect()
}
