//! Two loads compared: short slices by turns in one process, so that whatever else the machine does
//! meets both sides alike.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{LoadReport, LoadSpec, run};
use crate::host::cgroup;

/// One of the two sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// The load; its count and duration are those of the slice.
    pub load: LoadSpec,
    /// The process moves into this cgroup before the slice: so *direct*, outside any cgroup with
    /// programs of ours, differs from the other side in nothing else.
    pub cgroup: Option<PathBuf>,
}

/// A comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairSpec {
    /// The one in question.
    pub a: Side,
    /// The one it is measured by.
    pub b: Side,
    /// How many pairs of slices.
    pub rounds: u32,
    /// The length of a slice.
    pub slice_ms: u64,
    /// How long each side runs before, uncounted.
    pub warmup_ms: u64,
}

/// One slice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Operations per second.
    pub per_s: f64,
    /// The median of an operation's time, in nanoseconds.
    pub p50_ns: u64,
    /// Its 99th percentile.
    pub p99_ns: u64,
    /// Operations that went well.
    pub done: u64,
    /// Operations that failed.
    pub failed: u64,
}

/// Two slices that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The one in question.
    pub a: Slice,
    /// The one it is measured by.
    pub b: Slice,
}

/// What a comparison found; [`report::ratio`](crate::sandbox::report::ratio) makes one figure of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairReport {
    /// One entry for each round.
    pub rounds: Vec<Round>,
}

impl From<&LoadReport> for Slice {
    fn from(report: &LoadReport) -> Self {
        Self {
            per_s: report.per_s,
            p50_ns: report.latency.p50_ns,
            p99_ns: report.latency.p99_ns,
            done: report.done,
            failed: report.failed(),
        }
    }
}

/// Runs both sides by turns, in the order a b, b a, a b, …
///
/// # Errors
/// See [`run`]; a cgroup that cannot be entered.
pub fn run_pairs(spec: &PairSpec) -> Result<PairReport> {
    ensure!(spec.rounds > 0 && spec.slice_ms > 0, "a comparison needs at least one round of at least 1 ms");
    if spec.a.cgroup.is_none() && spec.b.cgroup.is_none() {
        return rounds(spec);
    }
    // A side without a cgroup runs where the process is now, and there it ends.
    let home = cgroup::of_process(std::process::id())?;
    let at_home =
        |side: &Side| Side { cgroup: side.cgroup.clone().or_else(|| Some(home.clone())), ..side.clone() };
    let outcome = rounds(&PairSpec { a: at_home(&spec.a), b: at_home(&spec.b), ..spec.clone() });
    cgroup::put(&home, std::process::id())?;
    outcome
}

fn rounds(spec: &PairSpec) -> Result<PairReport> {
    if spec.warmup_ms > 0 {
        slice(&spec.a, spec.warmup_ms)?;
        slice(&spec.b, spec.warmup_ms)?;
    }
    let mut rounds = Vec::with_capacity(spec.rounds as usize);
    for number in 0..spec.rounds {
        let (a, b);
        if number % 2 == 0 {
            a = slice(&spec.a, spec.slice_ms)?;
            b = slice(&spec.b, spec.slice_ms)?;
        } else {
            b = slice(&spec.b, spec.slice_ms)?;
            a = slice(&spec.a, spec.slice_ms)?;
        }
        rounds.push(Round { a, b });
    }
    Ok(PairReport { rounds })
}

fn slice(side: &Side, length_ms: u64) -> Result<Slice> {
    if let Some(path) = &side.cgroup {
        cgroup::put(path, std::process::id())?;
        // What the move set in motion shall not be counted.
        std::thread::sleep(Duration::from_millis(2));
    }
    let load = LoadSpec { count: None, duration_ms: Some(length_ms), ..side.load.clone() };
    Ok(Slice::from(&run(&load)?))
}
