//! `beeline dump`: all tables, for a golden test or a bug report.

use std::process::ExitCode;

use anyhow::Result;

use super::noun::NounArgs;
use super::render::Format;
use crate::inspect::dump::{Dump, Ids};
use crate::inspect::view::{Depth, View};

/// Arguments of `dump`.
#[derive(Debug, clap::Args)]
pub struct DumpArgs {
    /// With indices, ranges and generations, and who wrote the tables (`-o wide` implies it)
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
    let ids = if args.ids || args.noun.format == Format::Wide { Ids::Shown } else { Ids::Hidden };
    let text = |dump: &Dump, _| dump.to_string().trim_end().to_owned();
    args.noun.output().value(&Dump::of(&view.rows, ids), text)?;
    Ok(ExitCode::SUCCESS)
}
