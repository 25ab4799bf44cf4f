//! One thin file per subcommand.

pub mod cleanup;
pub mod demo;
pub mod doctor;
pub mod dump;
pub mod explain;
pub mod noun;
pub mod pod;
pub mod render;
pub mod run;
pub mod services;
pub mod status;

use std::process::ExitCode;

use clap::Parser;

use crate::inspect::view::exit_code;

#[derive(Debug, Parser)]
#[command(name = "beeline", version)]
enum Cli {
    /// What this node does, and what it cannot do
    Status(status::StatusArgs),
    /// What a client can dial, and who answers
    Services(services::ServicesArgs),
    /// What happens to a connection, and by which rules
    Explain(explain::ExplainArgs),
    /// All tables, for a bug report
    Dump(dump::DumpArgs),
    /// What this machine allows, feature by feature
    Doctor(doctor::DoctorArgs),
    #[command(hide = true)]
    Pod(pod::PodArgs),
}

/// Parses the command line and runs one subcommand.
pub fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Status(args) => status::run(&args),
        Cli::Services(args) => services::run(&args),
        Cli::Explain(args) => explain::run(&args),
        Cli::Dump(args) => dump::run(&args),
        Cli::Doctor(args) => doctor::run(&args),
        Cli::Pod(args) => pod::run(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("beeline: {error:#}");
        ExitCode::from(exit_code(&error))
    })
}
