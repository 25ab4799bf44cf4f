//! Readers as the BPF programs are: several loads, any number of writes in between, and choices that
//! outlive them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::net::IpAddr;

use beeline::model::names::ServicePortName;
use beeline::plan::compile::PortRows;
use beeline::plan::mem::{MemTables, Slot};
use beeline::plan::table::{
    BackendId, FrontendKey, Limits, Lookup, Op, ServiceId, SetWord, TableError, Tables, Which,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub type Addr = (IpAddr, u16);

/// What a ServicePort's sets may be to a reader; `None` when it is gone.
type Version = Option<[Vec<Addr>; 2]>;

fn version(want: &Option<PortRows>) -> Version {
    want.as_ref().map(|want| {
        let list = |local: bool| {
            let member = |b: &&_| {
                let b: &beeline::plan::compile::BackendWant = b;
                if local { b.in_local } else { b.in_cluster }
            };
            want.backends.iter().filter(member).map(|b| (b.addr, b.port)).collect()
        };
        [list(false), list(true)]
    })
}

/// A program between two loads. It began at some time after the last grace period.
#[derive(Clone, Debug)]
struct Reader {
    owner: ServicePortName,
    id: ServiceId,
    which: Which,
    word: Option<SetWord>,
    slots: Option<Vec<Slot>>,
}

/// A remembered choice: an affinity record, or a UDP flow.
#[derive(Clone, Debug)]
struct Choice {
    key: FrontendKey,
    owner: ServicePortName,
    id: BackendId,
    generation: u32,
    endpoint: Addr,
    /// The endpoint has been wanted as serving ever since.
    unbroken: bool,
    /// A program has found the choice valid and has not read the address yet.
    in_use: bool,
}

/// Tables that are read by many while they are written.
pub struct Watched {
    pub mem: MemTables,
    versions: BTreeMap<ServicePortName, Vec<Version>>,
    owners: BTreeMap<FrontendKey, Vec<Option<ServicePortName>>>,
    wants: BTreeMap<ServicePortName, PortRows>,
    readers: Vec<Reader>,
    choices: Vec<Choice>,
    /// Keys deleted since the last grace period: a reader may hold their memory.
    deleted: BTreeSet<FrontendKey>,
    rng: StdRng,
    /// How many writes passed, how many reads ended, how many choices were looked at.
    pub seen: [usize; 3],
}

impl Watched {
    pub fn new(limits: Limits, seed: u64) -> Watched {
        Watched {
            mem: MemTables::new(limits),
            versions: BTreeMap::new(),
            owners: BTreeMap::new(),
            wants: BTreeMap::new(),
            readers: Vec::new(),
            choices: Vec::new(),
            deleted: BTreeSet::new(),
            rng: StdRng::seed_from_u64(seed),
            seen: [0; 3],
        }
    }

    /// From now on these are wanted: a reader may see them, or what was before.
    pub fn expect(&mut self, changes: &[(ServicePortName, Option<PortRows>)]) {
        for (name, want) in changes {
            self.versions.entry(name.clone()).or_insert_with(|| vec![None]).push(version(want));
            match want {
                Some(want) => drop(self.wants.insert(name.clone(), want.clone())),
                None => drop(self.wants.remove(name)),
            }
        }
        let mut owned: BTreeMap<FrontendKey, ServicePortName> = BTreeMap::new();
        for (name, want) in &self.wants {
            owned.extend(want.frontends.iter().map(|(key, _)| (*key, name.clone())));
        }
        let keys: BTreeSet<FrontendKey> = self.owners.keys().chain(owned.keys()).copied().collect();
        for key in keys {
            let versions = self.owners.entry(key).or_insert_with(|| vec![None]);
            let owner = owned.get(&key).cloned();
            if versions.last() != Some(&owner) {
                versions.push(owner);
            }
        }
        for choice in &mut self.choices {
            let serves = |want: &PortRows| {
                let mut all = want.backends.iter();
                all.any(|b| (b.addr, b.port) == choice.endpoint && b.serving)
                    && want.frontends.iter().any(|(key, _)| *key == choice.key)
            };
            choice.unbroken &= self.wants.get(&choice.owner).is_some_and(serves);
        }
    }

    fn after_write(&mut self) {
        self.seen[0] += 1;
        self.mem.audit().unwrap();
        let rows = self.mem.rows();
        for (key, value) in &rows.frontends {
            let owner = value.service.and_then(|id| self.mem.name(id)).map(|name| name.name);
            let versions = &self.owners[key];
            if let Some(id) = value.service {
                assert!(versions.contains(&owner), "{key:?} leads to {owner:?}, not one of {versions:?}");
                for which in Which::ALL {
                    let set = self.mem.service(id).unwrap().sets[which as usize];
                    let slots = self.mem.written_slots(set);
                    self.check_fresh(&slots);
                    let list = self.addrs(&slots, id);
                    self.check(owner.as_ref().unwrap(), which, &list);
                }
            }
        }
        for (key, versions) in &self.owners {
            let must = versions.iter().all(Option::is_some) && versions.len() == 1;
            assert!(!must || self.mem.frontend(key).is_some(), "{key:?} is gone");
        }
        self.move_readers();
        self.look_at_choices();
    }

    /// What a slot that can be reached says is what its backend's row says: a choice of it would be refused at
    /// the next look otherwise.
    fn check_fresh(&self, slots: &[Slot]) {
        for slot in slots {
            let row = self.mem.backend(slot.backend).expect("a slot leads to a row");
            let said = (row.addr, row.port, row.state.generation);
            assert_eq!((slot.to.ip(), slot.to.port(), slot.generation), said, "{slot:?} leads to {row:?}");
        }
    }

    fn addrs(&self, slots: &[Slot], service: ServiceId) -> Vec<Addr> {
        for slot in slots {
            let row = self.mem.backend(slot.backend).expect("a slot leads to a row");
            assert_eq!(row.service, service, "{slot:?} is another Service's");
        }
        slots.iter().map(|slot| (slot.to.ip(), slot.to.port())).collect()
    }

    fn check(&self, owner: &ServicePortName, which: Which, list: &[Addr]) {
        let versions = &self.versions[owner];
        let mut sets = versions.iter().flatten().map(|sets| &sets[which as usize][..]);
        assert!(
            sets.any(|set| set == list),
            "{owner} shows the {which:?} set {list:?}, not one of {versions:?}"
        );
    }

    /// Some programs start, and each that runs may do its next load.
    fn move_readers(&mut self) {
        let rows = self.mem.rows();
        for (_, value) in rows.frontends.iter().filter(|(_, value)| value.service.is_some()) {
            if self.rng.random_ratio(1, 4) {
                let id = value.service.unwrap();
                let owner = self.mem.name(id).unwrap().name;
                let which = Which::ALL[self.rng.random_range(0..2)];
                self.readers.push(Reader { owner, id, which, word: None, slots: None });
            }
        }
        for mut reader in std::mem::take(&mut self.readers) {
            if self.rng.random_ratio(2, 3) || !self.load(&mut reader) {
                self.readers.push(reader);
            }
        }
    }

    /// One load; `true` when that was the last.
    fn load(&mut self, reader: &mut Reader) -> bool {
        match (reader.word, &reader.slots) {
            (None, _) => {
                let row =
                    self.mem.service(reader.id).expect("the row of a frontend lives as long as its readers");
                reader.word = Some(row.sets[reader.which as usize]);
                false
            }
            (Some(word), None) => {
                reader.slots = Some(self.mem.written_slots(word));
                false
            }
            (_, Some(slots)) => {
                self.seen[1] += 1;
                let list = self.addrs(slots, reader.id);
                self.check(&reader.owner, reader.which, &list);
                let picked = (!slots.is_empty()).then(|| slots[self.rng.random_range(0..slots.len())]);
                if let Some(slot) = picked {
                    self.remember(reader, slot);
                }
                true
            }
        }
    }

    fn remember(&mut self, reader: &Reader, slot: Slot) {
        let (id, generation) = (slot.backend, slot.generation);
        let row = self.mem.backend(id).unwrap();
        let Some(want) = self.wants.get(&reader.owner) else { return };
        let Some((key, _)) = want.frontends.first() else { return };
        let endpoint = (slot.to.ip(), slot.to.port());
        let unbroken = want.backends.iter().any(|b| (b.addr, b.port) == endpoint && b.serving)
            && row.state.serving
            // A program that began before may hold a slot of an endpoint that has gone and come back since.
            && row.state.generation == generation;
        let (key, owner) = (*key, reader.owner.clone());
        self.choices.push(Choice { key, owner, id, generation, endpoint, unbroken, in_use: false });
        if self.choices.len() > 200 {
            let at = self.rng.random_range(0..self.choices.len());
            self.choices.swap_remove(at);
        }
    }

    /// What `bl_choice_valid()` says of each remembered choice, and what is then read.
    fn look_at_choices(&mut self) {
        for at in 0..self.choices.len() {
            self.seen[2] += 1;
            let choice = self.choices[at].clone();
            let row = self.mem.backend(choice.id).unwrap();
            if choice.in_use {
                assert_eq!(
                    (row.addr, row.port),
                    choice.endpoint,
                    "the address changed under a reader of {choice:?}"
                );
            }
            let state = row.state;
            let service = self.mem.frontend(&choice.key).and_then(|value| value.service);
            let owner = service.and_then(|id| self.mem.name(id)).map(|name| name.name);
            let same = state.generation == choice.generation && service == Some(row.service);
            let valid = same && (state.serving || state.in_cluster || state.in_local);
            if valid {
                assert_eq!((row.addr, row.port), choice.endpoint, "{choice:?} is another endpoint's");
                assert_eq!(owner.as_ref(), Some(&choice.owner), "{choice:?} is another Service's");
                self.choices[at].in_use |= self.rng.random_ratio(1, 8);
            }
            let settled = self.owners[&choice.key].len() == 1 && owner.as_ref() == Some(&choice.owner);
            if choice.unbroken && settled {
                assert!(same && state.serving, "{choice:?} was lost though it serves: {row:?}"); // CT-4
            }
        }
    }

    /// Every program that runs comes to its end.
    fn end_readers(&mut self) {
        for mut reader in std::mem::take(&mut self.readers) {
            while !self.load(&mut reader) {}
        }
        self.look_at_choices();
        self.choices.iter_mut().for_each(|choice| choice.in_use = false);
    }

    /// No reader is left that could have seen more than what is there now, and what is still to come.
    fn forget_versions(&mut self) {
        let rows = self.mem.rows();
        let ids: BTreeMap<ServicePortName, ServiceId> =
            rows.names.iter().map(|(id, name)| (name.name.clone(), *id)).collect();
        let mut shown = BTreeMap::new();
        for (key, value) in &rows.frontends {
            shown.insert(*key, value.service.and_then(|id| self.mem.name(id)).map(|name| name.name));
        }
        for (key, versions) in &mut self.owners {
            let now = shown.get(key).cloned().flatten();
            if let Some(at) = versions.iter().rposition(|version| *version == now) {
                versions.drain(..at);
            }
        }
        let reachable: BTreeSet<_> = shown.values().flatten().cloned().collect();
        for (name, versions) in &mut self.versions {
            if !reachable.contains(name) {
                continue;
            }
            let id = ids[name];
            let sets = self.mem.service(id).unwrap().sets;
            let row = |id: &BackendId| self.mem.backend(*id).map(|row| (row.addr, row.port)).unwrap();
            let lists = sets.map(|set| self.mem.slots(set).iter().map(row).collect::<Vec<_>>());
            let first = |at: usize| {
                let same = |v: &Version| v.as_ref().is_some_and(|v| v[at] == lists[at]);
                versions.iter().rposition(same).unwrap_or(0)
            };
            let first = first(0).min(first(1));
            versions.drain(..first);
        }
    }
}

impl Tables for Watched {
    fn apply(&mut self, op: &Op) -> Result<(), TableError> {
        self.mem.audit_op(op).unwrap();
        self.mem.apply(op)?;
        match op {
            Op::FrontendPut(key, _) => assert!(!self.deleted.contains(key), "{key:?} is back too early"),
            Op::FrontendDelete(key) => drop(self.deleted.insert(*key)),
            _ => {}
        }
        self.after_write();
        Ok(())
    }

    fn quiesce(&mut self) -> Result<(), TableError> {
        self.end_readers();
        self.forget_versions();
        self.deleted.clear();
        self.mem.quiesce()
    }

    /// A few rows that depend on the key, as in pinned maps.
    fn homes(&self, key: &FrontendKey) -> Vec<ServiceId> {
        let first = rustc_hash::FxBuildHasher.hash_one(key) as u32;
        (0..2).map(|at| ServiceId(first.wrapping_add(at) % self.limits().services)).collect()
    }

    fn limits(&self) -> Limits {
        self.mem.limits()
    }
}
