//! What the tests of the book share: ServicePorts to make tables of, and dumps to compare.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use beeline::model::addr::{Family, Protocol};
use beeline::model::names::{ObjectName, ServicePortName};
use beeline::plan::book::{Book, Changes, Settled};
use beeline::plan::compile::{BackendWant, PortRows};
use beeline::plan::rule::{Rule, RuleSet};
use beeline::plan::table::{
    BackendId, EndpointInfo, FrontendKey, FrontendKind, Limits, Policy, Rows, ServiceId, Tables, TextId,
    port_key,
};

pub const LIMITS: Limits =
    Limits { frontends: 4096, services: 1024, slots: 8192, backends: 4096, names: 4096 };

/// A ServicePort by number.
pub fn name(n: u32) -> ServicePortName {
    ServicePortName {
        service: ObjectName::new("default", &format!("svc-{n}")),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

/// A ClusterIP by number.
pub fn vip(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a60_0000 + n))
}

/// A pod by number.
pub fn pod(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n))
}

/// A ready endpoint in the Cluster set.
pub fn ready(n: u32, node: &Arc<str>) -> BackendWant {
    BackendWant {
        addr: pod(n),
        port: 8080,
        in_cluster: true,
        in_local: false,
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        node: Some(node.clone()),
        zone: None,
    }
}

/// A ClusterIP Service with these endpoints.
pub fn rows(vip_number: u32, mut backends: Vec<BackendWant>) -> PortRows {
    backends.sort_by_key(|b| (b.addr, b.port));
    let mut frontends = vec![
        (port_key(vip(vip_number), 80, Protocol::Tcp), FrontendKind::ClusterIp),
        (FrontendKey::Active { addr: vip(vip_number) }, FrontendKind::ClusterIp),
    ];
    frontends.sort_by_key(|(key, _)| *key);
    PortRows {
        frontends,
        has_any: backends.iter().any(|b| b.ready || b.serving && b.terminating),
        backends,
        policy: Policy { used: true, ..Policy::default() },
        rules: [RuleSet::default().with(Rule::Cat2), RuleSet::default()],
    }
}

/// `services` ServicePorts with `each` endpoints on 50 nodes.
pub fn cluster(services: u32, each: u32) -> Vec<(ServicePortName, Option<PortRows>)> {
    let nodes: Vec<Arc<str>> = (0..50).map(|n| format!("node-{n}").into()).collect();
    let endpoints = |n: u32| (0..each).map(|b| ready(n * each + b, &nodes[(b % 50) as usize])).collect();
    (0..services).map(|n| (name(n), Some(rows(n, endpoints(n))))).collect()
}

pub fn ports(ports: Vec<(ServicePortName, Option<PortRows>)>) -> Changes {
    Changes { ports, ..Changes::default() }
}

/// Calls `maintain` whenever it wants to be called, until nothing waits. Returns the time then.
pub fn drain(book: &mut Book, tables: &mut dyn Tables, mut now: Duration, mut last: Settled) -> Duration {
    for _ in 0..10_000 {
        let Some(wake) = last.wake else { return now };
        now = now.max(wake);
        last = book.maintain(tables, now);
    }
    panic!("never at rest: {:?}", book.pending());
}

/// One endpoint: state and what people see.
type Endpoint = (bool, bool, bool, Option<Info>);
type Info = (String, String, bool, bool, bool, bool);

/// The tables by name: no ids, no ranges, no generations.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Canon {
    pub frontends: BTreeMap<FrontendKey, (Option<ServicePortName>, FrontendKind)>,
    pub ports: BTreeMap<ServicePortName, CanonPort>,
    pub texts: Vec<Arc<str>>,
    pub node: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct CanonPort {
    pub policy: Policy,
    pub has_any: [bool; 2],
    pub sets: [Vec<(IpAddr, u16)>; 2],
    pub rules: [RuleSet; 2],
    pub endpoints: BTreeMap<(IpAddr, u16), Endpoint>,
}

/// The canonical dump. What is in use and has no name shows under an empty one.
pub fn canon(rows: &Rows) -> Canon {
    let names: BTreeMap<ServiceId, ServicePortName> =
        rows.names.iter().map(|(id, row)| (*id, row.name.clone())).collect();
    let of = |id: ServiceId| names.get(&id).cloned().unwrap_or_else(|| name(u32::MAX));
    let mut canon = Canon {
        node: format!("{:?} {:?} {:?}", rows.prefixes, rows.netns, rows.settings),
        ..Canon::default()
    };
    for (key, value) in &rows.frontends {
        canon.frontends.insert(*key, (value.service.map(of), value.kind));
    }
    for (id, row) in &rows.names {
        canon.ports.entry(of(*id)).or_default().rules = row.rules;
    }
    for (id, row) in &rows.services {
        let port = canon.ports.entry(of(*id)).or_default();
        (port.policy, port.has_any) = (row.policy, row.sets.map(|set| set.has_any));
    }
    let by_id: BTreeMap<BackendId, _> = rows.backends.iter().copied().collect();
    for (id, which, list) in &rows.slots {
        let addrs = list.iter().map(|b| (by_id[b].addr, by_id[b].port)).collect();
        canon.ports.entry(of(*id)).or_default().sets[*which as usize] = addrs;
    }
    let infos: BTreeMap<BackendId, EndpointInfo> = rows.endpoints.iter().copied().collect();
    let texts: BTreeMap<TextId, Arc<str>> = rows.texts.iter().cloned().collect();
    for (id, row) in &rows.backends {
        let text = |id: TextId| texts.get(&id).map(|t| t.to_string()).unwrap_or_default();
        let info =
            infos.get(id).map(|i| (text(i.node), text(i.zone), i.ready, i.serving, i.terminating, i.local));
        let state = (row.state.in_cluster, row.state.in_local, row.state.serving);
        if info.is_some() || state != (false, false, false) {
            let endpoint = (state.0, state.1, state.2, info);
            canon.ports.entry(of(row.service)).or_default().endpoints.insert((row.addr, row.port), endpoint);
        }
    }
    canon.texts = texts.into_values().collect();
    canon.texts.sort();
    canon
}

/// The dump of fresh tables that were loaded once with these ServicePorts.
pub fn fresh(changes: Changes, limits: Limits) -> Canon {
    let mut tables = beeline::plan::mem::MemTables::new(limits);
    let mut book = Book::new(limits);
    let settled = book.sync(changes, &mut tables, Duration::ZERO);
    assert!(settled.failed.is_empty(), "{:?}", settled.failed);
    drain(&mut book, &mut tables, Duration::ZERO, settled);
    canon(&tables.rows())
}
