//! The reconciler on tables in memory, whole and faulty.

use std::time::Duration;

use super::*;
use crate::cluster::manifest::ManifestStore;
use crate::inspect::dump::canonical;
use crate::model::node::HostFacts;
use crate::plan::health::Check;
use crate::plan::mem::{CountingTables, Counts, Faults, FaultyTables, MemTables};
use crate::plan::table::Op;

const LIMITS: Limits = Limits { frontends: 256, services: 64, slots: 512, backends: 256, names: 128 };

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A Service with a slice of `backends` endpoints; its ClusterIP and their addresses are made from `n`.
fn manifest(n: u8, ports: &[&str], backends: u8) -> String {
    let port = |at: usize, name: &str| format!("{{name: {name}, port: {}}}", 80 + at);
    let list: Vec<_> = ports.iter().enumerate().map(|(at, name)| port(at, name)).collect();
    let endpoints: Vec<_> =
        (0..backends).map(|b| format!("{{addresses: [10.{n}.0.{b}], nodeName: node-a}}")).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\n\
         spec: {{clusterIP: 172.30.0.{n}, ports: [{ports}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: s{n}-1, labels: {{kubernetes.io/service-name: s{n}}}}}\n\
         addressType: IPv4\nports: [{ports}]\nendpoints: [{endpoints}]\n",
        ports = list.join(", "),
        endpoints = endpoints.join(", ")
    )
}

fn events(store: &mut ManifestStore, n: u8, ports: &[&str], backends: u8) -> Vec<Event> {
    store.update(&format!("s{n}.yaml"), &manifest(n, ports, backends)).events
}

fn reconciler<T: Tables>(tables: T, book: Book) -> Reconciler<T> {
    let mut world = World::new();
    world.apply(Event::Host(Box::new(HostFacts { node_name: "node-a".into(), ..HostFacts::default() })));
    let netns = vec![(7, NetnsClass::Host)];
    Reconciler::new(world, book, tables, Identity { netns, ..Identity::default() })
}

fn fresh<T: Tables>(tables: T) -> Reconciler<T> {
    let book = Book::new(tables.limits());
    reconciler(tables, book)
}

/// Does all that is due until nothing waits any more.
fn rest<T: Tables>(agent: &mut Reconciler<T>) {
    let mut rounds = 0;
    while let Some(due) = agent.wake {
        agent.maintain(due);
        rounds += 1;
        assert!(rounds < 100, "it never comes to rest");
    }
}

/// What a start on empty tables would make of the same Services.
fn dump_of_a_fresh_start(services: &[(u8, &[&str], u8)]) -> String {
    let mut store = ManifestStore::new();
    let mut agent = fresh(MemTables::new(LIMITS));
    let mut all: Vec<_> =
        services.iter().flat_map(|(n, ports, backends)| events(&mut store, *n, ports, *backends)).collect();
    all.push(Event::Synced);
    agent.step(all, at(0));
    canonical(&agent.tables().rows())
}

#[test]
fn nothing_is_written_or_removed_before_the_source_is_synced() {
    // SYNC-1, SYNC-11
    let mut store = ManifestStore::new();
    let mut first = fresh(MemTables::new(LIMITS));
    let mut start = events(&mut store, 1, &["a"], 2);
    start.extend(events(&mut store, 2, &["a"], 1));
    start.push(Event::Synced);
    assert!(first.step(start, at(0)).is_first);
    let rows = first.tables().rows();

    let tables = CountingTables::new(first.tables);
    let mut second = reconciler(tables, Book::recover(&rows, LIMITS));
    let mut store = ManifestStore::new();
    let outcome = second.step(events(&mut store, 1, &["a"], 2), at(10));
    assert!(!outcome.is_first && outcome.written.is_empty());
    assert_eq!(second.tables().take().rows(), 0, "not one write before the list is whole");

    let outcome = second.step(vec![Event::Synced], at(20));
    assert!(outcome.is_first);
    let gone: Vec<_> = outcome.written.iter().map(ToString::to_string).collect();
    assert_eq!(gone, ["default/s2:a"], "what is gone from the source goes now, and nothing else is touched");
    assert_eq!(canonical(&second.tables().inner.rows()), dump_of_a_fresh_start(&[(1, &["a"], 2)]));
}

