//! The book writes little, in an order that hides it, and finds its rows again.

use std::sync::Arc;
use std::time::Duration;

use beeline::model::addr::Protocol;
use beeline::plan::book::{Book, Changes, limits_for};
use beeline::plan::compile::{BackendWant, PortRows};
use beeline::plan::mem::{CountingTables, Counts, MemTables};
use beeline::plan::table::{
    BackendId, FrontendKey, Lookup, NetnsClass, Policy, Prefix, PrefixClass, ServiceId, Settings, Tables,
    port_key,
};

use crate::book_model::{LIMITS, canon, cluster, drain, fresh, name, pod, ports, ready, rows, vip};

const AT: fn(u64) -> Duration = Duration::from_millis;

fn small(n: u32, endpoints: &[u32]) -> PortRows {
    let node: Arc<str> = "node-0".into();
    rows(n, endpoints.iter().map(|pod| ready(*pod, &node)).collect())
}

/// A book with one Service of two endpoints, settled, and its tables.
fn one() -> (Book, CountingTables<MemTables>) {
    let mut tables = CountingTables::new(MemTables::new(LIMITS));
    let mut book = Book::new(LIMITS);
    book.sync(ports(vec![(name(1), Some(small(1, &[1, 2])))]), &mut tables, AT(0));
    tables.take();
    (book, tables)
}

/// What the change of that Service takes until nothing waits: first what `sync` wrote, then the rest.
fn change(book: &mut Book, tables: &mut CountingTables<MemTables>, want: Option<PortRows>) -> [Counts; 2] {
    let settled = book.sync(ports(vec![(name(1), want)]), tables, AT(1000));
    tables.inner.audit().unwrap();
    let now = tables.take();
    drain(book, tables, AT(1000), settled);
    [now, tables.take()]
}

#[test]
fn a_service_appears_changes_and_goes() {
    let (mut book, mut tables) = one();
    change(&mut book, &mut tables, Some(small(1, &[2, 3])));
    let want = ports(vec![(name(1), Some(small(1, &[2, 3])))]);
    assert_eq!(canon(&tables.inner.rows()), fresh(want, LIMITS));
    change(&mut book, &mut tables, None);
    assert_eq!(canon(&tables.inner.rows()), fresh(Changes::default(), LIMITS));
    assert_eq!(book.known().count(), 0);
    assert!(book.usage().iter().all(|(_, used, _)| *used == 0), "{:?}", book.usage());
}

#[test]
fn one_endpoint_among_10000_services_touches_a_handful_of_rows() {
    // SYNC-3
    let all = cluster(10_000, 10);
    let limits = limits_for(all.iter().filter_map(|(_, rows)| rows.as_ref()), 50, LIMITS);
    let mut tables = CountingTables::new(MemTables::new(limits));
    let mut book = Book::new(limits);
    book.sync(ports(all.clone()), &mut tables, AT(0));
    let loaded = tables.take();
    assert_eq!(loaded.quiesces, 0);
    assert!(loaded.batches < 250, "{loaded:?}");
    let (changed, mut want) = all[5000].clone();
    want.as_mut().unwrap().backends[3].addr = pod(900_000);
    let settled = book.sync(ports(vec![(changed, want.clone())]), &mut tables, AT(1));
    let counts = tables.take();
    assert_eq!((counts.calls, counts.calls_before_flip, counts.flips, counts.quiesces), (0, Some(0), 1, 0));
    // Backend, slots, set, the old backend's state, two endpoint rows.
    assert_eq!(counts.rows(), 6);
    drain(&mut book, &mut tables, AT(1), settled);
    assert_eq!(tables.take(), Counts { quiesces: 1, ..Counts::default() });
    // An endpoint on a node that no other is on: its name comes after the flip.
    want.as_mut().unwrap().backends[3].node = Some("node-new".into());
    want.as_mut().unwrap().backends.remove(0);
    book.sync(ports(vec![(name(5000), want)]), &mut tables, AT(2));
    let counts = tables.take();
    assert_eq!((counts.calls, counts.calls_before_flip, counts.quiesces), (1, Some(0), 0));
    assert_eq!(counts.rows(), 6);
}

#[test]
fn a_relist_of_equal_objects_touches_nothing() {
    // SYNC-14, SVC-16
    let changes = ports(cluster(100, 10));
    let mut tables = CountingTables::new(MemTables::new(LIMITS));
    let mut book = Book::new(LIMITS);
    book.sync(changes.clone(), &mut tables, AT(0));
    tables.take();
    let settled = book.sync(changes.clone(), &mut tables, AT(1));
    assert_eq!((tables.take(), settled.written.len()), (Counts::default(), 0));
    // SYNC-11
    let mut book = Book::recover(&tables.inner.rows(), LIMITS);
    let settled = book.sync(changes, &mut tables, AT(2));
    assert_eq!((settled.wake, settled.written.len()), (None, 0));
    assert_eq!(tables.take(), Counts::default());
}

