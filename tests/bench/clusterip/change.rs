//! From rename(2) of one Service's file to the first connect() that lands on the new backend.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use beeline::sandbox::proto::{DialUntil, Serve};
use beeline::sandbox::report::Row;
use nix::time::{ClockId, clock_gettime};

use super::{Bench, manifests};

const METRIC: &str = "change_to_effect_p99_ms";
const PORT: u16 = 9090;

/// 500 changes among 10,000 Services of 10 backends (fewer with `--quick`), and among 10.
pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    for (case, size, backends) in [("services=10", 10, 10), ("services=10000x10", 10_000, 10)] {
        if bench.wants(METRIC, case) {
            of_size(bench, case, size, backends)?;
        }
    }
    Ok(())
}

fn of_size(bench: &mut Bench, case: &str, size: u32, backends: u32) -> Result<()> {
    let node = bench.sandbox.add_node(&format!("c{size}"))?;
    let servers = [node.add_pod("left")?, node.add_pod("right")?];
    for server in &servers {
        server.call(Serve::tcp(PORT))?;
    }
    let client = node.add_pod("client")?;
    let directory = manifests::directory(bench.sandbox.dir(), &format!("c{size}"))?;
    manifests::each(&directory, size, |at| manifests::nowhere(at, backends, PORT))?;
    let target = manifests::vip(size);
    let file = directory.join("target.yaml");
    let text = |server: usize| -> String {
        let backend: SocketAddr = (servers[server].ip4(), PORT).into();
        manifests::service("target", target, &[backend])
    };
    fs::write(&file, text(0))?;
    let agent = node.start_agent(&directory, &[])?;
    let changes = if bench.quick { 60 } else { 500 };
    let mut took_ms = Vec::with_capacity(changes);
    for change in 1..=changes {
        let next = change % 2;
        let aside = directory.join("target.new");
        fs::write(&aside, text(next))?;
        let name = servers[next].name().to_owned();
        let waiting = client.begin(DialUntil { to: target, name, timeout_ms: 5000 })?;
        // The client dials in a loop by now; it asks for nothing else until it has landed.
        std::thread::sleep(std::time::Duration::from_millis(3));
        let renamed = now_ns()?;
        fs::rename(&aside, &file).context("rename the manifest")?;
        let landed = waiting.wait()?;
        let at =
            landed.connected_at_ns.with_context(|| format!("change {change} took no effect: {landed:?}"))?;
        took_ms.push(at.saturating_sub(renamed) as f64 / 1e6);
    }
    let row = Row::quantile(case, METRIC, &took_ms, 0.99, "ms");
    bench.push(if size == 10_000 { row.goal(5.0) } else { row });
    let p50 = Row::quantile(case, "change_to_effect_p50_ms_info", &took_ms, 0.5, "ms");
    bench.push(p50);
    drop((client, servers, agent));
    Ok(())
}

/// CLOCK_MONOTONIC, which all processes share.
pub(crate) fn now_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
