//! One ServicePort as the tables hold it, compactly: 100,000 backends fit in a few MiB.

use std::net::IpAddr;

use crate::plan::compile::BackendWant;
use crate::plan::ids::{Epoch, Range};
use crate::plan::rule::RuleSet;
use crate::plan::table::{
    BackendId, BackendState, EndpointInfo, FrontendKey, FrontendKind, Policy, ServiceId, SetWord, TextId,
    Which,
};

/// A set of the bits below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits(u16);

impl Bits {
    pub(super) const NONE: Bits = Bits(0);
    /// The row of `bl_backends` has been written for this endpoint.
    pub(super) const ROW: Bits = Bits(1);
    /// The flags in that row.
    pub(super) const IN: [Bits; 2] = [Bits(1 << 1), Bits(1 << 2)];
    pub(super) const SERVING: Bits = Bits(1 << 3);
    pub(super) const STATE: Bits = Bits(0b111 << 1);
    /// A slot of the set that the set word points to holds it.
    pub(super) const SLOT: [Bits; 2] = [Bits(1 << 4), Bits(1 << 5)];
    pub(super) const SLOTS: Bits = Bits(0b11 << 4);
    /// The row of `bl_endpoints` says so.
    pub(super) const INFO: Bits = Bits(1 << 6);
    pub(super) const INFO_READY: Bits = Bits(1 << 7);
    pub(super) const INFO_SERVING: Bits = Bits(1 << 8);
    pub(super) const INFO_TERMINATING: Bits = Bits(1 << 9);
    pub(super) const INFO_LOCAL: Bits = Bits(1 << 10);
    pub(super) const INFOS: Bits = Bits(0b11111 << 6);
    /// That row is to be written again, its texts are interned.
    pub(super) const INFO_DUE: Bits = Bits(1 << 15);
    /// The endpoint is wanted, and with these flags.
    pub(super) const WANTED: Bits = Bits(1 << 11);
    pub(super) const WANT_IN: [Bits; 2] = [Bits(1 << 12), Bits(1 << 13)];
    pub(super) const WANT_SERVING: Bits = Bits(1 << 14);
    pub(super) const WANTS: Bits = Bits(0b1111 << 11);

    pub(super) const fn or(self, other: Bits) -> Bits {
        Bits(self.0 | other.0)
    }

    pub(super) const fn and(self, other: Bits) -> Bits {
        Bits(self.0 & other.0)
    }

    pub(super) const fn without(self, other: Bits) -> Bits {
        Bits(self.0 & !other.0)
    }

    pub(super) const fn any(self, other: Bits) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn when(self, holds: bool) -> Bits {
        if holds { self } else { Bits::NONE }
    }

    /// The state bits of a row.
    pub(super) fn of_state(state: BackendState) -> Bits {
        let cluster = Bits::IN[0].when(state.in_cluster);
        cluster.or(Bits::IN[1].when(state.in_local)).or(Bits::SERVING.when(state.serving))
    }

    /// These state bits as a row has them.
    pub(super) fn state(self, generation: u32) -> BackendState {
        BackendState {
            generation,
            in_cluster: self.any(Bits::IN[0]),
            in_local: self.any(Bits::IN[1]),
            serving: self.any(Bits::SERVING),
        }
    }

    fn of_want(want: &BackendWant) -> Bits {
        Bits::WANTED
            .or(Bits::WANT_IN[0].when(want.in_cluster))
            .or(Bits::WANT_IN[1].when(want.in_local))
            .or(Bits::WANT_SERVING.when(want.serving))
    }

    /// The bits of an endpoint row.
    pub(super) fn of_info(ready: bool, serving: bool, terminating: bool, local: bool) -> Bits {
        Bits::INFO
            .or(Bits::INFO_READY.when(ready))
            .or(Bits::INFO_SERVING.when(serving))
            .or(Bits::INFO_TERMINATING.when(terminating))
            .or(Bits::INFO_LOCAL.when(local))
    }

    /// The wanted flags as state bits.
    fn wanted_state(self) -> Bits {
        Bits::IN[0]
            .when(self.any(Bits::WANT_IN[0]))
            .or(Bits::IN[1].when(self.any(Bits::WANT_IN[1])))
            .or(Bits::SERVING.when(self.any(Bits::WANT_SERVING)))
    }
}

/// One endpoint of a ServicePort: 32 bytes.
#[derive(Clone, Debug)]
pub(super) struct Rec {
    pub(super) addr: IpAddr,
    pub(super) port: u16,
    /// As interned in `bl_names`; 16 bits are what the row holds.
    pub(super) zone: u16,
    pub(super) bits: Bits,
    pub(super) id: BackendId,
    pub(super) node: TextId,
}