#[test]
fn a_restart_keeps_every_id_and_waits_once_before_the_first_reuse() {
    // SYNC-11
    let (_, mut tables) = one();
    let before = tables.inner.rows();
    let mut book = Book::recover(&before, LIMITS);
    let [now, later] = change(&mut book, &mut tables, Some(small(1, &[1, 2, 3])));
    assert_eq!((now.quiesces, now.flips, later.flips), (1, 1, 0));
    let after = tables.inner.rows();
    assert_eq!(after.backends[..2], before.backends[..2]);
    assert_eq!(after.names, before.names);
    let [now, _] = change(&mut book, &mut tables, Some(small(1, &[1, 2, 3, 4])));
    assert_eq!((now.quiesces, now.calls), (0, 0));
}

#[test]
fn policies_and_affinity_are_one_store() {
    // SVC-15, AFF-6
    let (mut book, mut tables) = one();
    for policy in [
        Policy { affinity_seconds: 10800, used: true, ..Policy::default() },
        Policy { internal_local: true, external_local: true, used: true, ..Policy::default() },
    ] {
        let counts = change(&mut book, &mut tables, Some(PortRows { policy, ..small(1, &[1, 2]) }));
        assert_eq!(counts, [Counts { stores: 1, batches: 1, ..Counts::default() }, Counts::default()]);
        assert_eq!(tables.inner.service(ServiceId(0)).unwrap().policy, policy);
    }
}

#[test]
fn a_draining_endpoint_leaves_the_set_and_keeps_its_row() {
    // CT-4, DEC-2
    let (mut book, mut tables) = one();
    let before = tables.inner.rows();
    let mut want = small(1, &[1, 2]);
    let drains = &mut want.backends[0];
    *drains = BackendWant { in_cluster: false, ready: false, terminating: true, ..drains.clone() };
    let [now, later] = change(&mut book, &mut tables, Some(want));
    // Slots, set, state, endpoint row.
    assert_eq!((now.stores, now.calls), (4, 0));
    assert_eq!(later, Counts { quiesces: 1, ..Counts::default() });
    let after = tables.inner.rows();
    let (id, row) = after.backends[0];
    assert_eq!((id, row.addr, row.state.generation), (before.backends[0].0, pod(1), 1));
    assert!(row.state.serving && !row.state.in_cluster);
    assert_eq!(after.slots[0].2, [after.backends[1].0]);
}

#[test]
fn an_endpoint_that_comes_back_starts_without_its_old_choices() {
    // AFF-5
    let (mut book, mut tables) = one();
    let mut down = small(1, &[1, 2]);
    let unready = &mut down.backends[0];
    *unready = BackendWant { in_cluster: false, ready: false, serving: false, ..unready.clone() };
    change(&mut book, &mut tables, Some(down));
    let (id, row) = tables.inner.rows().backends[0];
    assert_eq!((row.addr, row.state.generation, row.state.serving), (pod(1), 1, false));
    change(&mut book, &mut tables, Some(small(1, &[1, 2])));
    let row = tables.inner.backend(id).unwrap();
    assert_eq!((row.addr, row.state.generation, row.state.in_cluster), (pod(1), 2, true));
    // What a slot gives is remembered as a choice: it has to be of the new life.
    let set = tables.inner.service(row.service).unwrap().sets[0];
    let said: Vec<_> = tables.inner.written_slots(set).iter().map(|s| (s.to.ip(), s.generation)).collect();
    assert_eq!(said, [(pod(1), 2), (pod(2), 1)]);
}

#[test]
fn an_id_goes_to_another_endpoint_one_generation_up() {
    let (mut book, mut tables) = one();
    let first = tables.inner.rows().backends[0].0;
    change(&mut book, &mut tables, Some(small(1, &[2])));
    let dropped = tables.inner.backend(first).unwrap();
    assert_eq!((dropped.addr, dropped.state.generation, dropped.state.serving), (pod(1), 1, false));
    change(&mut book, &mut tables, Some(small(1, &[2, 3])));
    let row = tables.inner.backend(first).unwrap();
    assert_eq!((row.addr, row.state.generation), (pod(3), 2));
    // The generation is not lost with the Service, nor over a restart.
    change(&mut book, &mut tables, None);
    let mut book = Book::recover(&tables.inner.rows(), LIMITS);
    change(&mut book, &mut tables, Some(small(1, &[4])));
    let row = tables.inner.backend(first).unwrap();
    assert_eq!((row.addr, row.state.generation), (pod(4), 3));
}

