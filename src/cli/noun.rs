//! Arguments that all nouns have.

use std::path::PathBuf;

use super::render::{Format, Output};
use crate::host::mount::BPFFS;

/// Where the tables are and how to show them.
#[derive(Debug, clap::Args)]
pub struct NounArgs {
    /// The bpffs that holds the tables
    #[arg(long, value_name = "P", default_value = BPFFS)]
    pub bpf_root: PathBuf,
    /// How to show it
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub format: Format,
}

impl NounArgs {
    /// Where and how the noun is shown.
    pub fn output(&self) -> Output {
        Output { format: self.format }
    }
}
