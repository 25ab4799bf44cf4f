//! `beeline dump`: all tables, for a golden test or a bug report.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::render::{Format, Output};
use crate::inspect::dump::{Dump, Ids};
use crate::inspect::view::{Depth, View};

/// Arguments of `dump`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// With indices, ranges and generations, and who wrote the tables (`-o wide` implies it)
    #[arg(long)]
    ids: bool,
    /// The bpffs that holds the tables
    #[arg(long, value_name = "PATH", default_value = crate::config::BPF_ROOT)]
    bpf_root: PathBuf,
}

/// Prints the dump.
///
/// # Errors
/// There are no tables, a privilege is missing, or they cannot be read.
pub fn run(args: &Args, output: Output) -> Result<ExitCode> {
    let view = View::open(&args.bpf_root, Depth::Rows)?;
    let ids = if args.ids || output.format == Format::Wide { Ids::Shown } else { Ids::Hidden };
    let text = |dump: &Dump, _| dump.to_string().trim_end().to_owned();
    output.value(&Dump::of(&view.rows, ids), text)?;
    Ok(ExitCode::SUCCESS)
}
