//! What the book does when a map is full, the kernel refuses, or the tables it finds are wrong.

use std::sync::Arc;
use std::time::Duration;

use beeline::model::addr::Protocol;
use beeline::plan::book::{Book, Changes, limits_for};
use beeline::plan::compile::PortRows;
use beeline::plan::mem::{CountingTables, Faults, FaultyTables, MemTables};
use beeline::plan::rule::RuleSet;
use beeline::plan::table::{
    BackendId, BackendRow, BackendState, EndpointInfo, Frontend, FrontendKey, FrontendKind, Limits, Map, Op,
    Policy, ServiceId, ServiceName, SetWord, TableError, Tables, TextId, Which, port_key,
};

use crate::book_model::{LIMITS, canon, cluster, drain, fresh, name, pod, ports, ready, rows, vip};

const AT: fn(u64) -> Duration = Duration::from_millis;

fn small(n: u32, endpoints: &[u32]) -> PortRows {
    let node: Arc<str> = "node-0".into();
    rows(n, endpoints.iter().map(|pod| ready(*pod, &node)).collect())
}

/// Room for just two Services of two endpoints, in all maps but those that are made larger.
fn room(change: impl Fn(&mut Limits)) -> Limits {
    let mut limits = Limits { frontends: 64, services: 64, slots: 64, backends: 64, names: 64 };
    change(&mut limits);
    limits
}

#[test]
fn a_full_map_hurts_only_the_service_that_needs_more() {
    let cases = [
        (Map::Frontends, room(|l| l.frontends = 5)),
        (Map::Services, room(|l| l.services = 2)),
        (Map::Slots, room(|l| l.slots = 5)),
        (Map::Backends, room(|l| l.backends = 6)),
        (Map::Names, room(|l| l.names = 2)),
    ];
    for (map, limits) in cases {
        let mut tables = MemTables::new(limits);
        let mut book = Book::new(limits);
        let all = (1..=3).map(|n| (name(n), Some(small(n, &[10 * n, 10 * n + 1])))).collect::<Vec<_>>();
        let settled = book.sync(ports(all.clone()), &mut tables, AT(0));
        tables.audit().unwrap();
        assert_eq!(settled.written, [name(1), name(2)], "{map:?}");
        let what = "default/svc-3:http (TCP, IPv4)";
        let failed = settled.failed.iter().find(|(failed, _)| failed == what).unwrap();
        assert!(matches!(failed.1, TableError::Full { map: full, .. } if full == map), "{failed:?}");
        let pending = book.pending();
        let error = &pending.iter().find(|(pending, _)| pending == what).unwrap().1;
        assert!(error.to_string().contains(map.name()), "{error}");
        // The next change of another Service goes on as if nothing were.
        let settled = book.sync(ports(vec![(name(1), Some(small(1, &[10])))]), &mut tables, AT(1));
        assert_eq!(settled.written, [name(1)], "{map:?}");
        // Grown as asked for, all is there.
        let grown = settled.grow.expect("a full map wants to grow");
        tables.set_limits(grown);
        book.set_limits(grown);
        let settled = book.maintain(&mut tables, AT(2));
        drain(&mut book, &mut tables, AT(2), settled);
        let all = vec![all[1].clone(), all[2].clone(), (name(1), Some(small(1, &[10])))];
        assert_eq!(canon(&tables.rows()), fresh(ports(all), grown), "{map:?}");
        assert_eq!(book.pending(), []);
    }
}

#[test]
fn four_fifths_of_a_map_ask_for_growth() {
    let limits = room(|l| l.backends = 11);
    let (mut tables, mut book) = (MemTables::new(limits), Book::new(limits));
    let settled =
        book.sync(ports(vec![(name(1), Some(small(1, &[1, 2, 3, 4, 5, 6, 7])))]), &mut tables, AT(0));
    assert_eq!(settled.grow, None);
    let settled = book.sync(ports(vec![(name(2), Some(small(2, &[8])))]), &mut tables, AT(0));
    assert_eq!(settled.grow, Some(Limits { backends: 22, ..limits }));
    assert_eq!(settled.failed, []);
}

