//! The start of an agent before an API server that is slow to be reached, by name, or says little at first.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use beeline::datapath::maps::Reader;
use beeline::host::netlink::Netlink;
use beeline::host::netns::with_netns;
use beeline::inspect::agent::state_path;
use beeline::inspect::dump::canonical;
use beeline::sandbox::api_server::ApiServer;
use beeline::sandbox::cluster::Sandbox;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::agent::{command, follow, until, until_within};
use super::datapath_rig::Rig;
use crate::api_stage::{NODE, dump_of, recorded_objects};

/// Starts an agent, waits until it has said something, and ends it: its code, and how long that took.
fn ended_at(rig: &Rig, mut command: Command, words: &str) -> (Option<i32>, Duration) {
    let flags = ["--metrics-bind-address", "", "--healthz-bind-address", ""];
    let mut child = command.args(flags).spawn().expect("beeline starts");
    let log = follow(child.stderr.take().expect("a pipe"));
    until_within(words, Duration::from_secs(30), || log.lock().unwrap().contains(words));
    std::thread::sleep(Duration::from_millis(200));
    let asked = Instant::now();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let code = child.wait().unwrap().code();
    let took = asked.elapsed();
    let _ = fs::remove_file(state_path(&rig.bpf_root()));
    assert!(log.lock().unwrap().contains("SIGTERM: stopping"), "{}", log.lock().unwrap());
    (code, took)
}

#[test]
fn sigterm_ends_an_agent_that_awaits_its_first_lists() {
    // SYNC-9
    let (rig, silent) = (Rig::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("http://{}", silent.local_addr().unwrap());
    let (code, took) = ended_at(&rig, command(&rig, "--apiserver", url.as_ref()), "the API server is");
    assert!(code == Some(0) && took < Duration::from_secs(10), "{code:?} after {took:?}");
    assert!(rig.pins().is_empty(), "nothing was touched");
}

#[test]
fn sigterm_ends_an_agent_whose_credential_plugin_hangs() {
    // CFG-5, SYNC-9
    let (rig, dir) = (Rig::new(), tempfile::tempdir().unwrap());
    let (file, mark) = (dir.path().join("kubeconfig"), dir.path().join("mark"));
    let script = format!("echo >{}; sleep 30", mark.display());
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"exec": {"command": "sh", "args": ["-c", script]}}}]
    });
    fs::write(&file, kubeconfig.to_string()).unwrap();
    let command = command(&rig, "--kubeconfig", file.as_os_str());
    let (code, took) = ended_at(&rig, command, "the API server is");
    assert!(mark.exists(), "the plugin was started");
    assert!(code == Some(0) && took < Duration::from_secs(10), "{code:?} after {took:?}");
}

