//! One thin file per subcommand.

pub mod cleanup;
pub mod demo;
pub mod doctor;
pub mod dump;
pub mod explain;
pub mod pod;
pub mod render;
pub mod run;
pub mod services;
pub mod status;

use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "beeline", version)]
enum Cli {
    #[command(hide = true)]
    Pod(pod::PodArgs),
}

/// Parses the command line and runs one subcommand.
pub fn main() -> ExitCode {
    let Cli::Pod(args) = Cli::parse();
    pod::run(args).unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}
