//! The objects as they are known, indexed by Service: `apply(event) → Dirty`.
//!
//! One event costs what the one Service it concerns costs, however many there are (SYNC-3). An
//! event that says what is known already changes nothing (SVC-15, SVC-16, EP-15, SYNC-14).

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use super::claims::{Claim, Claims, claims_of};
use super::eligible::Here;
use super::pack::{Interner, PackedSlice};
use super::table::FrontendKey;
use crate::model::addr::Family;
use crate::model::event::Event;
use crate::model::names::ObjectName;
use crate::model::node::{HostFacts, Node};
use crate::model::service::Service;
use crate::model::slice::EndpointSlice;

/// What has to be compiled again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services whose rows may have changed, also those that are gone.
    pub services: BTreeSet<ObjectName>,
    /// What [`compile_node`](super::compile::compile_node) gives may have changed.
    pub node: bool,
}

impl Dirty {
    /// Whether nothing has to be done.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.node
    }
}

/// All that is known of one Service. An entry without Service and slices is dropped (EP-21).
#[derive(Debug, Default)]
struct Entry {
    service: Option<Box<Service>>,
    /// Sorted by name.
    slices: Vec<(Arc<str>, Box<PackedSlice>)>,
}

/// The objects, from events.
#[derive(Debug, Default)]
pub struct World {
    entries: BTreeMap<ObjectName, Entry>,
    /// Which Service a slice belongs to: a removal names the slice only.
    slice_owner: FxHashMap<ObjectName, ObjectName>,
    claims: Claims,
    nodes: BTreeMap<Arc<str>, Box<Node>>,
    cidrs: BTreeMap<Arc<str>, Vec<IpNet>>,
    host: HostFacts,
    here: Option<Here>,
    interner: Interner,
    synced: bool,
    dirty: Dirty,
    /// When what is dirty happened, by Service (MET-2).
    triggers: BTreeMap<ObjectName, Vec<(Family, Duration)>>,
}

impl World {
    /// A world of which nothing is known.
    pub fn new() -> World {
        World::default()
    }

