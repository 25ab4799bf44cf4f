//! The tables in memory: what offline `explain` and tests work on.
//!
//! [`MemTables`] behaves as the pinned maps do, limits included. [`audit`](MemTables::audit) walks
//! it as a reader would. [`CountingTables`] counts what the kernel would be asked, [`FaultyTables`]
//! refuses on purpose.

mod audit;
mod counting;
mod faulty;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

pub use counting::{CountingTables, Counts};
pub use faulty::{Faults, FaultyTables};

use super::table::{
    BackendId, BackendRow, BackendState, EndpointInfo, Frontend, FrontendKey, Limits, Lookup, Map,
    NetnsClass, Op, Prefix, PrefixClass, Rows, ServiceId, ServiceName, ServiceRow, SetWord, Settings,
    TableError, Tables, TextId, Which,
};

/// A slot: the backend it leads to, with what that backend's row said when the slot was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The backend; 0 is none.
    pub backend: BackendId,
    /// Its address and port.
    pub to: SocketAddr,
    /// Its generation: the one that a choice of this slot remembers.
    pub generation: u32,
}

impl Slot {
    const NONE: Slot = Slot {
        backend: BackendId(0),
        to: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        generation: 0,
    };
}

/// All tables, as values.
#[derive(Clone, Debug)]
pub struct MemTables {
    limits: Limits,
    frontends: FxHashMap<FrontendKey, Frontend>,
    services: Vec<ServiceRow>,
    slots: Vec<Slot>,
    backends: Vec<Option<BackendRow>>,
    endpoints: Vec<EndpointInfo>,
    names: BTreeMap<ServiceId, ServiceName>,
    texts: BTreeMap<TextId, Arc<str>>,
    prefixes: BTreeSet<Prefix>,
    netns: BTreeMap<u64, NetnsClass>,
    settings: Settings,
    quiesced: u64,
}

impl MemTables {
    /// Empty tables of these sizes. Rows take memory as they are written, not before.
    pub fn new(limits: Limits) -> MemTables {
        MemTables {
            limits,
            frontends: FxHashMap::default(),
            services: Vec::new(),
            slots: Vec::new(),
            backends: Vec::new(),
            endpoints: Vec::new(),
            names: BTreeMap::new(),
            texts: BTreeMap::new(),
            prefixes: BTreeSet::new(),
            netns: BTreeMap::new(),
            settings: Settings::default(),
            quiesced: 0,
        }
    }

    /// Grows the tables, as an upgrade flip does. Rows above a smaller limit stay.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How many grace periods were asked for.
    pub fn quiesced(&self) -> u64 {
        self.quiesced
    }

    /// Every row, sorted by key.
    pub fn rows(&self) -> Rows {
        let mut frontends: Vec<_> = self.frontends.iter().map(|(key, value)| (*key, *value)).collect();
        frontends.sort_unstable_by_key(|(key, _)| *key);
        let services: Vec<_> = self.used_services().collect();
        let slots = services
            .iter()
            .flat_map(|(id, row)| Which::ALL.map(|which| (*id, which, row.sets[which as usize])))
            .filter(|(_, _, set)| set.count > 0)
            .map(|(id, which, set)| (id, which, self.slots(set)))
            .collect();
        let backends = self.backends.iter().enumerate();
        let endpoints = self.endpoints.iter().enumerate().filter(|(_, info)| info.used);
        Rows {
            frontends,
            services,
            slots,
            backends: backends.filter_map(|(id, row)| Some((BackendId(id as u32), (*row)?))).collect(),
            endpoints: endpoints.map(|(id, info)| (BackendId(id as u32), *info)).collect(),
            names: self.names.iter().map(|(id, name)| (*id, name.clone())).collect(),
            texts: self.texts.iter().map(|(id, text)| (*id, text.clone())).collect(),
            prefixes: self.prefixes.iter().copied().collect(),
            netns: self.netns.iter().map(|(cookie, class)| (*cookie, *class)).collect(),
            settings: self.settings.clone(),
        }
    }

    fn used_services(&self) -> impl Iterator<Item = (ServiceId, ServiceRow)> {
        let rows = self.services.iter().enumerate();
        rows.filter(|(_, row)| row.policy.used).map(|(id, row)| (ServiceId(id as u32), *row))
    }

    fn service_mut(&mut self, id: ServiceId) -> Result<&mut ServiceRow, TableError> {
        let at = index(Map::Services, id.0, self.limits.services)?;
        Ok(grown(&mut self.services, at))
    }

    fn put_slots(&mut self, base: u32, ids: &[BackendId]) -> Result<(), TableError> {
        let end = u64::from(base) + ids.len() as u64;
        if end > u64::from(self.limits.slots) {
            return Err(TableError::Full { map: Map::Slots, limit: self.limits.slots });
        }
        if self.slots.len() < end as usize {
            self.slots.resize(end as usize, Slot::NONE);
        }
        for (at, id) in (base as usize..).zip(ids) {
            self.slots[at] = self.slot_of(*id);
        }
        Ok(())
    }

    /// What a slot that leads to this backend says now.
    fn slot_of(&self, backend: BackendId) -> Slot {
        self.backend(backend).map_or(Slot { backend, ..Slot::NONE }, |row| Slot {
            backend,
            to: SocketAddr::new(row.addr, row.port),
            generation: row.state.generation,
        })
    }

