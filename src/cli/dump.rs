//! `beeline dump`: all tables, for a golden test or a bug report.

use std::process::ExitCode;

use anyhow::Result;

use super::noun::NounArgs;
use super::render::{self, Output};
use crate::inspect::dump::{Dump, Ids};
use crate::inspect::view::{Depth, View};

/// Arguments of `dump`. `-o wide` shows indices, ranges and generations, and who wrote the tables.
#[derive(Debug, clap::Args)]
pub struct DumpArgs {
    /// With indices, ranges and generations, also as JSON (`-o wide` implies it)
    #[arg(long)]
    ids: bool,
    #[command(flatten)]
    noun: NounArgs,
}

/// Prints the dump.
///
/// # Errors
/// There are no tables, a privilege is missing, or they cannot be read.
pub fn run(args: &DumpArgs) -> Result<ExitCode> {
    let view = View::open(&args.noun.bpf_root, Depth::Rows)?;
    let ids = if args.ids || args.noun.output == Output::Wide { Ids::Shown } else { Ids::Hidden };
    let dump = Dump::of(&view.rows, ids);
    render::print(&match args.noun.output {
        Output::Json => render::json(&dump)?,
        Output::Table | Output::Wide => dump.to_string(),
    })?;
    Ok(ExitCode::SUCCESS)
}
