//! What follows the tables (SYNC-7): how healthy the proxy is (HLT), what health check node ports answer (HC),
//! and who lacks local endpoints (MET-7). Clocks come in as arguments.

use std::collections::BTreeSet;
use std::time::Duration;

use super::compile::PortRows;
use super::eligible::{external_local, externally_accessible};
use crate::model::addr::Family;
use crate::model::names::ServicePortName;
use crate::model::node::Node;
use crate::model::service::{Service, ServiceKind};

/// A point in time on two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since some epoch; it never jumps. Time-outs are measured on it.
    pub steady: Duration,
    /// Since the Unix epoch. It is shown.
    pub wall: Duration,
}

/// Whether changes get through, by family (HLT-3).
#[derive(Clone, Copy, Debug)]
pub struct Health {
    time_out: Duration,
    updated: [Option<Moment>; 2],
    queued: [Option<Duration>; 2],
}

/// The health of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyHealth {
    /// When all changes were in force last.
    pub updated: Moment,
    /// No change waits for too long.
    pub healthy: bool,
}

/// The health of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// All families are healthy. Still starting is healthy.
    pub healthy: bool,
    /// By family; `None` before its first success.
    pub families: [Option<FamilyHealth>; 2],
}

impl Health {
    /// A change may wait for this long: twice the sync period (HLT-3).
    pub fn new(time_out: Duration) -> Health {
        Health { time_out, updated: [None; 2], queued: [None; 2] }
    }

    /// A family has changes that are not in force. Of several the oldest counts.
    pub fn queued(&mut self, family: Family, now: Moment) {
        self.queued[family.index()].get_or_insert(now.steady);
    }

    /// All changes of a family are in force.
    pub fn updated(&mut self, family: Family, now: Moment) {
        self.queued[family.index()] = None;
        self.updated[family.index()] = Some(now);
    }

    /// Whether a family has changes that are not in force.
    pub fn is_queued(&self, family: Family) -> bool {
        self.queued[family.index()].is_some()
    }

    /// How it is now.
    pub fn report(&self, now: Moment) -> HealthReport {
        let families = Family::ALL.map(|family| {
            let late = |since: Duration| now.steady.saturating_sub(since) >= self.time_out;
            let healthy = !self.queued[family.index()].is_some_and(late);
            self.updated[family.index()].map(|updated| FamilyHealth { updated, healthy })
        });
        HealthReport { healthy: families.iter().flatten().all(|family| family.healthy), families }
    }
}

impl HealthReport {
    /// The last success of any family.
    pub fn updated(&self) -> Option<Moment> {
        self.families.iter().flatten().map(|family| family.updated).max_by_key(|moment| moment.steady)
    }
}

/// The taint of a node that the cluster autoscaler removes (HLT-4).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Whether balancers may send new connections here (HLT-4). Other taints and labels have no say (HLT-5). Where
/// the source is a directory a Node object may be missing (DEC-6).
pub fn is_eligible(node: Option<&Node>, may_be_missing: bool) -> bool {
    match node {
        Some(node) => !node.deleting && !node.taints.iter().any(|key| &**key == TO_BE_DELETED),
        None => may_be_missing,
    }
}

/// What a health check node port answers, in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The port.
    pub port: u16,
    /// Distinct addresses of local ready endpoints (HC-5).
    pub local: u32,
}

/// Whether a Service is to have a health check node port (HC-1).
fn needs_check(service: &Service) -> bool {
    service.kind == ServiceKind::LoadBalancer && service.external_local
}

/// Whether a Service is to have a health check node port and has none: its balancer cannot know that there are
/// endpoints here (HC-1).
pub fn lacks_check(service: &Service) -> bool {
    needs_check(service) && service.health_check_node_port == 0
}

