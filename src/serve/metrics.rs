//! The metrics port (HLT-9). Everything is read when it is asked for.

use std::path::PathBuf;
use std::sync::Arc;

use super::board::{Board, Reason, Told};
use super::http::{Answer, Answers, not_found, pieces};
use super::text::{Family, Kind, MEDIA_TYPE, render};
use crate::datapath::stats::Stats;
use crate::inspect::metrics::Scrape;
use crate::model::names::ServicePortName;
use crate::plan::table::Map;

/// The pages of the metrics port.
#[derive(Debug)]
pub struct Site {
    bpf_root: PathBuf,
    board: Arc<Board>,
}

impl Site {
    /// Pages about the tables under a bpffs and what their agent says.
    pub fn new(bpf_root: PathBuf, board: Arc<Board>) -> Site {
        Site { bpf_root, board }
    }

    fn metrics(&self) -> Answer {
        let told = self.board.told().clone();
        let pinned = Scrape::read(&self.bpf_root, &told.used);
        let pinned = pinned.inspect_err(|error| tracing::debug!("scrape: {error:#}")).ok();
        let mut ours = agent(&told);
        ours.push(readable(pinned.is_some()));
        let families = pinned.map(tables).into_iter().flatten();
        pieces(MEDIA_TYPE, ours.into_iter().chain(families).map(Family::into_text))
    }
}

impl Answers for Site {
    fn answer(&self, path: &str) -> Answer {
        match path {
            "/metrics" => self.metrics(),
            _ => not_found(),
        }
    }
}

/// What the agent says of itself.
fn agent(told: &Told) -> Vec<Family> {
    vec![build_info(), source_synced(told), source_problems(told), pending(told)]
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
    let mut family = Family::new("beeline_pending", Kind::Gauge, help);
    for map in Map::ALL {
        for reason in Reason::ALL {
            let count = told.pending.get(&(map, reason)).copied().unwrap_or_default();
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
        let labels = render(&[
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
        rows.iter().for_each(|(labels, stats)| family.labelled(labels, (counter.value)(stats) as f64));
        family
    })
}
