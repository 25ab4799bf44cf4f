//! What follows the tables: health check node ports, the node's health, the gauge of ports that lack local
//! endpoints, and how long changes took.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeline::agent::reconcile::{Identity, Reconciler};
use beeline::cluster::manifest::ManifestStore;
use beeline::model::addr::Family;
use beeline::model::event::Event;
use beeline::model::names::ObjectName;
use beeline::plan::book::Book;
use beeline::plan::health::{Health, Moment, checks, is_eligible, lacking};
use beeline::plan::mem::{Faults, FaultyTables, MemTables};
use beeline::plan::table::Limits;
use beeline::plan::world::World;
use beeline::serve::kube_proxy::Kube;
use beeline::serve::{health, node_ports};
use serde_json::{Value, json};

use crate::run::Case;
use crate::stage::Stage;

/// What a vector or a step of it says of them.
pub struct Followers<'a> {
    pub health_checks: &'a [Value],
    pub node_health: &'a [Value],
    pub no_local_endpoints: Option<&'a Value>,
    pub latency: Option<&'a Value>,
}

/// Judges all of it.
pub fn follow(stage: &Stage, prefix: &str, all: &Followers) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for item in all.health_checks {
        let name = format!("{prefix}healthCheck {}", text(&item["service"])?);
        cases.push(case(name, item, |item| health_check(stage, item))?);
    }
    for (at, item) in (1..).zip(all.node_health) {
        cases.push(case(format!("{prefix}nodeHealth {at}"), item, node_health)?);
    }
    if let Some(item) = all.no_local_endpoints {
        cases.push(case(format!("{prefix}noLocalEndpoints"), item, |item| no_local_endpoints(stage, item))?);
    }
    if let Some(item) = all.latency {
        cases.push(case(format!("{prefix}latency"), item, latency)?);
    }
    Ok(cases)
}

/// What is expected and what was seen, by name.
type Pairs = Vec<(String, Value, Value)>;

/// Compares; and turns each expectation around, which then has to fail.
fn case(name: String, item: &Value, pairs: impl Fn(&Value) -> Result<Pairs>) -> Result<Case> {
    let pairs = pairs(item).with_context(|| name.clone())?;
    if pairs.is_empty() {
        bail!("{name} expects nothing");
    }
    let wrong = pairs.iter().filter(|(_, expected, seen)| expected != seen);
    let wrong = wrong.map(|(what, expected, seen)| format!("{what}: expected {expected}, seen {seen}"));
    let mut case = Case::new(name, wrong.collect());
    if case.wrong.is_empty() {
        for (what, expected, seen) in &pairs {
            for flipped in flips(expected) {
                case.flipped += 1;
                if flipped == *seen {
                    case.blind.push(format!("{what} passes with {flipped}"));
                }
            }
        }
    }
    Ok(case)
}

fn flips(expected: &Value) -> Vec<Value> {
    match expected {
        Value::Number(number) => vec![json!(number.as_f64().unwrap_or_default() + 1.0), Value::Null],
        Value::Array(list) => {
            let more = [list.clone(), vec![json!(0.5)]].concat();
            let less = list.get(1..).map(<[Value]>::to_vec);
            [Some(more), less].into_iter().flatten().map(Value::from).collect()
        }
        _ => vec![json!("nothing like it")],
    }
}

/// `{service, port, status, weight, proxyHealthy, family}`; port 0: nobody listens.
fn health_check(stage: &Stage, item: &Value) -> Result<Pairs> {
    let name = text(&item["service"])?;
    let (namespace, service) = name.split_once('/').with_context(|| format!("'{name}' has no namespace"))?;
    let name = ObjectName::new(namespace, service);
    let found = stage.service(&name).map_or([None; 2], |(service, rows)| checks(service, &rows));
    let family = item["family"].as_str();
    let of_family = |family_of: &Family| family.is_none_or(|wanted| wanted == family_of.name());
    let found = Family::ALL.into_iter().filter(of_family).filter_map(|family| found[family.index()]);
    let is_healthy = item["proxyHealthy"].as_bool().unwrap_or(true);
    let mut pairs = Pairs::new();
    for check in found {
        let answer = node_ports::page(&name, check.local, is_healthy);
        pairs.push(("port".into(), item["port"].clone(), check.port.into()));
        if !item["status"].is_null() {
            pairs.push(("status".into(), item["status"].clone(), answer.status().as_u16().into()));
        }
        if !item["weight"].is_null() {
            let weight = answer.headers()[node_ports::WEIGHT].to_str().context("the weight")?.parse::<u64>();
            pairs.push(("weight".into(), item["weight"].clone(), weight?.into()));
        }
    }
    if pairs.is_empty() {
        pairs.push(("port".into(), item["port"].clone(), 0.into()));
    }
    Ok(pairs)
}

