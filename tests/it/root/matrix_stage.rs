//! What the tests of sockets play on: two nodes, backends on both, clients and an agent on the first,
//! and Services that are published and awaited.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use beeline::datapath::maps::Reader;
use beeline::inspect::dump::{Dump, Ids, ServiceDump};
use beeline::inspect::services::{self, ServiceEntry};
use beeline::inspect::view::{Depth, View};
use beeline::model::addr::{Family, Protocol};
use beeline::sandbox::agent::Agent;
use beeline::sandbox::cluster::Sandbox;
use beeline::sandbox::node::Node;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{Dial, DialReport, Exchange, Receive, ReceiveReport, Send, Serve};
use serde_json::{Value, json};

/// Where every backend serves, TCP and UDP.
pub(super) const TARGET: u16 = 8080;
/// The namespace of all Services.
const NAMESPACE: &str = "shop";
/// How long something that was asked for may take; emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// A sandbox with an agent. Fields are dropped in order: agent and pods before the sandbox.
pub(super) struct Stage {
    _agent: Agent,
    /// A pod on the agent's node.
    pub client: Pod,
    /// `web-1` and `web-2` on the agent's node, `web-3` on the other.
    pub web: Vec<Pod>,
    pub n1: Arc<Node>,
    manifests: PathBuf,
    pub sandbox: Sandbox,
}

/// An endpoint of a Service: one of the stage's backends, by its place.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub web: usize,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl End {
    pub fn ready(web: usize) -> End {
        End { web, ready: true, serving: true, terminating: false }
    }

    /// No longer eligible, but it still serves.
    pub fn leaving(web: usize) -> End {
        End { web, ready: false, serving: true, terminating: true }
    }

    /// It has just started.
    pub fn starting(web: usize) -> End {
        End { web, ready: false, serving: false, terminating: false }
    }

    /// It ends and does not serve any more.
    pub fn gone(web: usize) -> End {
        End { web, ready: false, serving: false, terminating: true }
    }
}

/// A Service with its endpoints, all on [`TARGET`].
#[derive(Clone)]
pub(super) struct Svc {
    pub name: &'static str,
    pub ips: Vec<IpAddr>,
    pub ports: Vec<(Protocol, u16)>,
    pub ends: Vec<End>,
    /// Seconds of session affinity.
    pub affinity: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub local: bool,
}

impl Svc {
    /// A dual-stack Service at 10.96.0.`number` and fd00:10:96::`number`, port 80, TCP and UDP, on
    /// these backends.
    pub fn new(name: &'static str, number: u8, webs: &[usize]) -> Svc {
        let v6: IpAddr = format!("fd00:10:96::{number}").parse().expect("an address");
        Svc {
            name,
            ips: vec![[10, 96, 0, number].into(), v6],
            ports: vec![(Protocol::Tcp, 80), (Protocol::Udp, 80)],
            ends: webs.iter().map(|&web| End::ready(web)).collect(),
            affinity: None,
            local: false,
        }
    }

    /// The frontend of port 80, IPv4 first.
    pub fn at(&self, port: u16) -> [SocketAddr; 2] {
        [(self.ips[0], port).into(), (self.ips[1], port).into()]
    }