#[test]
fn a_port_that_a_service_has_no_more_goes_and_the_others_stay() {
    let mut store = ManifestStore::new();
    let mut agent = fresh(MemTables::new(LIMITS));
    agent.step([events(&mut store, 1, &["a", "b"], 2), vec![Event::Synced]].concat(), at(0));
    assert_eq!(agent.service_ports(), 2);
    agent.step(events(&mut store, 1, &["a"], 2), at(1));
    assert_eq!(agent.service_ports(), 1);
    rest(&mut agent);
    assert_eq!(canonical(&agent.tables().rows()), dump_of_a_fresh_start(&[(1, &["a"], 2)]));
    agent.step(store.remove("s1.yaml").events, at(2000));
    rest(&mut agent);
    assert_eq!(canonical(&agent.tables().rows()), dump_of_a_fresh_start(&[]));
}

#[test]
fn equal_objects_touch_nothing_and_one_change_touches_one_service() {
    // SYNC-3, SYNC-14
    let mut store = ManifestStore::new();
    let mut agent = fresh(CountingTables::new(MemTables::new(LIMITS)));
    let mut start: Vec<_> = (1..20).flat_map(|n| events(&mut store, n, &["a"], 4)).collect();
    start.push(Event::Synced);
    agent.step(start, at(0));
    agent.tables().take();
    let again: Vec<_> = (1..20).flat_map(|n| events(&mut ManifestStore::new(), n, &["a"], 4)).collect();
    agent.step(again, at(1));
    assert_eq!(agent.tables().take(), Counts::default(), "a relist");
    agent.step(events(&mut store, 5, &["a"], 5), at(2));
    let counts = agent.tables().take();
    assert!(counts.rows() <= 12 && counts.calls_before_flip.unwrap_or(0) == 0, "{counts:?}");
}

#[test]
fn refused_writes_leave_other_services_alone_and_are_tried_again() {
    // SYNC-5
    for seed in 1..20 {
        let faults = Faults { per_mille: 300, seed, crash_after: None };
        let mut agent = fresh(FaultyTables::new(MemTables::new(LIMITS), faults));
        let mut store = ManifestStore::new();
        let mut start: Vec<_> = (1..10).flat_map(|n| events(&mut store, n, &["a"], 3)).collect();
        start.push(Event::Synced);
        let outcome = agent.step(start, at(0));
        assert!(!outcome.failed.is_empty() && !agent.pending().is_empty(), "seed {seed}");
        assert!(outcome.wake.is_some(), "seed {seed}: a retry is due some time");
        agent.tables().inner.audit().unwrap_or_else(|why| panic!("seed {seed}: {why}"));

        agent.tables().faults.per_mille = 0;
        rest(&mut agent);
        assert_eq!(agent.pending(), [], "seed {seed}");
        let services: Vec<_> = (1..10).map(|n| (n, &["a"][..], 3)).collect();
        assert_eq!(canonical(&agent.tables().inner.rows()), dump_of_a_fresh_start(&services), "seed {seed}");
    }
}

