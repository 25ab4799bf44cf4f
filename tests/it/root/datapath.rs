//! The tables as pinned maps, against the running kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use beeline::datapath::{Datapath, Options};
use beeline::model::addr::{Family, Protocol};
use beeline::model::names::{ObjectName, ServicePortName};
use beeline::plan::mem::MemTables;
use beeline::plan::rule::{Rule, RuleSet};
use beeline::plan::table::*;

use super::datapath_rig::{Dialler, ENOUGH, Rig, Server};

/// What the tests dial.
pub const VIP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 80);

pub const STATE: BackendState =
    BackendState { generation: 1, in_cluster: true, in_local: false, serving: true };

/// A ServicePort at [`VIP`] with these backends: index 3, ids from 1, slots from 8.
pub fn service(backends: &[SocketAddr]) -> Vec<Op> {
    let id = ServiceId(3);
    let ids: Vec<BackendId> = (1..=backends.len() as u32).map(BackendId).collect();
    let row = |to: &SocketAddr| BackendRow { addr: to.ip(), port: to.port(), service: id, state: STATE };
    let mut ops: Vec<Op> = ids.iter().zip(backends).map(|(id, to)| Op::Backend(*id, row(to))).collect();
    let set = SetWord { base: 8, count: ids.len() as u32, has_any: true };
    ops.extend([
        Op::Slots { base: 8, ids },
        Op::Set(id, Which::Cluster, set),
        Op::Policy(id, Policy { used: true, ..Policy::default() }),
        Op::FrontendPut(key(VIP), frontend(id)),
    ]);
    ops
}

pub fn key(to: SocketAddr) -> FrontendKey {
    port_key(to.ip(), to.port(), Protocol::Tcp)
}

pub fn frontend(id: ServiceId) -> Frontend {
    Frontend { service: Some(id), kind: FrontendKind::ClusterIp }
}

/// One op of every kind, none undone by a later one.
pub fn every_op() -> Vec<Op> {
    let name = ServicePortName {
        service: ObjectName::new("shop", "cart"),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V6,
    };
    let prefix = |class, net: &str| Prefix { class, net: net.parse().unwrap() };
    let v6 = SocketAddr::new("fd00::1".parse().unwrap(), 443);
    let mut ops = service(&["10.0.0.1:8080".parse().unwrap(), "[fd00::2]:8081".parse().unwrap()]);
    ops.extend([
        Op::BackendState(BackendId(2), BackendState { serving: false, ..STATE }),
        Op::Set(ServiceId(3), Which::Local, SetWord { base: 9, count: 1, has_any: false }),
        Op::FrontendPut(
            FrontendKey::Active { addr: VIP.ip() },
            Frontend { service: None, kind: FrontendKind::ClusterIp },
        ),
        Op::FrontendPut(key(v6), frontend(ServiceId(3))),
        Op::FrontendDelete(key(v6)),
        Op::FrontendDelete(key(v6)),
        Op::Endpoint(
            BackendId(1),
            EndpointInfo {
                node: TextId(1),
                zone: TextId(2),
                ready: true,
                used: true,
                ..EndpointInfo::default()
            },
        ),
        Op::NamePut(
            ServiceId(3),
            ServiceName {
                name: name.clone(),
                rules: [RuleSet::default().with(Rule::Cat2), RuleSet::default()],
            },
        ),
        Op::NamePut(ServiceId(4), ServiceName { name, rules: [RuleSet::default(); 2] }),
        Op::NameDelete(ServiceId(4)),
        Op::TextPut(TextId(1), "node-a".into()),
        Op::TextPut(TextId(2), "zone-1".into()),
        Op::TextPut(TextId(3), "gone".into()),
        Op::TextDelete(TextId(3)),
        Op::PrefixPut(prefix(PrefixClass::ServiceCidr, "10.96.0.0/12")),
        Op::PrefixPut(prefix(PrefixClass::NodeAddress, "fd00:1::5/128")),
        Op::PrefixPut(prefix(PrefixClass::LocalDetector, "10.244.0.0/24")),
        Op::PrefixDelete(prefix(PrefixClass::LocalDetector, "10.244.0.0/24")),
        Op::NetnsPut(4711, NetnsClass::Host),
        Op::NetnsPut(4712, NetnsClass::Pod),
        Op::NetnsDelete(4712),
        Op::StatsClear(ServiceId(3)),
        Op::Settings(Settings {
            version: "0.1.0".into(),
            node: "node-a".into(),
            synced: true,
            ..Settings::default()
        }),
    ]);
    ops
}