    fn manifest(&self, stage: &Stage) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(protocol, port)| {
                let protocol = protocol.to_string();
                json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port, "targetPort": TARGET})
            })
            .collect();
        let mut spec = json!({
            "clusterIP": self.ips[0],
            "clusterIPs": self.ips,
            "ipFamilies": self.ips.iter().map(|ip| Family::of(*ip).to_string()).collect::<Vec<_>>(),
            "internalTrafficPolicy": if self.local { "Local" } else { "Cluster" },
            "ports": ports,
        });
        if let Some(seconds) = self.affinity {
            spec["sessionAffinity"] = "ClientIP".into();
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
        }
        let metadata = json!({"namespace": NAMESPACE, "name": self.name});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        let slices = [Family::V4, Family::V6].map(|family| self.slice(stage, family));
        json!({"apiVersion": "v1", "kind": "List", "items": [service, slices[0], slices[1]]})
    }

    fn slice(&self, stage: &Stage, family: Family) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(protocol, _)| protocol.to_string())
            .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": TARGET}))
            .collect();
        let endpoints: Vec<Value> = self
            .ends
            .iter()
            .map(|end| {
                json!({
                    "addresses": [stage.ip(end.web, family)],
                    "conditions": {"ready": end.ready, "serving": end.serving, "terminating": end.terminating},
                    "nodeName": if end.web < 2 { "n1" } else { "n2" },
                })
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": NAMESPACE,
                "name": format!("{}-{}", self.name, family.to_string().to_lowercase()),
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": family.to_string(),
            "ports": ports,
            "endpoints": endpoints,
        })
    }

    /// Whether the tables say what this says.
    fn is_in(&self, tables: &Dump, stage: &Stage) -> bool {
        self.ips.iter().all(|ip| tables.active.contains(ip))
            && self.ports.iter().all(|(protocol, port)| {
                self.ips.iter().all(|ip| {
                    let row = tables.services.iter().find(|row| {
                        row.frontends
                            .iter()
                            .any(|f| f.addr == SocketAddr::new(*ip, *port) && f.protocol == *protocol)
                    });
                    row.is_some_and(|row| self.is_row(row, stage, Family::of(*ip)))
                })
            })
    }

    fn is_row(&self, row: &ServiceDump, stage: &Stage, family: Family) -> bool {
        let of = |end: &End| SocketAddr::new(stage.ip(end.web, family), TARGET);
        let flags: BTreeSet<_> = self.ends.iter().map(|end| (of(end), end.ready, end.serving)).collect();
        let shown: BTreeSet<_> = row.backends.iter().map(|b| (b.addr, b.ready, b.serving)).collect();
        let taken = self.ends.iter().filter(|end| end.ready).count();
        flags == shown
            && (taken == 0 || row.cluster.addrs.len() == taken)
            && row.affinity_seconds == self.affinity.unwrap_or(0)
            && (row.internal == beeline::plan::table::Which::Local) == self.local
    }
}

impl Stage {
    pub fn build(name: &str) -> Stage {
        let sandbox = Sandbox::new(name).expect("a sandbox, as root");
        let n1 = sandbox.add_node("n1").expect("a node");
        let n2 = sandbox.add_node("n2").expect("a node");
        let web: Vec<Pod> = [(&n1, "web-1"), (&n1, "web-2"), (&n2, "web-3")]
            .into_iter()
            .map(|(node, name)| node.add_pod(name).expect("a pod"))
            .collect();
        for pod in &web {
            pod.call(Serve::tcp(TARGET)).expect("a server");
            pod.call(Serve::udp(TARGET)).expect("a server");
        }
        let client = n1.add_pod("client").expect("a pod");
        let manifests = sandbox.dir().join("manifests");
        fs::create_dir(&manifests).expect("a directory");
        let agent = n1.start_agent(&manifests, &[]).expect("an agent");
        Stage { _agent: agent, client, web, n1, manifests, sandbox }
    }

