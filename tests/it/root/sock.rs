//! What sockets see of the socket path beyond the first connection: flows that go on, several
//! frontends of one socket, sockets that connect again. Each test runs in a process of its own, in
//! the cgroup that the programs are attached to.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use beeline::datapath::load::Knobs;
use beeline::datapath::{Datapath, Options};
use beeline::model::addr::Protocol;
use beeline::plan::table::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::datapath_rig::{Rig, cgroup2};

/// Names the test that a second process of this binary is to run.
const ALONE: &str = "BEELINE_TEST_ALONE";

/// A data path whose client is this process.
struct World {
    datapath: Datapath,
    outside: PathBuf,
    _rig: Rig,
}

/// Runs a test's body in a process of its own, which has joined the rig's cgroup.
fn alone(name: &str, body: impl FnOnce(&mut World)) {
    alone_with(Knobs::probe(), name, body);
}

fn alone_with(knobs: Knobs, name: &str, body: impl FnOnce(&mut World)) {
    if std::env::var(ALONE).as_deref() == Ok(name) {
        let mut world = World::with(knobs);
        body(&mut world);
        return;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("root::sock::{name}"), "--nocapture"])
        .env(ALONE, name)
        .status()
        .unwrap();
    assert!(status.success(), "{name}: {status}");
}

impl World {
    fn with(knobs: Knobs) -> World {
        let rig = Rig::new();
        let mut datapath = Datapath::open(&Options { knobs, ..rig.options() }).unwrap();
        datapath.publish().unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup2 of this process");
        let outside = cgroup2().join(own).join("cgroup.procs");
        fs::write(rig.cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        World { datapath, outside, _rig: rig }
    }

    fn apply(&mut self, ops: &[Op]) {
        assert_eq!(self.datapath.apply_all(ops), vec![]);
    }

    /// A UDP ServicePort `index` at `vip(index)`:53 whose backends have the ids from 16 × index + 1 on.
    fn udp_service(&mut self, index: u32, backends: &[SocketAddr]) {
        let service = ServiceId(index);
        let base = 16 * index;
        let ids: Vec<_> = (1..=backends.len() as u32).map(|n| BackendId(base + n)).collect();
        for (id, to) in ids.iter().zip(backends) {
            self.backend(*id, *to, service, SERVES);
        }
        let set = SetWord { base, count: ids.len() as u32, has_any: true };
        self.apply(&[
            Op::Slots { base, ids },
            Op::Set(service, Which::Cluster, set),
            Op::Policy(service, Policy { used: true, ..Policy::default() }),
            Op::FrontendPut(
                port_key(vip(index).ip(), 53, Protocol::Udp),
                Frontend { service: Some(service), kind: FrontendKind::ClusterIp },
            ),
        ]);
    }

    fn backend(&mut self, id: BackendId, to: SocketAddr, service: ServiceId, state: BackendState) {
        self.apply(&[Op::Backend(id, BackendRow { addr: to.ip(), port: to.port(), service, state })]);
    }

    fn rows(&self) -> usize {
        self.datapath.reader().unwrap().flows().unwrap().len()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Out of the rig's cgroup, so that it can be removed.
        let _ = fs::write(&self.outside, std::process::id().to_string());
    }
}

const SERVES: BackendState = BackendState { generation: 1, in_cluster: true, in_local: false, serving: true };
const LEAVING: BackendState = BackendState { in_cluster: false, ..SERVES };
const GONE: BackendState = BackendState { serving: false, ..LEAVING };

fn vip(index: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0xc000_0200 + index).into(), 53) // 192.0.2.index
}

/// UDP servers on loopback that answer with their own port.
fn servers(count: usize) -> Vec<SocketAddr> {
    (0..count)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let addr = socket.local_addr().unwrap();
            std::thread::spawn(move || {
                while let Ok((_, from)) = socket.recv_from(&mut [0; 16]) {
                    let _ = socket.send_to(&addr.port().to_be_bytes(), from);
                }
            });
            addr
        })
        .collect()
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Reads one answer: the port of the server, and who it says it is from.
fn answer(socket: &UdpSocket) -> (u16, SocketAddr) {
    let mut port = [0; 2];
    let (_, from) = socket.recv_from(&mut port).expect("an answer");
    (u16::from_be_bytes(port), from)
}

