//! `beeline status`: what this node does, and what it cannot do.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::render::{Column, Output, fields};
use crate::inspect::status::{Feature, Pending, Status};
use crate::inspect::view::{Depth, MapUse, Program, View};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The bpffs that holds the tables
    #[arg(long, value_name = "PATH", default_value = crate::config::BPF_ROOT)]
    bpf_root: PathBuf,
}

/// Prints the status.
///
/// # Errors
/// There are no tables, a privilege is missing, or they cannot be read.
pub fn run(args: &Args, output: Output) -> Result<ExitCode> {
    let status = Status::of(&View::open(&args.bpf_root, Depth::Full)?);
    output.value(&status, |status, is_wide| page(status, output, is_wide))?;
    Ok(ExitCode::SUCCESS)
}

/// The page a person reads: what matters first, detail after.
fn page(status: &Status, output: Output, is_wide: bool) -> String {
    let mut parts = vec![head(status)];
    let features = [
        Column::new("feature", |f: &(&str, &Feature)| f.0.to_owned()),
        Column::new("state", |f| f.1.state.name().to_owned()),
        Column::new("reason", |f| f.1.reason.clone()),
    ];
    parts.push(output.table(&status.features(), &features));
    if !status.pending.is_empty() {
        let columns =
            [Column::new("pending", |p: &Pending| p.what.clone()), Column::new("error", |p| p.error.clone())];
        parts.push(output.table(&status.pending, &columns));
    }
    if is_wide {
        let maps = [
            Column::new("map", |m: &MapUse| m.name.clone()),
            Column::new("used", |m| m.used.to_string()),
            Column::new("max", |m| m.max.to_string()),
        ];
        parts.push(output.table(&status.maps, &maps));
        let programs = [
            Column::new("program", |p: &Program| p.name.clone()),
            Column::new("loaded", |p| tag_or_dash(&p.loaded_tag)),
            Column::new("shipped", |p| tag_or_dash(&p.shipped_tag)),
        ];
        parts.push(output.table(&status.programs, &programs));
    }
    parts.join("\n\n")
}

fn head(status: &Status) -> String {
    let agent =
        if status.agent { "running" } else { "not running (traffic goes on by the tables as they are)" };
    let synced = if status.source.synced { "synced" } else { "first list not complete" };
    let source = match (&status.source.kind, &status.source.from) {
        (Some(kind), Some(from)) => format!("{kind} {from}, {synced}"),
        (Some(kind), None) => format!("{kind}, {synced}"),
        (None, _) => "none yet".to_owned(),
    };
    let node = if status.node.is_empty() { "-" } else { &status.node };
    let counts = &status.counts;
    let mut rows = vec![
        ("version", status.version.clone()),
        ("kernel", status.kernel.clone()),
        ("node", node.to_owned()),
        ("agent", agent.to_owned()),
        ("source", source),
        (
            "serves",
            format!(
                "{} Services, {} frontends, {} backends",
                counts.services, counts.frontends, counts.backends
            ),
        ),
    ];
    if status.repaired > 0 {
        rows.push(("repaired", format!("{} (somebody else changes what is Beeline's)", status.repaired)));
    }
    fields(&rows)
}

fn tag_or_dash(tag: &Option<String>) -> String {
    tag.clone().unwrap_or_else(|| "-".to_owned())
}
