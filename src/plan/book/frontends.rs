//! Which key of `bl_frontends` leads where, over all ServicePorts.

use rustc_hash::FxHashMap;

use crate::plan::ids::{Epoch, Epochs};
use crate::plan::table::{Frontend, FrontendKey, FrontendKind, ServiceId};

/// A row of `bl_frontends` as last written.
#[derive(Clone, Copy, Debug)]
struct Row {
    value: Frontend,
    /// How many ServicePorts hold it; an active address may have several.
    holders: u32,
}

/// What it takes that a ServicePort holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gain {
    /// The row is there already.
    Held,
    /// The row has to be put, over an old one or as a new one.
    Put,
    /// The key was deleted and its grace period has not ended.
    Blocked,
}

/// What it takes that a ServicePort lets a key go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The row leads elsewhere by now, or others hold it too.
    Gone,
    /// The row has to be deleted.
    Delete,
}

/// All rows of `bl_frontends`.
#[derive(Clone, Debug, Default)]
pub(super) struct Frontends {
    rows: FxHashMap<FrontendKey, Row>,
    /// Keys deleted since the last grace period: put again only after one.
    cooling: FxHashMap<FrontendKey, Epoch>,
}

/// The value of a key that a ServicePort holds.
pub(super) fn value(key: &FrontendKey, kind: FrontendKind, id: ServiceId) -> Frontend {
    let service = match key {
        FrontendKey::Port { .. } => Some(id),
        FrontendKey::Active { .. } => None,
    };
    Frontend { service, kind }
}

impl Frontends {
    /// What it takes that `id` holds the key. With `gate`, no key may be put that is not there:
    /// who knows when it was deleted.
    pub(super) fn gain(&self, key: &FrontendKey, value: Frontend, gate: bool, epochs: &Epochs) -> Gain {
        match self.rows.get(key) {
            Some(row) if row.value == value => Gain::Held,
            Some(_) => Gain::Put,
            None if gate || self.cooling.get(key).is_some_and(|since| !epochs.is_over(*since)) => {
                Gain::Blocked
            }
            None => Gain::Put,
        }
    }

    /// A ServicePort holds the key from now on: the row is there, or has been put.
    pub(super) fn hold(&mut self, key: FrontendKey, value: Frontend) {
        let row = self.rows.entry(key).or_insert(Row { value, holders: 0 });
        let shared = row.value == value && value.service.is_none();
        row.holders = if shared { row.holders + 1 } else { 1 };
        row.value = value;
    }

    /// What it takes that `id` lets the key go; where others hold it too, that is all done now.
    pub(super) fn lose(&mut self, key: &FrontendKey, id: ServiceId) -> Loss {
        match self.rows.get_mut(key) {
            None => Loss::Gone,
            Some(row) if row.value.service.is_some_and(|owner| owner != id) => Loss::Gone,
            Some(row) if row.holders > 1 => {
                row.holders -= 1;
                Loss::Gone
            }
            Some(_) => Loss::Delete,
        }
    }

    /// The row has been deleted.
    pub(super) fn deleted(&mut self, key: &FrontendKey, since: Epoch) {
        self.rows.remove(key);
        self.cooling.insert(*key, since);
    }

    /// Forgets deletions whose grace period has ended.
    pub(super) fn release(&mut self, epochs: &Epochs) {
        self.cooling.retain(|_, since| !epochs.is_over(*since));
        self.cooling.shrink_to(64);
    }

    /// Whether a deletion waits for its grace period.
    pub(super) fn awaits_grace(&self) -> bool {
        !self.cooling.is_empty()
    }

    /// Whether the row is there with that value.
    pub(super) fn is(&self, key: &FrontendKey, value: Frontend) -> bool {
        self.rows.get(key).is_some_and(|row| row.value == value)
    }

    /// All rows, sorted by key.
    pub(super) fn rows(&self) -> Vec<(FrontendKey, Frontend)> {
        let mut rows: Vec<_> = self.rows.iter().map(|(key, row)| (*key, row.value)).collect();
        rows.sort_unstable_by_key(|(key, _)| *key);
        rows
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> u32 {
        self.rows.len() as u32
    }
}
