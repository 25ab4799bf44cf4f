//! A ServicePort as rows: `compile(World, service) → rows`.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::claims;
use super::eligible::{Candidate, Here, eligible, external_local, uses};
use super::pack::{Conditions, Place};
use super::rule::{Rule, RuleSet};
use super::table::{FrontendKey, FrontendKind, Policy, Prefix, PrefixClass, Which};
use super::world::World;
use crate::model::addr::Family;
use crate::model::names::{ObjectName, ServicePortName};
use crate::model::service::{Service, ServicePort};
use crate::model::slice::SlicePort;

/// What the tables should hold for one ServicePort. Compiled from the objects alone: no ids, no
/// ranges, no knowledge of what is in the maps; two equal worlds give equal rows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PortRows {
    /// The frontends that lead here, sorted by key. [`FrontendKey::Active`] may appear with several
    /// ServicePorts (it is kept while any has it); every other key has one owner (SVC-17).
    pub frontends: Vec<(FrontendKey, FrontendKind)>,
    /// Every endpoint of the port, usable or not, sorted by address and port, each pair once (EP-11, EP-13).
    pub backends: Vec<BackendWant>,
    /// Some ready or serving-terminating endpoint exists anywhere (CAT-5).
    pub has_any: bool,
    /// The policies.
    pub policy: Policy,
    /// The rules that made the Cluster set and the Local set.
    pub rules: [RuleSet; 2],
}

/// One endpoint as the tables should hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendWant {
    /// The address.
    pub addr: IpAddr,
    /// The port, host order.
    pub port: u16,
    /// In the Cluster set (CAT-2).
    pub in_cluster: bool,
    /// In the Local set (CAT-3). Both sets are kept also where no traffic uses one of them (CAT-1):
    /// a policy then changes with the one store of its word, and never waits for a set.
    pub in_local: bool,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// On this node (EP-9).
    pub local: bool,
    /// The node's name, for show.
    pub node: Option<Arc<str>>,
    /// The zone's name, for show.
    pub zone: Option<Arc<str>>,
}

/// What the tables should hold of this node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeRows {
    /// `bl_prefixes`, sorted, each once.
    pub prefixes: Vec<Prefix>,
    /// The node's name (EP-10).
    pub node: Arc<str>,
    /// The node's zone; empty if it has none (TOP-4).
    pub zone: Arc<str>,
    /// `masqueradeAll` (SNAT-5).
    pub masquerade_all: bool,
    /// Whether a local detector exists for IPv4, IPv6 (POL-10, SNAT-1).
    pub local_detector: [bool; 2],
}

/// What the tables should hold of a Service: one entry per port and family, sorted by name. Empty
/// if the Service is gone, or not for this proxy (SVC-1, SVC-3).
pub fn compile(world: &World, service: &ObjectName) -> Vec<(ServicePortName, PortRows)> {
    let Some(object) = world.service(service) else {
        return Vec::new();
    };
    let here = world.here();
    let mut rows = Vec::new();
    for family in Family::ALL {
        let Some(cluster_ip) = object.cluster_ip(family) else {
            continue;
        }; // SVC-6
        for port in claims::ports(object) {
            let name = ServicePortName {
                service: object.name.clone(),
                port: port.name.clone(),
                protocol: port.protocol,
                family,
            };
            let mut compiled = compile_port(world, object, port, family, &here);
            if world.is_held(cluster_ip) {
                // What a client dials there is for who holds it, on every port (DEC-5).
                compiled.frontends.retain(|(_, kind)| *kind != FrontendKind::ClusterIp);
            } else {
                compiled.frontends.push((FrontendKey::Active { addr: cluster_ip }, FrontendKind::ClusterIp));
            }
            compiled.frontends.sort_unstable();
            rows.push((name, compiled));
        }
    }
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    rows
}

/// What the tables should hold of this node: prefixes and settings that a verdict depends on.
pub fn compile_node(world: &World) -> NodeRows {
    let host = world.host();
    let of_object = world.node().into_iter().flat_map(|node| &node.addresses);
    let held = world.held();
    let addresses = host.addresses.iter().chain(of_object).filter(|ip| !held.contains(ip));
    let class = |class| move |net: IpNet| Prefix { class, net: canonical(net) };
    let mut prefixes: Vec<Prefix> = world.service_cidrs().map(class(PrefixClass::ServiceCidr)).collect();
    prefixes.extend(addresses.map(|ip| IpNet::from(*ip)).map(class(PrefixClass::NodeAddress)));
    prefixes.extend(held.iter().map(|ip| IpNet::from(*ip)).map(class(PrefixClass::Held)));
    prefixes.extend(host.local_detector.iter().copied().map(class(PrefixClass::LocalDetector)));
    prefixes.sort_unstable();
    prefixes.dedup();
    let Here { node, zone } = world.here();
    let detects = |family| {
        let of_family =
            |p: &Prefix| p.class == PrefixClass::LocalDetector && Family::of(p.net.addr()) == family;
        prefixes.iter().any(of_family)
    };
    let local_detector = Family::ALL.map(detects);
    NodeRows { node, zone, masquerade_all: host.masquerade_all, local_detector, prefixes }
}

