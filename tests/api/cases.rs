//! What an API server and the source must agree on, whichever server it is: each case is run before the
//! scripted server and before the real one.

use beeline::sandbox::api_server::Kind;
use serde_json::{Value, json};

use super::stage::{NODE, Server, Stage, population, service, slice};

/// Names the cases, each a function of a server that holds nothing yet, for those who run them.
macro_rules! cases {
    ($macro:ident) => {
        $macro! {
            first_lists_are_complete_before_anything_is_programmed,
            changes_arrive_as_they_happen,
            a_service_changes_its_type,
            labels_take_objects_away_and_bring_them_back,
            what_changes_no_row_writes_none,
            a_dropped_watch_goes_on_where_it_ended,
            what_was_deleted_while_nobody_watched_goes_with_the_next_list,
            lists_come_in_pages_where_they_are_not_streamed,
            only_this_node_is_followed_and_its_zone_is_live,
            thousands_of_services_come_and_go,
        }
    };
}
pub(crate) use cases;

/// Changes of all sorts to what [`population`] made.
pub(crate) fn change(server: &impl Server, from: u32) {
    server.put(service(from, 81));
    server.put(slice(from + 1, 5));
    server.delete(Kind::Service, "ns", &format!("s{}", from + 2));
    server.delete(Kind::EndpointSlice, "ns", &format!("s{}-1", from + 3));
    server.put(service(from + 100, 80));
    server.put(slice(from + 100, 2));
    server.put(of_another_proxy(from + 4));
    server.put(headless(from + 5));
}

/// A Service that another proxy serves (SVC-2).
fn of_another_proxy(n: u32) -> Value {
    let mut service = service(n, 80);
    service["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": ""});
    service
}

/// A slice of a headless Service (SVC-4).
fn headless(n: u32) -> Value {
    let mut slice = slice(n, 3);
    slice["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    slice
}

fn follow(server: &impl Server, services: u32) -> Stage {
    server.put_all(population(services));
    let mut stage = Stage::new(server);
    stage.until_equal(server);
    stage
}

pub(crate) fn first_lists_are_complete_before_anything_is_programmed(server: &mut impl Server) {
    // SYNC-1
    server.put_all(population(20));
    let mut stage = Stage::new(server);
    stage.until("synced", |stage| stage.source.is_synced());
    assert_eq!(stage.heard.iter().filter(|word| *word == "Synced").count(), 1);
    assert!(stage.heard.iter().all(|word| !word.starts_with('-')), "{:?}", stage.heard);
    let synced = stage.heard.iter().position(|word| word == "Synced").unwrap();
    let count = |what: &str| stage.heard[..synced].iter().filter(|word| word.starts_with(what)).count();
    let counts = [count("Service ns/"), count("Slice ns/"), count("Node "), count("ServiceCIDR it")];
    assert_eq!(counts, [20, 20, 1, 1], "{:?}", stage.heard);
    stage.until_equal(server);
    assert!(stage.problems().is_empty(), "{:?}", stage.problems());
}

pub(crate) fn changes_arrive_as_they_happen(server: &mut impl Server) {
    let mut stage = follow(server, 10);
    change(server, 0);
    stage.until_equal(server);
    server.put(service(4, 80));
    server.put(slice(5, 3));
    stage.until_equal(server);
    assert!(stage.problems().is_empty(), "{:?}", stage.problems());
}

pub(crate) fn a_service_changes_its_type(server: &mut impl Server) {
    // SVC-5 and on: what a type lacks goes with it, and comes back
    let mut stage = follow(server, 3);
    let plain = stage.dump();
    // Each step has a port of its own, so that no step looks like the one before.
    let of_type = |port: u16, kind: &str, more: Value| {
        let mut service = service(1, port);
        service["spec"]["type"] = kind.into();
        service["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service
    };
    let mut node_port = of_type(81, "NodePort", json!({}));
    node_port["spec"]["ports"][0]["nodePort"] = 30_080.into();
    let mut balancer =
        of_type(82, "LoadBalancer", json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 30_500}));
    balancer["spec"]["ports"][0]["nodePort"] = 30_081.into();
    let external = json!({
        "kind": "Service", "metadata": {"namespace": "ns", "name": "s1"},
        "spec": {"type": "ExternalName", "externalName": "example.org", "ports": [{"name": "http", "port": 80}]}
    });
    let (mut seen, steps) = (vec![plain.clone()], [node_port, balancer, external, service(1, 80)]);
    for step in steps {
        server.put(step);
        stage.until_equal(server);
        seen.push(stage.dump());
    }
    assert_eq!(seen[4], plain, "back where it was");
    assert!(!seen[3].contains("ns/s1"), "an ExternalName is none of ours: {}", seen[3]);
    assert!(seen[1] != plain && seen[1] != seen[2], "each step is in the tables");
    // Without a ClusterIP it is headless, which nobody may become in one step.
    server.delete(Kind::Service, "ns", "s1");
    let mut none = service(1, 80);
    none["spec"]["clusterIP"] = "None".into();
    server.put(none);
    stage.until_equal(server);
    assert!(!stage.dump().contains("ns/s1"));
    assert!(stage.problems().is_empty(), "{:?}", stage.problems());
}

