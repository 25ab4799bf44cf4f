//! What kube-proxy counts, under its names, types, labels and buckets (MET-1 to MET-7).

use std::collections::BTreeMap;
use std::time::Duration;

use super::board::{Sync, Told};
use super::text::{Family as Metric, Kind};
use crate::model::addr::Family;
use crate::model::histogram::Histogram;
use crate::plan::health::Moment;

/// Buckets of the durations of syncs, in seconds: 1 ms doubled, 15 of them (MET-1).
const SYNC: &[f64] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];

/// Buckets of the time from a change in the cluster to its effect here, in seconds (MET-2).
fn programming_buckets() -> Vec<f64> {
    let steps = |from: u32, by: usize, to: u32| (from..=to).step_by(by).map(f64::from);
    [0.0, 0.25, 0.5]
        .into_iter()
        .chain(steps(1, 1, 59))
        .chain(steps(60, 5, 115))
        .chain(steps(120, 30, 300))
        .collect()
}

/// The counters.
#[derive(Debug)]
pub struct Kube {
    sync: [Histogram; 2],
    full: [Histogram; 2],
    partial: [Histogram; 2],
    programming: [Histogram; 2],
    /// When all changes of a family were in force last; zero before.
    pub last_synced: [Duration; 2],
    /// When a change came last; zero before.
    pub last_queued: [Duration; 2],
    /// Changes of slices: all, and those not in force yet.
    pub endpoint_changes: Changes,
    /// Changes of Services.
    pub service_changes: Changes,
    /// Answers of `/healthz` and `/livez` by code (HLT-7).
    pub probes: BTreeMap<(Probe, u16), u64>,
    /// When counting began, since the Unix epoch.
    since: Duration,
}

/// Changes that came from the source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// All that ever came.
    pub total: u64,
    /// Those that came since the last sync.
    pub pending: u64,
}

/// Which page was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// `/healthz`
    Healthz,
    /// `/livez`
    Livez,
}

impl Kube {
    /// Nothing was counted yet, since this time after the Unix epoch.
    pub fn new(since: Duration) -> Kube {
        let sync = || [(); 2].map(|()| Histogram::new(SYNC.to_vec()));
        Kube {
            sync: sync(),
            full: sync(),
            partial: sync(),
            programming: [(); 2].map(|()| Histogram::new(programming_buckets())),
            last_synced: [Duration::ZERO; 2],
            last_queued: [Duration::ZERO; 2],
            endpoint_changes: Changes::default(),
            service_changes: Changes::default(),
            probes: BTreeMap::new(),
            since,
        }
    }

    /// Changes have come; whether anything is to be written for them (MET-4).
    pub fn changed(&mut self, services: u64, slices: u64, is_pending: bool) {
        for (changes, count) in [(&mut self.service_changes, services), (&mut self.endpoint_changes, slices)]
        {
            changes.total += count;
            changes.pending += if is_pending { count } else { 0 };
        }
    }

    /// The tables were written.
    pub(super) fn synced(&mut self, sync: Sync) {
        let took = sync.took.as_secs_f64();
        for at in (0..2).filter(|at| sync.touched[*at]) {
            self.sync[at].observe(took);
            let of_kind = if sync.is_full { &mut self.full } else { &mut self.partial };
            of_kind[at].observe(took);
        }
    }

    /// No change waits to be written.
    pub fn none_pending(&mut self) {
        self.service_changes.pending = 0;
        self.endpoint_changes.pending = 0;
    }

    /// Changes that happened at these times are in force.
    pub(super) fn programmed(&mut self, triggers: &[(Family, Duration)], now: Moment) {
        for (family, took) in self.latencies(triggers, now) {
            self.programming[family.index()].observe(took.as_secs_f64());
        }
    }

    /// How long changes took that happened at these times and are in force now. What happened before the start
    /// says nothing of this proxy (MET-2).
    pub fn latencies(&self, triggers: &[(Family, Duration)], now: Moment) -> Vec<(Family, Duration)> {
        let ours = triggers.iter().filter(|(_, time)| *time >= self.since);
        ours.map(|(family, time)| (*family, now.wall.saturating_sub(*time))).collect()
    }
}