#[test]
fn a_client_in_the_cgroup_reaches_the_backend_of_the_address_it_dialled() {
    let rig = Rig::new();
    let server = Server::start();
    let mut datapath = rig.open();
    assert!(datapath.is_fresh());
    assert_eq!(datapath.apply_all(&service(&[server.addr])), vec![]);
    datapath.publish().unwrap();
    assert!(datapath.is_published());
    let (count, errors) = Dialler::start(&rig, VIP).stop();
    assert_eq!(errors, "");
    assert!(count >= ENOUGH, "{count} connections");
    let stats = datapath.reader().unwrap().stats();
    assert_eq!(stats.unwrap()[0].0, ServiceId(3));
    assert_eq!(datapath.reader().unwrap().stats_of(ServiceId(3)).connections, count);
}

#[test]
fn every_op_is_read_back_as_rows_and_one_by_one() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    assert_eq!(datapath.apply_all(&every_op()), vec![]);
    let reader = datapath.reader().unwrap();
    let rows = reader.rows().unwrap();
    assert_eq!(rows.frontends.len(), 2);
    assert_eq!(rows.services.len(), 1);
    assert_eq!(rows.slots[0].2, [BackendId(1), BackendId(2)]);
    assert_eq!(rows.slots[1].2, [BackendId(2)]);
    assert_eq!(rows.texts, [(TextId(1), "node-a".into()), (TextId(2), "zone-1".into())]);
    assert_eq!(rows.netns, [(4711, NetnsClass::Host)]);
    assert_eq!(rows.prefixes.len(), 2);
    assert!(rows.settings.synced);
    // Lookup sees what rows() lists.
    assert_eq!(reader.frontend(&key(VIP)), Some(frontend(ServiceId(3))));
    assert_eq!(reader.frontend(&key("192.0.2.1:81".parse().unwrap())), None);
    assert_eq!(reader.service(ServiceId(3)), Some(rows.services[0].1));
    assert_eq!(reader.slots(rows.services[0].1.sets[0]), [BackendId(1), BackendId(2)]);
    assert_eq!(reader.backend(BackendId(2)), Some(rows.backends[1].1));
    assert!(!reader.backend(BackendId(2)).unwrap().state.serving);
    assert_eq!(reader.backend(BackendId(7)), None);
    assert_eq!(reader.name(ServiceId(3)), Some(rows.names[0].1.clone()));
    assert_eq!(reader.text(TextId(2)).as_deref(), Some("zone-1"));
    assert!(reader.covers(PrefixClass::ServiceCidr, "10.111.0.1".parse().unwrap()));
    assert!(!reader.covers(PrefixClass::NodeAddress, "10.111.0.1".parse().unwrap()));
    assert!(reader.covers(PrefixClass::NodeAddress, "fd00:1::5".parse().unwrap()));
    assert_eq!(reader.settings(), rows.settings);
}

#[test]
fn pinned_tables_and_tables_in_memory_hold_the_same_rows_after_the_same_ops() {
    let rig = Rig::new();
    let mut pinned = rig.open();
    let mut memory = MemTables::new(pinned.limits());
    let ops = every_op();
    // Once as a whole, once more op by op: putting what is there changes nothing.
    assert_eq!(pinned.apply_all(&ops), memory.apply_all(&ops));
    let reader = pinned.reader().unwrap();
    assert_eq!(reader.rows().unwrap(), memory.rows());
    for op in &ops {
        assert_eq!(pinned.apply(op), memory.apply(op), "{op:?}");
        assert_eq!(reader.rows().unwrap(), memory.rows(), "{op:?}");
    }
    let beyond = [
        Op::Policy(ServiceId(u32::MAX), Policy::default()),
        Op::Set(ServiceId(memory.limits().services), Which::Local, SetWord::default()),
        Op::Slots { base: u32::MAX, ids: vec![BackendId(1)] },
        Op::Endpoint(BackendId(memory.limits().backends), EndpointInfo::default()),
        Op::StatsClear(ServiceId(u32::MAX)),
    ];
    assert_eq!(pinned.apply_all(&beyond), memory.apply_all(&beyond));
    // Lookups agree too.
    for port in [80, 81] {
        let key = key(SocketAddr::new(VIP.ip(), port));
        assert_eq!(reader.frontend(&key), memory.frontend(&key));
    }
    for id in 0..8 {
        assert_eq!(reader.service(ServiceId(id)), memory.service(ServiceId(id)));
        assert_eq!(reader.backend(BackendId(id)), memory.backend(BackendId(id)));
        assert_eq!(reader.name(ServiceId(id)), memory.name(ServiceId(id)));
        let set = SetWord { base: id, count: 4, has_any: true };
        assert_eq!(reader.slots(set), memory.slots(set));
    }
    for addr in ["10.100.0.1", "10.244.0.1", "fd00:1::5", "fd00:1::6", "::ffff:10.100.0.1"] {
        let addr = addr.parse().unwrap();
        for class in [PrefixClass::ServiceCidr, PrefixClass::NodeAddress, PrefixClass::LocalDetector] {
            assert_eq!(reader.covers(class, addr), memory.covers(class, addr), "{addr}");
        }
    }
}

