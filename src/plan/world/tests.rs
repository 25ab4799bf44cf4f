use super::*;
use crate::model::addr::Protocol;
use crate::plan::compile::{compile, compile_node};
use crate::plan::fixture::*;
use crate::plan::table::{Prefix, PrefixClass};

fn names(dirty: &Dirty) -> Vec<String> {
    dirty.services.iter().map(|name| name.name.to_string()).collect()
}

/// Applies events and says which Services became dirty.
fn after(world: &mut World, events: impl IntoIterator<Item = Event>) -> Vec<String> {
    events.into_iter().for_each(|event| world.apply(event));
    names(&world.take_dirty())
}

fn node(zone: &str) -> Node {
    Node {
        name: "node-a".into(),
        zone: Some(zone.into()),
        addresses: vec![ip("192.168.0.2")],
        pod_cidrs: Vec::new(),
        deleting: false,
        taints: Vec::new(),
    }
}

#[test]
fn what_is_known_already_changes_nothing() {
    // SVC-15, EP-15, SYNC-14
    let mut world = World::new();
    let events = || {
        [
            put(service("a", "172.30.0.1")),
            put_slice(slice("a", "a-1", vec![endpoint("10.0.0.1", "node-a")])),
            Event::Node(Box::new(node("zone-a"))),
            Event::ServiceCidr("kubernetes".into(), vec!["172.30.0.0/16".parse().unwrap()]),
            host_is(host()),
        ]
    };
    events().into_iter().for_each(|event| world.apply(event));
    assert!(!world.take_dirty().is_empty());
    events().into_iter().for_each(|event| world.apply(event));
    assert_eq!(world.take_dirty(), Dirty::default());
}

#[test]
fn one_change_concerns_one_service() {
    // SYNC-3
    let mut world = World::new();
    for n in 0..100 {
        world.apply(put(service(&format!("s{n}"), &format!("172.30.0.{n}"))));
        world.apply(put_slice(slice(&format!("s{n}"), &format!("s{n}-1"), vec![endpoint("10.0.0.1", "n")])));
    }
    world.take_dirty();
    let changed = put_slice(slice("s7", "s7-1", vec![endpoint("10.0.0.2", "n")]));
    assert_eq!(after(&mut world, [changed]), ["s7"]);
    assert_eq!(after(&mut world, [Event::SliceGone(ObjectName::new("ns", "s9-1"))]), ["s9"]);
    assert_eq!(after(&mut world, [Event::ServiceGone(ObjectName::new("ns", "s9"))]), ["s9"]);
    assert_eq!(after(&mut world, [Event::ServiceGone(ObjectName::new("ns", "s9"))]), [""; 0]);
}

#[test]
fn slices_before_their_service_are_kept_and_wake_nobody() {
    // EP-17
    let mut world = World::new();
    let early = put_slice(slice("a", "a-1", vec![endpoint("10.0.0.1", "node-a")]));
    assert_eq!(after(&mut world, [early]), [""; 0]);
    assert_eq!(world.service_ports().count(), 0);
    assert_eq!(after(&mut world, [put(service("a", "172.30.0.1"))]), ["a"]);
    assert_eq!(compile(&world, &ObjectName::new("ns", "a"))[0].1.backends.len(), 1);
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    // EP-1, EP-16
    let mut world = World::new();
    let moved = |to| put_slice(slice(to, "x", vec![endpoint("10.0.0.1", "node-a")]));
    after(&mut world, [put(service("a", "172.30.0.1")), put(service("b", "172.30.0.2")), moved("a")]);
    assert_eq!(after(&mut world, [moved("b")]), ["a", "b"]);
    let count = |name| compile(&world, &ObjectName::new("ns", name))[0].1.backends.len();
    assert_eq!((count("a"), count("b")), (0, 1));
}

