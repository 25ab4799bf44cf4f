//! What the nouns print: `-o table|wide|json`.

use std::io::{self, Write};

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use serde::Serialize;

/// How a noun is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Columns for a person.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// Stable field names for a program.
    Json,
}

/// A value as indented JSON.
///
/// # Errors
/// The value has a map whose keys are no texts.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value).context("write JSON")
}

/// Columns under a header, without lines.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.map(str::to_uppercase));
    for row in rows {
        table.add_row(row);
    }
    table.to_string().lines().map(str::trim_end).fold(String::new(), |text, line| text + line + "\n")
}

/// Prints a text and ends its last line. A reader that went away (`| head`) is no error.
///
/// # Errors
/// stdout cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    match out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(end.as_bytes()))
        .and_then(|()| out.flush())
    {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("write to stdout"),
    }
}
