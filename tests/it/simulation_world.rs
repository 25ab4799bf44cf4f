//! The same simulation from the objects on: `World`, `compile`, `Book`, tables and clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use beeline::model::addr::{Family, Protocol};
use beeline::model::event::Event;
use beeline::model::names::{ObjectName, ServicePortName};
use beeline::model::node::HostFacts;
use beeline::model::service::{Service, ServiceKind, ServicePort};
use beeline::model::slice::{Endpoint, EndpointSlice, SlicePort, Trigger};
use beeline::plan::compile::compile;
use beeline::plan::world::World;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::book_model::{canon, fresh, pod, ports, vip};
use crate::simulation::{Node, TIGHT, seeds};
use crate::simulation_events::Change;

const SERVICES: u32 = 5;
const PODS: u32 = 8;

fn object(n: u32) -> ObjectName {
    ObjectName::new("default", &format!("svc-{n}"))
}

fn text(prefix: &str, n: u32) -> Arc<str> {
    format!("{prefix}-{n}").into()
}

/// A Service of one or two ports; external addresses may be claimed by several (SVC-17).
fn service(n: u32, rng: &mut StdRng) -> Event {
    let port =
        |name: &str, port| ServicePort { name: name.into(), protocol: Protocol::Tcp, port, node_port: 0 };
    let mut ports = vec![port("a", 80)];
    if rng.random_bool(0.5) {
        ports.push(port("b", 81));
    }
    let external = rng.random_bool(0.4).then(|| vip(100 + rng.random_range(0..2)).to_string());
    Event::Service(Box::new(Service {
        name: object(n),
        created: Some(i64::from(rng.random_range(0..3))),
        kind: [ServiceKind::ClusterIp, ServiceKind::LoadBalancer][rng.random_range(0..2)],
        cluster_ip: vip(n + 10 * rng.random_range(0..2)).to_string(),
        ports,
        external_ips: external.into_iter().collect(),
        internal_local: rng.random_bool(0.3),
        external_local: rng.random_bool(0.3),
        affinity_seconds: rng.random_bool(0.3).then_some(10800),
        other_proxy: rng.random_ratio(1, 10),
        ..Service::default()
    }))
}

fn slice(n: u32, part: u32, rng: &mut StdRng) -> Event {
    let mut endpoints = Vec::new();
    for number in 0..PODS {
        if rng.random_bool(0.5) {
            continue;
        }
        let hint = rng.random_bool(0.8).then(|| text("zone", number % 2));
        endpoints.push(Endpoint {
            addr: pod(number),
            node: Some(text("node", number % 3)),
            zone: Some(text("zone", number % 2)),
            ready: rng.random_bool(0.7),
            serving: rng.random_bool(0.8),
            terminating: rng.random_bool(0.3),
            zone_hints: hint.into_iter().collect(),
            node_hints: Box::default(),
        });
    }
    let port = |name: &str, port| SlicePort { name: name.into(), protocol: Protocol::Tcp, port };
    Event::Slice(Box::new(EndpointSlice {
        name: ObjectName::new("default", &format!("svc-{n}-{part}")),
        service: object(n),
        family: Family::V4,
        ports: vec![port("a", 8080), port("b", 8081)],
        endpoints,
        headless: false,
        triggered: Trigger::default(),
    }))
}

fn event(rng: &mut StdRng) -> Event {
    let (n, part) = (rng.random_range(0..SERVICES), rng.random_range(0..2));
    match rng.random_range(0..12) {
        0..4 => service(n, rng),
        4 => Event::ServiceGone(object(n)),
        5 => Event::SliceGone(ObjectName::new("default", &format!("svc-{n}-{part}"))),
        6 => Event::Host(Box::new(HostFacts {
            node_name: text("node", rng.random_range(0..3)),
            zone: Some(text("zone", rng.random_range(0..3))),
            ..HostFacts::default()
        })),
        _ => slice(n, part, rng),
    }
}

/// A world, and the ServicePorts it was last compiled to.
struct Cluster {
    world: World,
    sent: BTreeMap<ObjectName, BTreeSet<ServicePortName>>,
}

impl Cluster {
    /// What changed since the last time.
    fn changes(&mut self) -> Vec<Change> {
        let dirty = self.world.take_dirty();
        let mut changes = Vec::new();
        for service in dirty.services {
            let rows = compile(&self.world, &service);
            let names: BTreeSet<ServicePortName> = rows.iter().map(|(name, _)| name.clone()).collect();
            let before = self.sent.insert(service, names.clone()).unwrap_or_default();
            changes.extend(before.difference(&names).map(|name| (name.clone(), None)));
            changes.extend(rows.into_iter().map(|(name, rows)| (name, Some(rows))));
        }
        changes
    }

    fn all(&self) -> Vec<Change> {
        let services = self.world.service_ports();
        services.flat_map(|name| compile(&self.world, name)).map(|(name, rows)| (name, Some(rows))).collect()
    }
}

#[test]
fn events_faults_and_restarts_end_in_the_dump_of_a_fresh_start() {
    // SYNC-2, SYNC-11, SVC-17
    seeds("world", 150, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster { world: World::new(), sent: BTreeMap::new() };
        let mut node = Node::new(TIGHT, seed);
        node.tables.faults.per_mille = [0, 0, 50][seed as usize % 3];
        for _ in 0..40 {
            for _ in 0..rng.random_range(1..4) {
                cluster.world.apply(event(&mut rng));
            }
            if rng.random_ratio(1, 8) {
                node.tables.faults.crash_after = Some(node.tables.passed() + rng.random_range(0..40));
            }
            node.sync(cluster.changes());
            node.pass(Duration::from_millis(rng.random_range(0..80)));
            if node.tables.crashed() {
                node.restart(cluster.all());
            }
        }
        node.restart(cluster.all());
        node.converge();
        assert_eq!(canon(&node.tables.inner.mem.rows()), fresh(ports(cluster.all()), TIGHT));
        node.empty(cluster.all());
    });
}