/// The lists of the real server, served to an agent: its tables are those of the same objects as manifests.
#[test]
fn an_agent_programs_what_the_real_server_said() {
    let (rig, server) = (Rig::new(), ApiServer::start().unwrap());
    let lists = ["services", "endpointslices", "node-kc-n1", "servicecidrs"];
    let objects: Vec<_> =
        lists.iter().flat_map(|name| recorded_objects(&format!("{name}.list.json"))).collect();
    for object in &objects {
        server.put(object.clone()).unwrap();
    }
    let mut command = command(&rig, "--apiserver", server.url().as_ref());
    command.args(["--node-name", NODE, "--metrics-bind-address", "", "--healthz-bind-address", ""]);
    let mut child = command.spawn().expect("beeline starts");
    let log = follow(child.stderr.take().expect("a pipe"));
    // What is of this machine, its addresses and its namespace, is not in the recording.
    let services = |dump: &str| {
        let of_service = |line: &&str| line.starts_with("service ") || line.starts_with("  ");
        dump.lines().filter(of_service).map(str::to_owned).collect::<Vec<_>>()
    };
    let wanted = services(&dump_of(&objects));
    assert!(wanted.len() > 100, "{wanted:?}");
    until_within("the tables hold what was listed", Duration::from_secs(30), || {
        Reader::open(&rig.bpf_root())
            .is_ok_and(|reader| reader.rows().is_ok_and(|rows| services(&canonical(&rows)) == wanted))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let _ = fs::remove_file(state_path(&rig.bpf_root()));
    assert!(!log.lock().unwrap().contains("ERROR"), "{}", log.lock().unwrap());
}

/// Answers queries in a namespace: what ends in `api.beeline.test` is 127.0.0.1, and nothing else is anything.
/// It counts what it answers, and ends with the test's process.
fn name_server(socket: UdpSocket) -> Arc<AtomicUsize> {
    let answered = Arc::new(AtomicUsize::new(0));
    let count = answered.clone();
    std::thread::spawn(move || {
        let mut buffer = [0_u8; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..length];
            // The question: labels up to an empty one, type, class.
            let Some(end) = query[12..].iter().position(|byte| *byte == 0).map(|at| 12 + at + 5) else {
                continue;
            };
            let (is_ours, is_a) =
                (query[12..end].starts_with(b"\x03api\x07beeline\x04test\0"), query[end - 3] == 1);
            let code = if is_ours { 0x80 } else { 0x83 };
            let answers = u8::from(is_ours && is_a);
            let mut reply =
                [&query[..2], &[0x81, code, 0, 1, 0, answers, 0, 0, 0, 0], &query[12..end]].concat();
            if answers == 1 {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
                reply.extend(Ipv4Addr::LOCALHOST.octets());
                count.fetch_add(1, Ordering::Relaxed);
            }
            let _ = socket.send_to(&reply, from);
        }
    });
    answered
}

#[test]
fn an_api_server_is_found_by_name() {
    // CFG-5: by the servers of /etc/resolv.conf, without NSS
    let etc = tempfile::tempdir().unwrap();
    fs::write(etc.path().join("resolv.conf"), "nameserver 127.0.0.53\noptions timeout:1\n").unwrap();
    let wrapper = etc.path().join("beeline");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} /etc && exec {} \"$@\"' sh \"$@\"\n",
        etc.path().display(),
        env!("CARGO_BIN_EXE_beeline")
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();

    let sandbox = Sandbox::with_binary("dns", &wrapper).unwrap();
    let node = sandbox.add_node("n1").unwrap();
    let bind = || Ok(UdpSocket::bind("127.0.0.53:53")?);
    let answered = name_server(with_netns(node.netns().as_fd(), bind).unwrap());
    let server = ApiServer::start_in(node.netns().as_fd().try_clone_to_owned().unwrap()).unwrap();
    server.put(json!({"kind": "Node", "metadata": {"name": node.name()}})).unwrap();
    server
        .put(json!({"kind": "Service", "metadata": {"namespace": "default", "name": "web"},
            "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}}))
        .unwrap();
    let at: SocketAddr = server.url().trim_start_matches("http://").parse().unwrap();
    let url = format!("http://api.beeline.test:{}", at.port());
    let agent = node.start_agent_of(["--apiserver", &url], &[]).unwrap();
    let rows = Reader::open(node.bpf_root()).unwrap().rows().unwrap();
    assert!(canonical(&rows).contains("10.96.0.10:80/TCP"));
    assert!(answered.load(Ordering::Relaxed) > 0, "nobody asked for the name");
    drop(agent);
    sandbox.close().unwrap();
}

/// A program that is `beeline` without the `--node-ip` that a sandbox gives.
fn without_node_ip(dir: &Path) -> PathBuf {
    let wrapper = dir.join("beeline");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = run ]; then five=\"$1 $2 $3 $4 $5\"; shift 7; exec {0} $five \"$@\"; fi\nexec {0} \"$@\"\n",
        env!("CARGO_BIN_EXE_beeline")
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    wrapper
}

#[test]
fn a_node_that_comes_late_delays_nothing_and_is_taken_in() {
    // SYNC-17, SYNC-16, HC-2
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::with_binary("late", &without_node_ip(dir.path())).unwrap();
    let node = sandbox.add_node("n1").unwrap();
    let first = "10.77.0.1";
    Netlink::open_in(node.netns().as_fd())
        .unwrap()
        .add_address("lo", "10.77.0.1/32".parse().unwrap())
        .unwrap();
    let server = ApiServer::start_in(node.netns().as_fd().try_clone_to_owned().unwrap()).unwrap();
    let put = |addresses: &[&str]| {
        let addresses: Vec<_> =
            addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        server
            .put(json!({"kind": "Node", "metadata": {"name": node.name()}, "status": {"addresses": addresses}}))
            .unwrap();
    };
    put(&[]);
    server
        .put(json!({"kind": "Service", "metadata": {"namespace": "default", "name": "lb"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.10", "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 30500, "ports": [{"port": 80}]}}))
        .unwrap();
    let began = Instant::now();
    let agent = node.start_agent_of(["--apiserver", &server.url()], &[]).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "ready after {:?}", began.elapsed());
    let holds =
        |text: &str| canonical(&Reader::open(node.bpf_root()).unwrap().rows().unwrap()).contains(text);
    let is_served = |ip: &str| {
        let at: SocketAddr = format!("{ip}:30500").parse().unwrap();
        node.netns().run(|| Ok(TcpStream::connect(at).is_ok())).unwrap()
    };
    let second = node.ip4().to_string();
    until("where the first interface is", || is_served(first) && !is_served(&second));
    assert!(!holds("10.77.0.9"));
    put(&[&second, "10.77.0.9"]);
    until("the node's addresses", || holds("10.77.0.9"));
    until("where the node is", || is_served(&second) && !is_served(first));
    put(&[&second, "10.77.0.8"]);
    until("another address", || holds("10.77.0.8") && !holds("10.77.0.9"));
    until("it is logged", || agent.log().unwrap().contains("10.77.0.9] to ["));
    drop(agent);
    sandbox.close().unwrap();
}