#[test]
fn a_slice_that_becomes_headless_is_gone() {
    // SVC-4
    let mut world = World::new();
    let with = slice("a", "a-1", vec![endpoint("10.0.0.1", "node-a")]);
    after(&mut world, [put(service("a", "172.30.0.1")), put_slice(with.clone())]);
    assert_eq!(after(&mut world, [put_slice(EndpointSlice { headless: true, ..with })]), ["a"]);
    assert!(compile(&world, &ObjectName::new("ns", "a"))[0].1.backends.is_empty());
}

#[test]
fn a_service_of_another_proxy_is_gone_until_it_comes_back() {
    // SVC-1, SVC-2, SVC-3, SVC-5
    let mut world = World::new();
    let ours = service("a", "172.30.0.1");
    after(&mut world, [put(ours.clone())]);
    let theirs = [
        Service { other_proxy: true, ..ours.clone() },
        Service { kind: crate::model::service::ServiceKind::ExternalName, ..ours.clone() },
        Service { cluster_ip: "None".into(), ..ours.clone() },
    ];
    for service in theirs {
        assert_eq!(after(&mut world, [put(service)]), ["a"]);
        assert!(compile(&world, &ours.name).is_empty());
        assert_eq!(after(&mut world, [put(ours.clone())]), ["a"]);
        assert!(!compile(&world, &ours.name).is_empty());
    }
}

#[test]
fn state_of_a_service_is_dropped_with_its_last_object() {
    // EP-21
    let mut world = World::new();
    for round in 0..2 {
        world.apply(put(service("a", "172.30.0.1")));
        world.apply(put_slice(slice("a", "a-1", vec![endpoint("10.0.0.1", "node-a")])));
        let (service, slice) =
            (Event::ServiceGone(ObjectName::new("ns", "a")), Event::SliceGone(ObjectName::new("ns", "a-1")));
        let order = if round == 0 { [service, slice] } else { [slice, service] };
        order.into_iter().for_each(|event| world.apply(event));
        assert!(world.entries.is_empty() && world.slice_owner.is_empty());
    }
}

#[test]
fn a_changed_zone_or_name_concerns_every_service_with_endpoints() {
    // TOP-12, EP-9
    let mut world = World::new();
    let facts = || HostFacts { zone: None, ..host() };
    after(&mut world, [host_is(facts()), put(service("a", "172.30.0.1")), put(service("b", "172.30.0.2"))]);
    after(&mut world, [put_slice(slice("a", "a-1", vec![endpoint("10.0.0.1", "node-a")]))]);
    assert_eq!(after(&mut world, [Event::Node(Box::new(node("zone-b")))]), ["a"]);
    assert_eq!(&*compile_node(&world).zone, "zone-b");
    let tainted = Node { taints: vec!["t".into()], ..node("zone-b") };
    assert_eq!(after(&mut world, [Event::Node(Box::new(tainted))]), [""; 0]);
    let other = Node { name: "node-b".into(), ..node("zone-c") };
    world.apply(Event::Node(Box::new(other)));
    assert!(world.take_dirty().is_empty());
    assert_eq!(after(&mut world, [Event::NodeGone("node-a".into())]), ["a"]);
    let renamed = HostFacts { node_name: "node-b".into(), ..facts() };
    assert_eq!(after(&mut world, [host_is(renamed)]), ["a"]);
    assert_eq!(&*compile_node(&world).zone, "zone-c");
}