/// Ops that give a ServicePort one frontend.
fn moves_in(id: ServiceId, to: SocketAddr) -> [Op; 3] {
    let policy = Policy { used: true, affinity_seconds: 7, ..Policy::default() };
    [Op::StatsClear(id), Op::Policy(id, policy), Op::FrontendPut(key(to), frontend(id))]
}

#[test]
fn a_frontend_is_at_home_in_one_row_at_most_and_found_there_alone() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    let other = SocketAddr::new(VIP.ip(), 81);
    let homes = datapath.homes(&key(VIP));
    let [first, second, ..] = homes[..] else { panic!("a frontend has several homes: {homes:?}") };
    let away = ServiceId((0..).find(|id| !homes.contains(&ServiceId(*id))).unwrap());
    // What is at home is found without bl_frontends.
    let is_at_home = |datapath: &mut Datapath, to: SocketAddr, id: ServiceId| {
        let reader = datapath.reader().unwrap();
        let found = Some(frontend(id));
        assert_eq!(reader.frontend(&key(to)), found);
        assert_eq!(reader.rows().unwrap().frontends, [(key(to), frontend(id))]);
        let far = rig.lose_frontend(to);
        let at_home = reader.frontend(&key(to)) == found;
        assert_eq!(reader.rows().unwrap().frontends, [], "rows are those of bl_frontends");
        rig.put_frontend(&far);
        at_home
    };
    let apply = |datapath: &mut Datapath, ops: &[Op]| ops.iter().for_each(|op| datapath.apply(op).unwrap());

    apply(&mut datapath, &moves_in(second, VIP));
    assert!(is_at_home(&mut datapath, VIP, second));
    let policy = Policy { used: true, internal_local: true, ..Policy::default() };
    apply(&mut datapath, &[Op::Policy(second, policy)]);
    assert!(is_at_home(&mut datapath, VIP, second), "a policy leaves who is at home in the same word");
    assert_eq!(datapath.reader().unwrap().service(second).unwrap().policy, policy);

    // To another row, in either direction: the one that is left is nobody's home.
    apply(&mut datapath, &moves_in(first, VIP));
    assert!(is_at_home(&mut datapath, VIP, first));
    apply(&mut datapath, &moves_in(second, VIP));
    assert!(is_at_home(&mut datapath, VIP, second));
    apply(&mut datapath, &moves_in(away, VIP));
    assert!(!is_at_home(&mut datapath, VIP, away));

    // The same for what leads to a home and is no ClusterIP.
    let node_port = Frontend { service: Some(second), kind: FrontendKind::NodePort };
    apply(&mut datapath, &[Op::FrontendPut(key(VIP), node_port)]);
    assert_eq!(datapath.reader().unwrap().frontend(&key(VIP)), Some(node_port));

    // Another port of the address moves in; another address may not while readers hold the row.
    apply(&mut datapath, &[Op::FrontendPut(key(VIP), frontend(second)), Op::FrontendDelete(key(VIP))]);
    assert_eq!(datapath.reader().unwrap().rows().unwrap().frontends, []);
    let stranger = (1..=u8::MAX).map(|host| SocketAddr::new([198, 51, 100, host].into(), 80));
    let stranger = stranger.into_iter().find(|to| datapath.homes(&key(*to)).contains(&second));
    let stranger = stranger.expect("one of 255 addresses has its home where eight of 512 rows are");
    apply(&mut datapath, &[Op::FrontendPut(key(stranger), frontend(second))]);
    assert!(!is_at_home(&mut datapath, stranger, second));
    apply(&mut datapath, &[Op::FrontendDelete(key(stranger))]);
    apply(&mut datapath, &moves_in(second, stranger));
    assert!(is_at_home(&mut datapath, stranger, second), "the row has a new owner");

    // A row that is not in use is nobody's home, and neither is one whose frontend goes.
    apply(&mut datapath, &[Op::FrontendDelete(key(stranger))]);
    assert_eq!(datapath.reader().unwrap().frontend(&key(stranger)), None);
    apply(&mut datapath, &[Op::FrontendPut(key(other), frontend(away)), Op::FrontendDelete(key(other))]);
    assert_eq!(datapath.reader().unwrap().rows().unwrap().frontends, []);
}

