//! `beeline status`: what this node does, and what it cannot do.

use std::process::ExitCode;

use anyhow::Result;

use super::noun::NounArgs;
use super::render::{self, Output};
use crate::inspect::status::Status;
use crate::inspect::view::{Depth, View};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    noun: NounArgs,
}

/// Prints the status.
///
/// # Errors
/// There are no tables, a privilege is missing, or they cannot be read.
pub fn run(args: &StatusArgs) -> Result<ExitCode> {
    let status = Status::of(&View::open(&args.noun.bpf_root, Depth::Full)?);
    render::print(&match args.noun.output {
        Output::Json => render::json(&status)?,
        Output::Table => page(&status, false),
        Output::Wide => page(&status, true),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The page a person reads: the most important lines first, tables of detail after.
fn page(status: &Status, wide: bool) -> String {
    let or = |text: Option<&str>, other: &str| text.filter(|t| !t.is_empty()).unwrap_or(other).to_owned();
    let agent =
        if status.agent { "running" } else { "not running (traffic goes on by the tables as they are)" };
    let source = match (&status.source.kind, &status.source.from) {
        (Some(kind), Some(from)) => format!("{kind} {from}"),
        (kind, _) => or(kind.as_deref(), "none yet"),
    };
    let synced = if status.source.synced { "synced" } else { "first list not complete" };
    let counts = &status.counts;
    let mut text = format!(
        "beeline {} on {}, kernel {}\nagent    {agent}\nsource   {source}, {synced}\nserves   {} Services, {} frontends, {} backends\n\n",
        status.version,
        or(Some(&status.node), "a node without a name"),
        status.kernel,
        counts.services,
        counts.frontends,
        counts.backends,
    );
    let features = status.features();
    text += &render::table(
        ["feature", "state", "reason"],
        features.iter().map(|(name, f)| [(*name).to_owned(), f.state.name().to_owned(), f.reason.clone()]),
    );
    if !status.pending.is_empty() {
        text += "\n";
        text += &render::table(
            ["pending", "error"],
            status.pending.iter().map(|p| [p.what.clone(), p.error.clone()]),
        );
    }
    if wide {
        text += "\n";
        text += &render::table(
            ["map", "used", "max"],
            status.maps.iter().map(|m| [m.name.clone(), m.used.to_string(), m.max.to_string()]),
        );
        text += "\n";
        text += &render::table(
            ["program", "loaded", "shipped"],
            status.programs.iter().map(|p| {
                [p.name.clone(), or(p.loaded_tag.as_deref(), "-"), or(p.shipped_tag.as_deref(), "-")]
            }),
        );
    }
    text
}
