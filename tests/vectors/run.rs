//! One vector: every check of it, in order, with the steps between.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeline::cli::explain::Answer;
use beeline::model::flow::Flow;
use beeline::plan::affinity::{Record, keep};
use beeline::plan::resolve::{Action, resolve};
use beeline::plan::table::{BackendId, Lookup, ServiceId};
use serde_json::Value;

use crate::file::{AffinityConnect, AffinityItem, Defaults, Vector, flow_name};
use crate::file::{Expected, Flow as FlowCheck};
use crate::follow::{Followers, follow};
use crate::judge::{Seen, flips, judge};
use crate::stage::Stage;

/// One check and what is wrong with it; nothing if it passes.
pub struct Case {
    pub name: String,
    pub wrong: Vec<String>,
    /// Expectations turned around that passed all the same: the judge is blind there.
    pub blind: Vec<String>,
    /// How many expectations were turned around.
    pub flipped: usize,
}

impl Case {
    pub fn new(name: String, wrong: Vec<String>) -> Case {
        Case { name, wrong, blind: Vec::new(), flipped: 0 }
    }

    fn not_served(name: String) -> Case {
        Case::new(name, vec!["this kind of check is not served yet".into()])
    }
}

/// All checks of a vector. `dir` is for the files that the binary reads.
pub fn run(defaults: &Defaults, vector: &Vector, dir: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    if let Err(error) = checks(defaults, vector, dir, &mut cases) {
        cases.push(Case::new("set-up".into(), vec![format!("{error:#}")]));
    }
    if cases.is_empty() {
        cases.push(Case::new("checks".into(), vec!["the vector checks nothing".into()]));
    }
    cases
}

fn checks(defaults: &Defaults, vector: &Vector, dir: &Path, cases: &mut Vec<Case>) -> Result<()> {
    let mut stage = Stage::new(defaults, vector)?;
    flows(&stage, &vector.flows, &dir.join("0"), "", cases)?;
    let followers = Followers {
        health_checks: &vector.health_checks,
        node_health: &vector.node_health,
        no_local_endpoints: vector.no_local_endpoints.as_ref(),
        latency: vector.latency.as_ref(),
    };
    cases.extend(follow(&stage, "", &followers)?);
    cases.extend(vector.conntrack.iter().map(|_| Case::not_served("conntrack".into())));
    affinity(&mut Stage::new(defaults, vector)?, &vector.affinity, "", cases)?;
    for (number, step) in (1..).zip(&vector.steps) {
        let prefix = format!("step {number}: ");
        stage.apply(&step.apply).with_context(|| prefix.clone())?;
        flows(&stage, &step.flows, &dir.join(number.to_string()), &prefix, cases)?;
        let followers = Followers {
            health_checks: &step.health_checks,
            node_health: &step.node_health,
            no_local_endpoints: step.no_local_endpoints.as_ref(),
            latency: step.latency.as_ref(),
        };
        cases.extend(follow(&stage, &prefix, &followers)?);
        cases.extend(step.conntrack.iter().map(|_| Case::not_served(format!("{prefix}conntrack"))));
        affinity(&mut stage, &step.affinity, &prefix, cases)?;
    }
    Ok(())
}

fn flows(stage: &Stage, flows: &[FlowCheck], dir: &Path, prefix: &str, cases: &mut Vec<Case>) -> Result<()> {
    if flows.is_empty() {
        return Ok(());
    }
    let flags = stage.write(dir)?;
    for check in flows {
        let flow = stage.flow(&check.from, &check.to).with_context(|| check.name())?;
        let name = format!("{prefix}{}", check.name());
        cases.push(flow_case(stage, &flow, name, &check.expected(), &flags));
    }
    Ok(())
}

/// Judges a flow by the function and by the binary, and the two by each other.
fn flow_case(stage: &Stage, flow: &Flow, name: String, expected: &Expected, flags: &[String]) -> Case {
    let by_function = by_function(stage, flow);
    let mut wrong = judge(expected, &by_function);
    let by_binary = match by_binary(stage, flow, flags) {
        Ok(seen) => seen,
        Err(error) => {
            wrong.push(format!("explain: {error:#}"));
            return Case::new(name, wrong);
        }
    };
    wrong.extend(judge(expected, &by_binary).into_iter().map(|wrong| format!("explain: {wrong}")));
    if by_function.answer != by_binary.answer {
        wrong.push(format!("explain says {}, the function {}", by_binary.answer, by_function.answer));
    }
    let mut case = Case::new(name, wrong);
    if case.wrong.is_empty() {
        for flipped in flips(expected) {
            case.flipped += 1;
            for (who, seen) in [("the function", &by_function), ("explain", &by_binary)] {
                if judge(&flipped, seen).is_empty() {
                    case.blind.push(format!("{who} passes {flipped:?}"));
                }
            }
        }
    }
    case
}

