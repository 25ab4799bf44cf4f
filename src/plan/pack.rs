//! EndpointSlices as the [`World`](super::world::World) keeps them: 32 bytes per endpoint, with all
//! that endpoints of one node have in common kept once.

use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::model::addr::Family;
use crate::model::slice::{Endpoint, EndpointSlice, SlicePort};

/// Where an endpoint is and who should prefer it: the same for nearly all endpoints of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// `nodeName` (EP-9).
    pub node: Option<Arc<str>>,
    /// `zone`, for show only.
    pub zone: Option<Arc<str>>,
    /// `hints.forZones[].name`, a sorted set (EP-19).
    pub zone_hints: Box<[Arc<str>]>,
    /// `hints.forNodes[].name`, a sorted set (EP-19).
    pub node_hints: Box<[Arc<str>]>,
}

/// The three conditions of an endpoint (EP-7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Conditions {
    /// `ready`.
    pub ready: bool,
    /// `serving`.
    pub serving: bool,
    /// `terminating`.
    pub terminating: bool,
}

/// One endpoint, packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedEndpoint {
    /// The address, canonical.
    pub addr: IpAddr,
    /// The conditions.
    pub conditions: Conditions,
    /// Where it is; shared.
    pub place: Arc<Place>,
}

/// One EndpointSlice, packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedSlice {
    /// `addressType`.
    pub family: Family,
    /// `ports`.
    pub ports: Box<[SlicePort]>,
    /// `endpoints`.
    pub endpoints: Box<[PackedEndpoint]>,
}

/// Keeps one copy of every text and place. What nobody holds any more is dropped whenever the
/// number of entries has doubled, so churn of nodes and namespaces leaks nothing (EP-21).
#[derive(Debug, Default)]
pub struct Interner {
    texts: FxHashSet<Arc<str>>,
    places: FxHashSet<Arc<Place>>,
    texts_purged: usize,
    places_purged: usize,
}

/// Below this many entries nothing is purged.
const PURGE_FLOOR: usize = 256;

impl Interner {
    /// The shared copy of a text.
    pub fn text(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        purge(&mut self.texts, &mut self.texts_purged);
        self.texts.insert(text.clone());
        text.clone()
    }

    /// A slice, packed.
    pub fn pack(&mut self, slice: &EndpointSlice) -> PackedSlice {
        let ports = slice.ports.iter().map(|port| SlicePort { name: self.text(&port.name), ..port.clone() });
        let ports = ports.collect();
        let endpoints = slice.endpoints.iter().map(|endpoint| self.endpoint(endpoint)).collect();
        PackedSlice { family: slice.family, ports, endpoints }
    }

    fn endpoint(&mut self, endpoint: &Endpoint) -> PackedEndpoint {
        let conditions = Conditions {
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        };
        PackedEndpoint { addr: endpoint.addr.to_canonical(), conditions, place: self.place(endpoint) }
    }

    fn place(&mut self, endpoint: &Endpoint) -> Arc<Place> {
        let place = Place {
            node: endpoint.node.clone(),
            zone: endpoint.zone.clone(),
            zone_hints: as_set(&endpoint.zone_hints),
            node_hints: as_set(&endpoint.node_hints),
        };
        if let Some(known) = self.places.get(&place) {
            return known.clone();
        }
        purge(&mut self.places, &mut self.places_purged);
        let place = Arc::new(Place {
            node: place.node.map(|text| self.text(&text)),
            zone: place.zone.map(|text| self.text(&text)),
            zone_hints: place.zone_hints.iter().map(|text| self.text(text)).collect(),
            node_hints: place.node_hints.iter().map(|text| self.text(text)).collect(),
        });
        self.places.insert(place.clone());
        place
    }
}

fn as_set(hints: &[Arc<str>]) -> Box<[Arc<str>]> {
    let mut hints = hints.to_vec();
    hints.sort_unstable();
    hints.dedup();
    hints.into_boxed_slice()
}

/// Drops what only the interner holds, once the set has doubled since it last did.
fn purge<T: ?Sized + Eq + std::hash::Hash>(set: &mut FxHashSet<Arc<T>>, purged: &mut usize) {
    if set.len() < PURGE_FLOOR.max(*purged * 2) {
        return;
    }
    set.retain(|entry| Arc::strong_count(entry) > 1);
    *purged = set.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_takes_32_bytes() {
        assert_eq!(size_of::<PackedEndpoint>(), 32);
    }

    #[test]
    fn texts_that_nobody_holds_are_dropped() {
        // EP-21
        let mut interner = Interner::default();
        let kept = interner.text(&"kept".into());
        for n in 0..100 * PURGE_FLOOR {
            interner.text(&format!("node-{n}").into());
        }
        assert!(interner.texts.len() <= PURGE_FLOOR, "{}", interner.texts.len());
        assert!(Arc::ptr_eq(&kept, &interner.text(&"kept".into())));
    }
}
