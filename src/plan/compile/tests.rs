use proptest::prelude::*;

use super::*;
use crate::model::addr::Protocol;
use crate::model::event::Event;
use crate::model::node::{HostFacts, Node};
use crate::model::slice::{Endpoint, EndpointSlice};
use crate::plan::fixture::*;

fn world(events: impl IntoIterator<Item = Event>) -> World {
    let mut world = World::new();
    world.apply(host_is(host()));
    events.into_iter().for_each(|event| world.apply(event));
    world
}

fn rows_of(world: &World) -> Vec<(ServicePortName, PortRows)> {
    compile(world, &ObjectName::new("ns", "a"))
}

/// The backends of the only row, as `addr:port` with `c` and `l` for the sets they are in.
fn backends(world: &World) -> Vec<String> {
    let rows = rows_of(world);
    assert_eq!(rows.len(), 1);
    let word = |b: &BackendWant| {
        let sets = [(b.in_cluster, "c"), (b.in_local, "l")];
        let sets: String = sets.iter().filter(|(is, _)| *is).map(|(_, letter)| *letter).collect();
        format!("{}:{} {sets}", b.addr, b.port)
    };
    rows[0].1.backends.iter().map(word).collect()
}

#[test]
fn backends_are_the_union_of_all_slices_sorted_and_each_once() {
    // EP-11, EP-13
    let world = world([
        put(service("a", "172.30.0.1")),
        put_slice(slice("a", "2", vec![endpoint("10.0.0.9", "node-b"), endpoint("10.0.0.1", "node-a")])),
        put_slice(slice("a", "1", vec![endpoint("10.0.0.1", "node-a"), endpoint("10.0.0.5", "node-b")])),
    ]);
    assert_eq!(backends(&world), ["10.0.0.1:8080 cl", "10.0.0.5:8080 c", "10.0.0.9:8080 c"]);
}

#[test]
fn one_address_with_two_ports_is_two_backends() {
    // EP-5, EP-11
    let other_port = EndpointSlice {
        ports: vec![SlicePort { name: "p".into(), protocol: Protocol::Tcp, port: 9090 }],
        ..slice("a", "2", vec![endpoint("10.0.0.1", "node-b")])
    };
    let world = world([
        put(service("a", "172.30.0.1")),
        put_slice(slice("a", "1", vec![endpoint("10.0.0.1", "node-b")])),
        put_slice(other_port),
    ]);
    assert_eq!(backends(&world), ["10.0.0.1:8080 c", "10.0.0.1:9090 c"]);
}

#[test]
fn what_runs_replaces_what_terminates_in_either_order() {
    // EP-12
    for (first, second) in [("1", "2"), ("2", "1")] {
        let world = world([
            put(service("a", "172.30.0.1")),
            put_slice(slice("a", first, vec![draining("10.0.0.1", "node-a")])),
            put_slice(slice("a", second, vec![endpoint("10.0.0.1", "node-b")])),
        ]);
        assert_eq!(backends(&world), ["10.0.0.1:8080 c"]);
        assert!(rows_of(&world)[0].1.rules[0].iter().any(|rule| rule == Rule::Ep12));
    }
}

#[test]
fn of_two_running_entries_the_ready_one_wins_then_the_local_one_then_the_slice_name() {
    // EP-12
    let unready = Endpoint { ready: false, ..endpoint("10.0.0.1", "node-a") };
    let pick = |slices: [(&str, Endpoint); 2]| {
        let puts = slices.map(|(name, endpoint)| put_slice(slice("a", name, vec![endpoint])));
        let world = world(std::iter::once(put(service("a", "172.30.0.1"))).chain(puts));
        let rows = rows_of(&world);
        rows[0].1.backends[0].node.as_deref().map(str::to_owned).unwrap()
    };
    assert_eq!(pick([("1", unready), ("2", endpoint("10.0.0.1", "node-b"))]), "node-b");
    assert_eq!(
        pick([("1", endpoint("10.0.0.1", "node-b")), ("2", endpoint("10.0.0.1", "node-a"))]),
        "node-a"
    );
    assert_eq!(
        pick([("1", endpoint("10.0.0.1", "node-c")), ("2", endpoint("10.0.0.1", "node-b"))]),
        "node-c"
    );
}

