//! Families of metrics in the text format of Prometheus, version 0.0.4, which kube-proxy speaks.
//!
//! The prometheus crate writes it. Its registry, which keeps every series in memory, is not used: here a
//! family is made, written and forgotten.

use prometheus::TextEncoder;
use prometheus::proto::{self, Bucket, LabelPair, Metric, MetricFamily, MetricType};

use crate::model::histogram::Histogram;

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

/// The labels of a sample.
#[derive(Clone, Debug, Default)]
pub struct Labels(Vec<LabelPair>);

impl Labels {
    /// These labels, in this order.
    pub fn new(labels: &[(&str, &str)]) -> Labels {
        let pair = |(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        Labels(labels.iter().map(pair).collect())
    }
}

/// One family of metrics.
#[derive(Debug)]
pub struct Family {
    kind: Kind,
    family: MetricFamily,
}

impl Family {
    /// A family without samples yet.
    pub fn new(name: &'static str, kind: Kind, help: &str) -> Family {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(match kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        Family { kind, family }
    }

    /// Adds a sample of a counter or a gauge.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.labelled(Labels::new(labels), value);
    }

    /// The same with labels that were made before.
    pub fn labelled(&mut self, labels: Labels, value: f64) {
        let mut metric = Metric::from_label(labels.0);
        if self.kind == Kind::Counter {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.family.mut_metric().push(metric);
    }

    /// Adds a histogram: its buckets, sum and count.
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut metric = Metric::from_label(Labels::new(labels).0);
        metric.set_histogram(sample(histogram));
        self.family.mut_metric().push(metric);
    }

    /// The text; nothing of a family without samples.
    pub fn into_text(self) -> String {
        let bounds = self.bounds();
        // It refuses families without samples, and nothing else of what is made here.
        let text = TextEncoder::new().encode_to_string(&[self.family]).unwrap_or_default();
        // A bucket is a series by what its bound is written like.
        bounds.into_iter().filter(|bound| *bound >= 1e6).fold(text, |text, bound| {
            text.replace(&format!("le=\"{bound}\""), &format!("le=\"{}\"", as_go(bound)))
        })
    }

    /// The bounds of its histograms, which all have the same.
    fn bounds(&self) -> Vec<f64> {
        let metric = self.family.get_metric().first().filter(|_| self.kind == Kind::Histogram);
        let buckets = metric.map(|metric| metric.get_histogram().get_bucket().to_vec()).unwrap_or_default();
        buckets.iter().map(Bucket::upper_bound).collect()
    }
}

/// A number from a million on as Go writes it: 1048576 is 1.048576e+06.
fn as_go(number: f64) -> String {
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, power)) => format!("{digits}e+{power:0>2}"),
        None => text,
    }
}

/// A histogram as the format has it.
fn sample(histogram: &Histogram) -> proto::Histogram {
    let (mut sample, mut buckets, mut count) = (proto::Histogram::default(), Vec::new(), 0);
    for (bound, counted) in histogram.bounds.iter().zip(&histogram.counts) {
        count += counted;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(count);
        buckets.push(bucket);
    }
    sample.set_bucket(buckets);
    sample.set_sample_count(histogram.counts.iter().sum());
    sample.set_sample_sum(histogram.sum);
    sample
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
    fn bounds_from_a_million_on_are_written_as_go_does() {
        let mut family = Family::new("x", Kind::Histogram, "h");
        family.histogram(&[], &Histogram::new(vec![262_144.0, 1_048_576.0, 1e10]));
        let text = family.into_text();
        for bound in ["262144", "1.048576e+06", "1e+10", "+Inf"] {
            assert!(text.contains(&format!("x_bucket{{le=\"{bound}\"}} 0")), "{bound}: {text}");
        }
    }

    #[test]
    fn a_family_has_help_type_and_samples() {
        let mut family = Family::new("beeline_x", Kind::Gauge, "Of two\nlines.");
        family.sample(&[], 1.5);
        family.sample(&[("a", "q\"\\\n"), ("b", "")], 2.0);
        let want = "# HELP beeline_x Of two\\nlines.\n# TYPE beeline_x gauge\nbeeline_x 1.5\n\
                    beeline_x{a=\"q\\\"\\\\\\n\",b=\"\"} 2\n";
        assert_eq!(family.into_text(), want);
        assert_eq!(Family::new("beeline_y", Kind::Counter, "None.").into_text(), "");
    }
}