/// The health check node port of a Service by family, from the rows that the tables hold (HC-1, HC-5).
pub fn checks(service: &Service, rows: &[(ServicePortName, PortRows)]) -> [Option<Check>; 2] {
    let port = service.health_check_node_port;
    if !needs_check(service) || port == 0 {
        return [None; 2];
    }
    Family::ALL.map(|family| {
        let of_family = || rows.iter().filter(|(name, _)| name.family == family);
        of_family().next()?; // the Service is not handled in that family
        let ready = of_family().flat_map(|(_, rows)| &rows.backends).filter(|b| b.local && b.ready);
        let local: BTreeSet<_> = ready.map(|backend| backend.addr).collect();
        Some(Check { port, local: local.len() as u32 })
    })
}

/// How many ServicePorts have endpoints somewhere and none that their policy Local allows (MET-7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    /// For internal traffic, by family.
    pub internal: [u32; 2],
    /// For external traffic, by family.
    pub external: [u32; 2],
}

/// What follows the tables, of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Its health check node port, by family (HC-1).
    pub checks: [Option<Check>; 2],
    /// It is to have one and has none (HC-1).
    pub lacks_check: bool,
    /// Its ports that lack local endpoints (MET-7).
    pub lacking: Lacking,
    /// When the changes happened that are in force now, since the Unix epoch (MET-2).
    pub triggers: Vec<(Family, Duration)>,
}

/// How many ports of a Service lack local endpoints (MET-7).
pub fn lacking(service: &Service, rows: &[(ServicePortName, PortRows)]) -> Lacking {
    let mut found = Lacking::default();
    for (name, rows) in rows.iter().filter(|(_, rows)| rows.has_any) {
        if rows.backends.iter().any(|backend| backend.in_local) {
            continue;
        }
        let port = service.ports.iter().find(|p| p.name == name.port && p.protocol == name.protocol);
        let accessible = port.is_some_and(|port| externally_accessible(service, port, name.family));
        let at = name.family.index();
        found.internal[at] += u32::from(service.internal_local);
        found.external[at] += u32::from(accessible && external_local(service));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME_OUT: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Moment {
        Moment { steady: Duration::from_secs(seconds), wall: Duration::from_secs(1_000_000 + seconds) }
    }

    #[test]
    fn a_change_that_waits_too_long_is_ill_health_of_its_family_until_it_is_in_force() {
        // HLT-3, HLT-6
        let mut health = Health::new(TIME_OUT);
        assert!(health.report(at(1000)).healthy, "still starting");
        health.queued(Family::V4, at(0));
        assert!(health.report(at(1000)).healthy, "still starting, with its first change");
        health.updated(Family::V4, at(1000));
        health.updated(Family::V6, at(1001));
        assert!(health.report(at(5000)).healthy, "nothing to do for long (SYNC-13)");

        health.queued(Family::V6, at(5000));
        health.queued(Family::V6, at(5050));
        assert!(health.report(at(5059)).healthy);
        let report = health.report(at(5060));
        assert!(!report.healthy, "the oldest change counts");
        let healthy = report.families.map(|family| family.map(|family| family.healthy));
        assert_eq!(healthy, [Some(true), Some(false)]);
        assert_eq!(report.updated(), Some(at(1001)), "the real last success");
        health.updated(Family::V6, at(5061));
        assert!(health.report(at(5061)).healthy);
    }

    #[test]
    fn only_a_node_that_goes_away_is_not_eligible() {
        // HLT-4, HLT-5, DEC-6
        let node = |deleting, taint: &str| Node {
            name: "n".into(),
            zone: None,
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            deleting,
            taints: vec![taint.into()],
        };
        assert!(is_eligible(Some(&node(false, "node.kubernetes.io/unschedulable")), false));
        assert!(!is_eligible(Some(&node(true, "x")), true));
        assert!(!is_eligible(Some(&node(false, "ToBeDeletedByClusterAutoscaler")), true));
        assert!(!is_eligible(None, false) && is_eligible(None, true));
    }
}
