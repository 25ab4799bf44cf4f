//! Which endpoints may be chosen: sections 3 (CAT) and 4 (TOP) of `docs/service-semantics.md` as a
//! pure function of one ServicePort's endpoints in one family.

use std::sync::Arc;

use super::pack::{Conditions, Place};
use super::rule::{Rule, RuleSet};
use super::table::{FrontendKind, Which};
use crate::model::addr::{Family, parse_ip};
use crate::model::service::{Service, ServiceKind, ServicePort};

/// The node that chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// Its name; empty: no endpoint is local (EP-9).
    pub node: Arc<str>,
    /// Its zone; empty: zone hints are ignored (TOP-4).
    pub zone: Arc<str>,
}

impl Here {
    /// Whether an endpoint at that place is local (EP-9).
    pub fn is_local(&self, place: &Place) -> bool {
        !self.node.is_empty() && place.node.as_ref() == Some(&self.node)
    }
}

/// An endpoint that may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its conditions.
    pub conditions: Conditions,
    /// Where it is.
    pub place: &'a Place,
}

impl Candidate<'_> {
    fn ready(&self) -> bool {
        self.conditions.ready
    }

    fn fallback(&self) -> bool {
        !self.conditions.ready && self.conditions.serving && self.conditions.terminating
    }
}

/// What [`eligible`] decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eligible {
    /// Per candidate: in the Cluster set (CAT-2).
    pub cluster: Vec<bool>,
    /// Per candidate: in the Local set (CAT-3).
    pub local: Vec<bool>,
    /// Something usable exists somewhere (CAT-5).
    pub has_any: bool,
    /// The rules that made the two sets, indexed by [`Which`].
    pub rules: [RuleSet; 2],
}

/// Who is preferred among ready endpoints (TOP-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Those hinted to this node.
    SameNode,
    /// Those hinted to this zone.
    SameZone,
    /// Nobody.
    Everyone,
}

/// Chooses the two sets of one ServicePort in one family.
pub fn eligible(candidates: &[Candidate], here: &Here) -> Eligible {
    let any_ready = candidates.iter().any(Candidate::ready);
    let any_fallback = candidates.iter().any(Candidate::fallback);
    let any_ready_local = candidates.iter().any(|c| c.ready() && here.is_local(c.place));
    let (topology, topology_rules) = topology(candidates, here);

    let in_cluster = |c: &Candidate| match any_ready {
        true => c.ready() && prefers(topology, c.place, here),
        false => c.fallback(),
    };
    let in_local =
        |c: &Candidate| here.is_local(c.place) && if any_ready_local { c.ready() } else { c.fallback() };

    let mut cluster_rules = topology_rules.with(Rule::Cat2);
    let mut local_rules = RuleSet::default().with(Rule::Cat3);
    if any_fallback {
        cluster_rules.add(Rule::Cat6);
        local_rules.add(Rule::Cat6);
    }
    if candidates.iter().any(|c| !c.ready() && !c.fallback()) {
        cluster_rules.add(Rule::Cat4);
        local_rules.add(Rule::Cat4);
    }
    if topology != Topology::Everyone {
        local_rules.add(Rule::Top10);
    }
    Eligible {
        cluster: candidates.iter().map(in_cluster).collect(),
        local: candidates.iter().map(in_local).collect(),
        has_any: any_ready || any_fallback,
        rules: [cluster_rules, local_rules],
    }
}

/// The topology mode, computed from ready endpoints only (TOP-1, TOP-7), and the rules that led to it.
pub fn topology(candidates: &[Candidate], here: &Here) -> (Topology, RuleSet) {
    let ready = || candidates.iter().filter(|c| c.ready()).map(|c| c.place);
    let mut rules = RuleSet::default();
    if ready().next().is_none() {
        return (Topology::Everyone, rules); // TOP-2
    }
    let hints = |all: bool, any: bool, mine: bool| match (all, any, mine) {
        (true, _, true) => Hints::Mine,
        (true, _, false) => Hints::NotMine,
        (false, true, _) => Hints::Incomplete,
        (false, false, _) => Hints::None,
    };
    let node = hints(
        ready().all(|p| !p.node_hints.is_empty()),
        ready().any(|p| !p.node_hints.is_empty()),
        ready().any(|p| !here.node.is_empty() && p.node_hints.contains(&here.node)),
    );
    let zone = hints(
        ready().all(|p| !p.zone_hints.is_empty()),
        ready().any(|p| !p.zone_hints.is_empty()),
        ready().any(|p| !here.zone.is_empty() && p.zone_hints.contains(&here.zone)),
    );
    if node == Hints::Mine {
        return (Topology::SameNode, rules.with(Rule::Top1));
    }
    if node == Hints::NotMine {
        rules.add(Rule::Top8);
    }
    if node == Hints::Incomplete || zone == Hints::Incomplete {
        rules.add(Rule::Top3);
    }
    match zone {
        Hints::Mine => (Topology::SameZone, rules.with(Rule::Top1)),
        Hints::NotMine => (Topology::Everyone, rules.with(Rule::Top5)),
        Hints::Incomplete | Hints::None => (Topology::Everyone, rules),
    }
}

/// What all ready endpoints together say by their hints of one kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hints {
    /// All have hints and one names this node or zone.
    Mine,
    /// All have hints and none names this node or zone.
    NotMine,
    /// Some have hints, some have not.
    Incomplete,
    /// None has.
    None,
}

fn prefers(topology: Topology, place: &Place, here: &Here) -> bool {
    match topology {
        Topology::SameNode => place.node_hints.contains(&here.node), // TOP-9
        Topology::SameZone => place.zone_hints.contains(&here.zone), // TOP-6
        Topology::Everyone => true,
    }
}

/// Whether some address besides the ClusterIP leads to a port in one family (CAT-1).
pub fn externally_accessible(service: &Service, port: &ServicePort, family: Family) -> bool {
    let of_family = |text: &str| parse_ip(text).is_some_and(|ip| Family::of(ip) == family);
    service.cluster_ip(family).is_some()
        && (port.node_port != 0
            || service.external_ips.iter().any(|ip| of_family(ip))
            || service.ingress.iter().any(|ingress| !ingress.proxy && of_family(&ingress.ip)))
}

/// Whether `externalTrafficPolicy: Local` counts (POL-3).
pub fn external_local(service: &Service) -> bool {
    service.external_local
        && match service.kind {
            ServiceKind::NodePort | ServiceKind::LoadBalancer => true,
            ServiceKind::ClusterIp => !service.external_ips.is_empty(),
            ServiceKind::ExternalName => false,
        }
}

/// Which sets the traffic of a port can reach in one family, indexed by [`Which`] (CAT-1).
pub fn uses(service: &Service, port: &ServicePort, family: Family) -> [bool; 2] {
    let accessible = externally_accessible(service, port, family);
    let cluster = !service.internal_local || accessible;
    let local = service.internal_local || (accessible && external_local(service));
    [cluster, local]
}

/// Which set the traffic to one kind of frontend takes before any short-circuit (POL-1, POL-2).
pub fn set_of(kind: FrontendKind, internal_local: bool, external_local: bool) -> Which {
    let local = match kind {
        FrontendKind::ClusterIp => internal_local,
        _ => external_local,
    };
    if local { Which::Local } else { Which::Cluster }
}

#[cfg(test)]
mod tests;