#[test]
fn the_first_load_fits_the_sizes_computed_for_it() {
    let all = cluster(300, 10);
    let least = room(|_| {});
    let limits = limits_for(all.iter().filter_map(|(_, rows)| rows.as_ref()), 50, least);
    let (mut tables, mut book) = (MemTables::new(limits), Book::new(limits));
    let settled = book.sync(ports(all), &mut tables, AT(0));
    assert_eq!((settled.failed, settled.grow), (vec![], None));
}

#[test]
fn a_service_that_waits_for_slots_at_rest_is_no_failure() {
    let limits = room(|l| l.slots = 3);
    let (mut tables, mut book) = (MemTables::new(limits), Book::new(limits));
    book.sync(ports(vec![(name(1), Some(small(1, &[1, 2])))]), &mut tables, AT(0));
    book.sync(ports(vec![(name(1), Some(small(1, &[3])))]), &mut tables, AT(0));
    // One slot is in use, two rest, and two are wanted.
    let settled = book.sync(ports(vec![(name(1), Some(small(1, &[3, 4])))]), &mut tables, AT(1));
    assert_eq!((settled.failed, settled.written, book.pending()), (vec![], vec![], vec![]));
    assert_eq!(book.maintain(&mut tables, AT(49)).written, []);
    assert_eq!(book.maintain(&mut tables, settled.wake.unwrap()).written, [name(1)]);
    assert_eq!(tables.quiesced(), 1);
}

#[test]
fn a_refused_write_is_tried_again_ever_more_rarely() {
    let mut tables =
        FaultyTables::new(MemTables::new(LIMITS), Faults { per_mille: 1000, ..Faults::default() });
    let mut book = Book::new(LIMITS);
    let mut settled = book.sync(ports(vec![(name(1), Some(small(1, &[1])))]), &mut tables, AT(0));
    let (mut now, mut pauses) = (AT(0), Vec::new());
    for _ in 0..12 {
        assert_eq!(settled.failed.len(), 1);
        pauses.push((settled.wake.unwrap() - now).as_millis());
        now = settled.wake.unwrap();
        settled = book.maintain(&mut tables, now);
    }
    assert_eq!(pauses[..4], [100, 200, 400, 800]);
    assert_eq!(pauses[11], 30_000);
    tables.faults.per_mille = 0;
    let settled = book.maintain(&mut tables, settled.wake.unwrap());
    assert_eq!((settled.written, book.pending()), (vec![name(1)], vec![]));
}

#[test]
fn without_a_grace_period_nothing_is_used_again() {
    let mut tables = FaultyTables::new(MemTables::new(LIMITS), Faults::default());
    let mut book = Book::new(LIMITS);
    book.sync(ports(vec![(name(1), Some(small(1, &[1])))]), &mut tables, AT(0));
    let settled = book.sync(ports(vec![(name(1), Some(small(1, &[2])))]), &mut tables, AT(0));
    tables.faults.per_mille = 1000;
    let settled = book.maintain(&mut tables, settled.wake.unwrap());
    assert_eq!(settled.failed[0].0, "the wait for readers");
    assert_eq!(book.pending().len(), 1);
    tables.faults.per_mille = 0;
    book.sync(ports(vec![(name(1), Some(small(1, &[3])))]), &mut tables, AT(51));
    let ids: Vec<u32> = tables.inner.rows().backends.iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [1, 2, 3]);
}

