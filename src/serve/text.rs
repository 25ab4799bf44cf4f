//! The text exposition format of Prometheus, version 0.0.4, which kube-proxy speaks.
//!
//! Written by hand: the crates for it keep every series in memory, or write OpenMetrics, whose names of
//! counters differ from kube-proxy's. Here a family is written once and forgotten.

use std::fmt::Write as _;

/// The media type, as kube-proxy gives it.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// What a family of metrics is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// One family of metrics as text.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    text: String,
}

impl Family {
    /// A family without samples yet.
    pub fn new(name: &'static str, kind: Kind, help: &str) -> Family {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let text = format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name());
        Family { name, text }
    }

    /// Adds a sample.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.labelled(&render(labels), value);
    }

    /// Adds a sample whose labels were rendered before, with braces.
    pub fn labelled(&mut self, labels: &str, value: f64) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{}{labels} {}", self.name, number(value));
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// Labels with their braces; nothing if there are none.
pub fn render(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (at, (name, value)) in labels.iter().enumerate() {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{}{name}=\"{value}\"", if at == 0 { '{' } else { ',' });
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

/// A number as the format has it.
fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_help_type_and_samples() {
        let mut family = Family::new("beeline_x", Kind::Gauge, "Of two\nlines.");
        family.sample(&[], 1.5);
        family.sample(&[("a", "q\"\\\n"), ("b", "")], f64::INFINITY);
        let want = "# HELP beeline_x Of two\\nlines.\n# TYPE beeline_x gauge\nbeeline_x 1.5\n\
                    beeline_x{a=\"q\\\"\\\\\\n\",b=\"\"} +Inf\n";
        assert_eq!(family.into_text(), want);
    }
}