pub(crate) fn labels_take_objects_away_and_bring_them_back(server: &mut impl Server) {
    // SVC-2, SVC-4: gaining the label is a deletion
    let mut stage = follow(server, 3);
    let whole = stage.dump();
    server.put(of_another_proxy(1));
    server.put(headless(2));
    stage.until("gone", |stage| {
        ["-Service ns/s1", "-Slice ns/s2-1"].iter().all(|word| stage.heard.iter().any(|heard| heard == word))
    });
    stage.until_equal(server);
    assert_ne!(stage.dump(), whole);
    server.put(service(1, 80));
    server.put(slice(2, 3));
    stage.until_equal(server);
    assert_eq!(stage.dump(), whole);
}

pub(crate) fn what_changes_no_row_writes_none(server: &mut impl Server) {
    // SYNC-14
    let mut stage = follow(server, 10);
    let written = stage.written;
    for n in 0..10 {
        let (mut service, mut slice) = (service(n, 80), slice(n, 3));
        service["metadata"]["annotations"] = json!({"note": "new"});
        slice["metadata"]["labels"]["note"] = "new".into();
        server.put(service);
        server.put(slice);
    }
    server.put(service(11, 80));
    stage.until_equal(server);
    let one = stage.written;
    assert_eq!(one, written + 1, "the one that is new");
    server.stop();
    server.compact();
    server.restart();
    server.put(service(12, 80));
    stage.until_equal(server);
    assert_eq!(stage.written, one + 1, "a relist of what is known writes nothing");
}

pub(crate) fn a_dropped_watch_goes_on_where_it_ended(server: &mut impl Server) {
    // SYNC-13
    let mut stage = follow(server, 10);
    server.stop();
    change(server, 0);
    stage.until("said", |stage| stage.complains("the API server cannot be reached"));
    assert_eq!(stage.problems().len(), 1, "one message, not one for each kind: {:?}", stage.problems());
    server.restart();
    stage.until_equal(server);
    stage.until("resolved", |stage| stage.problems().is_empty());
}

pub(crate) fn what_was_deleted_while_nobody_watched_goes_with_the_next_list(server: &mut impl Server) {
    // SYNC-11, and 410 as an ERROR event
    let mut stage = follow(server, 10);
    server.stop();
    change(server, 0);
    server.compact();
    server.restart();
    stage.until_equal(server);
    assert!(stage.heard.contains(&"-Service ns/s2".to_owned()), "{:?}", stage.heard);
    stage.until("resolved", |stage| stage.problems().is_empty());
}

pub(crate) fn lists_come_in_pages_where_they_are_not_streamed(server: &mut impl Server) {
    // CFG-7
    server.stop();
    server.stream_lists(false);
    server.restart();
    // More than a page of 500.
    let mut stage = follow(server, 600);
    assert!(stage.problems().is_empty(), "{:?}", stage.problems());
    server.stop();
    change(server, 0);
    server.compact();
    server.restart();
    stage.until_equal(server);
    server.stop();
    server.stream_lists(true);
    server.restart();
    change(server, 10);
    stage.until_equal(server);
}

pub(crate) fn only_this_node_is_followed_and_its_zone_is_live(server: &mut impl Server) {
    // TOP-12, EP-10
    let mut stage = follow(server, 2);
    let node = |name: &str, zone: &str| json!({"kind": "Node", "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}});
    server.put(node("node-1", "elsewhere"));
    server.put(node(NODE, "zone-7"));
    stage.until("the zone", |stage| stage.dump().contains("zone-7"));
    stage.until_equal(server);
    assert!(!stage.heard.contains(&"Node node-1".to_owned()), "{:?}", stage.heard);
    server.delete(Kind::Node, "", NODE);
    stage.until("said", |stage| stage.complains("the cluster has no Node 'kc-n1'"));
}

pub(crate) fn thousands_of_services_come_and_go(server: &mut impl Server) {
    let mut stage = follow(server, 3000);
    server.stop();
    let names =
        (0..1500).flat_map(|n| [(Kind::Service, format!("s{n}")), (Kind::EndpointSlice, format!("s{n}-1"))]);
    server.delete_all(names.collect());
    server.compact();
    server.restart();
    stage.until_equal(server);
    let names = (1500..3000).map(|n| (Kind::Service, format!("s{n}")));
    server.delete_all(names.collect());
    stage.until_equal(server);
    assert!(!stage.dump().contains("ns/s"), "{}", stage.dump());
}