fn by_function(stage: &Stage, flow: &Flow) -> Seen {
    let verdict = resolve(&stage.tables, flow);
    let answer = serde_json::to_value(Answer::of(&stage.tables, &verdict)).unwrap_or_default();
    let rows = verdict.backends.iter().filter_map(|id| stage.tables.backend(*id));
    let hairpin = rows.filter(|row| Some(row.addr) == flow.client);
    let hairpin = hairpin.map(|row| std::net::SocketAddr::new(row.addr, row.port).to_string()).collect();
    Seen { answer, hairpin, plain_service: stage.plain_service(flow) }
}

fn by_binary(stage: &Stage, flow: &Flow, flags: &[String]) -> Result<Seen> {
    let client = flow.client.map(|ip| format!(":{ip}")).unwrap_or_default();
    let output = Command::new(env!("CARGO_BIN_EXE_beeline"))
        .args(["explain", "--output", "json", "--from", &format!("{}{client}", flow.from)])
        .args(["--to", &format!("{}/{}", flow.to, flow.protocol)])
        .args(flags)
        .output()
        .context("run the binary")?;
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    let answer: Value = serde_json::from_slice(&output.stdout).context("parse the JSON")?;
    let told = answer["rules"].as_array().into_iter().flatten().any(|rule| rule == "SNAT-6");
    let backends = answer["backends"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let is_client = |backend: &&str| {
        let addr = backend.parse::<std::net::SocketAddr>().map(|backend| backend.ip());
        told && addr.is_ok_and(|addr| Some(addr) == flow.client)
    };
    let hairpin = backends.filter(is_client).map(str::to_owned).collect();
    Ok(Seen { hairpin, plain_service: stage.plain_service(flow), answer })
}

/// What is remembered, by ServicePort and client address (AFF-1).
type Records = HashMap<(ServiceId, IpAddr), Record>;

fn affinity<'a>(
    stage: &mut Stage<'a>,
    items: &'a [AffinityItem],
    prefix: &str,
    cases: &mut Vec<Case>,
) -> Result<()> {
    let mut records = Records::new();
    for item in items {
        match item {
            AffinityItem::Change(change) => stage.apply(&change.apply)?,
            AffinityItem::Connect(connect) => {
                let flow = stage.flow(&connect.from, &connect.to)?;
                let name =
                    format!("{prefix}affinity t={}: {}", connect.t, flow_name(&connect.from, &connect.to));
                cases.push(connection(stage, &mut records, &flow, connect, name));
            }
        }
    }
    Ok(())
}

/// One connection: which backends it may reach is compared, and the one it takes is remembered.
fn connection(
    stage: &Stage,
    records: &mut Records,
    flow: &Flow,
    connect: &AffinityConnect,
    name: String,
) -> Case {
    let verdict = resolve(&stage.tables, flow);
    let (Action::Forward, Some(service), Some(client)) = (verdict.action, verdict.service, flow.client)
    else {
        return Case::new(name, vec![format!("expected {:?}, seen {:?}", connect.backends, verdict.action)]);
    };
    let now = Duration::from_secs(connect.t);
    let kept = keep(&stage.tables, &verdict, records.get(&(service, client)), now);
    let may: Vec<BackendId> = kept.map_or_else(|| verdict.backends.clone(), |id| vec![id]);
    let text = |id: &BackendId| {
        let row = stage.tables.backend(*id);
        row.map(|row| std::net::SocketAddr::new(row.addr, row.port).to_string()).unwrap_or_default()
    };
    let seen: Vec<String> = may.iter().map(text).collect();
    let taken = connect.assume.as_ref().or(connect.backends.first());
    let taken = taken.and_then(|taken| may.iter().find(|id| text(id) == *taken));
    let mut case = Case::new(name, judge_connection(&connect.backends, &seen));
    match taken.and_then(|id| Some((*id, stage.tables.backend(*id)?))) {
        Some((backend, row)) if verdict.affinity_seconds.is_some() => {
            let record = Record { backend, generation: row.state.generation, used: now };
            records.insert((service, client), record);
        }
        Some(_) => {}
        None => case.wrong.push(format!("a connection to {:?} is not possible", connect.assume)),
    }
    if case.wrong.is_empty() {
        let more = [connect.backends.clone(), vec!["192.0.2.255:9".into()]].concat();
        let less = connect.backends.get(1..).unwrap_or_default().to_vec();
        for flipped in [more, less] {
            case.flipped += 1;
            if judge_connection(&flipped, &seen).is_empty() {
                case.blind.push(format!("passes with {flipped:?}"));
            }
        }
    }
    case
}

fn judge_connection(expected: &[String], seen: &[String]) -> Vec<String> {
    let sorted = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list
    };
    match sorted(expected) == sorted(seen) {
        true => Vec::new(),
        false => vec![format!("expected one of {:?}, seen one of {:?}", sorted(expected), sorted(seen))],
    }
}
