//! Refuses writes on purpose: some by a seed, all after a crash.

use crate::plan::table::{FrontendKey, Limits, Map, Op, ServiceId, TableError, Tables};

/// Which writes are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Of 1000 writes, about how many are refused.
    pub per_mille: u32,
    /// The seed of the choice.
    pub seed: u64,
    /// After so many writes (grace periods count) nothing passes any more: the writer is dead.
    pub crash_after: Option<usize>,
}

/// Tables that fail, and else hand on.
#[derive(Debug)]
pub struct FaultyTables<T> {
    /// The tables themselves.
    pub inner: T,
    /// What is refused from now on.
    pub faults: Faults,
    state: u64,
    passed: usize,
}

impl<T: Tables> FaultyTables<T> {
    /// Refuses as `faults` says.
    pub fn new(inner: T, faults: Faults) -> FaultyTables<T> {
        FaultyTables { inner, faults, state: faults.seed, passed: 0 }
    }

    /// How many writes and grace periods passed.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// Whether the writer is dead.
    pub fn crashed(&self) -> bool {
        self.faults.crash_after.is_some_and(|after| self.passed >= after)
    }

    fn refuse(&mut self, map: Map) -> Result<(), TableError> {
        let refused = |message: &str| Err(TableError::Kernel { map, message: message.to_owned() });
        if self.crashed() {
            return refused("the writer is dead");
        }
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        if ((mixed ^ (mixed >> 31)) % 1000) < u64::from(self.faults.per_mille) {
            return refused("refused on purpose");
        }
        self.passed += 1;
        Ok(())
    }
}

fn map_of(op: &Op) -> Map {
    match op {
        Op::Slots { .. } => Map::Slots,
        Op::Backend(..) | Op::BackendState(..) => Map::Backends,
        Op::Set(..) | Op::Policy(..) => Map::Services,
        Op::FrontendPut(..) | Op::FrontendDelete(_) => Map::Frontends,
        Op::Endpoint(..) => Map::Endpoints,
        Op::NamePut(..) | Op::NameDelete(_) | Op::TextPut(..) | Op::TextDelete(_) => Map::Names,
        Op::PrefixPut(_) | Op::PrefixDelete(_) => Map::Prefixes,
        Op::NetnsPut(..) | Op::NetnsDelete(_) => Map::Netns,
        Op::StatsClear(_) => Map::Services,
        Op::Settings(_) => Map::Agent,
    }
}

impl<T: Tables> Tables for FaultyTables<T> {
    fn apply(&mut self, op: &Op) -> Result<(), TableError> {
        self.refuse(map_of(op))?;
        self.inner.apply(op)
    }

    fn quiesce(&mut self) -> Result<(), TableError> {
        self.refuse(Map::Services)?;
        self.inner.quiesce()
    }

    fn homes(&self, key: &FrontendKey) -> Vec<ServiceId> {
        self.inner.homes(key)
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }
}
