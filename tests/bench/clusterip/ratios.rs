//! Connections and exchanges through a ClusterIP, and dialled directly with Beeline attached.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use beeline::sandbox::load::{LoadSpec, Mode, PairReport, PairSpec, Side};
use beeline::sandbox::proto::{RunPairs, Serve};
use beeline::sandbox::report::{self, Row};

use super::{Bench, manifests};

const SIZES: [u32; 4] = [10, 1_000, 10_000, 50_000];
/// A load goes to so many Services by turns, so that no cache holds just one row.
const SPREAD: u32 = 64;
const PORT: u16 = 9090;

/// All ratios, for each size.
pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    for size in SIZES {
        let case = format!("services={size}");
        let metrics = ["connect_close_ratio", "request_response_ratio", "direct_with_beeline_ratio"];
        if metrics.iter().any(|metric| bench.wants(metric, &case)) {
            of_size(bench, size, &case)?;
        }
    }
    Ok(())
}

fn of_size(bench: &mut Bench, size: u32, case: &str) -> Result<()> {
    let node = bench.sandbox.add_node(&format!("r{size}"))?;
    let (server, client) = (node.add_pod("server")?, node.add_pod("client")?);
    server.call(Serve::tcp(PORT))?;
    let backend: SocketAddr = (server.ip4(), PORT).into();
    let directory = manifests::directory(bench.sandbox.dir(), &format!("r{size}"))?;
    manifests::many(&directory, size, |_| vec![backend])?;
    let agent = node.start_agent(&directory, &[])?;
    let plain = node.plain_cgroup()?;
    let through: Vec<SocketAddr> =
        (0..size.min(SPREAD)).map(|at| manifests::vip(at * (size / size.min(SPREAD)))).collect();
    // Many short slices: what else the machine does changes over tens of milliseconds.
    let (rounds, slice_ms) = if bench.quick { (60, 10) } else { (901, 10) };
    let pair = |to: Vec<SocketAddr>, mode| -> Result<PairReport> {
        let load = |to: Vec<SocketAddr>| LoadSpec { to, ..LoadSpec::tcp(backend) }.mode(mode);
        let pairs = PairSpec {
            a: Side { load: load(to.clone()), cgroup: None },
            b: Side { load: load(vec![backend; to.len()]), cgroup: Some(plain.clone()) },
            rounds,
            slice_ms,
            warmup_ms: 200,
        };
        let found = client.call(RunPairs { pairs })?;
        let failed: u64 = found.rounds.iter().map(|round| round.a.failed + round.b.failed).sum();
        ensure!(failed == 0, "{failed} operations of the load failed: the figure would mean nothing");
        Ok(found)
    };
    let figures = [
        ("connect_close_ratio", through.clone(), Mode::Connect, 0.98),
        ("request_response_ratio", through.clone(), Mode::RequestResponse, 0.99),
        ("direct_with_beeline_ratio", vec![backend; through.len()], Mode::Connect, 0.99),
    ];
    for (metric, to, mode, goal) in figures {
        if bench.wants(metric, case) {
            let found = pair(to, mode)?;
            bench.push(Row::ratio(case, metric, report::ratio(&found.rounds)).goal(goal));
        }
    }
    drop((client, server, agent));
    Ok(())
}
