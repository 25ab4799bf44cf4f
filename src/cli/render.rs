//! One place that shows values: as a table, a wide table, or JSON.

use std::io::{self, Write};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// `-o` of every noun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For people with wide screens.
    Wide,
    /// For programs: the field names are a contract.
    Json,
}

/// A column of a table of `T`.
pub struct Column<T> {
    title: &'static str,
    is_wide: bool,
    cell: fn(&T) -> String,
}

impl<T> Column<T> {
    /// A column that is always shown. A cell may have several lines.
    pub fn new(title: &'static str, cell: fn(&T) -> String) -> Column<T> {
        Column { title, is_wide: false, cell }
    }

    /// A column of the wide table only.
    pub fn wide(title: &'static str, cell: fn(&T) -> String) -> Column<T> {
        Column { title, is_wide: true, cell }
    }
}

/// Where and how a noun is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// `-o`
    pub format: Format,
}

impl Output {
    /// Shows a list, one row per item. An empty table says `empty` instead.
    ///
    /// # Errors
    /// stdout cannot be written.
    pub fn list<T: Serialize>(&self, items: &[T], columns: &[Column<T>], empty: &str) -> Result<()> {
        match self.format {
            Format::Json => self.json(&items),
            _ if items.is_empty() => print(empty),
            _ => print(&self.table(items, columns)),
        }
    }

    /// Shows one value: as JSON, or as the text that `text` makes of it (given whether it may be wide).
    ///
    /// # Errors
    /// stdout cannot be written.
    pub fn value<T: Serialize>(&self, value: &T, text: impl FnOnce(&T, bool) -> String) -> Result<()> {
        match self.format {
            Format::Json => self.json(value),
            format => print(&text(value, format == Format::Wide)),
        }
    }

    /// A list as a table, without a trailing newline; to be put into a text.
    pub fn table<T>(&self, items: &[T], columns: &[Column<T>]) -> String {
        let shown: Vec<_> =
            columns.iter().filter(|column| !column.is_wide || self.format == Format::Wide).collect();
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(shown.iter().map(|column| column.title.to_uppercase()));
        for item in items {
            table.add_row(shown.iter().map(|column| (column.cell)(item)));
        }
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
        table.trim_fmt()
    }

    fn json<T: Serialize>(&self, value: &T) -> Result<()> {
        print(&serde_json::to_string_pretty(value)?)
    }
}

/// Names and values below each other, the values aligned; to be put into a text.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let lines: Vec<_> = fields.iter().map(|(name, value)| format!("{name:width$}{value}")).collect();
    lines.join("\n")
}

/// A line on stdout. A reader that has gone away (`| head`) is no error.
///
/// # Errors
/// stdout cannot be written.
pub fn print(text: &str) -> Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> [Column<(&'static str, u32)>; 2] {
        [Column::new("name", |item| item.0.into()), Column::wide("rows", |item| item.1.to_string())]
    }

    #[test]
    fn wide_columns_show_only_when_asked() {
        let items = [("web", 1), ("a-long-name", 2)];
        let narrow = Output { format: Format::Table }.table(&items, &columns());
        assert_eq!(narrow, "NAME\nweb\na-long-name");
        let wide = Output { format: Format::Wide }.table(&items, &columns());
        assert_eq!(wide, "NAME         ROWS\nweb          1\na-long-name  2");
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(fields(&[("agent", "running".into()), ("x", "1".into())]), "agent  running\nx      1");
    }
}
