//! The sandbox itself: what it builds works, before anything of ours is attached.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use beeline::host::{cgroup, netns, sysctl};
use beeline::sandbox::baseline::{self, BaselineService};
use beeline::sandbox::cluster::Sandbox;
use beeline::sandbox::load::{LoadSpec, Mode, PairSpec, Side};
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{
    App, Close, CloseServer, ConnectCall, Counters, Dial, DialUntil, Exchange, Hello, Open, PeerName,
    Protocol, Receive, RunLoad, RunPairs, Send, SendCall, Serve, StartLoad, Step, StopLoad,
};
use beeline::sandbox::report::{self, Machine};
use beeline::sandbox::router::UPLINK;

const PORT: u16 = 8080;

/// Opens an identifying server for TCP and one for UDP.
fn serve(pod: Pod) -> Result<Pod> {
    pod.call(Serve::tcp(PORT))?;
    pod.call(Serve::udp(PORT))?;
    Ok(pod)
}

#[test]
fn everybody_reaches_everybody_in_both_families_by_tcp_and_udp() -> Result<()> {
    let sandbox = Sandbox::new("reach")?;
    let (n1, n2) = (sandbox.add_node("n1")?, sandbox.add_node("n2")?);
    let all = [
        serve(n1.add_pod("one")?)?,
        serve(n1.add_pod("two")?)?,
        serve(n2.add_pod("three")?)?,
        serve(n1.add_host_process("host-one")?)?,
        serve(n2.add_plain_pod("plain")?)?,
        serve(sandbox.add_outside_client("outside")?)?,
    ];
    for client in &all {
        for server in &all {
            for to in server.at(PORT) {
                let what = format!("{} to {} at {to}", client.name(), server.name());
                let dialled = client.call(Dial::tcp(to))?;
                assert_eq!(dialled.reply.as_deref(), Some(server.name()), "{what}: {dialled:?}");
                assert_eq!(dialled.peer, Some(to), "{what}");
                let sent = client.call(Exchange::udp(to))?;
                assert_eq!(sent.answers[0].backend(), Some(server.name()), "{what}: {sent:?}");
                assert_eq!(sent.answers[0].from, Some(to), "{what}");
            }
        }
    }
    drop(all);
    sandbox.close()
}

/// A pod's process is in its cgroup and namespace before it opens a socket; a host process is in its
/// node's namespace. // DEC-4
#[test]
fn each_process_is_where_it_belongs() -> Result<()> {
    let sandbox = Sandbox::new("places")?;
    let node = sandbox.add_node("n1")?;
    let (pod, host, plain) =
        (node.add_pod("web")?, node.add_host_process("host")?, node.add_plain_pod("plain")?);
    let inode = |name: &str| netns::inode(std::os::fd::AsFd::as_fd(&netns::Netns::open(name)?));
    for process in [&pod, &host, &plain] {
        assert_eq!(cgroup::of_process(process.pid())?, process.cgroup(), "{}", process.name());
        assert_eq!(process.call(Hello {})?.netns, inode(process.netns())?, "{}", process.name());
    }
    assert_eq!(host.netns(), node.netns().name());
    assert!(pod.cgroup().starts_with(node.cgroup_root()) && host.cgroup().starts_with(node.cgroup_root()));
    assert!(!plain.cgroup().starts_with(node.cgroup_root()));
    for name in [pod.netns(), node.netns().name()] {
        let control = netns::Netns::open(name)?.run(|| sysctl::read("net.ipv4.tcp_congestion_control"))?;
        assert_eq!(control, "cubic", "{name}");
    }
    Ok(())
}