/// A load balancer with `externalTrafficPolicy: Local`; its endpoints on this node, and when they changed.
fn balancer(store: &mut ManifestStore, local: &[(&str, bool)], time: &str) -> Vec<Event> {
    let endpoint = |(ip, ready): &(&str, bool)| {
        format!("{{addresses: [{ip}], nodeName: node-a, conditions: {{ready: {ready}}}}}")
    };
    let endpoints: Vec<_> =
        local.iter().map(endpoint).chain(["{addresses: [10.9.9.9], nodeName: b}".into()]).collect();
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: lb}}\n\
         spec: {{type: LoadBalancer, clusterIP: 172.30.0.9, externalTrafficPolicy: Local, healthCheckNodePort: 30500,\
         \x20 internalTrafficPolicy: Local, ports: [{{name: a, port: 80, nodePort: 30080}}, {{name: b, port: 81}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: lb-1, labels: {{kubernetes.io/service-name: lb}},\
         \x20 annotations: {{endpoints.kubernetes.io/last-change-trigger-time: '{time}'}}}}\n\
         addressType: IPv4\nports: [{{name: a, port: 1}}, {{name: b, port: 2}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    );
    store.update("lb.yaml", &text).events
}

/// What follows the tables, of the balancer.
fn effect(outcome: &Outcome) -> Option<&Effect> {
    outcome.effects.iter().find(|(service, _)| &*service.name == "lb").map(|(_, effect)| effect)
}

#[test]
fn a_health_check_counts_distinct_local_ready_addresses() {
    // HC-1, HC-5
    let mut store = ManifestStore::new();
    let mut agent = fresh(MemTables::new(LIMITS));
    let two = [("10.1.0.1", true), ("10.1.0.2", true), ("10.1.0.3", false)];
    let outcome = agent.step([balancer(&mut store, &two, ""), vec![Event::Synced]].concat(), at(0));
    let checks = |outcome: &Outcome| effect(outcome).map(|effect| effect.checks);
    assert_eq!(checks(&outcome), Some([Some(Check { port: 30500, local: 2 }), None]));
    assert_eq!(effect(&outcome).unwrap().lacking, Lacking::default());
    let outcome = agent.step(balancer(&mut store, &[], ""), at(1));
    let outcome = if effect(&outcome).is_some() { outcome } else { agent.maintain(at(1000)) };
    assert_eq!(checks(&outcome), Some([Some(Check { port: 30500, local: 0 }), None]));
    let lacking = effect(&outcome).unwrap().lacking;
    assert_eq!(lacking, Lacking { internal: [2, 0], external: [1, 0] }, "MET-7");
    let mut outcome = agent.step(store.remove("lb.yaml").events, at(2000));
    while effect(&outcome).is_none() {
        outcome = agent.maintain(outcome.wake.unwrap());
    }
    assert_eq!(checks(&outcome), Some([None; 2]));
}

#[test]
fn what_follows_the_tables_waits_until_they_hold_it() {
    // HC-10, SYNC-7, MET-2
    let mut store = ManifestStore::new();
    let faults = Faults { per_mille: 0, seed: 1, crash_after: None };
    let mut agent = fresh(FaultyTables::new(MemTables::new(LIMITS), faults));
    agent.step([balancer(&mut store, &[], "2026-01-01T00:00:00Z"), vec![Event::Synced]].concat(), at(0));
    rest(&mut agent);
    assert_eq!(agent.is_behind(), [false; 2]);

    agent.tables().faults.per_mille = 1000;
    let outcome = agent.step(balancer(&mut store, &[("10.1.0.1", true)], "2026-01-01T00:00:05Z"), at(5000));
    assert_eq!(effect(&outcome), None, "nothing is in force");
    assert_eq!(outcome.touched, [true, false]);
    assert_eq!(agent.is_behind(), [true, false], "HLT-3");
    let outcome = agent.step(balancer(&mut store, &[("10.1.0.2", true)], "2026-01-01T00:00:06Z"), at(6000));
    assert_eq!(effect(&outcome), None);

    agent.tables().faults.per_mille = 0;
    let mut outcome = agent.maintain(at(60_000));
    while effect(&outcome).is_none() {
        outcome = agent.maintain(outcome.wake.expect("it goes on"));
    }
    let effect = effect(&outcome).unwrap();
    assert_eq!(effect.checks[0], Some(Check { port: 30500, local: 1 }));
    assert_eq!(effect.triggers, [], "a change whose sync failed is in no latency");
    rest(&mut agent);
    assert_eq!(agent.is_behind(), [false; 2]);
}

#[test]
fn a_slice_that_differs_in_its_time_alone_changes_nothing() {
    // SVC-16, EP-15
    let mut store = ManifestStore::new();
    let mut agent = fresh(CountingTables::new(MemTables::new(LIMITS)));
    agent.step([balancer(&mut store, &[], "2026-01-01T00:00:00Z"), vec![Event::Synced]].concat(), at(0));
    agent.tables().take();
    let again = balancer(&mut ManifestStore::new(), &[], "2026-01-01T00:00:09Z");
    assert!(!again.is_empty() && !agent.absorb(again));
    agent.sync(at(1));
    assert_eq!(agent.tables().take(), Counts::default());
}

#[test]
fn a_full_map_is_no_ill_health() {
    // HLT-3: it hurts what does not fit and nothing else
    let mut agent = fresh(MemTables::new(Limits { backends: 8, ..LIMITS }));
    let mut store = ManifestStore::new();
    agent.step([events(&mut store, 2, &["a"], 20), vec![Event::Synced]].concat(), at(0));
    assert_eq!(agent.pending().len(), 1);
    assert_eq!(agent.is_behind(), [false; 2]);
}

#[test]
fn a_full_map_hurts_what_does_not_fit_and_growth_helps() {
    let small = Limits { backends: 8, ..LIMITS };
    let mut agent = fresh(MemTables::new(small));
    let mut store = ManifestStore::new();
    let mut start = events(&mut store, 1, &["a"], 3);
    start.extend(events(&mut store, 2, &["a"], 20));
    start.push(Event::Synced);
    let outcome = agent.step(start, at(0));
    assert_eq!(agent.pending().len(), 1);
    assert!(matches!(agent.pending()[0].1, TableError::Full { .. }), "{:?}", agent.pending());
    let grow = outcome.grow.expect("a map that is full wants to grow");
    assert!(grow.backends > 23, "{grow:?}");
    agent.tables().set_limits(grow);
    agent.resized();
    agent.maintain(at(1));
    assert_eq!(agent.pending(), []);
    assert_eq!(canonical(&agent.tables().rows()), dump_of_a_fresh_start(&[(1, &["a"], 3), (2, &["a"], 20)]));
}

#[test]
fn tables_are_sized_for_the_world_they_are_made_for() {
    let mut store = ManifestStore::new();
    let mut world = World::new();
    let all = (1..20).flat_map(|n| events(&mut store, n, &["a", "b"], 50));
    all.for_each(|event| world.apply(event));
    let least = Limits { frontends: 8, services: 8, slots: 8, backends: 8, names: 8 };
    let limits = size_for(&world, least);
    let mut agent = fresh(MemTables::new(limits));
    agent.world = world;
    let outcome = agent.step(vec![Event::Synced], at(0));
    assert!(outcome.failed.is_empty() && outcome.grow.is_none(), "{limits:?} {outcome:?}");
    assert_eq!(size_for(&World::new(), LIMITS), LIMITS);
}

#[test]
fn an_audit_repairs_what_strangers_changed_and_moves_nothing_else() {
    // SYNC-6
    let mut store = ManifestStore::new();
    let mut agent = fresh(CountingTables::new(MemTables::new(LIMITS)));
    let mut start: Vec<_> = (1..4).flat_map(|n| events(&mut store, n, &["a"], 3)).collect();
    start.push(Event::Synced);
    agent.step(start, at(0));
    rest(&mut agent);
    let rows = agent.tables().inner.rows();
    assert!(agent.audit(&rows, at(500)).is_none(), "nothing is wrong");

    let (key, _) = rows.frontends[0];
    agent.tables().inner.apply(&Op::FrontendDelete(key)).unwrap();
    agent.tables().take();
    let found = agent.tables().inner.rows();
    let (damage, outcome) = agent.audit(&found, at(1000)).expect("something is wrong");
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert!(damage[0].starts_with("bl_frontends") && damage[0].ends_with("is missing"), "{damage:?}");
    assert!(outcome.failed.is_empty());
    rest(&mut agent);
    assert_eq!(agent.tables().inner.rows(), rows, "ids, slots and all");
    assert_eq!(agent.tables().take().rows(), 1, "one write");
}