    /// The address of a backend.
    pub fn ip(&self, web: usize, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.web[web].ip4(),
            Family::V6 => self.web[web].ip6(),
        }
    }

    /// Writes Services and waits until the tables say so.
    pub fn publish(&self, services: &[&Svc]) {
        for service in services {
            let file = self.manifests.join(format!("{}.json", service.name));
            let aside = file.with_extension("aside");
            fs::write(&aside, service.manifest(self).to_string()).expect("the directory is ours");
            fs::rename(&aside, &file).expect("the directory is ours");
        }
        until("the tables say what the manifests say", || {
            let rows = self.reader().rows().expect("the tables can be read");
            let tables = Dump::of(&rows, Ids::Hidden);
            services.iter().all(|service| service.is_in(&tables, self))
        });
    }

    pub fn reader(&self) -> Reader {
        Reader::open(self.n1.bpf_root()).expect("the agent has pinned its tables")
    }

    /// Connections, refused and dropped of a Service's port.
    pub fn counts(&self, service: &Svc, protocol: Protocol) -> [u64; 3] {
        let view = View::open(self.n1.bpf_root(), Depth::Rows).expect("the tables can be read");
        let list = services::list(&view, Some(NAMESPACE));
        let is_it = |entry: &&ServiceEntry| &*entry.name == service.name && entry.protocol == protocol;
        let entry = list.iter().find(is_it).expect("the Service is published");
        [entry.connections, entry.refused, entry.dropped]
    }
}

/// Waits until something holds.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks over TCP who is there.
pub(super) fn dial(client: &Pod, dial: Dial) -> DialReport {
    client.call(Dial { timeout_ms: 10_000, ..dial }).expect("the pod answers")
}

/// Asks over TCP who is there; somebody must be.
pub(super) fn who(client: &Pod, to: SocketAddr) -> String {
    let report = dial(client, Dial::tcp(to));
    report.reply.clone().unwrap_or_else(|| panic!("{} dials {to}: {report:?}", client.name()))
}

/// Sends one datagram from a socket of its own, and says who answered; somebody must.
pub(super) fn who_udp(client: &Pod, exchange: Exchange) -> String {
    let report = client.call(Exchange { timeout_ms: 10_000, ..exchange }).expect("the pod answers");
    let answer = report.answers.first().unwrap_or_else(|| panic!("{}: {report:?}", client.name()));
    assert_eq!(answer.from, Some(answer.to), "an answer comes from what was dialled: {report:?}");
    answer.backend().unwrap_or_else(|| panic!("{}: {report:?}", client.name())).to_owned()
}

/// One datagram there and back on a socket that is open: who answered, and from which address.
pub(super) fn ask(client: &Pod, socket: &str, to: Option<SocketAddr>) -> (String, SocketAddr) {
    send(client, socket, to);
    let answer = receive(client, socket);
    let data = answer.data.as_deref().unwrap_or_else(|| panic!("{socket} to {to:?}: {answer:?}"));
    let name = data.split(':').next().unwrap_or_default().to_owned();
    (name, answer.from.expect("a datagram has a sender"))
}

pub(super) fn send(client: &Pod, socket: &str, to: Option<SocketAddr>) {
    let sent = client.call(Send { socket: socket.into(), say: "?".into(), to }).expect("the pod answers");
    assert_eq!(sent.errno, None, "{socket} sends to {to:?}");
}

pub(super) fn receive(client: &Pod, socket: &str) -> ReceiveReport {
    let receive = Receive { socket: socket.into(), peek: false, timeout_ms: 10_000 };
    client.call(receive).expect("the pod answers")
}

/// Where the kernel itself says that the UDP sockets of a pod are connected to (`/proc/PID/net/udp`):
/// no hook shows the pod's sockets in another light there.
pub(super) fn kernel_peers(pod: &Pod) -> Vec<SocketAddr> {
    ["udp", "udp6"]
        .into_iter()
        .flat_map(|table| {
            let text =
                fs::read_to_string(format!("/proc/{}/net/{table}", pod.pid())).expect("proc is mounted");
            text.lines()
                .skip(1)
                .filter_map(|line| hex_address(line.split_whitespace().nth(2)?))
                .collect::<Vec<_>>()
        })
        .filter(|peer| peer.port() != 0)
        .collect()
}

/// `0B01F40A:1F90`: words of the address as this machine reads them, then the port.
fn hex_address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(words.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match words.len() {
        8 => IpAddr::from(word(0)?),
        _ => {
            let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)
        }
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}