#[test]
fn only_those_stay_at_home_of_whom_the_hash_says_so() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    let id = datapath.homes(&key(VIP))[0];
    moves_in(id, VIP).iter().for_each(|op| datapath.apply(op).unwrap());
    let find = |datapath: &Datapath| datapath.reader().unwrap().frontend(&key(VIP));
    let far = rig.lose_frontend(VIP);
    assert_eq!(find(&datapath), Some(frontend(id)), "a ghost");
    datapath.tables().tend_homes().unwrap();
    assert_eq!(find(&datapath), None);
    // Who was on the way home when the agent was killed gets there.
    rig.put_frontend(&far);
    datapath.tables().tend_homes().unwrap();
    rig.lose_frontend(VIP);
    assert_eq!(find(&datapath), Some(frontend(id)));
}

#[test]
fn whom_growth_puts_out_of_its_home_is_found_and_goes_as_before() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    let v4 = (1..60).map(|host| SocketAddr::new([192, 0, 2, host].into(), 80));
    let v6 = (1..60).map(|host| SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, host].into(), 53));
    let mut taken = BTreeSet::new();
    let mut homes = BTreeMap::new();
    for to in v4.chain(v6) {
        let Some(id) = datapath.homes(&key(to)).into_iter().find(|id| taken.insert(*id)) else { continue };
        homes.insert(to, id);
    }
    // All puts in one batch, as a first load makes them.
    let mut ops: Vec<Op> = homes.iter().flat_map(|(to, id)| moves_in(*id, *to)).collect();
    ops.sort_by_key(|op| matches!(op, Op::FrontendPut(..)));
    assert_eq!(datapath.apply_all(&ops), []);
    let reader = datapath.reader().unwrap();
    for (to, id) in homes.iter().filter(|(to, _)| to.is_ipv4()) {
        let far = rig.lose_frontend(*to);
        assert_eq!(reader.frontend(&key(*to)), Some(frontend(*id)), "{to} is not at home");
        rig.put_frontend(&far);
    }
    datapath.publish().unwrap();
    let mut moved = 0;
    for round in 1..=3 {
        let limits = datapath.limits();
        datapath.grow(Limits { services: limits.services * 2, ..limits }).unwrap();
        datapath.tables().tend_homes().unwrap();
        let reader = datapath.reader().unwrap();
        for (to, id) in &homes {
            assert_eq!(reader.frontend(&key(*to)), Some(frontend(*id)), "{to} in round {round}");
            moved += usize::from(!datapath.homes(&key(*to)).contains(id));
        }
        // Some lead elsewhere, some go: by the row nobody finds what was.
        for (to, id) in homes.iter_mut().take(20) {
            let elsewhere = datapath.homes(&key(*to)).into_iter().find(|id| taken.insert(*id));
            let Some(elsewhere) = elsewhere else { continue };
            datapath.apply(&Op::StatsClear(elsewhere)).unwrap();
            datapath.apply(&Op::FrontendPut(key(*to), frontend(elsewhere))).unwrap();
            *id = elsewhere;
        }
        let gone: Vec<SocketAddr> = homes.keys().rev().take(20).copied().collect();
        for to in gone {
            datapath.apply(&Op::FrontendDelete(key(to))).unwrap();
            homes.remove(&to);
            assert_eq!(datapath.reader().unwrap().frontend(&key(to)), None, "{to} in round {round}");
        }
        let reader = datapath.reader().unwrap();
        homes.iter().for_each(|(to, id)| assert_eq!(reader.frontend(&key(*to)), Some(frontend(*id)), "{to}"));
    }
    assert!(moved > 0, "growth put nobody out");
}