#[test]
fn ports_match_by_name_and_protocol_and_the_number_is_the_slices() {
    // EP-4, EP-5, SVC-11
    let with_port = |name: &str, protocol| EndpointSlice {
        ports: vec![SlicePort { name: name.into(), protocol, port: 8080 }],
        ..slice("a", "1", vec![endpoint("10.0.0.1", "node-b")])
    };
    for (name, protocol, matches) in
        [("p", Protocol::Tcp, true), ("http", Protocol::Tcp, false), ("p", Protocol::Udp, false)]
    {
        let world = world([put(service("a", "172.30.0.1")), put_slice(with_port(name, protocol))]);
        assert_eq!(backends(&world).len(), usize::from(matches));
        let told = rows_of(&world)[0].1.rules[0].iter().any(|rule| rule == Rule::Ep4);
        assert_eq!(told, !matches);
    }
}

#[test]
fn a_dual_stack_service_is_two_that_share_nothing() {
    // SVC-6, SVC-7
    let dual = Service {
        cluster_ips: vec!["fd00::1".into(), "172.30.0.1".into()],
        ip_families: vec![Family::V6, Family::V4],
        ..service("a", "fd00::1")
    };
    let world = world([put(dual), put_slice(slice("a", "6", vec![endpoint("fd00:10::1", "node-b")]))]);
    let rows = rows_of(&world);
    let shape: Vec<_> = rows.iter().map(|(name, rows)| (name.family, rows.backends.len())).collect();
    assert_eq!(shape, [(Family::V4, 0), (Family::V6, 1)]);
    assert!(!rows[0].1.has_any && rows[1].1.has_any);
    let active = (FrontendKey::Active { addr: ip("fd00::1") }, FrontendKind::ClusterIp);
    assert!(rows[1].1.frontends.contains(&active));
}

#[test]
fn the_loser_of_a_frontend_keeps_its_other_rows() {
    // SVC-17
    let old = Service { created: Some(1), ..service("old", "172.30.0.1") };
    let world = world([put(service("a", "172.30.0.1")), put(old)]);
    let rows = rows_of(&world);
    assert_eq!(
        rows[0].1.frontends,
        [(FrontendKey::Active { addr: ip("172.30.0.1") }, FrontendKind::ClusterIp)]
    );
}

#[test]
fn a_port_given_twice_is_one_row() {
    let ports = [80, 81].map(|port| service_port("p", Protocol::Tcp, port)).to_vec();
    let world = world([put(Service { ports, ..service("a", "172.30.0.1") })]);
    let rows = rows_of(&world);
    assert_eq!(rows.len(), 1);
    let key = FrontendKey::Port { addr: ip("172.30.0.1"), port: 81, protocol: Protocol::Tcp };
    assert!(rows[0].1.frontends.contains(&(key, FrontendKind::ClusterIp)));
}

#[test]
fn policies_are_those_of_the_service() {
    // POL-1, POL-3, AFF-3
    let policy = |service: Service| rows_of(&world([put(service)]))[0].1.policy;
    let plain = service("a", "172.30.0.1");
    assert_eq!(policy(plain.clone()), Policy { used: true, ..Policy::default() });
    let local = Service { internal_local: true, external_local: true, ..plain.clone() };
    assert_eq!(policy(local), Policy { used: true, internal_local: true, ..Policy::default() });
    let sticky = Service { affinity_seconds: Some(10), ..plain };
    assert_eq!(policy(sticky), Policy { used: true, affinity_seconds: 10, ..Policy::default() });
}

#[test]
fn a_policy_changes_no_set() {
    let with = |service| {
        let endpoints = vec![endpoint("10.0.0.1", "node-a"), endpoint("10.0.0.2", "node-b")];
        world([put(service), put_slice(slice("a", "1", endpoints))])
    };
    let cluster = with(service("a", "172.30.0.1"));
    let local = with(Service { internal_local: true, ..service("a", "172.30.0.1") });
    assert_eq!(rows_of(&cluster)[0].1.backends, rows_of(&local)[0].1.backends);
    assert_ne!(rows_of(&cluster)[0].1.policy, rows_of(&local)[0].1.policy);
}