/// One datagram there and back.
fn ask(socket: &UdpSocket, to: SocketAddr) -> u16 {
    socket.send_to(b"x", to).unwrap();
    let (port, from) = answer(socket);
    assert_eq!(from, to, "the answer comes from what was dialled");
    port
}

#[test]
fn a_udp_flow_keeps_its_backend_while_it_serves() {
    // DEC-2, CT-4, SOCK-4
    alone("a_udp_flow_keeps_its_backend_while_it_serves", |world| {
        let servers = servers(4);
        world.udp_service(1, &servers);
        let socket = client();
        let first = ask(&socket, vip(1));
        let at = servers.iter().position(|server| server.port() == first).unwrap();
        let id = BackendId(16 + 1 + at as u32);
        let ready = BackendState { serving: false, ..SERVES };
        for state in [SERVES, LEAVING, ready] {
            world.apply(&[Op::BackendState(id, state)]);
            assert!((0..20).all(|_| ask(&socket, vip(1)) == first), "it stays with {state:?}");
        }
        let others = (1..=4).map(|n| BackendId(16 + n)).filter(|other| *other != id).collect();
        world.apply(&[
            Op::Slots { base: 200, ids: others },
            Op::Set(ServiceId(1), Which::Cluster, SetWord { base: 200, count: 3, has_any: true }),
            Op::BackendState(id, GONE),
        ]);
        let second = ask(&socket, vip(1));
        assert_ne!(second, first, "it leaves what does not serve");
        assert!((0..20).all(|_| ask(&socket, vip(1)) == second), "and stays with the next");
    });
}

#[test]
fn an_id_that_belongs_to_another_endpoint_is_not_followed() {
    alone("an_id_that_belongs_to_another_endpoint_is_not_followed", |world| {
        let servers = servers(2);
        world.udp_service(1, &servers[..1]);
        world.udp_service(2, &servers[1..]);
        let socket = client();
        assert_eq!(ask(&socket, vip(1)), servers[0].port());
        // The id goes to another endpoint, one generation up; the set goes to a new id.
        let again = BackendState { generation: 2, ..SERVES };
        world.backend(BackendId(17), servers[1], ServiceId(1), again);
        world.backend(BackendId(100), servers[0], ServiceId(1), SERVES);
        world.apply(&[
            Op::Slots { base: 200, ids: vec![BackendId(100)] },
            Op::Set(ServiceId(1), Which::Cluster, SetWord { base: 200, count: 1, has_any: true }),
        ]);
        assert_eq!(ask(&socket, vip(1)), servers[0].port());
    });
}

#[test]
fn each_frontend_of_one_socket_answers_under_its_own_address() {
    // SOCK-4; 40 are more than there are places to remember them.
    alone("each_frontend_of_one_socket_answers_under_its_own_address", |world| {
        let servers = servers(40);
        for (index, server) in (1..).zip(&servers) {
            world.udp_service(index, &[*server]);
        }
        let socket = client();
        for _ in 0..3 {
            for (index, server) in (1..).zip(&servers) {
                assert_eq!(ask(&socket, vip(index)), server.port());
            }
        }
        assert_eq!(world.rows(), 1 + 32, "one row and 32 further ones");
        drop(socket);
        let late = Instant::now() + Duration::from_secs(5);
        while world.rows() > 0 {
            assert!(Instant::now() < late, "{} rows outlive their socket", world.rows());
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

#[test]
fn a_socket_that_connects_again_shows_nothing_stale() {
    // SOCK-2
    alone("a_socket_that_connects_again_shows_nothing_stale", |world| {
        let servers = servers(4);
        world.udp_service(1, &servers);
        let socket = client();
        socket.connect(vip(1)).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), vip(1));
        socket.send(b"x").unwrap();
        let (port, from) = answer(&socket);
        assert_eq!(from, vip(1));
        assert!((0..20).all(|_| ask(&socket, vip(1)) == port), "sendto() to what it is connected to");
        // The very backend, now dialled directly.
        let direct: SocketAddr = ([127, 0, 0, 1], port).into();
        socket.connect(direct).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), direct);
        assert_eq!(ask(&socket, direct), port);
        assert_eq!(world.rows(), 0);
        socket.connect(vip(1)).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), vip(1));
    });
}

