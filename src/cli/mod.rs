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

/// Parses the command line and runs one subcommand.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
