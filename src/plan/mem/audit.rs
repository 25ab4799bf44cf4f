//! What must hold after every single write, seen as a reader sees it.

use std::collections::BTreeSet;

use super::MemTables;
use crate::plan::table::{BackendId, FrontendKey, Lookup, Op, ServiceId, ServiceRow, Which};

impl MemTables {
    /// Walks every frontend to its backends: each leads to a named, used row, or is an active
    /// address; each slot of a set leads to a backend of that very ServicePort which is marked
    /// eligible for that set.
    ///
    /// # Errors
    /// The first thing that is not so, in words.
    pub fn audit(&self) -> Result<(), String> {
        let mut reachable = BTreeSet::new();
        for (key, value) in &self.frontends {
            match (key, value.service) {
                (FrontendKey::Active { .. }, None) => {}
                (FrontendKey::Port { .. }, Some(id)) => {
                    reachable.insert(id);
                }
                _ => return Err(format!("{key:?} has the value {value:?}")),
            }
        }
        reachable.into_iter().try_for_each(|id| self.audit_service(id))
    }

    fn audit_service(&self, id: ServiceId) -> Result<(), String> {
        let row = self.service(id).ok_or_else(|| format!("a frontend leads to the unused row {}", id.0))?;
        if !self.names.contains_key(&id) {
            return Err(format!("a frontend leads to row {}, which has no name", id.0));
        }
        Which::ALL.into_iter().try_for_each(|which| self.audit_set(id, &row, which))
    }

    fn audit_set(&self, id: ServiceId, row: &ServiceRow, which: Which) -> Result<(), String> {
        for backend in self.slots(row.sets[which as usize]) {
            let found = self.backend(backend);
            let fits = found.is_some_and(|row| {
                row.service == id
                    && if which == Which::Cluster { row.state.in_cluster } else { row.state.in_local }
            });
            if !fits {
                return Err(format!("the {which:?} set of row {} leads to {backend:?}: {found:?}", id.0));
            }
        }
        Ok(())
    }

    /// Whether a write keeps the promise in the comment of its [`Op`]: slots and whole backend rows
    /// are written only where no set word leads, and a backend row only with another generation.
    ///
    /// # Errors
    /// The promise that would be broken, in words.
    pub fn audit_op(&self, op: &Op) -> Result<(), String> {
        match op {
            Op::Slots { base, ids } => {
                let (base, end) = (*base, *base + ids.len() as u32);
                self.all_sets()
                    .find(|(_, set)| set.count > 0 && set.base < end && base < set.base + set.count)
                    .map_or(Ok(()), |(id, set)| Err(format!("{op:?} writes into {set:?} of row {}", id.0)))
            }
            Op::Backend(id, row) => {
                if self.linked(*id) {
                    return Err(format!("{op:?} rewrites a row that a set leads to"));
                }
                match self.backend(*id) {
                    Some(old) if old.state.generation == row.state.generation => {
                        Err(format!("{op:?} keeps the generation of {old:?}"))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn all_sets(&self) -> impl Iterator<Item = (ServiceId, crate::plan::table::SetWord)> {
        self.used_services().flat_map(|(id, row)| row.sets.map(|set| (id, set)))
    }

    fn linked(&self, backend: BackendId) -> bool {
        self.all_sets().any(|(_, set)| self.slots(set).contains(&backend))
    }
}
