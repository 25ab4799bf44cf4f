//! The same cluster from an API server: until it is ready, what that takes, and what a change costs.
//!
//! The server is the sandbox's, in the agent's network namespace, over plain HTTP. Times of changes are
//! taken before the server is told, so that they include its own work.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeline::host::memory;
use beeline::sandbox::agent::Agent;
use beeline::sandbox::api_server::ApiServer;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{DialUntil, Serve};
use beeline::sandbox::report::Row;
use serde_json::{Value, json};

use super::change::now_ns;
use super::{Bench, manifests};

const CASE: &str = "services=10000x10/api";
const SERVICES: u32 = 10_000;
const BACKENDS: u32 = 10;
const PORT: u16 = 9090;
const MIB: f64 = 1024.0 * 1024.0;
const METRICS: [&str; 6] = [
    "change_to_effect_p99_ms",
    "first_list_ready_ms",
    "rss_peak_mib",
    "rss_mib",
    "idle_cpu_percent",
    "cpu_per_change_ms",
];

/// All figures of the one case: they come from one agent.
pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    if !METRICS.iter().any(|metric| bench.wants(metric, CASE)) {
        return Ok(());
    }
    let node = bench.sandbox.add_node("api")?;
    let servers = [node.add_pod("left")?, node.add_pod("right")?];
    for server in &servers {
        server.call(Serve::tcp(PORT))?;
    }
    let client = node.add_pod("client")?;
    let api = ApiServer::start_in(node.netns().as_fd().try_clone_to_owned()?)?;
    api.put(json!({"kind": "Node", "metadata": {"name": node.name()}}))?;
    for at in 0..SERVICES {
        put(&api, &format!("svc-{at:05}"), manifests::vip(at), &manifests::nowhere(at, BACKENDS, PORT))?;
    }
    let target = manifests::vip(SERVICES);
    put(&api, "target", target, &[(servers[0].ip4(), PORT).into()])?;

    let begun = Instant::now();
    let agent = node.start_agent_of(["--apiserver", &api.url()], &[])?;
    let ready_ms = begun.elapsed().as_secs_f64() * 1e3;
    bench.push(Row::single(CASE, "first_list_ready_ms", ready_ms, "ms").goal(3000.0));
    at_rest(bench, &agent)?;
    changes(bench, &agent, &api, &servers, &client, target)?;
    drop((client, servers, agent));
    Ok(())
}

/// Memory and CPU of an agent to which nothing happens.
fn at_rest(bench: &mut Bench, agent: &Agent) -> Result<()> {
    let peak = memory::peak_of(agent.pid()?)? as f64 / MIB;
    bench.push(Row::single(CASE, "rss_peak_mib", peak, "MiB").goal(120.0));
    let seconds = if bench.quick { 3 } else { 10 };
    std::thread::sleep(Duration::from_secs(seconds));
    let rss = memory::rss_of(agent.pid()?)? as f64 / MIB;
    bench.push(Row::single(CASE, "rss_mib", rss, "MiB").goal(60.0));
    // Long enough that it looks after its data path a few times.
    let (before, idle) = (cpu_ns(agent)?, Duration::from_secs(3 * seconds));
    std::thread::sleep(idle);
    let percent = 100.0 * (cpu_ns(agent)? - before) as f64 / idle.as_nanos() as f64;
    bench.push(Row::single(CASE, "idle_cpu_percent", percent, "%").goal(0.1));
    Ok(())
}

/// The endpoint of one Service moves between two pods.
fn changes(
    bench: &mut Bench,
    agent: &Agent,
    api: &ApiServer,
    servers: &[Pod; 2],
    client: &Pod,
    target: SocketAddr,
) -> Result<()> {
    let count = if bench.quick { 60 } else { 500 };
    let before = cpu_ns(agent)?;
    let mut took_ms = Vec::with_capacity(count);
    for change in 1..=count {
        let next = &servers[change % 2];
        let slice = slice("target", &[(next.ip4(), PORT).into()]);
        let waiting =
            client.begin(DialUntil { to: target, name: next.name().to_owned(), timeout_ms: 5000 })?;
        // The client dials in a loop by now.
        std::thread::sleep(Duration::from_millis(3));
        let told = now_ns()?;
        api.put(slice)?;
        let landed = waiting.wait()?;
        let at =
            landed.connected_at_ns.with_context(|| format!("change {change} took no effect: {landed:?}"))?;
        took_ms.push(at.saturating_sub(told) as f64 / 1e6);
    }
    let spent_ms = (cpu_ns(agent)? - before) as f64 / 1e6;
    bench.push(Row::quantile(CASE, "change_to_effect_p99_ms", &took_ms, 0.99, "ms").goal(5.0));
    bench.push(Row::quantile(CASE, "change_to_effect_p50_ms_info", &took_ms, 0.5, "ms"));
    bench.push(Row::single(CASE, "cpu_per_change_ms", spent_ms / count as f64, "ms").goal(1.0));
    Ok(())
}

/// What the threads of the agent have spent on a CPU, in nanoseconds.
fn cpu_ns(agent: &Agent) -> Result<u64> {
    let tasks = format!("/proc/{}/task", agent.pid()?);
    let mut sum = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("list {tasks}"))? {
        let path = task?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let spent = text.split(' ').next().and_then(|word| word.parse::<u64>().ok());
        sum += spent.with_context(|| format!("{} begins with no number", path.display()))?;
    }
    Ok(sum)
}

fn put(api: &ApiServer, name: &str, vip: SocketAddr, backends: &[SocketAddr]) -> Result<()> {
    api.put(json!({
        "kind": "Service", "metadata": {"namespace": "bench", "name": name},
        "spec": {"clusterIP": vip.ip(), "ports": [{"name": "tcp", "protocol": "TCP", "port": vip.port()}]}
    }))?;
    api.put(slice(name, backends))?;
    Ok(())
}

fn slice(name: &str, backends: &[SocketAddr]) -> Value {
    let endpoint = |(at, backend): (usize, &SocketAddr)| {
        json!({"addresses": [backend.ip()], "nodeName": format!("node-{}", at % 50), "zone": format!("zone-{}", at % 3),
            "conditions": {"ready": true, "serving": true, "terminating": false}})
    };
    let endpoints: Vec<Value> = backends.iter().enumerate().map(endpoint).collect();
    let port = backends.first().map_or(PORT, SocketAddr::port);
    json!({
        "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"namespace": "bench", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "tcp", "protocol": "TCP", "port": port}]
    })
}