/// Tables as no agent leaves them.
fn damaged() -> MemTables {
    let mut tables = MemTables::new(LIMITS);
    let row = |n, service, in_cluster| BackendRow {
        addr: pod(n),
        port: 8080,
        service: ServiceId(service),
        state: BackendState { generation: 3, in_cluster, in_local: false, serving: true },
    };
    let frontend = |service| Frontend { service: Some(ServiceId(service)), kind: FrontendKind::ClusterIp };
    let used = Policy { used: true, ..Policy::default() };
    let set = |base, count| SetWord { base, count, has_any: true };
    let name_of = |n| ServiceName { name: name(n), rules: [RuleSet::default(); 2] };
    let ops = [
        // Row 4 has no name, and a frontend and a backend.
        Op::Policy(ServiceId(4), used),
        Op::Backend(BackendId(9), row(9, 4, true)),
        Op::Slots { base: 50, ids: vec![BackendId(9)] },
        Op::Set(ServiceId(4), Which::Cluster, set(50, 1)),
        Op::FrontendPut(port_key(vip(4), 80, Protocol::Tcp), frontend(4)),
        // Row 5 is svc-1; its set leads to a stranger, to nowhere, and to the same backend twice.
        Op::NamePut(ServiceId(5), name_of(1)),
        Op::Policy(ServiceId(5), used),
        Op::Backend(BackendId(1), row(1, 5, true)),
        Op::Backend(BackendId(2), row(1, 5, true)),
        Op::Slots { base: 0, ids: vec![BackendId(9), BackendId(77), BackendId(1), BackendId(1)] },
        Op::Set(ServiceId(5), Which::Cluster, set(0, 4)),
        Op::Set(ServiceId(5), Which::Local, set(2, 2)),
        Op::FrontendPut(port_key(vip(1), 80, Protocol::Tcp), frontend(5)),
        // Nobody's: a backend, an endpoint row, a frontend, an active address, a text.
        Op::Backend(BackendId(30), row(30, 600, false)),
        Op::Endpoint(BackendId(9), EndpointInfo { node: TextId(8), used: true, ..EndpointInfo::default() }),
        Op::FrontendPut(port_key(vip(7), 80, Protocol::Tcp), frontend(5000)),
        Op::FrontendPut(
            FrontendKey::Active { addr: vip(8) },
            Frontend { service: None, kind: FrontendKind::ClusterIp },
        ),
        Op::TextPut(TextId(3), "node-x".into()),
        // A second row with the name of the first.
        Op::NamePut(ServiceId(6), name_of(1)),
        Op::Policy(ServiceId(6), used),
    ];
    assert_eq!(tables.apply_all(&ops), []);
    tables
}

#[test]
fn damaged_tables_are_repaired_by_the_first_sync() {
    for wants in [
        vec![(name(1), Some(small(1, &[1, 2])))],
        vec![(name(1), None)],
        vec![(name(2), Some(small(4, &[9])))],
    ] {
        let mut tables = damaged();
        let mut book = Book::recover(&tables.rows(), LIMITS);
        assert_eq!(book.known().collect::<Vec<_>>(), [&name(1)]);
        let mut all = wants.clone();
        if wants[0].0 != name(1) {
            all.push((name(1), None));
        }
        let settled = book.sync(ports(all), &mut tables, AT(0));
        drain(&mut book, &mut tables, AT(0), settled);
        tables.audit().unwrap();
        let wants = wants.into_iter().filter(|(_, rows)| rows.is_some()).collect();
        assert_eq!(canon(&tables.rows()), fresh(ports(wants), LIMITS));
        assert!(tables.rows().backends.iter().all(|(_, row)| row.state.generation >= 1));
    }
}

#[test]
fn nothing_found_is_touched_before_the_first_sync() {
    // SYNC-1
    let mut tables = CountingTables::new(damaged());
    let mut book = Book::recover(&tables.inner.rows(), LIMITS);
    let settled = book.maintain(&mut tables, AT(1000));
    assert_eq!((tables.take(), settled.wake), (Default::default(), None));
    // Rows without a name go with the first sync, what has one stays until the agent says so.
    let settled = book.sync(Changes::default(), &mut tables, AT(1000));
    drain(&mut book, &mut tables, AT(1000), settled);
    assert_eq!(book.known().collect::<Vec<_>>(), [&name(1)]);
}
