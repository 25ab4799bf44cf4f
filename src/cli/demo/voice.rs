//! How the demo speaks: short sentences, a colour for what was proved.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail};

/// Writes to stdout, in colour on a terminal.
#[derive(Debug)]
pub(super) struct Voice {
    colour: bool,
}

impl Voice {
    /// A voice with colour if stdout is a terminal and `NO_COLOR` is not set.
    pub(super) fn new() -> Voice {
        Voice { colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// The heading of an act.
    pub(super) fn act(&self, title: &str) -> Result<()> {
        self.line(&format!("\n{}", self.paint(Style::new().bold(), title)))
    }

    /// A sentence.
    pub(super) fn say(&self, text: &str) -> Result<()> {
        self.line(&format!("  {text}"))
    }

    /// A claim, and whether it is true; a false one ends the demo.
    ///
    /// # Errors
    /// The claim does not hold.
    pub(super) fn claim(&self, holds: bool, text: &str) -> Result<()> {
        if !holds {
            let sign = self.paint(AnsiColor::Red.on_default().bold(), "✗");
            self.line(&format!("  {sign} {text}"))?;
            bail!("the demo claims that {text}, and it is not so");
        }
        self.line(&format!("  {} {text}", self.paint(AnsiColor::Green.on_default().bold(), "✓")))
    }

    /// A block of text as it is, indented.
    pub(super) fn block(&self, text: &str) -> Result<()> {
        text.lines().try_for_each(|line| self.line(&format!("    {line}")))
    }

    fn paint(&self, style: Style, text: &str) -> String {
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn line(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }
}
