//! `beeline doctor`: what this machine allows, feature by feature.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::render::{Column, Output};
use crate::inspect::doctor::{self, Facts, Finding};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The root of the cgroup2 tree; without it, it is found
    #[arg(long, value_name = "P")]
    cgroup_root: Option<PathBuf>,
    /// The bpffs that holds the tables
    #[arg(long, value_name = "PATH", default_value = crate::config::BPF_ROOT)]
    bpf_root: PathBuf,
}

/// Prints the findings. Exit code 1 if the main job cannot run here.
///
/// # Errors
/// stdout cannot be written; everything else is a finding.
pub fn run(args: &Args, output: Output) -> Result<ExitCode> {
    let findings = doctor::examine(&Facts::probe(&args.bpf_root, args.cgroup_root.as_deref()));
    let can_run = doctor::main_job_can_run(&findings);
    output.value(&findings, |findings, _| page(findings, output, can_run))?;
    Ok(if can_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line a check, then what to do about those that are not ok.
fn page(findings: &[Finding], output: Output, can_run: bool) -> String {
    let columns = [
        Column::new("check", |f: &Finding| f.check.clone()),
        Column::new("state", |f| f.state.name().to_owned()),
        Column::wide("needed", |f| if f.needed { "yes" } else { "" }.to_owned()),
        Column::new("found", |f| f.found.clone()),
    ];
    let mut parts = vec![output.table(findings, &columns)];
    let same = |a: &Finding, b: &Finding| (a.state, &a.lose, &a.next) == (b.state, &b.lose, &b.next);
    for alike in findings.chunk_by(same).filter(|alike| !alike[0].next.is_empty()) {
        let names: Vec<&str> = alike.iter().map(|f| f.check.as_str()).collect();
        let Finding { state, lose, next, .. } = &alike[0];
        parts.push(format!("{}: {}\n  lost: {lose}\n  next: {next}", names.join(", "), state.name()));
    }
    let verdict = if can_run {
        "Services can be resolved at connect() on this machine."
    } else {
        "Services cannot be resolved at connect() on this machine: repair what is missing or failed."
    };
    parts.push(verdict.to_owned());
    parts.join("\n\n")
}
