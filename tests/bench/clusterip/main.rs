//! `scripts/bench clusterip`: what a ClusterIP costs, how fast a change takes effect, and what the
//! agent weighs. Exit code 0 once measured, goal or no goal.
//!
//! *Direct* is the same binary in the same pod, dialling the same backend over the same hops, in a
//! cgroup where none of our programs are attached. Sides run in short slices by turns.

// The figures are the output of this program.
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

mod api;
mod change;
mod load;
mod manifests;
mod ratios;
mod weight;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use beeline::sandbox::cluster::Sandbox;
use beeline::sandbox::report::{Machine, Report};
use clap::Parser;

/// What a ClusterIP costs.
#[derive(Debug, Parser)]
struct Args {
    /// Fewer rounds: 60 seconds in all.
    #[arg(long)]
    quick: bool,
    /// Only metrics and cases (`METRIC CASE`) that match.
    #[arg(long, default_value = "")]
    case: String,
    /// Write the rows as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw the rows.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Passed by `cargo bench`; changes nothing.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What every part of the benchmark gets.
struct Bench {
    sandbox: Sandbox,
    report: Report,
    quick: bool,
    wanted: regex_lite::Regex,
}

impl Bench {
    /// Whether a figure was asked for.
    fn wants(&self, metric: &str, case: &str) -> bool {
        self.wanted.is_match(&format!("{metric} {case}"))
    }

    /// Adds a row and shows that it is there.
    fn push(&mut self, row: beeline::sandbox::report::Row) {
        eprintln!("  {} {} = {:.4} {}", row.metric, row.case, row.value, row.unit);
        self.report.push(row);
    }
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_beeline"));
    let wanted = regex_lite::Regex::new(&args.case).context("--case is no regular expression")?;
    let sandbox = Sandbox::with_binary("bench", &binary)?;
    let mut bench = Bench { sandbox, report: Report::default(), quick: args.quick, wanted };
    ratios::measure(&mut bench)?;
    change::measure(&mut bench)?;
    load::measure(&mut bench)?;
    weight::measure(&mut bench)?;
    api::measure(&mut bench)?;
    let node = bench.sandbox.add_node("show")?;
    let pod = node.add_pod("show")?;
    let netns = beeline::host::netns::Netns::open(pod.netns())?;
    println!("{}", Machine::read(&netns, "eth0")?);
    println!("{}", bench.report.table(false));
    if let Some(path) = &args.json {
        bench.report.write_json(path)?;
    }
    if let Some(path) = &args.svg {
        bench.report.write_svg(path, "clusterip")?;
    }
    drop((pod, node));
    bench.sandbox.close()?;
    Ok(ExitCode::SUCCESS)
}