#[test]
fn a_full_map_fails_that_row_alone_and_names_map_and_limit() {
    let rig = Rig::new();
    let limits = Limits { frontends: 4, services: 8, slots: 8, backends: 8, names: 4 };
    let mut datapath = Datapath::open(&Options { limits, ..rig.options() }).unwrap();
    let to = |at: u16| key(SocketAddr::new(VIP.ip(), at));
    let ops: Vec<Op> = (1..=6).map(|at| Op::FrontendPut(to(at), frontend(ServiceId(1)))).collect();
    let full = TableError::Full { map: Map::Frontends, limit: 4 };
    assert_eq!(datapath.apply_all(&ops), [(4, full.clone()), (5, full)]);
    assert_eq!(datapath.reader().unwrap().rows().unwrap().frontends.len(), 4);
    // What is there can be replaced, and a free place is a place.
    assert_eq!(datapath.apply(&Op::FrontendPut(to(1), frontend(ServiceId(2)))), Ok(()));
    assert_eq!(datapath.apply(&Op::FrontendDelete(to(2))), Ok(()));
    assert_eq!(datapath.apply(&Op::FrontendPut(to(5), frontend(ServiceId(1)))), Ok(()));
    let row = BackendRow { addr: VIP.ip(), port: 1, service: ServiceId(1), state: STATE };
    let beyond = datapath.apply(&Op::Backend(BackendId(8), row));
    assert_eq!(beyond, Err(TableError::Full { map: Map::Backends, limit: 8 }));
    let beyond = datapath.apply(&Op::Slots { base: 7, ids: vec![BackendId(1); 2] });
    assert_eq!(beyond, Err(TableError::Full { map: Map::Slots, limit: 8 }));
    let usage = datapath.reader().unwrap().usage().unwrap();
    assert!(usage.iter().any(|map| map.name == "bl_frontends" && (map.used, map.max) == (4, 4)));
}

#[test]
fn a_grace_period_is_waited_for() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    let started = Instant::now();
    for _ in 0..5 {
        datapath.quiesce().unwrap();
    }
    // An update that does not wait takes a microsecond; expedited grace periods (7.2) some 200.
    assert!(started.elapsed() > Duration::from_micros(100), "{:?}", started.elapsed());
    drop(datapath);
    let mut hasty = Datapath::open(&Options { quiesce: false, ..rig.options() }).unwrap();
    let started = Instant::now();
    hasty.quiesce().unwrap();
    assert!(started.elapsed() < Duration::from_micros(100), "the switch for tests switches waiting off");
}

/// 10,000 Services with 10 backends each, as ops.
fn large() -> Vec<Op> {
    let mut ops = Vec::new();
    for service in 1..=10_000u32 {
        let id = ServiceId(service);
        let first = service * 10;
        let ids: Vec<BackendId> = (first..first + 10).map(BackendId).collect();
        for id in &ids {
            let addr = IpAddr::from([10, (id.0 >> 16) as u8, (id.0 >> 8) as u8, id.0 as u8]);
            ops.push(Op::Backend(
                *id,
                BackendRow { addr, port: 80, service: ServiceId(service), state: STATE },
            ));
            ops.push(Op::Endpoint(*id, EndpointInfo { used: true, ready: true, ..EndpointInfo::default() }));
        }
        ops.push(Op::Slots { base: first, ids });
        ops.push(Op::Set(id, Which::Cluster, SetWord { base: first, count: 10, has_any: true }));
        ops.push(Op::Policy(id, Policy { used: true, ..Policy::default() }));
    }
    for service in 1..=10_000u32 {
        let addr = IpAddr::from([172, 16, (service >> 8) as u8, service as u8]);
        ops.push(Op::FrontendPut(key(SocketAddr::new(addr, 80)), frontend(ServiceId(service))));
    }
    for service in 1..=10_000u32 {
        let name = ServicePortName {
            service: ObjectName::new("default", &format!("service-{service}")),
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        ops.push(Op::NamePut(ServiceId(service), ServiceName { name, rules: [RuleSet::default(); 2] }));
    }
    ops
}

#[test]
fn a_hundred_thousand_backends_are_written_and_read_back() {
    let rig = Rig::new();
    let limits =
        Limits { frontends: 16_384, services: 16_384, slots: 131_072, backends: 131_072, names: 16_384 };
    let mut datapath = Datapath::open(&Options { limits, ..rig.options() }).unwrap();
    let ops = large();
    let started = Instant::now();
    assert_eq!(datapath.apply_all(&ops), vec![]);
    let written = started.elapsed();
    let reader = datapath.reader().unwrap();
    let started = Instant::now();
    let rows = reader.rows().unwrap();
    let read = started.elapsed();
    assert_eq!((rows.services.len(), rows.backends.len()), (10_000, 100_000));
    assert_eq!(rows.slots.iter().map(|(_, _, ids)| ids.len()).sum::<usize>(), 100_000);
    assert_eq!(rows.names.len(), 10_000);
    println!("written in {written:?}, read in {read:?}");
}