    /// The slots of a set as they were written, which is what a program in the kernel takes.
    pub fn written_slots(&self, set: SetWord) -> Vec<Slot> {
        (set.base..set.base.saturating_add(set.count))
            .map(|at| self.slots.get(at as usize).copied().unwrap_or(Slot::NONE))
            .collect()
    }

    fn room(&self, map: Map, exists: bool) -> Result<(), TableError> {
        let (used, limit) = match map {
            Map::Frontends => (self.frontends.len(), self.limits.frontends),
            _ => (self.names.len() + self.texts.len(), self.limits.names),
        };
        if exists || used < limit as usize { Ok(()) } else { Err(TableError::Full { map, limit }) }
    }

    fn set_state(&mut self, id: BackendId, state: BackendState) -> Result<(), TableError> {
        let row = self.backends.get_mut(id.0 as usize).and_then(Option::as_mut);
        let message = || format!("the state of backend {} is set before its row", id.0);
        row.ok_or_else(|| TableError::Kernel { map: Map::Backends, message: message() })?.state = state;
        Ok(())
    }

    fn put_frontend(&mut self, key: FrontendKey, value: Frontend) -> Result<(), TableError> {
        self.room(Map::Frontends, self.frontends.contains_key(&key))?;
        self.frontends.insert(key, value);
        Ok(())
    }
}

fn index(map: Map, id: u32, limit: u32) -> Result<usize, TableError> {
    if id < limit { Ok(id as usize) } else { Err(TableError::Full { map, limit }) }
}

fn grown<T: Clone + Default>(rows: &mut Vec<T>, at: usize) -> &mut T {
    if rows.len() <= at {
        rows.resize(at + 1, T::default());
    }
    &mut rows[at]
}

impl Tables for MemTables {
    fn apply(&mut self, op: &Op) -> Result<(), TableError> {
        match op {
            Op::Slots { base, ids } => self.put_slots(*base, ids)?,
            Op::Backend(id, row) => {
                let at = index(Map::Backends, id.0, self.limits.backends)?;
                *grown(&mut self.backends, at) = Some(*row);
            }
            Op::BackendState(id, state) => self.set_state(*id, *state)?,
            Op::Set(id, which, word) => self.service_mut(*id)?.sets[*which as usize] = *word,
            Op::Policy(id, policy) => self.service_mut(*id)?.policy = *policy,
            Op::FrontendPut(key, value) => self.put_frontend(*key, *value)?,
            Op::FrontendDelete(key) => drop(self.frontends.remove(key)),
            Op::Endpoint(id, info) => {
                let at = index(Map::Endpoints, id.0, self.limits.backends)?;
                *grown(&mut self.endpoints, at) = *info;
            }
            Op::NamePut(id, name) => {
                self.room(Map::Names, self.names.contains_key(id))?;
                self.names.insert(*id, name.clone());
            }
            Op::NameDelete(id) => drop(self.names.remove(id)),
            Op::TextPut(id, text) => {
                self.room(Map::Names, self.texts.contains_key(id))?;
                self.texts.insert(*id, text.clone());
            }
            Op::TextDelete(id) => drop(self.texts.remove(id)),
            Op::PrefixPut(prefix) => drop(self.prefixes.insert(*prefix)),
            Op::PrefixDelete(prefix) => drop(self.prefixes.remove(prefix)),
            Op::NetnsPut(cookie, class) => drop(self.netns.insert(*cookie, *class)),
            Op::NetnsDelete(cookie) => drop(self.netns.remove(cookie)),
            Op::StatsClear(id) => drop(index(Map::Services, id.0, self.limits.services)?),
            Op::Settings(settings) => self.settings = settings.clone(),
        }
        Ok(())
    }

    fn quiesce(&mut self) -> Result<(), TableError> {
        self.quiesced += 1;
        Ok(())
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

impl Lookup for MemTables {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn service(&self, id: ServiceId) -> Option<ServiceRow> {
        self.services.get(id.0 as usize).copied().filter(|row| row.policy.used)
    }

    fn slots(&self, set: SetWord) -> Vec<BackendId> {
        // As the reader of the pinned maps: a slot that does not say what its backend's row says leads nowhere.
        let is_true =
            |slot: &Slot| self.backend(slot.backend).is_some() && self.slot_of(slot.backend) == *slot;
        let slots = self.written_slots(set).into_iter();
        slots.map(|slot| if is_true(&slot) { slot.backend } else { BackendId(0) }).collect()
    }

    fn backend(&self, id: BackendId) -> Option<BackendRow> {
        self.backends.get(id.0 as usize).copied().flatten()
    }

    fn name(&self, id: ServiceId) -> Option<ServiceName> {
        self.names.get(&id).cloned()
    }

    fn covers(&self, class: PrefixClass, addr: IpAddr) -> bool {
        let addr = IpNet::from(addr.to_canonical());
        self.prefixes.iter().any(|prefix| prefix.class == class && prefix.net.contains(&addr))
    }

    fn settings(&self) -> Settings {
        self.settings.clone()
    }
}
