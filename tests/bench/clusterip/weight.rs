//! How long 100,000 backends take from objects to complete tables, and what the agent weighs.

use std::time::Duration;

use anyhow::Result;
use beeline::host::memory;
use beeline::sandbox::report::Row;

use super::{Bench, manifests};

const MIB: f64 = 1024.0 * 1024.0;

/// Memory of an agent ten seconds after it is ready, and the load of 100,000 backends.
pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    for (case, size, backends, goal) in
        [("services=10", 10, 10, 15.0), ("services=10000x10", 10_000, 10, 60.0)]
    {
        if bench.wants("rss_mib", case) || bench.wants("memcg_mib_info", case) {
            of_size(bench, case, size, backends, goal)?;
        }
    }
    Ok(())
}

fn of_size(bench: &mut Bench, case: &str, size: u32, backends: u32, goal: f64) -> Result<()> {
    let node = bench.sandbox.add_node(&format!("w{size}"))?;
    let directory = manifests::directory(bench.sandbox.dir(), &format!("w{size}"))?;
    manifests::each(&directory, size, |at| manifests::nowhere(at, backends, 8080))?;
    let agent = node.start_agent(&directory, &[])?;
    std::thread::sleep(Duration::from_secs(if bench.quick { 3 } else { 10 }));
    let rss = memory::rss_of(agent.pid()?)? as f64 / MIB;
    bench.push(Row::single(case, "rss_mib", rss, "MiB").goal(goal));
    match agent.memory_charged() {
        Ok(bytes) => bench.push(Row::single(case, "memcg_mib_info", bytes as f64 / MIB, "MiB")),
        Err(error) => eprintln!("  memcg_mib_info {case}: skipped: {error:#}"),
    }
    drop(agent);
    Ok(())
}