const _: () = assert!(size_of::<Rec>() == 32, "a hundred thousand of these are kept");

impl Rec {
    /// An endpoint that is not in the tables yet.
    pub(super) fn new(addr: IpAddr, port: u16) -> Rec {
        Rec { addr, port, zone: 0, bits: Bits::NONE, id: BackendId(0), node: TextId(0) }
    }

    pub(super) fn key(&self) -> (IpAddr, u16) {
        (self.addr, self.port)
    }

    pub(super) fn has(&self, bits: Bits) -> bool {
        self.bits.any(bits)
    }

    pub(super) fn set(&mut self, bits: Bits) {
        self.bits = self.bits.or(bits);
    }

    pub(super) fn clear(&mut self, bits: Bits) {
        self.bits = self.bits.without(bits);
    }

    pub(super) fn want(&mut self, want: Option<&BackendWant>) {
        self.clear(Bits::WANTS);
        self.set(want.map_or(Bits::NONE, Bits::of_want));
    }

    /// State bits as written.
    pub(super) fn state(&self) -> Bits {
        self.bits.and(Bits::STATE)
    }

    /// State bits before the flip: what is there and what will be.
    pub(super) fn state_before(&self) -> Bits {
        self.state().or(self.bits.wanted_state())
    }

    /// State bits after the flip: what is wanted, and eligible as long as a slot leads here.
    pub(super) fn state_after(&self) -> Bits {
        let slots = Bits::IN[0].when(self.has(Bits::SLOT[0])).or(Bits::IN[1].when(self.has(Bits::SLOT[1])));
        self.bits.wanted_state().or(slots)
    }

    /// Whether nothing in the tables speaks of this endpoint any more.
    pub(super) fn is_bare(&self) -> bool {
        !self.has(Bits::STATE.or(Bits::SLOTS).or(Bits::INFO))
    }
}

/// One ServicePort as the tables hold it. Every field is what the last successful write left.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// Its row; `None` before it has one.
    pub(super) id: Option<ServiceId>,
    /// Its name is written, with these rules.
    pub(super) named: Option<[RuleSet; 2]>,
    pub(super) policy: Policy,
    pub(super) sets: [SetWord; 2],
    /// The slots it holds for its sets.
    pub(super) ranges: [Option<Range>; 2],
    /// Set words that are unknown, or whose slots are not as they should be: store them in any case.
    pub(super) broken: [bool; 2],
    /// When the last frontend of a removed ServicePort went; its rows go a grace period later.
    pub(super) unlinked: Option<Epoch>,
    /// The frontends that lead here, sorted by key.
    pub(super) frontends: Vec<(FrontendKey, FrontendKind)>,
    /// Its endpoints, sorted by address and port.
    pub(super) recs: Vec<Rec>,
}

impl Port {
    /// One that has nothing in the tables yet, not even a row; what is in the row it gets is unknown.
    pub(super) fn new() -> Port {
        Port {
            id: None,
            named: None,
            policy: Policy::UNUSED,
            sets: [SetWord::default(); 2],
            ranges: [None; 2],
            broken: [true; 2],
            unlinked: None,
            frontends: Vec::new(),
            recs: Vec::new(),
        }
    }

    /// Whether only its name, if that, is left in the tables.
    pub(super) fn is_bare(&self) -> bool {
        self.frontends.is_empty()
            && self.sets == [SetWord::default(); 2]
            && self.recs.iter().all(Rec::is_bare)
    }

    /// The position of a frontend among those held.
    pub(super) fn holds(&self, key: &FrontendKey) -> Result<usize, usize> {
        self.frontends.binary_search_by_key(key, |(key, _)| *key)
    }

    /// Whether the set word and its slots are as wanted.
    pub(super) fn set_is(&self, which: Which, has_any: bool) -> bool {
        let at = which as usize;
        self.sets[at].has_any == has_any
            && !self.broken[at]
            && self.recs.iter().all(|rec| rec.has(Bits::SLOT[at]) == rec.has(Bits::WANT_IN[at]))
    }
}

/// The endpoint row of a wanted backend, with its texts interned.
pub(super) fn info(want: &BackendWant, rec: &Rec) -> EndpointInfo {
    EndpointInfo {
        node: rec.node,
        zone: TextId(u32::from(rec.zone)),
        ready: want.ready,
        serving: want.serving,
        terminating: want.terminating,
        local: want.local,
        used: true,
    }
}

/// The bits of that row.
pub(super) fn info_bits(want: &BackendWant) -> Bits {
    Bits::of_info(want.ready, want.serving, want.terminating, want.local)
}