    /// Takes one event in.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Service(service) => self.put_service(service),
            Event::ServiceGone(name) => self.drop_service(&name),
            Event::Slice(slice) => self.put_slice(&slice),
            Event::SliceGone(name) => self.drop_slice(&name),
            Event::Node(node) => {
                let known = self.nodes.insert(node.name.clone(), node.clone());
                if known.as_ref() != Some(&node) {
                    self.node_changed(&node.name);
                }
            }
            Event::NodeGone(name) => {
                if self.nodes.remove(&name).is_some() {
                    self.node_changed(&name);
                }
            }
            Event::ServiceCidr(name, nets) => {
                self.dirty.node |= self.cidrs.insert(name, nets.clone()).as_ref() != Some(&nets);
            }
            Event::ServiceCidrGone(name) => self.dirty.node |= self.cidrs.remove(&name).is_some(),
            Event::Host(facts) => {
                if self.host != *facts {
                    let before = mem::replace(&mut self.host, *facts);
                    self.held_changed(&before.held);
                    self.node_changed(&self.host.node_name.clone());
                }
            }
            Event::Synced => self.synced = true,
        }
    }

    /// Whether the source has delivered its whole first list (SYNC-1).
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// What changed since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        mem::take(&mut self.dirty)
    }

    /// Whether something changed since [`take_dirty`](Self::take_dirty).
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// When the changes of slices happened that came since the last call, as far as they say (MET-2).
    pub fn take_triggers(&mut self) -> BTreeMap<ObjectName, Vec<(Family, Duration)>> {
        mem::take(&mut self.triggers)
    }

    /// All known Services that this proxy handles, sorted; for start-up and full resyncs.
    pub fn service_ports(&self) -> impl Iterator<Item = &ObjectName> {
        self.entries.iter().filter(|(_, entry)| entry.service.is_some()).map(|(name, _)| name)
    }

    /// A Service that this proxy handles (SVC-1, SVC-3).
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.entries.get(name)?.service.as_deref()
    }

    /// The slices of a Service with their names, sorted by name.
    pub fn slices(&self, service: &ObjectName) -> impl Iterator<Item = (&Arc<str>, &PackedSlice)> {
        let slices = self.entries.get(service).map_or(&[][..], |entry| &entry.slices);
        slices.iter().map(|(name, slice)| (name, &**slice))
    }

    /// Whether a ServicePort owns a frontend that it asks for (SVC-17).
    pub fn owns(&self, key: &FrontendKey, service: &ObjectName, port: &str) -> bool {
        self.claims.owns(key, service, port)
    }

    /// Claims that wait for a frontend another Service owns: `(key, owner, waiting)` (SVC-17).
    pub fn conflicts(&self) -> impl Iterator<Item = (&FrontendKey, &Claim, &Claim)> {
        self.claims.conflicts()
    }

    /// This node's name and zone: flags win over the Node object (TOP-12).
    pub fn here(&self) -> Here {
        let some = |zone: &&Arc<str>| !zone.is_empty();
        let flag = self.host.zone.as_ref().filter(some);
        let label = || self.node().and_then(|node| node.zone.as_ref()).filter(some);
        let zone = flag.or_else(label).cloned().unwrap_or_default();
        Here { node: self.host.node_name.clone(), zone }
    }

    /// This node's object, if it is known (HLT-4).
    pub fn node(&self) -> Option<&Node> {
        self.nodes.get(&self.host.node_name).map(|node| &**node)
    }

    /// What flags and interfaces say of this node.
    pub fn host(&self) -> &HostFacts {
        &self.host
    }

    /// Whether an interface of this node holds a ClusterIP (DEC-5).
    pub fn is_held(&self, cluster_ip: IpAddr) -> bool {
        self.host.held.contains(&cluster_ip)
    }

    /// The addresses of interfaces of this node that are ClusterIPs, or in a ServiceCIDR (DEC-5).
    pub fn held(&self) -> BTreeSet<IpAddr> {
        let held = &self.host.held;
        let in_cidr = |ip: &&IpAddr| self.service_cidrs().any(|net| net.contains(*ip));
        let mut found: BTreeSet<IpAddr> = held.iter().filter(in_cidr).copied().collect();
        let services = self.entries.values().filter_map(|entry| entry.service.as_deref());
        found.extend(services.flat_map(cluster_ips).filter(|ip| held.contains(ip)));
        found
    }

    /// The networks of all ServiceCIDR objects (UND-2).
    pub fn service_cidrs(&self) -> impl Iterator<Item = IpNet> {
        self.cidrs.values().flatten().copied()
    }

    fn put_service(&mut self, mut service: Box<Service>) {
        if !service.is_handled() {
            return self.drop_service(&service.name); // SVC-2, SVC-5
        }
        self.slim(&mut service);
        let entry = self.entries.entry(service.name.clone()).or_default();
        if entry.service.as_ref() == Some(&service) {
            return;
        }
        let claims = claims_of(&service);
        self.dirty.services.insert(service.name.clone());
        let held = &self.host.held;
        self.dirty.node |= cluster_ips(&service).any(|ip| held.contains(&ip));
        let known = entry.service.replace(service);
        self.dirty.node |= known.iter().flat_map(|known| cluster_ips(known)).any(|ip| held.contains(&ip));
        self.claim(known.as_deref(), claims);
    }

    fn drop_service(&mut self, name: &ObjectName) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let Some(known) = entry.service.take() else {
            return;
        };
        if entry.slices.is_empty() {
            self.entries.remove(name);
        }
        self.dirty.services.insert(name.clone());
        self.dirty.node |= cluster_ips(&known).any(|ip| self.host.held.contains(&ip));
        self.claim(Some(&known), Vec::new());
    }

    /// Replaces the claims of a Service; others that win or lose a frontend by it are dirty too.
    fn claim(&mut self, known: Option<&Service>, now: Vec<(FrontendKey, Claim)>) {
        let before = known.map(claims_of).unwrap_or_default();
        if before == now {
            return;
        }
        let heirs = before.iter().filter_map(|(key, claim)| self.claims.remove(key, claim));
        self.dirty.services.extend(heirs);
        let losers = now.into_iter().filter_map(|(key, claim)| self.claims.add(key, claim));
        self.dirty.services.extend(losers);
    }

    fn put_slice(&mut self, slice: &EndpointSlice) {
        if slice.headless {
            return self.drop_slice(&slice.name); // SVC-4
        }
        let packed = self.interner.pack(slice);
        if self.slice_owner.get(&slice.name).is_some_and(|owner| *owner != slice.service) {
            self.drop_slice(&slice.name);
        }
        let service = self.intern(&slice.service);
        let entry = self.entries.entry(service.clone()).or_default();
        let name = &slice.name.name;
        match entry.slices.binary_search_by(|(known, _)| known.cmp(name)) {
            Ok(at) if *entry.slices[at].1 == packed => return,
            Ok(at) => *entry.slices[at].1 = packed,
            Err(at) => {
                entry.slices.reserve_exact(1);
                entry.slices.insert(at, (name.clone(), Box::new(packed)));
                let key = ObjectName { namespace: service.namespace.clone(), name: name.clone() };
                self.slice_owner.insert(key, service.clone());
            }
        }
        let is_known = entry.service.is_some();
        if is_known {
            self.dirty.services.insert(service.clone());
        }
        if let Some(time) = slice.triggered.0 {
            let times = self.triggers.entry(service).or_default();
            if !is_known {
                // Perhaps it comes, and perhaps it is another proxy's: one time is kept, not all there will be.
                times.retain(|(family, _)| *family != slice.family);
            }
            times.push((slice.family, time));
        }
    }

    fn drop_slice(&mut self, name: &ObjectName) {
        let Some(service) = self.slice_owner.remove(name) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&service) else {
            return;
        };
        let Some(at) = entry.slices.iter().position(|(known, _)| *known == name.name) else {
            return;
        };
        let (_, slice) = entry.slices.remove(at);
        // What a deletion took cannot be told: the annotation is that of the update before (MET-2).
        if let Some(times) = self.triggers.get_mut(&service) {
            times.retain(|(family, _)| *family != slice.family);
        }
        if entry.service.is_some() {
            self.dirty.services.insert(service);
        } else if entry.slices.is_empty() {
            self.entries.remove(&service);
            self.triggers.remove(&service);
        }
    }

    /// A Node object or the host's facts changed. Name and zone decide which endpoints are eligible,
    /// so a change of them concerns every Service that has endpoints (TOP-12).
    fn node_changed(&mut self, name: &str) {
        if *name != *self.host.node_name {
            return;
        }
        self.dirty.node = true;
        let here = self.here();
        if self.here.as_ref() == Some(&here) {
            return;
        }
        self.here = Some(here);
        let with_endpoints = |(_, entry): &(_, &Entry)| entry.service.is_some() && !entry.slices.is_empty();
        let concerned = self.entries.iter().filter(with_endpoints).map(|(name, _)| name.clone());
        self.dirty.services.extend(concerned);
    }

    /// Interfaces gained or lost addresses: Services whose ClusterIPs are among these are looked at again (DEC-5).
    fn held_changed(&mut self, before: &BTreeSet<IpAddr>) {
        let changed: BTreeSet<IpAddr> = self.host.held.symmetric_difference(before).copied().collect();
        if changed.is_empty() {
            return;
        }
        let concerned = |(_, entry): &(_, &Entry)| {
            entry
                .service
                .as_deref()
                .is_some_and(|service| cluster_ips(service).any(|ip| changed.contains(&ip)))
        };
        let concerned = self.entries.iter().filter(concerned).map(|(name, _)| name.clone());
        self.dirty.services.extend(concerned);
    }

    /// One copy of a name: that of the entry, if there is one.
    fn intern(&mut self, name: &ObjectName) -> ObjectName {
        match self.entries.get_key_value(name) {
            Some((known, _)) => known.clone(),
            None => ObjectName { namespace: self.interner.text(&name.namespace), name: name.name.clone() },
        }
    }

    /// Gives back what growing vectors and repeated texts take.
    fn slim(&mut self, service: &mut Service) {
        service.name = self.intern(&service.name);
        for port in &mut service.ports {
            port.name = self.interner.text(&port.name);
        }
        service.ports.shrink_to_fit();
        service.cluster_ip.shrink_to_fit();
        service.cluster_ips.shrink_to_fit();
        service.ip_families.shrink_to_fit();
        service.external_ips.shrink_to_fit();
        service.ingress.shrink_to_fit();
        service.source_ranges.shrink_to_fit();
    }
}

fn cluster_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    Family::ALL.into_iter().filter_map(|family| service.cluster_ip(family))
}

#[cfg(test)]
mod tests;