#[test]
fn a_renamed_service_takes_its_frontend_over_in_one_write() {
    // SVC-18
    let (mut book, mut tables) = one();
    let changes = ports(vec![(name(1), None), (name(2), Some(small(1, &[5])))]);
    let settled = book.sync(changes.clone(), &mut tables, AT(0));
    let counts = tables.take();
    assert_eq!(counts.calls, 2, "a name and a frontend; the active address stays: {counts:?}");
    let leads_to = |tables: &MemTables| {
        let value = tables.frontend(&port_key(vip(1), 80, Protocol::Tcp)).unwrap();
        tables.name(value.service.unwrap()).unwrap().name
    };
    assert_eq!(leads_to(&tables.inner), name(2));
    assert!(tables.inner.frontend(&FrontendKey::Active { addr: vip(1) }).is_some());
    drain(&mut book, &mut tables, AT(0), settled);
    let counts = tables.take();
    assert_eq!((counts.calls, counts.quiesces), (1, 2), "the old name goes: {counts:?}");
    assert_eq!(canon(&tables.inner.rows()), fresh(changes, LIMITS));
}

#[test]
fn a_frontend_that_was_deleted_comes_back_after_a_grace_period() {
    // SYNC-15
    let (mut book, mut tables) = one();
    book.sync(ports(vec![(name(1), None)]), &mut tables, AT(0));
    let key = port_key(vip(1), 80, Protocol::Tcp);
    assert_eq!(tables.inner.frontend(&key), None);
    assert!(tables.inner.service(ServiceId(0)).is_some(), "a reader may be on its way through the row");
    let settled = book.sync(ports(vec![(name(1), Some(small(1, &[1, 2])))]), &mut tables, AT(1));
    assert_eq!((tables.inner.frontend(&key), settled.wake), (None, Some(AT(50))));
    assert_eq!(book.maintain(&mut tables, AT(50)).written, [name(1)]);
    assert!(tables.inner.frontend(&key).is_some());
    assert_eq!(tables.inner.quiesced(), 1);
}

#[test]
fn an_active_address_lives_as_long_as_any_port_of_it() {
    // UND-1
    let (mut book, mut tables) = one();
    let mut other = small(1, &[7]);
    let Some((FrontendKey::Port { port, .. }, _)) = other.frontends.first_mut() else {
        panic!("a port first")
    };
    *port = 81;
    let settled = book.sync(ports(vec![(name(2), Some(other))]), &mut tables, AT(0));
    drain(&mut book, &mut tables, AT(0), settled);
    let active = FrontendKey::Active { addr: vip(1) };
    for gone in [1, 2] {
        assert!(tables.inner.frontend(&active).is_some());
        let mut again = Book::recover(&tables.inner.rows(), LIMITS);
        let settled = again.sync(ports(vec![(name(gone), None)]), &mut tables, AT(0));
        drain(&mut again, &mut tables, AT(0), settled);
    }
    assert!(tables.inner.frontend(&active).is_none());
}

#[test]
fn rows_of_the_node_are_compared_too() {
    let (mut book, mut tables) = one();
    let prefix = |net: &str| Prefix { class: PrefixClass::ServiceCidr, net: net.parse().unwrap() };
    let settings = Settings { version: "0.1.0".into(), synced: true, ..Settings::default() };
    let changes = |prefixes: &[&str], netns: Vec<(u64, NetnsClass)>| Changes {
        prefixes: Some(prefixes.iter().map(|net| prefix(net)).collect()),
        netns: Some(netns),
        settings: Some(settings.clone()),
        ..Changes::default()
    };
    let first = changes(&["10.96.0.0/16"], vec![(1, NetnsClass::Host), (7, NetnsClass::Pod)]);
    book.sync(first.clone(), &mut tables, AT(0));
    assert_eq!(tables.take().calls, 4);
    let mut book = Book::recover(&tables.inner.rows(), LIMITS);
    book.sync(first, &mut tables, AT(0));
    assert_eq!(tables.take().rows(), 0);
    let second = changes(&["10.96.0.0/16", "fd00::/112"], vec![(1, NetnsClass::Host), (8, NetnsClass::Pod)]);
    book.sync(second, &mut tables, AT(0));
    assert_eq!(tables.take().calls, 3);
    assert_eq!(tables.inner.rows().netns, [(1, NetnsClass::Host), (8, NetnsClass::Pod)]);
    assert_eq!(tables.inner.settings(), settings);
    assert_eq!(tables.limits(), LIMITS);
}

#[test]
fn fresh_tables_beside_old_flow_rows_give_no_generation_twice() {
    // architecture: every stored choice is {id, generation}; a new layout starts from an empty tree.
    let mut old = MemTables::new(LIMITS);
    let mut fresh = MemTables::new(LIMITS);
    for (born, tables) in [(1000, &mut old), (2000, &mut fresh)] {
        let mut book = Book::new(LIMITS).born(born);
        book.sync(ports(vec![(name(1), Some(small(1, &[1, 2])))]), tables, AT(0));
    }
    let choices = |tables: &MemTables| -> Vec<(BackendId, u32)> {
        tables.rows().backends.iter().map(|(id, row)| (*id, row.state.generation)).collect()
    };
    assert_eq!(choices(&old).len(), 2);
    assert!(choices(&old).iter().all(|choice| !choices(&fresh).contains(choice)));
}
