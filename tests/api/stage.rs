//! An agent's head without its hands: the API source and the reconciler on tables in memory, before an
//! API server, be it the scripted one or the real one.

use std::time::{Duration, Instant};

use beeline::agent::reconcile::{Identity, Reconciler};
use beeline::cluster::api::{ApiSource, Pace};
use beeline::cluster::client::{Door, Roots};
use beeline::cluster::manifest::{FileProblem, ManifestStore};
use beeline::config::Cluster;
use beeline::inspect::dump::canonical;
use beeline::model::event::Event;
use beeline::model::node::HostFacts;
use beeline::plan::book::Book;
use beeline::plan::mem::MemTables;
use beeline::plan::table::{Limits, NetnsClass};
use beeline::plan::world::World;
use beeline::sandbox::api_server::Kind;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// The node all tests are on: that of the recorded files.
pub(crate) const NODE: &str = "kc-n1";

/// How long anything may take; in a guest of the kernel matrix, whose CPU is emulated, six times as long.
fn patience() -> Duration {
    Duration::from_secs(if std::env::var_os("BEELINE_MATRIX").is_some() { 120 } else { 20 })
}

const LIMITS: Limits =
    Limits { frontends: 1 << 15, services: 1 << 14, slots: 1 << 17, backends: 1 << 16, names: 1 << 15 };

/// An API server, to be used as a test needs it.
pub(crate) trait Server {
    /// How an agent gets there.
    fn way(&self) -> Cluster;
    /// Makes or replaces an object.
    fn put(&self, object: Value);
    /// Makes or replaces many, in any order.
    fn put_all(&self, objects: Vec<Value>) {
        objects.into_iter().for_each(|object| self.put(object));
    }
    /// Removes an object that there is.
    fn delete(&self, kind: Kind, namespace: &str, name: &str);
    /// Removes many of the namespace of tests, in any order.
    fn delete_all(&self, names: Vec<(Kind, String)>) {
        names.into_iter().for_each(|(kind, name)| self.delete(kind, "ns", &name));
    }
    /// All objects of the kinds an agent may follow, each saying its kind.
    fn objects(&self) -> Vec<Value>;
    /// Ends it; the objects stay.
    fn stop(&mut self);
    /// Starts it again where it was.
    fn restart(&mut self);
    /// Forgets, while it is stopped, what happened until now: who watched before must list.
    fn compact(&mut self);
    /// Whether it streams lists from the next start on, or gives them in pages.
    fn stream_lists(&mut self, streams: bool);
}

/// A source with what is made of it.
pub(crate) struct Stage {
    pub source: ApiSource,
    pub agent: Reconciler<MemTables>,
    /// What the source said, in words, in order.
    pub heard: Vec<String>,
    /// How often a ServicePort was written.
    pub written: usize,
    pub runtime: Runtime,
    began: Instant,
}

impl Stage {
    /// Follows a server, hurriedly.
    pub fn new(server: &impl Server) -> Stage {
        Stage::with(&server.way(), Pace::hurried())
    }

    /// Follows what a configuration leads to.
    pub fn with(cluster: &Cluster, pace: Pace) -> Stage {
        let roots = Roots { account: "/nonexistent".into(), neighbours: Vec::new(), service: None };
        Stage::of(cluster, &roots, pace)
    }

    pub fn of(cluster: &Cluster, roots: &Roots, pace: Pace) -> Stage {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let source = {
            let _inside = runtime.enter();
            let door = Door::open(cluster, roots).expect("a way").renewing_after(Duration::from_millis(100));
            ApiSource::open(door, NODE, pace, 7)
        };
        Stage { source, agent: agent(), heard: Vec::new(), written: 0, runtime, began: Instant::now() }
    }

    /// Takes in what comes next; false if nothing came in that time.
    pub fn pump(&mut self, patience: Duration) -> bool {
        let next = async { timeout(patience, self.source.next()).await };
        let Ok(events) = self.runtime.block_on(next) else { return false };
        self.heard.extend(events.iter().map(word));
        self.written += self.agent.step(events, self.began.elapsed()).written.len();
        true
    }