#[test]
fn every_kind_of_call_reaches_the_server_and_shows_its_address() -> Result<()> {
    let sandbox = Sandbox::new("calls")?;
    let node = sandbox.add_node("n1")?;
    let (server, client) = (serve(node.add_pod("web")?)?, node.add_pod("client")?);
    let mapped: SocketAddr = format!("[::ffff:{}]:{PORT}", server.v4()).parse()?;
    let [v4, v6] = server.at(PORT);
    for (to, is_mapped, shown) in [(v4, false, v4), (v6, false, v6), (v4, true, mapped)] {
        use ConnectCall::{Blocking, FastOpenConnect, FastOpenSend, NonBlocking};
        for call in [Blocking, NonBlocking, FastOpenSend, FastOpenConnect] {
            let dial = Dial { mapped: is_mapped, ..Dial::tcp(to).by(call) };
            let report = client.call(dial)?;
            let what = format!("{call:?} to {shown}: {report:?}");
            assert_eq!((report.reply.as_deref(), report.peer), (Some("web"), Some(shown)), "{what}");
        }
        for (connect, call) in [
            (true, SendCall::Send),
            (true, SendCall::Sendto),
            (false, SendCall::Sendto),
            (false, SendCall::Sendmsg),
            (false, SendCall::Sendmmsg),
            (true, SendCall::Sendmmsg),
        ] {
            let exchange = Exchange { mapped: is_mapped, connect, peek: true, ..Exchange::udp(to).by(call) };
            let report = client.call(exchange.and(to))?;
            assert_eq!(report.answers.len(), 2);
            for answer in &report.answers {
                let what = format!("{call:?} connected={connect} to {shown}: {report:?}");
                assert_eq!(answer.reply.as_deref(), Some("web:hello"), "{what}");
                assert_eq!((answer.from, answer.peeked_from), (Some(shown), Some(shown)), "{what}");
            }
            assert_eq!(report.peer, connect.then_some(shown));
        }
        for call in [SendCall::Send, SendCall::Sendmmsg] {
            let gso =
                Exchange { mapped: is_mapped, connect: true, segment: Some(3), ..Exchange::udp(to).by(call) };
            let replies: Vec<_> = client.call(gso)?.answers.into_iter().map(|a| a.reply).collect();
            assert_eq!(
                replies,
                [Some("web:hel".to_owned()), Some("web:lo".to_owned())],
                "{call:?} to {shown}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_refusal_is_reported_by_name_and_step() -> Result<()> {
    let sandbox = Sandbox::new("refusals")?;
    let node = sandbox.add_node("n1")?;
    let (server, client) = (node.add_pod("web")?, node.add_pod("client")?);
    for to in server.at(PORT) {
        for call in [ConnectCall::Blocking, ConnectCall::NonBlocking, ConnectCall::FastOpenSend] {
            let report = client.call(Dial::tcp(to).by(call))?;
            let refused = (report.errno.as_deref(), report.failed);
            assert_eq!(refused, (Some("ECONNREFUSED"), Some(Step::Connect)), "{call:?} {to}: {report:?}");
        }
        let report = client.call(Exchange::udp(to).connected())?;
        assert_eq!(report.answers[0].errno.as_deref(), Some("ECONNREFUSED"), "{to}: {report:?}");
    }
    let nobody: SocketAddr = "10.244.1.99:80".parse()?;
    let silent = client.call(Dial { timeout_ms: 50, ..Dial::tcp(nobody) })?;
    assert!(silent.errno.is_some() && silent.failed == Some(Step::Connect), "{silent:?}");
    // A verb that cannot be carried out is an error of the request, and the pod goes on.
    let error = client.call(PeerName { socket: "none".into() }).expect_err("no such socket");
    assert!(format!("{error:#}").contains("no open socket is called \"none\""), "{error:#}");
    client.call(Hello {}).map(drop)
}

#[test]
fn open_sockets_live_between_requests() -> Result<()> {
    let sandbox = Sandbox::new("sockets")?;
    let node = sandbox.add_node("n1")?;
    let (server, client) = (serve(node.add_pod("web")?)?, node.add_pod("client")?);
    let [v4, v6] = server.at(PORT);
    let receive = |socket: &str| Receive { socket: socket.into(), peek: false, timeout_ms: 1000 };
    let send = |socket: &str, to| Send { socket: socket.into(), say: "?".into(), to };
    for open in [Open::tcp("tcp", v6), Open::udp("udp", v4), Open::unconnected("free", true)] {
        let opened = client.call(open.clone())?;
        assert_eq!((opened.errno, opened.peer), (None, open.to));
    }
    client.call(send("tcp", None))?;
    assert_eq!(client.call(receive("tcp"))?.data.as_deref(), Some("web"));
    client.call(send("udp", None))?;
    let answer = client.call(receive("udp"))?;
    assert_eq!((answer.data.as_deref(), answer.from), (Some("web:?"), Some(v4)));
    for to in [v6, v4] {
        client.call(send("free", Some(to)))?;
        let answer = client.call(receive("free"))?;
        assert_eq!(answer.from.map(beeline::sandbox::sock::canonical), Some(to), "{answer:?}");
    }
    assert_eq!(client.call(PeerName { socket: "free".into() })?.errno.as_deref(), Some("ENOTCONN"));
    assert_eq!(client.call(PeerName { socket: "tcp".into() })?.peer, Some(v6));

    // Closing a server leaves its connections, unless it cuts them.
    let close = |cut| CloseServer { protocol: Protocol::Tcp, port: PORT, cut };
    assert_eq!(server.call(close(false))?.served, 1);
    assert_eq!(client.call(Dial::tcp(v4))?.errno.as_deref(), Some("ECONNREFUSED"));
    client.call(send("tcp", None))?;
    assert_eq!(client.call(receive("tcp"))?.data.as_deref(), Some("web"));
    server.call(Serve::tcp(PORT))?;
    client.call(Open::tcp("cut", v4))?;
    client.call(send("cut", None))?;
    assert_eq!(client.call(receive("cut"))?.data.as_deref(), Some("web"));
    server.call(close(true))?;
    assert_eq!(client.call(receive("cut"))?.data.as_deref(), Some(""), "the end of the stream");
    client.call(Close { socket: "tcp".into() })
}

#[test]
fn http_is_spoken_well_enough_for_a_client_that_keeps_its_connection() -> Result<()> {
    let sandbox = Sandbox::new("http")?;
    let node = sandbox.add_node("n1")?;
    let (server, client) = (node.add_pod("web")?, node.add_pod("client")?);
    server.call(Serve::http(80))?;
    client.call(Open::tcp("http", (server.ip4(), 80)))?;
    for last in [false, true] {
        let connection = if last { "close" } else { "keep-alive" };
        let say = format!("GET / HTTP/1.1\r\nHost: web\r\nConnection: {connection}\r\n\r\n");
        client.call(Send { socket: "http".into(), say, to: None })?;
        let receive = Receive { socket: "http".into(), peek: false, timeout_ms: 1000 };
        let answer = client.call(receive.clone())?.data.context("an answer")?;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nweb"), "{answer:?}");
        assert!(answer.contains(&format!("connection: {connection}\r\n")), "{answer:?}");
        if last {
            assert_eq!(client.call(receive)?.data.as_deref(), Some(""));
        }
    }
    Ok(())
}

#[test]
fn load_counts_backends_errors_and_times() -> Result<()> {
    let sandbox = Sandbox::new("load")?;
    let node = sandbox.add_node("n1")?;
    let (one, two) = (serve(node.add_pod("one")?)?, serve(node.add_pod("two")?)?);
    let client = node.add_pod("client")?;
    let mut spec = LoadSpec::tcp((one.ip4(), PORT)).ask_names().threads(2).times(200);
    spec.to.push((two.ip6(), PORT).into());
    let report = client.call(RunLoad { load: spec.clone() })?;
    assert_eq!((report.done, report.failed()), (200, 0), "{report:?}");
    assert_eq!(report.backends.values().sum::<u64>(), 200);
    assert_eq!(report.backends.len(), 2, "{report:?}");
    assert!(report.latency.p50_ns > 0 && report.latency.p50_ns <= report.latency.max_ns, "{report:?}");
    for mode in [Mode::Connect, Mode::RequestResponse] {
        let udp = LoadSpec::udp((one.ip6(), PORT)).mode(mode).ask_names().times(50);
        assert_eq!(client.call(RunLoad { load: udp })?.backends.get("one"), Some(&50), "{mode:?}");
    }
    let kept = LoadSpec::tcp((two.ip4(), PORT)).mode(Mode::RequestResponse);
    assert_eq!(client.call(RunLoad { load: kept.clone().times(100) })?.done, 100);
    assert!(client.call(RunLoad { load: kept.clone().for_ms(30) })?.elapsed_us >= 30_000);
    assert!(client.call(RunLoad { load: kept }).is_err(), "it would never end");

    // Load that goes on sees a server come and go.
    let spec = LoadSpec { pause_us: 200, count: None, ..spec.timeout_ms(1000) };
    client.call(StartLoad { name: "background".into(), load: spec })?;
    let counters = || client.call(Counters { name: "background".into() });
    while counters()?.done < 20 {
        std::thread::yield_now();
    }
    assert!(counters()?.errors.is_empty());
    one.call(CloseServer { protocol: Protocol::Tcp, port: PORT, cut: false })?;
    while counters()?.errors.get("ECONNREFUSED").is_none_or(|&count| count < 5) {
        std::thread::yield_now();
    }
    let last = client.call(StopLoad { name: "background".into() })?;
    assert!(last.backends["two"] >= 10, "{last:?}");
    assert!(client.call(StopLoad { name: "background".into() }).is_err());
    Ok(())
}

#[test]
fn the_moment_another_backend_answers_is_known_to_the_microsecond() -> Result<()> {
    let sandbox = Sandbox::new("until")?;
    let node = sandbox.add_node("n1")?;
    let (server, client) = (node.add_pod("web")?, node.add_pod("client")?);
    let to = (server.ip4(), PORT).into();
    let pending = client.begin(DialUntil { to, name: "web".into(), timeout_ms: 5000 })?;
    // Other requests of the same pod are answered meanwhile.
    client.call(Hello {})?;
    server.call(Serve::tcp(PORT))?;
    let report = pending.wait()?;
    let (before, after) = report.connect_at_ns.zip(report.connected_at_ns).context("reached")?;
    assert!(before < after && after - before < 1_000_000_000, "{report:?}");
    let never = client.call(DialUntil { to, name: "other".into(), timeout_ms: 20 })?;
    assert_eq!(never.connect_at_ns, None);
    Ok(())
}

/// The same load on both sides has a ratio of about one, and a side's cgroup is entered and left.
#[test]
fn pairs_compare_two_sides_in_one_process() -> Result<()> {
    let sandbox = Sandbox::new("pairs")?;
    let node = sandbox.add_node("n1")?;
    let (server, client) = (serve(node.add_pod("web")?)?, node.add_pod("client")?);
    let load = LoadSpec::tcp((server.ip4(), PORT));
    let (a, b) =
        (Side { load: load.clone(), cgroup: None }, Side { load, cgroup: Some(node.plain_cgroup()?) });
    let pairs = PairSpec { a, b, rounds: 15, slice_ms: 20, warmup_ms: 10 };
    let report = client.call(RunPairs { pairs })?;
    assert_eq!(report.rounds.len(), 15);
    assert_eq!(report.rounds.iter().map(|r| r.a.failed + r.b.failed).sum::<u64>(), 0);
    let ratio = report::ratio(&report.rounds);
    assert!(
        ratio.low <= ratio.value && ratio.value <= ratio.high && ratio.value > 0.2 && ratio.value < 5.0,
        "{ratio:?}"
    );
    assert_eq!(cgroup::of_process(client.pid())?, client.cgroup());
    Ok(())
}

#[test]
fn rules_like_kube_proxys_serve_pods_and_host_processes() -> Result<()> {
    let sandbox = Sandbox::new("baseline")?;
    let (n1, n2) = (sandbox.add_node("n1")?, sandbox.add_node("n2")?);
    let backends = [serve(n1.add_pod("one")?)?, serve(n2.add_pod("two")?)?];
    let clients = [n1.add_pod("client")?, n1.add_host_process("host")?];
    let (vip4, vip6): (SocketAddr, SocketAddr) = ("10.96.0.10:80".parse()?, "[fd00:10:96::10]:80".parse()?);
    let service = |vip: SocketAddr, protocol, index: usize| BaselineService {
        name: "demo/web".into(),
        port_name: "http".into(),
        vip,
        protocol,
        backends: backends.iter().map(|pod| pod.at(PORT)[index]).collect(),
    };
    let mut services = vec![service(vip4, Protocol::Tcp, 0), service(vip6, Protocol::Tcp, 1)];
    services.push(service(vip4, Protocol::Udp, 0));
    let empty: SocketAddr = "10.96.0.11:80".parse()?;
    services.push(BaselineService { vip: empty, backends: Vec::new(), ..services[0].clone() });
    services.extend(baseline::ballast(100, true, &services[0].backends.clone()));
    baseline::install(n1.netns(), &services)?;
    baseline::install(n1.netns(), &services)?;
    for client in &clients {
        for vip in [vip4, vip6] {
            let report =
                client.call(RunLoad { load: LoadSpec::tcp(vip).ask_names().times(60).timeout_ms(1000) })?;
            assert_eq!(
                (report.failed(), report.backends.len()),
                (0, 2),
                "{} {vip}: {report:?}",
                client.name()
            );
            assert_eq!(client.call(Dial::tcp(vip))?.peer, Some(vip));
        }
        assert!(client.call(Exchange::udp(vip4))?.answers[0].backend().is_some());
        assert_eq!(client.call(Dial::tcp(empty))?.errno.as_deref(), Some("ECONNREFUSED"));
    }
    baseline::remove(n1.netns())?;
    baseline::remove(n1.netns())?;
    assert!(clients[0].call(Dial { timeout_ms: 200, ..Dial::tcp(vip4) })?.errno.is_some());
    Ok(())
}

#[test]
fn a_pod_that_is_deleted_leaves_its_addresses_to_the_next() -> Result<()> {
    let sandbox = Sandbox::new("reuse")?;
    let node = sandbox.add_node("n1")?;
    let client = node.add_pod("client")?;
    for name in ["first", "second", "first"] {
        let pod = serve(node.add_pod_at(name, 77)?)?;
        assert!(node.add_pod_at("other", 77).is_err(), "the number is taken");
        assert_eq!(pod.ip4().to_string(), "10.244.1.77");
        for to in pod.at(PORT) {
            assert_eq!(client.call(Dial::tcp(to))?.reply.as_deref(), Some(name));
        }
        pod.delete()?;
    }
    assert!(node.add_pod("client").is_err(), "the name is taken");
    Ok(())
}

#[test]
fn a_pod_that_ends_fails_its_requests_instead_of_hanging() -> Result<()> {
    let sandbox = Sandbox::new("ended")?;
    let node = sandbox.add_node("n1")?;
    let mut pod = node.add_pod("web")?;
    let waiting = pod.begin(DialUntil { to: (pod.ip4(), 1).into(), name: "x".into(), timeout_ms: 60_000 })?;
    pod.kill()?;
    let error = format!("{:#}", waiting.wait().expect_err("the pod is gone"));
    assert!(error.contains("pod web") && error.contains("ended"), "{error}");
    assert!(pod.call(Hello {}).is_err());
    Ok(())
}

#[test]
fn the_machine_is_described_as_benchmarks_print_it() -> Result<()> {
    let sandbox = Sandbox::new("machine")?;
    let node = sandbox.add_node("n1")?;
    let machine = Machine::read(node.netns(), UPLINK)?;
    assert_eq!((machine.congestion_control.as_str(), machine.mtu), ("cubic", 1500));
    assert!(machine.cpus > 0 && machine.offloads.iter().any(|o| o.starts_with("gro ")), "{machine}");
    assert!(Machine::read(node.netns(), "none").is_err());
    Ok(())
}

#[test]
fn an_echo_server_gives_back_what_it_gets() -> Result<()> {
    let sandbox = Sandbox::new("echo")?;
    let node = sandbox.add_node("n1")?;
    let (server, client) = (node.add_pod("web")?, node.add_pod("client")?);
    server.call(Serve::tcp(7).app(App::Echo).at(server.ip4()))?;
    server.call(Serve::udp(7).app(App::Echo))?;
    let dial = Dial { say: "what?\n".into(), ..Dial::tcp((server.ip4(), 7)) };
    assert_eq!(client.call(dial.clone())?.reply.as_deref(), Some("what?"));
    let elsewhere = Dial { to: (server.ip6(), 7).into(), ..dial };
    assert_eq!(client.call(elsewhere)?.errno.as_deref(), Some("ECONNREFUSED"), "it listens at one address");
    assert_eq!(client.call(Exchange::udp((server.ip6(), 7)))?.answers[0].reply.as_deref(), Some("hello"));
    Ok(())
}