/// One endpoint as a slice has it, with its slice's name to break ties.
struct Found<'a> {
    addr: IpAddr,
    port: u16,
    conditions: Conditions,
    place: &'a Place,
    local: bool,
    slice: &'a str,
}

impl Found<'_> {
    /// The order among entries of one address and port, the best first: what runs replaces what
    /// terminates, then ready, then local, then the name of the slice (EP-12); the rest makes the
    /// order of a slice's endpoints harmless (EP-13).
    fn preference(&self) -> impl Ord + use<'_> {
        let Conditions { ready, serving, terminating } = self.conditions;
        (terminating, !ready, !self.local, self.slice, !serving, self.place)
    }
}

fn compile_port(
    world: &World,
    service: &Service,
    port: &ServicePort,
    family: Family,
    here: &Here,
) -> PortRows {
    let (found, mut rules) = endpoints(world, service, port, family, here);
    let candidates: Vec<_> =
        found.iter().map(|f| Candidate { conditions: f.conditions, place: f.place }).collect();
    let chosen = eligible(&candidates, here);
    let uses = uses(service, port, family);
    for which in Which::ALL {
        let rules = &mut rules[which as usize];
        *rules = rules.union(chosen.rules[which as usize]);
        if uses[which as usize] {
            rules.add(Rule::Cat1);
        }
    }
    let backend = |(at, f): (usize, &Found)| BackendWant {
        addr: f.addr,
        port: f.port,
        in_cluster: chosen.cluster[at],
        in_local: chosen.local[at],
        ready: f.conditions.ready,
        serving: f.conditions.serving,
        terminating: f.conditions.terminating,
        local: f.local,
        node: f.place.node.clone(),
        zone: f.place.zone.clone(),
    };
    let owned = |(key, _): &(FrontendKey, _)| world.owns(key, &service.name, &port.name);
    PortRows {
        frontends: claims::wanted(service, port, family).into_iter().filter(owned).collect(),
        backends: found.iter().enumerate().map(backend).collect(),
        has_any: chosen.has_any,
        policy: Policy {
            affinity_seconds: service.affinity_seconds.unwrap_or(0),
            internal_local: service.internal_local,
            external_local: external_local(service),
            used: true,
        },
        rules,
    }
}

/// The endpoints of a port in one family: the union of all slices (EP-11), matched by port name and
/// protocol (EP-4), each with its slice's number (EP-5), sorted by address and port.
fn endpoints<'a>(
    world: &'a World,
    service: &Service,
    port: &ServicePort,
    family: Family,
    here: &Here,
) -> (Vec<Found<'a>>, [RuleSet; 2]) {
    let mut found = Vec::new();
    let mut unmatched = false;
    for (name, slice) in world.slices(&service.name).filter(|(_, slice)| slice.family == family) {
        let matches = |p: &&SlicePort| p.name == port.name && p.protocol == port.protocol;
        let before = found.len();
        for slice_port in slice.ports.iter().filter(matches) {
            found.extend(slice.endpoints.iter().map(|endpoint| Found {
                addr: endpoint.addr,
                port: slice_port.port,
                conditions: endpoint.conditions,
                place: &endpoint.place,
                local: here.is_local(&endpoint.place),
                slice: name,
            }));
        }
        unmatched |= before == found.len() && !slice.endpoints.is_empty();
    }
    let all = found.len();
    found.sort_unstable_by(|a, b| {
        (a.addr, a.port).cmp(&(b.addr, b.port)).then_with(|| a.preference().cmp(&b.preference()))
    });
    found.dedup_by_key(|f| (f.addr, f.port));
    let mut rules = RuleSet::default();
    if found.len() < all {
        rules.add(Rule::Ep12);
    }
    if found.is_empty() && unmatched {
        rules.add(Rule::Ep4);
    }
    (found, [rules; 2])
}

/// A network as keys have it: host bits cleared, v4-mapped as IPv4.
fn canonical(net: IpNet) -> IpNet {
    match (net.addr().to_canonical(), net.prefix_len()) {
        (IpAddr::V4(v4), len) if net.addr().is_ipv6() && len >= 96 => {
            Ipv4Net::new_assert(v4, len - 96).trunc().into()
        }
        _ => net.trunc(),
    }
}

#[cfg(test)]
mod tests;