#[test]
fn each_backend_is_chosen_as_often_as_the_others() {
    // CAT-7: 3,000 choices; 150 is almost six times their standard deviation.
    alone("each_backend_is_chosen_as_often_as_the_others", |world| {
        let servers = servers(3);
        world.udp_service(1, &servers);
        let mut counts = [0_u32; 3];
        for _ in 0..3_000 {
            let port = ask(&client(), vip(1));
            counts[servers.iter().position(|server| server.port() == port).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| count.abs_diff(1_000) <= 150), "{counts:?}");
    });
}

/// As under lockdown in its mode confidentiality.
#[test]
fn where_kernel_memory_may_not_be_read_sockets_see_the_same() {
    let blind = Knobs { may_read_kernel: false, ..Knobs::probe() };
    alone_with(blind, "where_kernel_memory_may_not_be_read_sockets_see_the_same", |world| {
        let servers = servers(3);
        world.udp_service(1, &servers[..2]);
        world.udp_service(2, &servers[2..]);
        let (free, connected) = (client(), client());
        let first = ask(&free, vip(1));
        assert!((0..20).all(|_| ask(&free, vip(1)) == first));
        assert_eq!(ask(&free, vip(2)), servers[2].port());
        connected.connect(vip(1)).unwrap();
        assert_eq!(connected.peer_addr().unwrap(), vip(1));
        connected.send(b"x").unwrap();
        assert_eq!(answer(&connected).1, vip(1));
        assert!(world.rows() > 0);
        // A socket that dials no Service.
        assert_eq!(ask(&client(), servers[0]), servers[0].port());
        drop((free, connected));
        let late = Instant::now() + Duration::from_secs(5);
        while world.rows() > 0 {
            assert!(Instant::now() < late, "{} rows outlive their sockets", world.rows());
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

#[test]
fn each_frontend_of_one_socket_keeps_its_backend() {
    // SOCK-4
    alone("each_frontend_of_one_socket_keeps_its_backend", |world| {
        let servers = servers(40);
        for (index, pair) in (1..).zip(servers.chunks(2)) {
            world.udp_service(index, pair);
        }
        let socket = client();
        let round = || (1..=20).map(|index| ask(&socket, vip(index))).collect::<Vec<_>>();
        let first = round();
        assert!((0..5).all(|_| round() == first));
    });
}

#[test]
fn more_sockets_than_have_a_place_near_show_what_they_dialled() {
    // SOCK-3; bl_flows_near has 16384 rows, and whose row is taken goes to bl_flows.
    const SOCKETS: usize = 18_000;
    alone("more_sockets_than_have_a_place_near_show_what_they_dialled", |world| {
        let (files, (_, hard)) = (SOCKETS as u64 + 1000, getrlimit(Resource::RLIMIT_NOFILE).unwrap());
        setrlimit(Resource::RLIMIT_NOFILE, files, hard.max(files)).expect("19,000 open files");
        world.udp_service(1, &servers(4));
        world.udp_service(2, &servers(1));
        let sockets: Vec<UdpSocket> = (0..SOCKETS).map(|_| client()).collect();
        sockets.iter().for_each(|socket| socket.connect(vip(1)).unwrap());
        let used = |world: &World, name: &str| {
            let usage = world.datapath.reader().unwrap().usage().unwrap();
            usage.iter().find(|map| map.name == name).map_or(0, |map| map.used)
        };
        let (near, far) = (used(world, "bl_flows_near"), used(world, "bl_flows"));
        assert!(near > 12_000 && far > 1_600 && near + far == SOCKETS as u32, "{near} near, {far} far");
        assert_eq!(world.rows(), SOCKETS);
        assert!(sockets.iter().all(|socket| socket.peer_addr().unwrap() == vip(1)));
        // Whose row lies far is not moved, nor does it get a second one.
        sockets.iter().step_by(7).for_each(|socket| socket.connect(vip(2)).unwrap());
        for (at, socket) in sockets.iter().enumerate() {
            let dialled = if at % 7 == 0 { vip(2) } else { vip(1) };
            assert_eq!(socket.peer_addr().unwrap(), dialled);
        }
        assert_eq!(world.rows(), SOCKETS);
        drop(sockets);
        let late = Instant::now() + Duration::from_secs(10);
        while world.rows() > 0 {
            assert!(Instant::now() < late, "{} rows outlive their socket", world.rows());
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

/// A frontend of ServicePort 1 at a random IPv4 address, or of ServicePort 2 at a random IPv6 one.
fn random_frontend(dice: &mut impl Rng) -> (SocketAddr, Op) {
    let v6 = dice.random();
    let ip = if v6 {
        Ipv6Addr::from(dice.random::<u128>()).into()
    } else {
        Ipv4Addr::from(dice.random::<u32>()).into()
    };
    let service = Some(ServiceId(if v6 { 2 } else { 1 }));
    let frontend = Frontend { service, kind: FrontendKind::ClusterIp };
    (SocketAddr::new(ip, 53), Op::FrontendPut(port_key(ip, 53, Protocol::Udp), frontend))
}

#[test]
fn frontends_are_found_in_whatever_prefix_they_lie() {
    // bl_sieve, whose bits are made by the agent and asked for by BPF
    alone("frontends_are_found_in_whatever_prefix_they_lie", |world| {
        let seed = rand::random();
        println!("seed {seed}");
        let mut dice = StdRng::seed_from_u64(seed);
        world.udp_service(1, &servers(1));
        world.udp_service(2, &["[::1]:9".parse().unwrap()]);
        // One by one and many at once; few enough that most bits of the sieve stay off.
        for chunk in [1, 1, 1, 40, 60] {
            let (dialled, ops): (Vec<_>, Vec<_>) = (0..chunk).map(|_| random_frontend(&mut dice)).unzip();
            world.apply(&ops);
            for to in dialled {
                let before = world.rows();
                let socket = UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
                socket.connect(to).unwrap();
                assert_eq!((world.rows(), socket.peer_addr().unwrap()), (before + 1, to));
            }
        }
        // What is no frontend is none, held by the sieve or not.
        for _ in 0..100 {
            let (to, _) = random_frontend(&mut dice);
            let socket = UdpSocket::bind("[::]:0").unwrap();
            if socket.connect(to).is_ok() {
                assert_eq!(world.rows(), 0, "{to}");
            }
        }
    });
}

/// Two datagrams of two threads, as near to one moment as can be: true if one backend got both.
fn race(socket: &UdpSocket, to: SocketAddr) -> bool {
    let ready = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < 2 {
                    std::hint::spin_loop();
                }
                socket.send_to(b"x", to).unwrap();
            });
        }
    });
    answer(socket).0 == answer(socket).0
}

#[test]
fn threads_of_one_socket_agree_on_a_backend() {
    // SOCK-4; the hook runs under the lock of the socket.
    alone("threads_of_one_socket_agree_on_a_backend", |world| {
        world.udp_service(1, &servers(4));
        world.udp_service(2, &servers(4));
        for round in 0..200 {
            let socket = client();
            assert!(race(&socket, vip(1)), "round {round}, first frontend");
            assert!(race(&socket, vip(2)), "round {round}, further frontend");
        }
    });
}