/// kube-proxy's families of metrics, with its own words.
pub fn families(told: &Told) -> Vec<Metric> {
    let kube_proxy = &told.kube_proxy;
    let mut all = vec![
        histogram(
            "kubeproxy_network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            &kube_proxy.programming,
        ),
        probes(
            kube_proxy,
            Probe::Healthz,
            "kubeproxy_proxy_healthz_total",
            "Cumulative proxy healthz HTTP status",
        ),
        probes(kube_proxy, Probe::Livez, "kubeproxy_proxy_livez_total", "Cumulative proxy livez HTTP status"),
        histogram(
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for full resyncs",
            &kube_proxy.full,
        ),
        histogram(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for partial resyncs",
            &kube_proxy.partial,
        ),
        histogram(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds",
            &kube_proxy.sync,
        ),
        times(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "The last time a sync of proxy rules was queued",
            kube_proxy.last_queued,
        ),
        times(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "The last time proxy rules were successfully synced",
            kube_proxy.last_synced,
        ),
        no_local_endpoints(told),
    ];
    for (what, changes) in
        [("endpoint", kube_proxy.endpoint_changes), ("service", kube_proxy.service_changes)]
    {
        all.extend(self::changes(what, changes));
    }
    all
}

/// The labels of a family.
fn ip_family(family: Family) -> [(&'static str, &'static str); 1] {
    [("ip_family", family.name())]
}

fn histogram(name: &'static str, help: &str, values: &[Histogram; 2]) -> Metric {
    let mut metric = Metric::new(name, Kind::Histogram, &format!("[ALPHA] {help}"));
    for family in Family::ALL {
        metric.histogram(&ip_family(family), &values[family.index()]);
    }
    metric
}

fn times(name: &'static str, help: &str, values: [Duration; 2]) -> Metric {
    let mut metric = Metric::new(name, Kind::Gauge, &format!("[ALPHA] {help}"));
    for family in Family::ALL {
        metric.sample(&ip_family(family), values[family.index()].as_secs_f64());
    }
    metric
}

fn probes(kube_proxy: &Kube, probe: Probe, name: &'static str, help: &str) -> Metric {
    let mut metric = Metric::new(name, Kind::Counter, &format!("[ALPHA] {help}"));
    for ((_, code), count) in kube_proxy.probes.iter().filter(|((asked, _), _)| *asked == probe) {
        metric.sample(&[("code", &code.to_string())], *count as f64);
    }
    metric
}

fn no_local_endpoints(told: &Told) -> Metric {
    let help = "[ALPHA] Number of services with a Local traffic policy and no endpoints";
    let mut metric = Metric::new("kubeproxy_sync_proxy_rules_no_local_endpoints_total", Kind::Gauge, help);
    for family in Family::ALL {
        let at = family.index();
        let (internal, external) = told.lacking.values().fold((0, 0), |(internal, external), lacking| {
            (internal + lacking.internal[at], external + lacking.external[at])
        });
        for (policy, count) in [("external", external), ("internal", internal)] {
            let labels = [("ip_family", family.name()), ("traffic_policy", policy)];
            metric.sample(&labels, f64::from(count));
        }
    }
    metric
}

/// Changes of endpoints or Services.
fn changes(what: &str, changes: Changes) -> [Metric; 2] {
    let (pending, total, shown) = match what {
        "endpoint" => (
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "Endpoint",
        ),
        _ => (
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "Service",
        ),
    };
    let mut gauge =
        Metric::new(pending, Kind::Gauge, &format!("[ALPHA] Pending proxy rules {shown} changes"));
    gauge.sample(&[], changes.pending as f64);
    let mut counter =
        Metric::new(total, Kind::Counter, &format!("[ALPHA] Cumulative proxy rules {shown} changes"));
    counter.sample(&[], changes.total as f64);
    [gauge, counter]
}
