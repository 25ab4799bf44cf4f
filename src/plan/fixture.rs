//! Objects and rows for the tests of this room, in a few words each.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::compile::{BackendWant, NodeRows, PortRows, compile, compile_node};
use super::table::{
    BackendId, BackendRow, BackendState, Frontend, FrontendKey, Lookup, PrefixClass, ServiceId, ServiceName,
    ServiceRow, SetWord, Settings, Which,
};
use super::world::World;
use crate::model::addr::{Family, Protocol};
use crate::model::event::Event;
use crate::model::names::{ObjectName, ServicePortName};
use crate::model::node::HostFacts;
use crate::model::service::{Service, ServicePort};
use crate::model::slice::{Endpoint, EndpointSlice, SlicePort, Trigger};

/// An address that is known to parse.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `ns/NAME` with one TCP port `p` 80.
pub fn service(name: &str, cluster_ip: &str) -> Service {
    Service {
        name: ObjectName::new("ns", name),
        cluster_ip: cluster_ip.into(),
        ports: vec![service_port("p", Protocol::Tcp, 80)],
        ..Service::default()
    }
}

/// A port without a node port.
pub fn service_port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port: 0 }
}

/// A ready endpoint.
pub fn endpoint(addr: &str, node: &str) -> Endpoint {
    Endpoint {
        addr: ip(addr),
        node: Some(node.into()),
        zone: None,
        ready: true,
        serving: true,
        terminating: false,
        zone_hints: Box::default(),
        node_hints: Box::default(),
    }
}

/// An endpoint that drains: not ready, serving, terminating.
pub fn draining(addr: &str, node: &str) -> Endpoint {
    Endpoint { ready: false, terminating: true, ..endpoint(addr, node) }
}

/// A slice of `ns/SERVICE` with one TCP port `p` 8080, of the family of its first endpoint.
pub fn slice(service: &str, name: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        name: ObjectName::new("ns", name),
        service: ObjectName::new("ns", service),
        family: endpoints.first().map_or(Family::V4, |endpoint| Family::of(endpoint.addr)),
        ports: vec![SlicePort { name: "p".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints,
        headless: false,
        triggered: Trigger::default(),
    }
}

/// This node: `node-a`, 192.168.0.2, with the local detector 10.0.0.0/8.
pub fn host() -> HostFacts {
    HostFacts {
        node_name: "node-a".into(),
        zone: Some("zone-a".into()),
        addresses: vec![ip("192.168.0.2")],
        local_detector: vec!["10.0.0.0/8".parse().unwrap()],
        masquerade_all: false,
        held: BTreeSet::new(),
    }
}

/// Shorthands for events.
pub fn put(service: Service) -> Event {
    Event::Service(Box::new(service))
}

/// Shorthands for events.
pub fn put_slice(slice: EndpointSlice) -> Event {
    Event::Slice(Box::new(slice))
}

/// Shorthands for events.
pub fn host_is(facts: HostFacts) -> Event {
    Event::Host(Box::new(facts))
}

/// The rows of a whole world, with ids counted up: what a table without history would hold.
#[derive(Default)]
pub struct Holder {
    frontends: HashMap<FrontendKey, Frontend>,
    services: Vec<(ServiceRow, ServiceName)>,
    slots: Vec<BackendId>,
    backends: Vec<BackendRow>,
    node: NodeRows,
}

impl Holder {
    /// Compiles everything.
    pub fn of(world: &World) -> Holder {
        let mut holder = Holder { node: compile_node(world), ..Holder::default() };
        for (name, rows) in world.service_ports().flat_map(|service| compile(world, service)) {
            holder.add(name, rows);
        }
        holder
    }

    fn add(&mut self, name: ServicePortName, rows: PortRows) {
        let service = ServiceId(self.services.len() as u32);
        for (key, kind) in &rows.frontends {
            let owner = matches!(key, FrontendKey::Port { .. }).then_some(service);
            self.frontends.insert(*key, Frontend { service: owner, kind: *kind });
        }
        let first = self.backends.len() as u32;
        let row = |want: &BackendWant| BackendRow {
            addr: want.addr,
            port: want.port,
            service,
            state: BackendState {
                generation: 1,
                in_cluster: want.in_cluster,
                in_local: want.in_local,
                serving: want.serving,
            },
        };
        self.backends.extend(rows.backends.iter().map(row));
        let sets = Which::ALL.map(|which| {
            let base = self.slots.len() as u32;
            let chosen = |(_, want): &(u32, &BackendWant)| match which {
                Which::Cluster => want.in_cluster,
                Which::Local => want.in_local,
            };
            let ids = (first..).zip(&rows.backends).filter(chosen).map(|(id, _)| BackendId(id));
            self.slots.extend(ids);
            SetWord { base, count: self.slots.len() as u32 - base, has_any: rows.has_any }
        });
        let row = ServiceRow { sets, policy: rows.policy };
        self.services.push((row, ServiceName { name, rules: rows.rules }));
    }
}

impl Lookup for Holder {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn service(&self, id: ServiceId) -> Option<ServiceRow> {
        self.services.get(id.0 as usize).map(|(row, _)| *row)
    }

    fn slots(&self, set: SetWord) -> Vec<BackendId> {
        self.slots[set.base as usize..][..set.count as usize].to_vec()
    }

    fn backend(&self, id: BackendId) -> Option<BackendRow> {
        self.backends.get(id.0 as usize).copied()
    }

    fn name(&self, id: ServiceId) -> Option<ServiceName> {
        self.services.get(id.0 as usize).map(|(_, name)| name.clone())
    }

    fn covers(&self, class: PrefixClass, addr: IpAddr) -> bool {
        self.node.prefixes.iter().any(|prefix| prefix.class == class && prefix.net.contains(&addr))
    }

    fn settings(&self) -> Settings {
        Settings {
            masquerade_all: self.node.masquerade_all,
            local_detector: self.node.local_detector,
            ..Settings::default()
        }
    }
}
