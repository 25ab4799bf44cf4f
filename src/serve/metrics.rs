//! The metrics port (HLT-9). Everything is read when it is asked for.
//!
//! docs/metrics.md lists what kube-proxy shows and this does not, each with its reason.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::board::{Board, Reason, Told};
use super::http::{Answer, Answers, not_found, pieces, plain};
use super::text::{Family, Kind, Labels, MEDIA_TYPE};
use super::{http, kube_proxy, rest_client};
use crate::cluster::client::Tally;
use crate::datapath::stats::Stats;
use crate::host::own::Own;
use crate::inspect::metrics::Scrape;
use crate::model::names::ServicePortName;
use crate::plan::table::Map;

/// The pages of the metrics port.
#[derive(Debug)]
pub struct Site {
    /// The bpffs whose tables are shown.
    pub bpf_root: PathBuf,
    /// What their agent says.
    pub board: Arc<Board>,
    /// The body of `/proxyMode`.
    pub mode: String,
    /// The body of `/configz`; `None`: no such page.
    pub configz: Option<Value>,
    /// Requests to the API server; `None`: there is none.
    pub tally: Option<Arc<Tally>>,
}

impl Site {
    fn metrics(&self) -> Answer {
        let told = self.board.told();
        let used = told.used.clone();
        let mut known = agent(&told);
        known.extend(kube_proxy::families(&told));
        drop(told);
        known.extend(self.tally.iter().flat_map(|tally| rest_client::families(tally)));
        let own = Own::read();
        known.extend(process(&own));
        let pinned = Scrape::read(&self.bpf_root, &used);
        let pinned = pinned.inspect_err(|error| tracing::debug!("scrape: {error:#}")).ok();
        known.push(readable(pinned.is_some()));
        let families = pinned.map(tables).into_iter().flatten();
        let mut answer = pieces(MEDIA_TYPE, known.into_iter().chain(families).map(Family::into_text));
        if let Some(started) = own.started_seconds {
            http::set(&mut answer, STARTED, HeaderValue::from(started as u64));
        }
        answer
    }
}

/// What kube-proxy adds, so that a scraper need not wait for the metric.
const STARTED: HeaderName = HeaderName::from_static("process-start-time-unix");
/// The media type of pages for people.
const TEXT: &str = "text/plain; charset=utf-8";

impl Answers for Site {
    fn answer(&self, path: &str) -> Answer {
        match path {
            "/metrics" => self.metrics(),
            "/healthz" => plain(StatusCode::OK, TEXT, "ok"),
            "/proxyMode" => plain(StatusCode::OK, TEXT, self.mode.clone()),
            "/configz" => match &self.configz {
                Some(config) => plain(StatusCode::OK, "application/json", config.to_string()),
                None => not_found(),
            },
            _ => not_found(),
        }
    }
}

/// What the agent says of itself.
fn agent(told: &Told) -> Vec<Family> {
    vec![build_info(), source_synced(told), source_problems(told), pending(told), failures(told)]
}

/// This process (MET-9).
fn process(own: &Own) -> Vec<Family> {
    let all = [
        (
            "process_cpu_seconds_total",
            Kind::Counter,
            own.cpu_seconds,
            "Total user and system CPU time spent in seconds.",
        ),
        ("process_max_fds", Kind::Gauge, own.max_fds, "Maximum number of open file descriptors."),
        (
            "process_network_receive_bytes_total",
            Kind::Counter,
            own.received_bytes,
            "Number of bytes received by the process over the network.",
        ),
        (
            "process_network_transmit_bytes_total",
            Kind::Counter,
            own.sent_bytes,
            "Number of bytes sent by the process over the network.",
        ),
        ("process_open_fds", Kind::Gauge, own.open_fds, "Number of open file descriptors."),
        ("process_resident_memory_bytes", Kind::Gauge, own.resident_bytes, "Resident memory size in bytes."),
        (
            "process_start_time_seconds",
            Kind::Gauge,
            own.started_seconds,
            "Start time of the process since unix epoch in seconds.",
        ),
        ("process_virtual_memory_bytes", Kind::Gauge, own.virtual_bytes, "Virtual memory size in bytes."),
        (
            "process_virtual_memory_max_bytes",
            Kind::Gauge,
            own.virtual_max_bytes,
            "Maximum amount of virtual memory available in bytes.",
        ),
    ];
    let family = |(name, kind, value, help)| {
        let value: Option<f64> = value;
        let mut family = Family::new(name, kind, help);
        family.sample(&[], value?);
        Some(family)
    };
    all.into_iter().filter_map(family).collect()
}

fn build_info() -> Family {
    let help = "The version of Beeline that runs; always 1.";
    let mut family = Family::new("beeline_build_info", Kind::Gauge, help);
    family.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    family
}