#[test]
fn a_cluster_ip_that_an_interface_holds_is_left_to_it() {
    // DEC-5
    let mut world = World::new();
    let held =
        |ips: &[&str]| HostFacts { held: ips.iter().map(|ip| ip.parse().unwrap()).collect(), ..host() };
    let frontends = |world: &World| compile(world, &ObjectName::new("ns", "a"))[0].1.frontends.len();
    let prefixes = |world: &World| {
        let prefixes = compile_node(world).prefixes.into_iter();
        let held = prefixes.filter(|prefix| prefix.class == PrefixClass::Held);
        held.map(|prefix| prefix.net.to_string()).collect::<Vec<_>>()
    };
    after(&mut world, [host_is(host()), put(service("a", "172.30.0.1")), put(service("b", "172.30.0.2"))]);
    assert_eq!((frontends(&world), prefixes(&world)), (2, vec![]));
    // The node's own address and a ClusterIP; the first is no ClusterIP and concerns nobody.
    assert_eq!(after(&mut world, [host_is(held(&["192.168.0.2", "172.30.0.1"]))]), ["a"]);
    assert_eq!((frontends(&world), prefixes(&world)), (0, vec!["172.30.0.1/32".to_owned()]));
    assert_eq!(compile(&world, &ObjectName::new("ns", "b"))[0].1.frontends.len(), 2);
    // A Service that comes to an address that is held.
    world.apply(Event::ServiceGone(ObjectName::new("ns", "a")));
    assert!(world.take_dirty().node);
    assert_eq!(prefixes(&world), [""; 0]);
    world.apply(put(service("a", "172.30.0.1")));
    assert!(world.take_dirty().node);
    assert_eq!((frontends(&world), prefixes(&world)), (0, vec!["172.30.0.1/32".to_owned()]));
    // A node is not called by what it holds for somebody else.
    let all = HostFacts { addresses: vec!["172.30.0.1".parse().unwrap()], ..held(&["172.30.0.1"]) };
    world.apply(host_is(all));
    let is_node = |prefix: &Prefix| prefix.class == PrefixClass::NodeAddress;
    assert!(!compile_node(&world).prefixes.iter().any(is_node));
    world.take_dirty();
    assert_eq!(after(&mut world, [host_is(host())]), ["a"]);
    assert_eq!((frontends(&world), prefixes(&world)), (2, vec![]));
}

#[test]
fn the_flag_wins_over_the_label() {
    // TOP-12
    let mut world = World::new();
    world.apply(Event::Node(Box::new(node("zone-b"))));
    world.apply(host_is(host()));
    assert_eq!(&*world.here().zone, "zone-a");
    world.apply(host_is(HostFacts { zone: Some("".into()), ..host() }));
    assert_eq!(&*world.here().zone, "zone-b");
}

#[test]
fn the_loser_of_a_frontend_gets_it_when_the_winner_goes() {
    // SVC-17
    let mut world = World::new();
    let claims = |name, created| Service { created: Some(created), ..service(name, "172.30.0.1") };
    let owner = |world: &World| {
        let owned = world.service_ports().filter(|name| {
            let rows = compile(world, name);
            rows[0].1.frontends.iter().any(|(key, _)| matches!(key, FrontendKey::Port { .. }))
        });
        owned.map(|name| name.name.to_string()).collect::<Vec<_>>()
    };
    after(&mut world, [put(claims("young", 2))]);
    assert_eq!(after(&mut world, [put(claims("old", 1))]), ["old", "young"]);
    assert_eq!(owner(&world), ["old"]);
    assert_eq!(world.conflicts().count(), 1);
    let elsewhere = Service { created: Some(1), ..service("old", "172.30.0.9") };
    assert_eq!(after(&mut world, [put(elsewhere)]), ["old", "young"]);
    assert_eq!(owner(&world), ["old", "young"]);
    after(&mut world, [put(claims("old", 1))]);
    assert_eq!(after(&mut world, [Event::ServiceGone(ObjectName::new("ns", "old"))]), ["old", "young"]);
    assert_eq!(owner(&world), ["young"]);
    assert_eq!(world.conflicts().count(), 0);
}

#[test]
fn other_protocols_of_one_port_do_not_compete() {
    // SVC-8
    let mut world = World::new();
    let udp = Service { ports: vec![service_port("p", Protocol::Udp, 80)], ..service("b", "172.30.0.1") };
    after(&mut world, [put(service("a", "172.30.0.1")), put(udp)]);
    assert_eq!(world.conflicts().count(), 0);
}
