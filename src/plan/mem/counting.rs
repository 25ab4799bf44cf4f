//! Counts the writes that pass, by kind and by what they cost.

use crate::plan::table::{FrontendKey, Limits, Op, ServiceId, TableError, Tables};

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Stores into mapped memory: slots, backends, endpoints, sets, policies, counters.
    pub stores: usize,
    /// Writes that take a bpf(2) call: frontends, names, texts, prefixes, namespaces, settings.
    pub calls: usize,
    /// `calls` at the time of the first store to a set word: bpf(2) calls before the flip.
    pub calls_before_flip: Option<usize>,
    /// Stores to set words.
    pub flips: usize,
    /// Grace periods asked for; each is a bpf(2) call that waits.
    pub quiesces: usize,
    /// Hand-overs: [`Tables::apply_all`] and [`Tables::apply`].
    pub batches: usize,
}

impl Counts {
    /// All rows touched.
    pub fn rows(&self) -> usize {
        self.stores + self.calls
    }
}

/// Tables that count, and hand on.
#[derive(Debug)]
pub struct CountingTables<T> {
    /// The tables themselves.
    pub inner: T,
    /// What passed since it was last reset.
    pub counts: Counts,
}

impl<T: Tables> CountingTables<T> {
    /// Counts from zero.
    pub fn new(inner: T) -> CountingTables<T> {
        CountingTables { inner, counts: Counts::default() }
    }

    /// What passed since the last time, and counts from zero again.
    pub fn take(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    fn count(&mut self, op: &Op) {
        let counts = &mut self.counts;
        match op {
            Op::Set(..) => {
                counts.calls_before_flip.get_or_insert(counts.calls + counts.quiesces);
                counts.flips += 1;
                counts.stores += 1;
            }
            Op::Slots { .. }
            | Op::Backend(..)
            | Op::BackendState(..)
            | Op::Policy(..)
            | Op::Endpoint(..)
            | Op::StatsClear(_) => counts.stores += 1,
            Op::FrontendPut(..)
            | Op::FrontendDelete(_)
            | Op::NamePut(..)
            | Op::NameDelete(_)
            | Op::TextPut(..)
            | Op::TextDelete(_)
            | Op::PrefixPut(_)
            | Op::PrefixDelete(_)
            | Op::NetnsPut(..)
            | Op::NetnsDelete(_)
            | Op::Settings(_) => counts.calls += 1,
        }
    }
}

impl<T: Tables> Tables for CountingTables<T> {
    fn apply(&mut self, op: &Op) -> Result<(), TableError> {
        self.counts.batches += 1;
        self.count(op);
        self.inner.apply(op)
    }

    fn apply_all(&mut self, ops: &[Op]) -> Vec<(usize, TableError)> {
        self.counts.batches += 1;
        ops.iter().for_each(|op| self.count(op));
        self.inner.apply_all(ops)
    }

    fn quiesce(&mut self) -> Result<(), TableError> {
        self.counts.quiesces += 1;
        self.inner.quiesce()
    }

    fn homes(&self, key: &FrontendKey) -> Vec<ServiceId> {
        self.inner.homes(key)
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }
}
