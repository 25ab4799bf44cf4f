//! `beeline doctor`: what this machine allows, feature by feature.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::noun::NounArgs;
use super::render::{self, Output};
use crate::inspect::doctor::{self, Facts, Finding};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// The root of the cgroup2 tree, if it shall not be found
    #[arg(long, value_name = "P")]
    cgroup_root: Option<PathBuf>,
    #[command(flatten)]
    noun: NounArgs,
}

/// Prints the findings. Exit code 1 if the main job cannot run here.
///
/// # Errors
/// stdout cannot be written; everything else is a finding.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let findings = doctor::examine(&Facts::probe(&args.noun.bpf_root, args.cgroup_root.as_deref()));
    let can_run = doctor::main_job_can_run(&findings);
    render::print(&match args.noun.output {
        Output::Json => render::json(&findings)?,
        Output::Table => page(&findings, can_run),
        Output::Wide => page(&findings, can_run) + "\n" + &everything(&findings),
    })?;
    Ok(if can_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line a check, then what to do about those that are not ok.
fn page(findings: &[Finding], can_run: bool) -> String {
    let row = |f: &Finding| [f.check.clone(), f.state.name().to_owned(), f.found.clone()];
    let mut text = render::table(["check", "state", "found"], findings.iter().map(row));
    let same = |a: &Finding, b: &Finding| (a.state, &a.lose, &a.next) == (b.state, &b.lose, &b.next);
    for alike in findings.chunk_by(same).filter(|alike| !alike[0].next.is_empty()) {
        let names: Vec<&str> = alike.iter().map(|f| f.check.as_str()).collect();
        let first = &alike[0];
        text += &format!(
            "\n{}: {}\n  lost: {}\n  next: {}\n",
            names.join(", "),
            first.state.name(),
            first.lose,
            first.next
        );
    }
    text + if can_run {
        "\nServices can be resolved at connect() on this machine.\n"
    } else {
        "\nServices cannot be resolved at connect() on this machine: repair what is missing or failed.\n"
    }
}

/// Which checks the main job stands on.
fn everything(findings: &[Finding]) -> String {
    let needed: Vec<&str> = findings.iter().filter(|f| f.needed).map(|f| f.check.as_str()).collect();
    format!("the main job stands on: {}\n", needed.join(", "))
}