    /// Takes in until something holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Stage) -> bool) {
        let deadline = Instant::now() + patience();
        while !holds(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: not in {:?}; problems {:?}", patience(), self.problems());
            self.pump(left.min(Duration::from_millis(50)));
        }
    }

    /// Waits until the dump equals that of a fresh start over the server's objects, and then a little
    /// whether it stays so.
    pub fn until_equal(&mut self, server: &impl Server) {
        let wanted = fresh_dump(server);
        let deadline = Instant::now() + patience();
        while self.dump() != wanted {
            if Instant::now() > deadline {
                pretty_difference(&self.dump(), &wanted);
                panic!("the dumps differ after {:?}; problems {:?}", patience(), self.problems());
            }
            self.pump(Duration::from_millis(50));
        }
        self.pump(Duration::from_millis(30));
        assert_eq!(self.dump(), wanted, "it does not stay so");
    }

    pub fn dump(&mut self) -> String {
        let now = self.began.elapsed();
        self.agent.maintain(now);
        canonical(&self.agent.tables().rows())
    }

    pub fn problems(&self) -> Vec<FileProblem> {
        self.source.problems()
    }

    /// Whether a problem says something.
    pub fn complains(&self, of: &str) -> bool {
        self.problems().iter().any(|problem| problem.to_string().contains(of))
    }
}

fn agent() -> Reconciler<MemTables> {
    let mut world = World::new();
    world.apply(Event::Host(Box::new(HostFacts { node_name: NODE.into(), ..HostFacts::default() })));
    let identity = Identity { netns: vec![(7, NetnsClass::Host)], ..Identity::default() };
    Reconciler::new(world, Book::new(LIMITS), MemTables::new(LIMITS), identity)
}

/// The dump that a fresh start makes of a server's objects, read as manifests: another way into the
/// same tables.
fn fresh_dump(server: &impl Server) -> String {
    dump_of(&server.objects())
}

/// The same of objects.
pub(crate) fn dump_of(objects: &[Value]) -> String {
    let text = json!({"kind": "List", "apiVersion": "v1", "items": objects}).to_string();
    let mut events = ManifestStore::new().update("objects.json", &text).events;
    events.push(Event::Synced);
    let mut agent = agent();
    let step = agent.step(events, Duration::ZERO);
    assert!(step.is_first && step.failed.is_empty(), "{:?}", step.failed.first());
    canonical(&agent.tables().rows())
}

/// An event in a word or two.
fn word(event: &Event) -> String {
    match event {
        Event::Service(service) => format!("Service {}", service.name),
        Event::ServiceGone(name) => format!("-Service {name}"),
        Event::Slice(slice) => format!("Slice {}", slice.name),
        Event::SliceGone(name) => format!("-Slice {name}"),
        Event::Node(node) => format!("Node {}", node.name),
        Event::NodeGone(name) => format!("-Node {name}"),
        Event::ServiceCidr(name, _) => format!("ServiceCIDR {name}"),
        Event::ServiceCidrGone(name) => format!("-ServiceCIDR {name}"),
        Event::Host(_) => "Host".into(),
        Event::Synced => "Synced".into(),
    }
}

fn pretty_difference(got: &str, wanted: &str) {
    let missing = |text: &str, in_other: &str| {
        let other: Vec<_> = in_other.lines().collect();
        text.lines().filter(|line| !other.contains(line)).take(20).map(str::to_owned).collect::<Vec<_>>()
    };
    println!("only got: {:#?}", missing(got, wanted));
    println!("only wanted: {:#?}", missing(wanted, got));
}

/// A Service; its ClusterIP is made from `n`.
pub(crate) fn service(n: u32, port: u16) -> Value {
    json!({
        "kind": "Service", "metadata": {"namespace": "ns", "name": format!("s{n}"), "labels": {"app": "x"},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
        "spec": {"clusterIP": format!("10.{}.{}.{}", 96 + n / 62_500, n / 250 % 250, 1 + n % 250),
            "ports": [{"name": "http", "port": port, "protocol": "TCP", "targetPort": 8080}]}
    })
}

/// A slice of it with that many endpoints, the first of them here.
pub(crate) fn slice(n: u32, endpoints: u32) -> Value {
    let endpoint = |at: u32| {
        json!({"addresses": [format!("10.{}.{}.{}", 128 + n / 62_500, n / 250 % 250, 1 + (n + at) % 250)],
            "nodeName": if at == 0 { NODE.to_owned() } else { format!("node-{at}") },
            "zone": format!("zone-{}", at % 3), "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "ns", "name": format!("s{n}-{at}"), "uid": "0f5c"}})
    };
    json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "ns", "name": format!("s{n}-1"),
            "labels": {"kubernetes.io/service-name": format!("s{n}")},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:endpoints": {}}}]},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>()
    })
}

/// This node, another, a ServiceCIDR, and so many Services with three endpoints.
pub(crate) fn population(services: u32) -> Vec<Value> {
    let mut all = vec![
        json!({"kind": "Node", "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": "zone-0"}}}),
        json!({"kind": "Node", "metadata": {"name": "node-1"}}),
        json!({"kind": "ServiceCIDR", "metadata": {"name": "it"}, "spec": {"cidrs": ["10.96.0.0/12", "fd00:10:96::/112"]}}),
    ];
    all.extend((0..services).flat_map(|n| [service(n, 80), slice(n, 3)]));
    all
}
