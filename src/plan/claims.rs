//! Who owns a frontend that several Services claim (SVC-17).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::table::{FrontendKey, FrontendKind};
use crate::model::addr::Family;
use crate::model::names::ObjectName;
use crate::model::service::{Service, ServicePort};

/// A ServicePort's wish for a frontend key. The smallest claim wins: oldest creation, then namespace
/// and name, then port name (SVC-17).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// Seconds since the epoch; an object that does not say when it was created is the youngest.
    created: i64,
    /// The Service.
    pub service: ObjectName,
    /// The port's name. Protocol and family are those of the key.
    pub port: Arc<str>,
}

impl Claim {
    /// The claim of one port of a Service.
    pub fn new(service: &Service, port: &ServicePort) -> Claim {
        let created = service.created.unwrap_or(i64::MAX);
        Claim { created, service: service.name.clone(), port: port.name.clone() }
    }
}

/// The ports of a Service, each (name, protocol) once: the last one counts, as in kube-proxy's map.
pub fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let same = |a: &ServicePort, b: &ServicePort| a.name == b.name && a.protocol == b.protocol;
    service.ports.iter().enumerate().filter_map(move |(at, port)| {
        let last = !service.ports[at + 1..].iter().any(|later| same(port, later));
        last.then_some(port)
    })
}

/// The frontends that one port of a Service asks for in one family, besides
/// [`FrontendKey::Active`], which needs no owner. Empty if the family has no ClusterIP (SVC-6).
pub fn wanted(service: &Service, port: &ServicePort, family: Family) -> Vec<(FrontendKey, FrontendKind)> {
    let Some(addr) = service.cluster_ip(family) else {
        return Vec::new();
    };
    let key = FrontendKey::Port { addr, port: port.port, protocol: port.protocol };
    vec![(key, FrontendKind::ClusterIp)]
}

/// Every claim of a Service, sorted.
pub fn claims_of(service: &Service) -> Vec<(FrontendKey, Claim)> {
    let of_port = |port| {
        Family::ALL
            .into_iter()
            .flat_map(move |family| wanted(service, port, family))
            .map(move |(key, _)| (key, Claim::new(service, port)))
    };
    let mut claims: Vec<_> = ports(service).flat_map(of_port).collect();
    claims.sort();
    claims.dedup();
    claims
}

/// All claims. A key that one Service alone asks for, nearly every one, costs one map entry.
#[derive(Debug, Default)]
pub struct Claims {
    owners: FxHashMap<FrontendKey, Claim>,
    waiting: BTreeMap<FrontendKey, BTreeSet<Claim>>,
}

impl Claims {
    /// Whether this claim is the one that owns the key.
    pub fn owns(&self, key: &FrontendKey, service: &ObjectName, port: &str) -> bool {
        self.owners.get(key).is_some_and(|owner| owner.service == *service && *owner.port == *port)
    }

    /// Adds a claim; returns the Service that loses the key by it.
    pub fn add(&mut self, key: FrontendKey, claim: Claim) -> Option<ObjectName> {
        let Some(owner) = self.owners.get_mut(&key) else {
            self.owners.insert(key, claim);
            return None;
        };
        if claim >= *owner {
            self.waiting.entry(key).or_default().insert(claim);
            return None;
        }
        let loser = std::mem::replace(owner, claim);
        let name = loser.service.clone();
        self.waiting.entry(key).or_default().insert(loser);
        Some(name)
    }

    /// Removes a claim; returns the Service that gets the key by it.
    pub fn remove(&mut self, key: &FrontendKey, claim: &Claim) -> Option<ObjectName> {
        if self.owners.get(key) != Some(claim) {
            if let Some(waiting) = self.waiting.get_mut(key) {
                waiting.remove(claim);
            }
            self.forget_empty(key);
            return None;
        }
        let heir = self.waiting.get_mut(key).and_then(BTreeSet::pop_first);
        self.forget_empty(key);
        let Some(heir) = heir else {
            self.owners.remove(key);
            return None;
        };
        let name = heir.service.clone();
        self.owners.insert(*key, heir);
        Some(name)
    }

    /// Every claim that waits for a key another Service owns: `(key, owner, waiting)`, for warnings.
    pub fn conflicts(&self) -> impl Iterator<Item = (&FrontendKey, &Claim, &Claim)> {
        self.waiting.iter().flat_map(|(key, waiting)| {
            let owner = self.owners.get(key);
            waiting.iter().filter_map(move |claim| Some((key, owner?, claim)))
        })
    }

    fn forget_empty(&mut self, key: &FrontendKey) {
        if self.waiting.get(key).is_some_and(BTreeSet::is_empty) {
            self.waiting.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::addr::Protocol;

    const KEY: FrontendKey = FrontendKey::Port {
        addr: std::net::IpAddr::V4(std::net::Ipv4Addr::new(172, 30, 0, 1)),
        port: 80,
        protocol: Protocol::Tcp,
    };

    fn claim(created: Option<i64>, name: &str) -> Claim {
        let service = Service { name: ObjectName::new("ns", name), created, ..Service::default() };
        let port = ServicePort { name: "p".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 };
        Claim::new(&service, &port)
    }

    fn owner(claims: &Claims) -> Option<String> {
        claims.owners.get(&KEY).map(|claim| claim.service.to_string())
    }

    #[test]
    fn the_oldest_claim_wins_then_the_name_and_the_heir_follows() {
        // SVC-17
        let (young, old, old_too) = (claim(Some(9), "a"), claim(Some(1), "c"), claim(Some(1), "b"));
        let undated = claim(None, "0");
        let mut claims = Claims::default();
        assert_eq!(claims.add(KEY, young.clone()), None);
        assert_eq!(claims.add(KEY, undated.clone()), None);
        assert_eq!(claims.add(KEY, old.clone()), Some(young.service.clone()));
        assert_eq!(claims.add(KEY, old_too.clone()), Some(old.service.clone()));
        assert_eq!(owner(&claims).as_deref(), Some("ns/b"));
        assert_eq!(claims.conflicts().count(), 3);
        assert_eq!(claims.remove(&KEY, &old), None);
        assert_eq!(claims.remove(&KEY, &old_too), Some(young.service.clone()));
        assert_eq!(claims.remove(&KEY, &young), Some(undated.service.clone()));
        assert_eq!(claims.remove(&KEY, &undated), None);
        assert_eq!(owner(&claims), None);
        assert!(claims.waiting.is_empty());
    }

    #[test]
    fn removing_a_claim_that_was_never_made_changes_nothing() {
        let mut claims = Claims::default();
        claims.add(KEY, claim(Some(1), "a"));
        assert_eq!(claims.remove(&KEY, &claim(Some(2), "b")), None);
        assert_eq!(owner(&claims).as_deref(), Some("ns/a"));
    }
}
