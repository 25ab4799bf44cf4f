//! The last act: connection rate and latency side by side, in short slices by turns.

use std::net::SocketAddr;

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Table, presets};

use super::stage::{Stage, address};
use super::voice::Voice;
use crate::sandbox::baseline::{self, BaselineService};
use crate::sandbox::load::{LoadReport, LoadSpec, Mode};
use crate::sandbox::pod::Pod;
use crate::sandbox::proto::{Protocol, RunLoad};
use crate::sandbox::report;

/// A Service with one backend, on the client's node, so that all three ways have the same hops.
const MANIFEST: &str = "\
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: measured}
spec: {clusterIP: 10.96.0.30, ports: [{name: tcp, protocol: TCP, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: measured-1, labels: {kubernetes.io/service-name: measured}}
addressType: IPv4
ports: [{name: tcp, protocol: TCP, port: 9090}]
endpoints: [{addresses: [10.244.1.11], nodeName: n1}]
";
const VIP: &str = "10.96.0.30:80";
const ROUNDS: usize = 15;
const SLICE_MS: u64 = 150;

/// One way to the backend, and what was measured of it.
struct Way<'a> {
    name: &'static str,
    pod: &'a Pod,
    to: SocketAddr,
    connects: Vec<LoadReport>,
    exchanges: Vec<LoadReport>,
}

/// Measures direct, Beeline and nftables by turns, and shows a table.
///
/// # Errors
/// A pod or `nft` fails, or a connection of the load did.
pub(super) fn show(voice: &Voice, stage: &Stage) -> Result<()> {
    voice.act("Side by side")?;
    voice.say(
        "A backend on the client's own node: dialled directly, through Beeline, and through an nftables",
    )?;
    voice.say("DNAT shaped like kube-proxy's. One byte each way, short slices by turns.")?;
    let direct = stage.node.add_plain_pod("direct")?;
    let other = stage.sandbox.nodes().into_iter().find(|node| node.name() == "n2");
    let other = other.ok_or_else(|| anyhow::anyhow!("the sandbox has no node n2"))?;
    let dnat = other.add_plain_pod("dnat")?;
    let backend = (stage.web[2].ip4(), 9090).into();
    let service = BaselineService {
        name: "shop/measured".into(),
        port_name: "tcp".into(),
        vip: address(VIP)?,
        protocol: Protocol::Tcp,
        backends: vec![backend],
    };
    baseline::install(other.netns(), &[service])?;
    stage.add_manifest("measured.yaml", MANIFEST)?;
    stage.until_connected(VIP)?;
    let mut ways = [
        Way::new("direct, no programs of ours", &direct, (stage.web[0].ip4(), 9090).into()),
        Way::new("Beeline", &stage.client, address(VIP)?),
        Way::new("nftables DNAT", &dnat, address(VIP)?),
    ];
    for round in 0..ROUNDS {
        for at in 0..ways.len() {
            ways[(round + at) % 3].measure()?;
        }
    }
    let failed: u64 = ways.iter().map(Way::failed).sum();
    voice.block(&table(&ways))?;
    let made: u64 = ways.iter().flat_map(|way| &way.connects).map(|slice| slice.done).sum();
    voice.claim(failed == 0, &format!("{made} connections, none failed"))?;
    voice.say("Short slices on a shared machine: scripts/bench clusterip measures with intervals.")
}

impl<'a> Way<'a> {
    fn new(name: &'static str, pod: &'a Pod, to: SocketAddr) -> Way<'a> {
        Way { name, pod, to, connects: Vec::new(), exchanges: Vec::new() }
    }

    /// One slice of connections and one of exchanges.
    fn measure(&mut self) -> Result<()> {
        let load = LoadSpec::tcp(self.to).for_ms(SLICE_MS);
        self.connects.push(self.pod.call(RunLoad { load: load.clone() })?);
        self.exchanges.push(self.pod.call(RunLoad { load: load.mode(Mode::RequestResponse) })?);
        Ok(())
    }

    fn failed(&self) -> u64 {
        self.connects.iter().chain(&self.exchanges).map(LoadReport::failed).sum()
    }
}

fn median(slices: &[LoadReport], of: impl Fn(&LoadReport) -> f64) -> f64 {
    report::quantile(&slices.iter().map(of).collect::<Vec<_>>(), 0.5).value
}

/// Rates as medians, ratios as medians of the ratios within a round.
fn table(ways: &[Way<'_>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "way",
        "connections/s",
        "of direct",
        "connection p50 µs",
        "exchange p50 µs",
        "of direct",
    ]);
    let ratio = |ours: &[LoadReport], direct: &[LoadReport]| {
        let ratios: Vec<f64> = ours.iter().zip(direct).map(|(a, b)| a.per_s / b.per_s).collect();
        format!("{:.2}", report::quantile(&ratios, 0.5).value)
    };
    for way in ways {
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let p50 = |slices: &[LoadReport]| {
            right(format!("{:.1}", median(slices, |s| s.latency.p50_ns as f64 / 1e3)))
        };
        table.add_row([
            Cell::new(way.name),
            right(format!("{:.0}", median(&way.connects, |slice| slice.per_s))),
            right(ratio(&way.connects, &ways[0].connects)),
            p50(&way.connects),
            p50(&way.exchanges),
            right(ratio(&way.exchanges, &ways[0].exchanges)),
        ]);
    }
    table.to_string()
}