#[test]
fn the_node_rows_hold_what_verdicts_depend_on() {
    // UND-2, SNAT-8, TOP-12
    let mapped = vec!["::ffff:172.31.0.0/112".parse().unwrap(), "fd00:172::/112".parse().unwrap()];
    let node = Node {
        name: "node-a".into(),
        zone: Some("ignored".into()),
        addresses: vec![ip("192.168.0.2"), ip("2001:db8::1")],
        pod_cidrs: Vec::new(),
        deleting: false,
        taints: Vec::new(),
    };
    let world = world([Event::ServiceCidr("c".into(), mapped), Event::Node(Box::new(node))]);
    let rows = compile_node(&world);
    let texts: Vec<_> = rows.prefixes.iter().map(|p| format!("{:?} {}", p.class, p.net)).collect();
    assert_eq!(
        texts,
        [
            "ServiceCidr 172.31.0.0/16",
            "ServiceCidr fd00:172::/112",
            "NodeAddress 192.168.0.2/32",
            "NodeAddress 2001:db8::1/128",
            "LocalDetector 10.0.0.0/8"
        ]
    );
    assert_eq!((&*rows.node, &*rows.zone), ("node-a", "zone-a"));
    assert_eq!(rows.local_detector, [true, false]);
}

/// Any of a few events about a few names, so that they meet often.
fn any_event() -> impl Strategy<Value = Event> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let address = prop::sample::select(vec!["172.30.0.1", "172.30.0.2", "None"]);
    let created = prop::option::of(0..2i64);
    let a_service = (name.clone(), address, created, any::<bool>()).prop_map(|(name, ip, created, local)| {
        put(Service { created, internal_local: local, ..service(name, ip) })
    });
    let an_endpoint = (1..5u8, prop::sample::select(vec!["node-a", "node-b"]), any::<[bool; 3]>());
    let an_endpoint = an_endpoint.prop_map(|(n, node, [ready, serving, terminating])| Endpoint {
        ready,
        serving,
        terminating,
        zone_hints: if serving { Box::new(["zone-a".into()]) } else { Box::default() },
        ..endpoint(&format!("10.0.0.{n}"), node)
    });
    let slice_name = prop::sample::select(vec!["x", "y", "z"]);
    let a_slice = (
        name.clone(),
        slice_name.clone(),
        prop::collection::vec(an_endpoint, 0..4),
        prop::bool::weighted(0.1),
    );
    let a_slice = a_slice.prop_map(|(service, name, endpoints, headless)| {
        put_slice(EndpointSlice { headless, ..slice(service, name, endpoints) })
    });
    let a_zone = prop::sample::select(vec![None, Some("zone-a"), Some("zone-b")]);
    let facts = a_zone.prop_map(|zone| host_is(HostFacts { zone: zone.map(Into::into), ..host() }));
    prop_oneof![
        4 => a_service,
        6 => a_slice,
        1 => facts,
        1 => name.prop_map(|name| Event::ServiceGone(ObjectName::new("ns", name))),
        1 => slice_name.prop_map(|name| Event::SliceGone(ObjectName::new("ns", name))),
    ]
}

/// What an event is about: the last one about a thing decides.
fn subject(event: &Event) -> (u8, ObjectName) {
    match event {
        Event::Service(service) => (0, service.name.clone()),
        Event::ServiceGone(name) => (0, name.clone()),
        Event::Slice(slice) => (1, slice.name.clone()),
        Event::SliceGone(name) => (1, name.clone()),
        _ => (2, ObjectName::new("", "")),
    }
}

fn everything(world: &World) -> (Vec<(ServicePortName, PortRows)>, NodeRows) {
    let services = world.service_ports().flat_map(|service| compile(world, service)).collect();
    (services, compile_node(world))
}

proptest! {
    /// Only what was said last counts, not the order in which it came (EP-13, SVC-15), and a world
    /// kept up to date by its dirty set equals one that is compiled whole (SYNC-3).
    #[test]
    fn equal_worlds_give_equal_rows(
        events in prop::collection::vec(any_event(), 1..40),
        order in any::<prop::sample::Index>(),
        reversed: bool,
    ) {
        let mut one = World::new();
        let mut kept = std::collections::BTreeMap::new();
        for event in &events {
            one.apply(event.clone());
            for name in one.take_dirty().services {
                kept.insert(name.clone(), compile(&one, &name));
            }
        }
        let mut last = std::collections::BTreeMap::new();
        for event in &events {
            last.insert(subject(event), event.clone());
        }
        let mut last: Vec<_> = last.into_values().collect();
        let at = order.index(last.len());
        last.rotate_left(at);
        if reversed {
            last.reverse();
        }
        let mut other = World::new();
        last.into_iter().for_each(|event| other.apply(event));
        prop_assert_eq!(everything(&one), everything(&other));
        let kept: Vec<_> = kept.into_values().flatten().collect();
        prop_assert_eq!(&kept, &everything(&one).0);
    }
}