fn source_synced(told: &Told) -> Family {
    let help = "1 once the source has delivered its whole first list and the tables hold it; until then nothing \
                is written or removed, and `beeline status` says what is awaited.";
    let mut family = Family::new("beeline_source_synced", Kind::Gauge, help);
    family.sample(&[], f64::from(u8::from(told.synced)));
    family
}

fn source_problems(told: &Told) -> Family {
    let help = "What is wrong with the source and its objects now: an error leaves the last good version of an \
                object in force, a warning skips a part of it. `beeline status` names object and field.";
    let mut family = Family::new("beeline_source_problems", Kind::Gauge, help);
    for severity in ["error", "warning"] {
        let count = told.problems.get(severity).copied().unwrap_or_default();
        family.sample(&[("severity", severity)], count as f64);
    }
    family
}

fn pending(told: &Told) -> Family {
    let help = "Rows that could not be written and are tried again; all others are in force. full: the map has \
                beeline_map_max_entries rows and grows by itself, unless memory is short: look for Services that \
                nobody needs. refused: the kernel said no; `beeline status` and the log have its words.";
    by_map_and_reason(Family::new("beeline_pending", Kind::Gauge, help), &told.pending)
}

fn failures(told: &Told) -> Family {
    let help = "Writes that failed, retries included; beeline_pending says what is missing now.";
    by_map_and_reason(Family::new("beeline_write_failures_total", Kind::Counter, help), &told.failures)
}

fn by_map_and_reason(mut family: Family, counts: &BTreeMap<(Map, Reason), u64>) -> Family {
    for map in Map::ALL {
        for reason in Reason::ALL {
            let count = counts.get(&(map, reason)).copied().unwrap_or_default();
            family.sample(&[("map", map.name()), ("reason", reason.name())], count as f64);
        }
    }
    family
}

fn readable(is_readable: bool) -> Family {
    let help = "1 if the pinned tables could be read for this scrape. If not, what is read from them is left out: \
                ask `beeline status` why.";
    let mut family = Family::new("beeline_tables_readable", Kind::Gauge, help);
    family.sample(&[], f64::from(u8::from(is_readable)));
    family
}

/// What the pinned tables say. The families of ServicePorts are made when their turn comes, one after another.
fn tables(scrape: Scrape) -> impl Iterator<Item = Family> + Send + 'static {
    let help = "Rows of a map that are in use, or rest until nobody can hold them any more.";
    let mut used = Family::new("beeline_map_entries", Kind::Gauge, help);
    let help = "Rows a map has room for. It grows by itself when 80 % are in use; beeline_pending tells if one \
                could not.";
    let mut max = Family::new("beeline_map_max_entries", Kind::Gauge, help);
    for map in &scrape.maps {
        used.sample(&[("map", &map.name)], map.used as f64);
        max.sample(&[("map", &map.name)], map.max as f64);
    }
    let help = "1 if the program's link is pinned and holds it at its cgroup. If not, restart the agent, and ask \
                `beeline doctor` what is in the way.";
    let mut programs = Family::new("beeline_programs_attached", Kind::Gauge, help);
    for (name, attached) in &scrape.programs {
        programs.sample(&[("program", name)], f64::from(u8::from(*attached)));
    }
    [used, max, programs].into_iter().chain(counters(scrape.services))
}

/// One thing that is counted per ServicePort.
struct Counter {
    name: &'static str,
    value: fn(&Stats) -> u64,
    help: &'static str,
}

const COUNTERS: [Counter; 3] = [
    Counter {
        name: "beeline_service_connections_total",
        value: |stats| stats.connections,
        help: "Connections and first datagrams that were given a backend at connect(). ServicePorts that have \
               counted nothing are left out.",
    },
    Counter {
        name: "beeline_service_refused_total",
        value: |stats| stats.refused,
        help: "Connections that were refused because the Service has no endpoint (REJ-1).",
    },
    Counter {
        name: "beeline_service_dropped_total",
        value: |stats| stats.dropped,
        help: "Connections that are dropped because no endpoint is on this node, as the traffic policy Local \
               wants it (REJ-2).",
    },
];

fn counters(services: Vec<(ServicePortName, Stats)>) -> impl Iterator<Item = Family> + Send + 'static {
    let labels = |(name, stats): (ServicePortName, Stats)| {
        let labels = Labels::new(&[
            ("namespace", &name.service.namespace),
            ("service", &name.service.name),
            ("port", &name.port),
            ("protocol", name.protocol.name()),
            ("ip_family", &name.family.to_string()),
        ]);
        (labels, stats)
    };
    let rows: Vec<_> = services.into_iter().map(labels).collect();
    COUNTERS.into_iter().map(move |counter| {
        let mut family = Family::new(counter.name, Kind::Counter, counter.help);
        rows.iter()
            .for_each(|(labels, stats)| family.labelled(labels.clone(), (counter.value)(stats) as f64));
        family
    })
}
