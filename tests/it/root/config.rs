//! The configuration of a running agent: the file followed, the machine set, each in a place of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use beeline::datapath::maps::Reader;
use beeline::inspect::agent::{read_state, state_path};
use beeline::inspect::dump::canonical;

use super::datapath_rig::Rig;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// A rig with a manifest directory and a configuration that leaves the machine alone.
struct Stage {
    rig: Rig,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Stage {
    fn new(config: &str) -> Stage {
        let stage = Stage { rig: Rig::new(), dir: tempfile::tempdir().unwrap(), child: None };
        fs::create_dir(stage.dir.path().join("objects")).unwrap();
        stage.configure(config);
        stage.service("80");
        stage
    }

    fn configure(&self, config: &str) {
        self.put("config.conf", &format!("{HEAD}conntrack: {{maxPerCore: 0}}\n{config}\n"));
    }

    fn service(&self, port: &str) {
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";
        self.put(
            "objects/web.yaml",
            &format!("{service}spec: {{clusterIP: 172.30.0.1, ports: [{{port: {port}}}]}}\n"),
        );
    }

    fn node(&self, cidrs: &str) {
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\n";
        self.put("objects/node.yaml", &format!("{node}spec: {{podCIDRs: [{cidrs}]}}\n"));
    }

    fn put(&self, name: &str, text: &str) {
        let aside = self.dir.path().join("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.dir.path().join(name)).unwrap();
    }

    /// An agent in a network namespace of its own.
    fn start(&mut self) {
        let mut command = Command::new("unshare");
        command.args(["--net", env!("CARGO_BIN_EXE_beeline"), "run", "--node-name=node-a", "--config"]);
        command
            .arg(self.dir.path().join("config.conf"))
            .arg("--manifests")
            .arg(self.dir.path().join("objects"));
        command.arg("--bpf-root").arg(self.rig.bpf_root()).arg("--cgroup-root").arg(&self.rig.cgroup);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("unshare is there");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        self.child = Some(child);
    }

    /// Waits until the agent has ended by itself; its code and what it said.
    fn ended(&mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().expect("it was started");
        let end = Instant::now() + Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let mut said = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
        (child.wait().unwrap().code(), said)
    }

    fn dump(&self) -> String {
        canonical(&Reader::open(&self.rig.bpf_root()).expect("tables").rows().expect("rows"))
    }

    fn until(&self, text: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.dump().contains(text) {
            assert!(Instant::now() < end, "it never had {text}: {}", self.dump());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_file(state_path(&self.rig.bpf_root()));
    }
}

#[test]
fn a_changed_configuration_ends_the_agent_and_leaves_the_data_path() {
    // SYNC-16
    let mut stage = Stage::new("oomScoreAdj: 7");
    stage.start();
    let pid = stage.child.as_ref().unwrap().id();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "7");
    stage.configure("oomScoreAdj: 7");
    stage.service("81");
    stage.until("172.30.0.1:81/TCP");
    assert_eq!(stage.child.as_mut().unwrap().try_wait().unwrap(), None, "the same text is no change");
    stage.configure("oomScoreAdj: 8");
    let (code, said) = stage.ended();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("config.conf changed: ending"), "{said}");
    assert!(stage.dump().contains("172.30.0.1:81/TCP"));
}

#[test]
fn pod_cidrs_of_the_node_are_the_detector_and_their_change_ends_the_agent() {
    // SNAT-8, SYNC-16, SYNC-17
    let mut stage = Stage::new("detectLocalMode: NodeCIDR");
    stage.start();
    assert!(!stage.dump().contains("10.1.2.0/24"), "Services are served while podCIDRs are awaited");
    stage.node("10.1.2.0/24");
    stage.until("10.1.2.0/24");
    assert!(stage.dump().contains("172.30.0.1:80/TCP"));
    stage.node("10.1.3.0/24");
    let (code, said) = stage.ended();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("spec.podCIDRs of Node node-a changed"), "{said}");
}

/// An agent in a network namespace without IPv6, for two seconds: its code and what it said. 143: it still ran.
fn without_ipv6(config: &str) -> (Option<i32>, String) {
    let stage = Stage::new(config);
    let script = r#"
        ip link set lo up; echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 || exit 9
        "$0" run --node-name node-a --config "$1/config.conf" --manifests "$1/objects" --bpf-root "$2" --cgroup-root "$3" &
        (sleep 2; kill $!) & wait %1"#;
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script, env!("CARGO_BIN_EXE_beeline")]).arg(stage.dir.path());
    let output = command.arg(stage.rig.bpf_root()).arg(&stage.rig.cgroup).output().expect("unshare is there");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_node_of_one_family_serves_and_refuses_a_configuration_for_the_other() {
    // CFG-3
    let (code, said) = without_ipv6("clusterCIDR: '10.0.0.0/8'");
    assert!(code == Some(0) && said.contains("ready"), "{code:?}: {said}");
    assert!(said.contains("this kernel has IPv4 alone"), "{said}");
    let (code, said) = without_ipv6("clusterCIDR: 'fd00::/8'");
    assert!(code == Some(1) && !said.contains("ready"), "{code:?}: {said}");
    assert!(
        said.contains("clusterCIDR: 'fd00::/8' names IPv6 networks alone, and this node is IPv4-only"),
        "{said}"
    );
    let (code, said) = without_ipv6("bindAddress: 'fd00::1'");
    assert!(code == Some(1) && said.contains("this kernel has no IPv6"), "{code:?}: {said}");
}

