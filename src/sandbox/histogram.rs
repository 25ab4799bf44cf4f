//! A log-linear histogram of durations: 32 steps for each power of two, so a value is known to 3 %.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// log2 of the steps per power of two.
const STEP_BITS: u32 = 5;
const STEPS: usize = 1 << STEP_BITS;
/// Values from 2^40 ns (18 minutes) on share the last bucket.
const BUCKETS: usize = (40 - STEP_BITS as usize + 1) * STEPS;

/// Counts of durations.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0, sum_ns: 0, min_ns: u64::MAX, max_ns: 0 }
    }
}

/// The figures of a [`Histogram`], in nanoseconds; all zero if nothing was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Latency {
    /// The shortest.
    pub min_ns: u64,
    /// The arithmetic mean.
    pub mean_ns: u64,
    /// The median.
    pub p50_ns: u64,
    /// Nine of ten are not longer.
    pub p90_ns: u64,
    /// 99 of a hundred are not longer.
    pub p99_ns: u64,
    /// 999 of a thousand are not longer.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.sum_ns += u128::from(ns);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds all that another one has counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum_ns += other.sum_ns;
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The duration that `share` (0 to 1) of all do not exceed, in nanoseconds: the upper end of its
    /// bucket, at most the longest.
    pub fn quantile(&self, share: f64) -> u64 {
        if self.total == 0 {
            return 0;
        }
        let rank = ((share * self.total as f64).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_end(index).clamp(self.min_ns, self.max_ns);
            }
        }
        self.max_ns
    }

    /// The usual figures.
    pub fn latency(&self) -> Latency {
        if self.total == 0 {
            return Latency::default();
        }
        Latency {
            min_ns: self.min_ns,
            mean_ns: u64::try_from(self.sum_ns / u128::from(self.total)).unwrap_or(u64::MAX),
            p50_ns: self.quantile(0.5),
            p90_ns: self.quantile(0.9),
            p99_ns: self.quantile(0.99),
            p999_ns: self.quantile(0.999),
            max_ns: self.max_ns,
        }
    }
}

fn bucket(ns: u64) -> usize {
    if ns < STEPS as u64 {
        return ns as usize;
    }
    let shift = ns.ilog2() - STEP_BITS;
    let within = (ns >> shift) as usize - STEPS;
    ((shift as usize + 1) * STEPS + within).min(BUCKETS - 1)
}

fn upper_end(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (shift, within) = (bucket / STEPS - 1, bucket % STEPS);
    ((STEPS + within + 1) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_known_to_three_percent() {
        let mut histogram = Histogram::default();
        for us in 1..=10_000u64 {
            histogram.record(Duration::from_micros(us));
        }
        for (share, expected) in [(0.5, 5_000_000.0), (0.9, 9_000_000.0), (0.99, 9_900_000.0)] {
            let got = histogram.quantile(share) as f64;
            assert!((got / expected - 1.0).abs() < 0.032, "{share}: {got} instead of {expected}");
        }
        assert_eq!(histogram.latency().max_ns, 10_000_000);
        assert_eq!(histogram.latency().mean_ns, 5_000_500);
    }

    #[test]
    fn each_value_lies_in_its_bucket() {
        for shift in 0..40 {
            for offset in [0u64, 1, 3] {
                let ns = (1u64 << shift) + offset;
                assert!(upper_end(bucket(ns)) >= ns, "{ns}");
                assert!(bucket(ns) == 0 || upper_end(bucket(ns) - 1) <= ns, "{ns}");
            }
        }
    }

    #[test]
    fn the_longest_durations_are_kept_apart_by_the_maximum() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::from_secs(100_000));
        assert_eq!(histogram.latency().p50_ns, 100_000_000_000_000);
    }
}