/// `{node, syncPeriodSeconds, oldestPendingSeconds, healthz, livez}`.
fn node_health(item: &Value) -> Result<Pairs> {
    const NOW: u64 = 10_000;
    let at = |seconds: u64| Moment {
        steady: Duration::from_secs(seconds),
        wall: Duration::from_secs(1_700_000_000 + seconds),
    };
    let node = match &item["node"] {
        Value::Null => None,
        node => {
            let mut node = node.clone();
            (node["apiVersion"], node["kind"]) = ("v1".into(), "Node".into());
            let events = ManifestStore::new().update("node.json", &node.to_string()).events;
            let found = events.into_iter().find_map(|event| match event {
                Event::Node(node) => Some(node),
                _ => None,
            });
            Some(found.context("the Node cannot be read")?)
        }
    };
    let period = item["syncPeriodSeconds"].as_u64().context("syncPeriodSeconds")?;
    let mut state = Health::new(Duration::from_secs(2 * period));
    for family in Family::ALL {
        state.updated(family, at(0));
        if let Some(pending) = item["oldestPendingSeconds"][family.name()].as_u64() {
            state.queued(family, at(NOW - pending));
        }
    }
    let report = state.report(at(NOW));
    let eligible = is_eligible(node.as_deref(), false);
    let code = |eligible| health::page(report, eligible, at(NOW)).0.as_u16();
    Ok(vec![
        ("healthz".into(), item["healthz"].clone(), code(Some(eligible)).into()),
        ("livez".into(), item["livez"].clone(), code(None).into()),
    ])
}

/// `{IPv4: {internal, external}, IPv6: …}`: of all Services together.
fn no_local_endpoints(stage: &Stage, item: &Value) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    let all: Vec<_> = stage.services().filter_map(|name| stage.service(name)).collect();
    for family in Family::ALL {
        for (kind, expected) in item[family.name()].as_object().into_iter().flatten() {
            let mut seen = 0;
            for (service, rows) in &all {
                let found = lacking(service, rows);
                let counts = if kind == "internal" { found.internal } else { found.external };
                seen += counts[family.index()];
            }
            pairs.push((format!("{family} {kind}"), expected.clone(), seen.into()));
        }
    }
    Ok(pairs)
}

/// `{trackerStart, events: [{op, service, trigger} | {op: sync, at, ok}], observedSeconds}`: slices change, syncs
/// succeed or fail, and each change whose time is known and whose sync succeeded is observed once.
fn latency(item: &Value) -> Result<Pairs> {
    const LIMITS: Limits = Limits { frontends: 64, services: 64, slots: 512, backends: 512, names: 256 };
    let events = item["events"].as_array().context("events")?;
    let kube = Kube::new(time(&item["trackerStart"])?);
    let faults = Faults { per_mille: 0, seed: 1, crash_after: None };
    let tables = FaultyTables::new(MemTables::new(LIMITS), faults);
    let mut agent = Reconciler::new(World::new(), Book::new(LIMITS), tables, Identity::default());
    let mut store = ManifestStore::new();
    let mut names: Vec<&str> = events.iter().filter_map(|event| event["service"].as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for (at, name) in names.iter().enumerate() {
        agent.absorb(store.update(name, &service(name, at, None)?).events);
    }
    agent.absorb(vec![Event::Synced]);
    let mut clock = time(&item["trackerStart"])?;
    agent.sync(clock);
    let mut observed = Vec::new();
    for (number, event) in events.iter().enumerate() {
        match text(&event["op"])? {
            "sync" => {
                clock = time(&event["at"])?;
                let ok = event["ok"].as_bool().context("ok")?;
                agent.tables().faults.per_mille = if ok { 0 } else { 1000 };
                let mut outcomes = vec![agent.sync(clock)];
                while let Some(due) = outcomes.last().and_then(|last| last.wake).filter(|_| ok) {
                    outcomes.push(agent.maintain(due));
                    if outcomes.len() > 100 {
                        bail!("it never comes to rest");
                    }
                }
                let now = Moment { steady: clock, wall: clock };
                let effects = outcomes.into_iter().flat_map(|outcome| outcome.effects);
                observed.extend(effects.flat_map(|(_, effect)| kube.latencies(&effect.triggers, now)));
            }
            op => {
                let name = text(&event["service"])?;
                let at = names.iter().position(|known| *known == name).context("a known Service")?;
                let slice = match op {
                    "slice-update" => Some((number, event["trigger"].as_str())),
                    "slice-delete" => None,
                    other => bail!("unknown op '{other}'"),
                };
                agent.absorb(store.update(name, &service(name, at, slice)?).events);
            }
        }
    }
    let seen: Vec<Value> = observed.iter().map(|(_, took)| json!(took.as_secs_f64())).collect();
    Ok(vec![("observedSeconds".into(), item["observedSeconds"].clone(), seen.into())])
}

/// A Service, and a slice whose one endpoint is made from `number`, so that each update is a change.
fn service(name: &str, at: usize, slice: Option<(usize, Option<&str>)>) -> Result<String> {
    let (namespace, name) = name.split_once('/').context("a Service has a namespace")?;
    let ports = json!([{"name": "p", "port": 80}]);
    let mut items = vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name},
        "spec": {"clusterIP": format!("172.30.0.{}", at + 1), "ports": ports},
    })];
    if let Some((number, trigger)) = slice {
        let mut metadata = json!({
            "namespace": namespace, "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name},
        });
        if let Some(trigger) = trigger {
            metadata["annotations"] = json!({"endpoints.kubernetes.io/last-change-trigger-time": trigger});
        }
        items.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": "IPv4", "ports": ports, "endpoints": [{"addresses": [format!("10.180.0.{}", number + 1)]}],
        }));
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

/// Since the Unix epoch.
fn time(value: &Value) -> Result<Duration> {
    let time: jiff::Timestamp = text(value)?.parse().with_context(|| format!("{value} is no time"))?;
    Ok(Duration::from_nanos(u64::try_from(time.as_nanosecond()).context("a time after 1970")?))
}
