//! `beeline pod`: the inside of a pod of the sandbox (hidden).

use std::process::ExitCode;

use crate::sandbox::inside;

/// Flags of the hidden subcommand `pod`.
#[derive(Debug, clap::Args)]
pub struct PodArgs {
    /// The name servers of this pod give when asked
    #[arg(long)]
    name: String,
}

/// Serves the pod protocol on stdin and stdout until stdin ends.
///
/// # Errors
/// stdin cannot be read.
pub fn run(args: PodArgs) -> anyhow::Result<ExitCode> {
    inside::run(&args.name)?;
    Ok(ExitCode::SUCCESS)
}