#[test]
fn pod_cidrs_of_the_other_family_end_an_agent_that_detects_by_them() {
    // CFG-3
    let mut stage = Stage::new("detectLocalMode: NodeCIDR\nbindAddress: 192.0.2.1");
    stage.start();
    stage.node("'fd00::/64'");
    let (code, said) = stage.ended();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("spec.podCIDRs of this Node: 'fd00::/64' are IPv6 networks alone"), "{said}");
}

#[test]
fn changes_wait_for_the_period_that_is_asked_for() {
    let period = Duration::from_millis(600);
    let mut stage = Stage::new("iptables: {minSyncPeriod: 600ms}");
    stage.start();
    let first = Instant::now();
    stage.service("81");
    stage.until("172.30.0.1:81/TCP");
    stage.service("82");
    stage.until("172.30.0.1:82/TCP");
    assert!(first.elapsed() >= period, "the second came after {:?}", first.elapsed());
}

/// `$0` is beeline, `$1` a configuration, `$2` an empty directory, `$3` a bpffs, `$4` a cgroup: init twice, then
/// what it set.
const INIT: &str = r#"
    "$0" run --config "$1" --manifests "$2" --init-only --bpf-root "$3" --cgroup-root "$4" 2>"$2/first" || exit 10
    "$0" run --config "$1" --manifests "$2" --init-only --bpf-root "$3" --cgroup-root "$4" 2>"$2/second" || exit 11
    cd /proc/sys/net/netfilter
    cat nf_conntrack_tcp_timeout_established nf_conntrack_udp_timeout nf_conntrack_tcp_be_liberal
"#;

fn init(config: &str, script: &str, net: &[&str]) -> (String, String, String) {
    let (rig, dir) = (Rig::new(), tempfile::tempdir().unwrap());
    let file = dir.path().join("config.conf");
    fs::write(&file, format!("{HEAD}{config}\n")).unwrap();
    let mut command = Command::new("unshare");
    command.args(net).args(["sh", "-c", script, env!("CARGO_BIN_EXE_beeline")]).args([&file, dir.path()]);
    let output = command.arg(rig.bpf_root()).arg(&rig.cgroup).output().expect("unshare is there");
    let said = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    assert_eq!(output.status.code(), Some(0), "{}{}", said("first"), String::from_utf8_lossy(&output.stderr));
    (String::from_utf8_lossy(&output.stdout).into_owned(), said("first"), said("second"))
}

#[test]
fn conntrack_is_set_as_configured_and_what_is_right_is_not_written() {
    // CT-13, DEC-7, CFG-4
    assert!(Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists(), "this test needs nf_conntrack");
    let config =
        "conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 1h11m, udpTimeout: 31s, tcpBeLiberal: true}";
    let (values, first, second) = init(config, INIT, &["--net"]);
    assert_eq!(values, "4260\n31\n1\n");
    assert!(first.contains("set net.netfilter.nf_conntrack_tcp_timeout_established to 4260"), "{first}");
    assert!(!second.contains(" set net.netfilter"), "{second}");
}

#[test]
fn what_cannot_be_set_is_said_and_never_fatal() {
    // CT-13, DEC-7: in a namespace that is not the first the limit cannot be raised, nor anywhere if /proc/sys is read-only.
    let script = format!("mount -o bind,ro /proc/sys /proc/sys || exit 9\n{INIT}");
    let config = "conntrack: {maxPerCore: 500000, udpTimeout: 31s}";
    let (_, first, _) = init(config, &script, &["--net", "--mount"]);
    for key in ["nf_conntrack_max", "nf_conntrack_udp_timeout"] {
        assert!(first.contains("WARN") && first.contains(key), "{key}: {first}");
    }
    assert!(first.contains("initialized"), "{first}");
}

#[test]
fn a_setting_that_failed_shows_in_the_state_of_the_agent() {
    // DEC-7
    let mut stage = Stage::new("");
    stage.put("config.conf", &format!("{HEAD}conntrack: {{maxPerCore: 500000}}\n"));
    stage.start();
    let state = read_state(&stage.rig.bpf_root()).expect("a state");
    let failed = state.sysctls.iter().find(|setting| setting.what == "net.netfilter.nf_conntrack_max");
    assert!(failed.is_some_and(|setting| setting.error.contains("wanted 1")), "{:?}", state.sysctls);
    assert!(
        state.pending.iter().any(|row| row.what == "net.netfilter.nf_conntrack_max"),
        "status shows it too"
    );
}

#[test]
fn run_with_cleanup_is_cleanup() {
    // CFG-4
    let mut stage = Stage::new("");
    stage.start();
    stage.configure("mode: nftables");
    assert_eq!(stage.ended().0, Some(1));
    let mut command = Command::new(env!("CARGO_BIN_EXE_beeline"));
    command
        .arg("--cleanup")
        .arg("--bpf-root")
        .arg(stage.rig.bpf_root())
        .arg("--cgroup-root")
        .arg(&stage.rig.cgroup);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("detached"), "{said}");
    assert!(stage.rig.pins().is_empty());
}
