//! How long 100,000 backends take from objects in memory to complete, attached tables.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use beeline::agent::reconcile::{Identity, Reconciler, size_for};
use beeline::datapath::{Datapath, Options, SMALLEST, remove};
use beeline::model::addr::{Family, Protocol};
use beeline::model::event::Event;
use beeline::model::names::ObjectName;
use beeline::model::service::{Service, ServicePort};
use beeline::model::slice::{Endpoint, EndpointSlice, SlicePort, Trigger};
use beeline::plan::book::Book;
use beeline::plan::table::Tables;
use beeline::plan::world::World;
use beeline::sandbox::report::Row;

use super::{Bench, manifests};

const METRIC: &str = "load_100k_backends_ms";
const SERVICES: u32 = 10_000;
const BACKENDS: u32 = 10;

/// The production path: what `run` does once its source has delivered all objects.
pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    let case = "services=10000x10";
    if !bench.wants(METRIC, case) {
        return Ok(());
    }
    let node = bench.sandbox.add_node("load")?;
    let mut took_ms = Vec::new();
    for _ in 0..if bench.quick { 5 } else { 21 } {
        let events = objects();
        let begun = Instant::now();
        let mut world = World::new();
        events.into_iter().for_each(|event| world.apply(event));
        let limits = size_for(&world, SMALLEST);
        let options = Options { limits, ..Options::new(node.cgroup_root(), node.bpf_root()) };
        let datapath = Datapath::open(&options)?;
        let book = Book::new(datapath.limits());
        let mut reconciler = Reconciler::new(world, book, datapath, Identity::default());
        let outcome = reconciler.step(Vec::new(), Duration::ZERO);
        reconciler.tables().publish()?;
        took_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        ensure!(outcome.failed.is_empty(), "rows could not be written: {:?}", outcome.failed.first());
        let written = reconciler.tables().reader()?.rows()?.endpoints.len();
        ensure!(written == (SERVICES * BACKENDS) as usize, "{written} backends are in the tables");
        drop(reconciler);
        remove::remove_all(node.bpf_root())?;
    }
    bench.push(Row::quantile(case, METRIC, &took_ms, 0.5, "ms").goal(1000.0));
    Ok(())
}

/// 10,000 Services of 10 endpoints, as a source has them in memory.
fn objects() -> Vec<Event> {
    let nodes: Vec<Arc<str>> = (0..50).map(|at| format!("node-{at}").into()).collect();
    let mut events = Vec::with_capacity(2 * SERVICES as usize + 1);
    for number in 0..SERVICES {
        let name = ObjectName::new("bench", &format!("svc-{number:05}"));
        let port = ServicePort { name: "tcp".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 };
        events.push(Event::Service(Box::new(Service {
            name: name.clone(),
            cluster_ip: manifests::vip(number).ip().to_string(),
            ports: vec![port],
            ..Service::default()
        })));
        let addresses = manifests::nowhere(number, BACKENDS, 8080);
        events.push(Event::Slice(Box::new(EndpointSlice {
            name: ObjectName::new("bench", &format!("svc-{number:05}-1")),
            service: name,
            family: Family::V4,
            ports: vec![SlicePort { name: "tcp".into(), protocol: Protocol::Tcp, port: 8080 }],
            endpoints: addresses.iter().enumerate().map(|(at, to)| endpoint(*to, &nodes[at % 50])).collect(),
            headless: false,
            triggered: Trigger::default(),
        })));
    }
    events.push(Event::Synced);
    events
}

fn endpoint(to: SocketAddr, node: &Arc<str>) -> Endpoint {
    Endpoint {
        addr: to.ip(),
        node: Some(node.clone()),
        zone: None,
        ready: true,
        serving: true,
        terminating: false,
        zone_hints: Box::default(),
        node_hints: Box::default(),
    }
}
