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
    /// Values counted by size.
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
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

    /// Adds a histogram: its buckets, sum and count.
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut count = 0;
        let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, counted) in bounds.zip(&histogram.counts) {
            count += counted;
            let bound = number(bound);
            let labels = render(&[labels, &[("le", &bound)]].concat());
            let _ = writeln!(self.text, "{}_bucket{labels} {count}", self.name);
        }
        let labels = render(labels);
        let _ = writeln!(self.text, "{}_sum{labels} {}", self.name, number(histogram.sum));
        let _ = writeln!(self.text, "{}_count{labels} {count}", self.name);
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// Values counted by size.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// The upper bounds of the buckets but the last, which has none.
    bounds: Vec<f64>,
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty one with these bounds, ascending.
    pub fn new(bounds: Vec<f64>) -> Histogram {
        let counts = vec![0; bounds.len() + 1];
        Histogram { bounds, counts, sum: 0.0 }
    }

    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at] += 1;
        self.sum += value;
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
    fn the_buckets_of_a_histogram_are_cumulative_and_a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::new(vec![0.5, 1.0]);
        [0.5, 0.75, 8.0].into_iter().for_each(|value| histogram.observe(value));
        let mut family = Family::new("x", Kind::Histogram, "h");
        family.histogram(&[("a", "b")], &histogram);
        let want = "# HELP x h\n# TYPE x histogram\nx_bucket{a=\"b\",le=\"0.5\"} 1\nx_bucket{a=\"b\",le=\"1\"} 2\n\
                    x_bucket{a=\"b\",le=\"+Inf\"} 3\nx_sum{a=\"b\"} 9.25\nx_count{a=\"b\"} 3\n";
        assert_eq!(family.into_text(), want);
    }

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
