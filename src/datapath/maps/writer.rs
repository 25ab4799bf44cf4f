//! The write side: [`PinnedTables`].

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapHandle};

use super::array::Array;
use super::grace::Grace;
use super::scan::scan_keys;
use crate::datapath::{sys, wire};
use crate::plan::table::{
    BackendId, BackendRow, Frontend, FrontendKey, Limits, Map, Op, Policy, ServiceId, TableError, Tables,
};

/// The map of [`wire::bl_sieve`].
pub(super) const SIEVE: &str = "bl_sieve";

/// How many 64 KiB windows stay mapped per large array.
const WINDOWS: usize = 4;

/// Elements per batch: 280 KiB of names.
const BATCH: usize = 1024;

/// The tables in pinned maps. There is one writer, under the tree's lock.
#[derive(Debug)]
pub struct PinnedTables {
    pub(super) frontends: MapHandle,
    pub(super) services: Array,
    slots: Array,
    backends: Array,
    endpoints: Array,
    names: MapHandle,
    prefixes: MapHandle,
    netns: MapHandle,
    agent: MapHandle,
    sieve: MapHandle,
    /// `None` where a test switched waiting off.
    grace: Option<Grace>,
}

impl PinnedTables {
    /// The tables in `maps`. Without `quiesce` no grace period is ever waited for: tests only.
    pub(crate) fn new(maps: &[(&'static str, MapHandle)], quiesce: bool) -> Result<PinnedTables> {
        let named = |wanted: &str| {
            let found = maps.iter().find(|(name, _)| *name == wanted);
            let (_, handle) = found.with_context(|| format!("no map {wanted}"))?;
            MapHandle::try_from(handle).with_context(|| format!("keep {wanted}"))
        };
        let take = |map: Map| named(map.name());
        let grace = if quiesce {
            Some(Grace::new().context("create the map-in-map that proves grace periods")?)
        } else {
            None
        };
        Ok(PinnedTables {
            frontends: take(Map::Frontends)?,
            services: Array::whole(take(Map::Services)?, Map::Services),
            slots: Array::windowed(take(Map::Slots)?, Map::Slots, WINDOWS),
            backends: Array::windowed(take(Map::Backends)?, Map::Backends, WINDOWS),
            endpoints: Array::windowed(take(Map::Endpoints)?, Map::Endpoints, WINDOWS),
            names: take(Map::Names)?,
            prefixes: take(Map::Prefixes)?,
            netns: take(Map::Netns)?,
            agent: take(Map::Agent)?,
            sieve: named(SIEVE)?,
            grace,
        })
    }

    /// Has the sieve hold the frontends that are there: at a start, on top of what it held, since other
    /// programs may still go by it; and once ours are attached, nothing else. Tables that grow share their
    /// sieve with those they replace.
    pub(crate) fn fill_sieve(&self, shake: bool) -> io::Result<()> {
        let mut sieve = if shake { wire::bl_sieve::default() } else { read_sieve(&self.sieve)? };
        scan_keys(&self.frontends, |key| {
            if let Some(key) = wire::read(key) {
                wire::sieve_add(&mut sieve, &key);
            }
        })?;
        sys::update(self.sieve.as_fd(), &[0; 4], wire::bytes(&sieve))
    }

    /// Has the sieve hold these frontends, before they are put. What it holds is read, not remembered:
    /// so a repair repairs it as well.
    fn sieve<'a>(&self, elements: impl Iterator<Item = &'a Element>) -> Result<(), TableError> {
        let mut sieve = read_sieve(&self.sieve)
            .map_err(|e| refused(Map::Frontends, &self.frontends, "read bl_sieve", &e))?;
        let before = sieve;
        elements
            .filter_map(|element| wire::read(&element.key))
            .for_each(|key| wire::sieve_add(&mut sieve, &key));
        if sieve.word == before.word {
            return Ok(());
        }
        let done = sys::update(self.sieve.as_fd(), &[0; 4], wire::bytes(&sieve));
        done.map_err(|e| refused(Map::Frontends, &self.frontends, "add its prefix to bl_sieve", &e))
    }

    fn hash(&self, map: Map) -> &MapHandle {
        match map {
            Map::Frontends => &self.frontends,
            Map::Names => &self.names,
            Map::Prefixes => &self.prefixes,
            Map::Netns => &self.netns,
            Map::Agent => &self.agent,
            Map::Services => self.services.map(),
            Map::Slots => self.slots.map(),
            Map::Backends => self.backends.map(),
            Map::Endpoints => self.endpoints.map(),
        }
    }

    fn put(&mut self, element: &Element) -> Result<(), TableError> {
        if element.map == Map::Frontends {
            self.sieve(std::iter::once(element))?;
        }
        let frontend = element.frontend();
        if let Some((key, value)) = frontend {
            self.leave_home(&key, self.home_of(&key, value))?;
        }
        let map = self.hash(element.map);
        sys::update(map.as_fd(), &element.key, &element.value)
            .map_err(|e| refused(element.map, map, "put a row", &e))?;
        frontend.map_or(Ok(()), |(key, value)| self.settle(&key, value))
    }

    fn delete_frontend(&mut self, key: &FrontendKey) -> Result<(), TableError> {
        let key = wire::frontend_key(key);
        self.leave_home(&key, None)?;
        self.delete(Map::Frontends, wire::bytes(&key))
    }

    fn delete(&self, name: Map, key: &[u8]) -> Result<(), TableError> {
        let map = self.hash(name);
        sys::delete(map.as_fd(), key).map(drop).map_err(|e| refused(name, map, "delete a row", &e))
    }

    fn write_slots(&mut self, base: u32, ids: &[BackendId]) -> Result<(), TableError> {
        let end = u64::from(base) + ids.len() as u64;
        if end > u64::from(self.slots.rows()) {
            return Err(TableError::Full { map: Map::Slots, limit: self.slots.rows() });
        }
        for (slot, id) in (base..).zip(ids) {
            let words = wire::words::<_, 4>(&wire::slot(*id, &self.read_backend(*id)?));
            let (mapping, at) = self.slots.row(slot)?;
            for (offset, word) in (0..).step_by(8).zip(words) {
                mapping.word(at + offset).store(word, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// A backend's row as it was written.
    fn read_backend(&mut self, id: BackendId) -> Result<wire::bl_backend, TableError> {
        let (mapping, at) = self.backends.row(id.0)?;
        let words: [u64; 4] = std::array::from_fn(|n| mapping.word(at + 8 * n).load(Ordering::Relaxed));
        Ok(wire::of_words(&words))
    }

    /// Address and port first, the state last and with release: who sees the new generation sees the new address.
    fn write_backend(&mut self, id: BackendId, row: &BackendRow) -> Result<(), TableError> {
        let (mapping, at) = self.backends.row(id.0)?;
        let row = wire::backend(row);
        for (offset, word) in (0..wire::BACKEND_STATE).step_by(8).zip(wire::words::<_, 4>(&row)) {
            mapping.word(at + offset).store(word, Ordering::Relaxed);
        }
        mapping.word(at + wire::BACKEND_STATE).store(row.state, Ordering::Release);
        Ok(())
    }

    /// A policy keeps the home that is in the same word. A row that is no longer used is no home: not even the
    /// address is left for the readers of its next owner, who comes a grace period later.
    fn write_policy(&mut self, row: u32, policy: Policy) -> Result<(), TableError> {
        if !policy.used {
            self.empty_home(row)?;
        }
        let (mapping, at) = self.services.row(row)?;
        let word = mapping.word(at + wire::SERVICE_POLICY);
        let home = word.load(Ordering::Relaxed) & wire::POLICY_HOME;
        word.store(wire::policy(policy) | home, Ordering::Release);
        Ok(())
    }

    /// A row gets a new owner: what was counted, and who was at home there, is another's.
    fn clear_stats(&mut self, row: u32) -> Result<(), TableError> {
        self.empty_home(row)?;
        let (mapping, at) = self.services.row(row)?;
        for offset in (0..size_of::<wire::bl_stats>()).step_by(8) {
            mapping.word(at + wire::SERVICE_STATS + offset).store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Puts a run of elements of one map, in batches. A batch that fails is done again one by one, so
    /// that each row has its own verdict.
    fn put_run(&mut self, run: &[(usize, Element)], failed: &mut Vec<(usize, TableError)>) {
        for batch in run.chunks(BATCH) {
            let frontends: Vec<_> = batch.iter().filter_map(|(_, element)| element.frontend()).collect();
            let has_left =
                frontends.iter().all(|(key, value)| self.leave_home(key, self.home_of(key, *value)).is_ok());
            let map = self.hash(batch[0].1.map);
            let keys: Vec<u8> = batch.iter().flat_map(|(_, e)| e.key.iter().copied()).collect();
            let values: Vec<u8> = batch.iter().flat_map(|(_, e)| e.value.iter().copied()).collect();
            let is_held = batch[0].1.map != Map::Frontends
                || self.sieve(batch.iter().map(|(_, element)| element)).is_ok();
            if has_left
                && is_held
                && batch.len() > 1
                && sys::update_batch(map.as_fd(), &keys, &values, batch.len() as u32).is_ok()
                && frontends.iter().all(|(key, value)| self.settle(key, *value).is_ok())
            {
                continue;
            }
            failed.extend(batch.iter().filter_map(|(at, element)| {
                let error = self.put(element).err()?;
                // The batch may have put it before it failed: what is there is booked as there.
                (!self.holds(element)).then_some((*at, error))
            }));
        }
    }

    /// Whether the map has the element as it is.
    fn holds(&self, element: &Element) -> bool {
        let mut value = vec![0; element.value.len()];
        let found = sys::lookup(self.hash(element.map).as_fd(), &element.key, &mut value);
        found.is_ok_and(|found| found) && value == element.value
    }
}

/// One element of a hash map, as bytes.
struct Element {
    map: Map,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Element {
    fn new(map: Map, key: &[u8], value: &[u8]) -> Element {
        Element { map, key: key.to_vec(), value: value.to_vec() }
    }

    /// What an op puts into a hash map; `None` if it is another kind of op.
    fn of(op: &Op) -> Option<Element> {
        Some(match op {
            Op::FrontendPut(key, value) => {
                let key = wire::frontend_key(key);
                let value = wire::frontend(&key, *value);
                Element::new(Map::Frontends, wire::bytes(&key), &value.to_ne_bytes())
            }
            Op::NamePut(id, name) => Element::new(
                Map::Names,
                wire::bytes(&wire::service_key(*id)),
                wire::bytes(&wire::service_name(name)),
            ),
            Op::TextPut(id, text) => {
                Element::new(Map::Names, wire::bytes(&wire::text_key(*id)), wire::bytes(&wire::text(text)))
            }
            Op::PrefixPut(prefix) => {
                Element::new(Map::Prefixes, wire::bytes(&wire::prefix(prefix)), &1u32.to_ne_bytes())
            }
            Op::NetnsPut(cookie, class) => {
                Element::new(Map::Netns, &cookie.to_ne_bytes(), &(*class as u32).to_ne_bytes())
            }
            Op::Settings(settings) => {
                Element::new(Map::Agent, &0u32.to_ne_bytes(), wire::bytes(&wire::agent(settings)))
            }
            _ => return None,
        })
    }

    /// The frontend that it is.
    fn frontend(&self) -> Option<(wire::bl_frontend_key, Frontend)> {
        let key = wire::read(&self.key).filter(|_| self.map == Map::Frontends)?;
        Some((key, wire::read_frontend(&key, wire::read(&self.value)?)?))
    }

    /// Whether neighbours of this element may share a system call. LPM takes batches only since 5.19.
    fn may_batch(&self) -> bool {
        matches!(self.map, Map::Frontends | Map::Names)
    }
}

impl Tables for PinnedTables {
    fn apply(&mut self, op: &Op) -> Result<(), TableError> {
        match op {
            Op::FrontendPut(..)
            | Op::NamePut(..)
            | Op::TextPut(..)
            | Op::PrefixPut(..)
            | Op::NetnsPut(..)
            | Op::Settings(..) => Element::of(op).map_or(Ok(()), |element| self.put(&element)),
            Op::Slots { base, ids } => self.write_slots(*base, ids),
            Op::Backend(id, row) => self.write_backend(*id, row),
            Op::BackendState(id, state) => {
                let (mapping, at) = self.backends.row(id.0)?;
                mapping.word(at + wire::BACKEND_STATE).store(wire::state(*state), Ordering::Release);
                Ok(())
            }
            Op::Set(id, which, set) => {
                let (mapping, at) = self.services.row(id.0)?;
                let at = at + wire::SERVICE_SET + 8 * *which as usize;
                mapping.word(at).store(wire::set_word(*set), Ordering::Release);
                Ok(())
            }
            Op::Policy(id, policy) => self.write_policy(id.0, *policy),
            Op::Endpoint(id, info) => {
                let (mapping, at) = self.endpoints.row(id.0)?;
                let [word] = wire::words::<_, 1>(&wire::endpoint(info));
                mapping.word(at).store(word, Ordering::Release);
                Ok(())
            }
            Op::StatsClear(id) => self.clear_stats(id.0),
            Op::FrontendDelete(key) => self.delete_frontend(key),
            Op::NameDelete(id) => self.delete(Map::Names, wire::bytes(&wire::service_key(*id))),
            Op::TextDelete(id) => self.delete(Map::Names, wire::bytes(&wire::text_key(*id))),
            Op::PrefixDelete(prefix) => self.delete(Map::Prefixes, wire::bytes(&wire::prefix(prefix))),
            Op::NetnsDelete(cookie) => self.delete(Map::Netns, &cookie.to_ne_bytes()),
        }
    }

    fn apply_all(&mut self, ops: &[Op]) -> Vec<(usize, TableError)> {
        let mut failed = Vec::new();
        let mut run: Vec<(usize, Element)> = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            let element = Element::of(op).filter(Element::may_batch);
            let goes_on =
                element.as_ref().zip(run.first()).is_some_and(|(new, (_, first))| new.map == first.map);
            if !goes_on {
                self.put_run(&std::mem::take(&mut run), &mut failed);
            }
            match element {
                Some(element) => run.push((at, element)),
                None => failed.extend(self.apply(op).err().map(|error| (at, error))),
            }
        }
        self.put_run(&run, &mut failed);
        failed
    }

    fn quiesce(&mut self) -> Result<(), TableError> {
        let Some(grace) = &mut self.grace else { return Ok(()) };
        grace.wait().map_err(|e| unproven(&e))
    }

    fn begin_quiesce(&mut self) -> bool {
        self.grace.as_mut().is_some_and(Grace::begin)
    }

    fn ended(&mut self) -> Option<Result<(), TableError>> {
        Some(self.grace.as_mut()?.ended()?.map_err(|e| unproven(&e)))
    }

    fn homes(&self, key: &FrontendKey) -> Vec<ServiceId> {
        self.homes_of(&wire::frontend_key(key)).map(ServiceId).to_vec()
    }

    fn limits(&self) -> Limits {
        Limits {
            frontends: self.frontends.max_entries(),
            services: self.services.rows(),
            slots: self.slots.rows(),
            backends: self.backends.rows(),
            names: self.names.max_entries(),
        }
    }
}

/// What the sieve holds.
pub(super) fn read_sieve(map: &MapHandle) -> io::Result<wire::bl_sieve> {
    let mut value = [0; size_of::<wire::bl_sieve>()];
    // The one row of an array is always there.
    sys::lookup(map.as_fd(), &[0; 4], &mut value)?;
    Ok(wire::read(&value).unwrap_or_default())
}

/// A grace period that the kernel did not wait for.
fn unproven(error: &io::Error) -> TableError {
    let message = format!("no proven grace period, so nothing is re-used: update of bl_grace: {error}");
    TableError::Kernel { map: Map::Services, message }
}

/// A refusal of the kernel; a full map (`E2BIG`, for LPM `ENOSPC`) is one that callers branch on.
fn refused(name: Map, map: &MapHandle, what: &str, error: &io::Error) -> TableError {
    match error.raw_os_error() {
        Some(libc::E2BIG | libc::ENOSPC) => TableError::Full { map: name, limit: map.max_entries() },
        _ => TableError::Kernel { map: name, message: format!("{what}: {error}") },
    }
}
