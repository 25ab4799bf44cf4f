//! What was measured, for people and for programs: ratios with confidence intervals, a table, JSON, SVG,
//! and the machine it was measured on.

use std::io::Write as _;
use std::path::Path;

use anstyle::AnsiColor;
use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use super::load::Round;
use super::plot;
use crate::host::netlink::Netlink;
use crate::host::netns::Netns;
use crate::host::{ethtool, sysctl};

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was varied: `services=10`.
    pub case: String,
    /// What was measured: `connect_close_ratio`.
    pub metric: String,
    /// The figure.
    pub value: f64,
    /// Its unit: `ratio`, `ms`, `MiB`, `1/s`.
    pub unit: String,
    /// The interval that holds the true value with 95 % confidence; twice the value if it was taken once.
    pub ci95: [f64; 2],
    /// How many measurements it is made of.
    pub rounds: u64,
    /// What it should be: at least, where more is better ([`Row::more_is_better`]), else at most.
    pub goal: Option<f64>,
}

impl Row {
    /// A figure that was taken once.
    pub fn single(case: &str, metric: &str, value: f64, unit: &str) -> Self {
        Self {
            case: case.to_owned(),
            metric: metric.to_owned(),
            value,
            unit: unit.to_owned(),
            ci95: [value, value],
            rounds: 1,
            goal: None,
        }
    }

    /// A quantile (`share` of 0 to 1; 0.5 is the median) of `samples`, with its confidence interval.
    pub fn quantile(case: &str, metric: &str, samples: &[f64], share: f64, unit: &str) -> Self {
        let estimate = quantile(samples, share);
        let ci95 = [estimate.low, estimate.high];
        Self { ci95, rounds: samples.len() as u64, ..Self::single(case, metric, estimate.value, unit) }
    }

    /// A ratio of two sides that ran by turns.
    pub fn ratio(case: &str, metric: &str, ratio: Estimate) -> Self {
        let ci95 = [ratio.low, ratio.high];
        Self { ci95, rounds: ratio.rounds, ..Self::single(case, metric, ratio.value, "ratio") }
    }

    /// The same with a goal.
    pub fn goal(self, goal: f64) -> Self {
        Self { goal: Some(goal), ..self }
    }

    /// Ratios and rates should be high; times and sizes low.
    pub fn more_is_better(&self) -> bool {
        matches!(self.unit.as_str(), "ratio" | "1/s")
    }

    /// Whether the figure meets its goal; `None` without one.
    pub fn meets_goal(&self) -> Option<bool> {
        self.goal.map(|goal| if self.more_is_better() { self.value >= goal } else { self.value <= goal })
    }
}

/// An estimate with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
    /// How many measurements it is made of.
    pub rounds: u64,
}

/// The median of the rounds' ratios of rates (side a over side b).
pub fn ratio(rounds: &[Round]) -> Estimate {
    ratio_by(rounds, |round| round.a.per_s / round.b.per_s)
}

/// The median of any ratio of the rounds, such as that of latencies.
pub fn ratio_by(rounds: &[Round], of: impl Fn(&Round) -> f64) -> Estimate {
    quantile(&rounds.iter().map(of).collect::<Vec<_>>(), 0.5)
}

/// A quantile and its interval by order statistics: exact, whatever the distribution (for the median
/// this is the interval of the sign test). With too few samples for 95 % it is their whole range. All is
/// NaN without samples.
pub fn quantile(samples: &[f64], share: f64) -> Estimate {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    if count == 0 {
        return Estimate { value: f64::NAN, low: f64::NAN, high: f64::NAN, rounds: 0 };
    }
    let (low, high) = ranks(count, share);
    Estimate {
        value: interpolate(&sorted, share),
        low: sorted[low],
        high: sorted[high],
        rounds: count as u64,
    }
}

fn interpolate(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let (below, rest) = (position.floor() as usize, position.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * rest
}

/// The ranks, from 0, between which the quantile lies: how many samples lie below it is binomial.
fn ranks(count: usize, share: f64) -> (usize, usize) {
    const TAIL: f64 = 0.025;
    let odds = (share / (1.0 - share)).ln();
    let mut log_mass = count as f64 * (1.0 - share).ln();
    let mut below = 0.0;
    let (mut low, mut high) = (0, count - 1);
    for successes in 0..count {
        below += log_mass.exp();
        if below <= TAIL {
            low = successes;
        }
        if 1.0 - below <= TAIL {
            high = successes;
            break;
        }
        log_mass += ((count - successes) as f64 / (successes + 1) as f64).ln() + odds;
    }
    (low, high)
}

/// What a figure was taken on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// How many CPUs may be used.
    pub cpus: usize,
    /// What `/proc/cpuinfo` calls them.
    pub model: String,
    /// TCP congestion control of the namespace.
    pub congestion_control: String,
    /// The largest packet of the namespace's uplink, in bytes.
    pub mtu: u32,
    /// Its offloads, `tso on`.
    pub offloads: Vec<String>,
}

impl Machine {
    /// Looks at the machine, and at `link` in `netns`.
    ///
    /// # Errors
    /// There is no such link.
    pub fn read(netns: &Netns, link: &str) -> Result<Self> {
        let kernel = sysctl::read("kernel.osrelease")?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let model = model.map_or("unknown", |(_, name)| name).to_owned();
        netns.run(|| {
            let congestion_control = sysctl::read("net.ipv4.tcp_congestion_control")?;
            let found = Netlink::open()?.find_link(link)?;
            let mtu = found.with_context(|| format!("there is no link {link}"))?.mtu;
            let state = |on| if on { "on" } else { "off" };
            let offloads =
                ethtool::offloads(link)?.into_iter().map(|(name, on)| format!("{name} {}", state(on)));
            Ok(Self { kernel, cpus, model, congestion_control, mtu, offloads: offloads.collect() })
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "kernel {}, {} CPUs ({})", self.kernel, self.cpus, self.model)?;
        write!(f, "{}, MTU {}, {}", self.congestion_control, self.mtu, self.offloads.join(", "))
    }
}

const MET: &str = "✓ met";
const MISSED: &str = "✗ missed";

/// All figures of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// The figures, in the order they were taken.
    pub rows: Vec<Row>,
}

impl Report {
    /// Adds a figure.
    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The table for a terminal; `colour` marks goals that were met or missed.
    pub fn table(&self, colour: bool) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["case", "metric", "value", "unit", "95 % interval", "rounds", "goal", ""]);
        for row in &self.rows {
            let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
            let sign = if row.more_is_better() { "≥" } else { "≤" };
            let goal = row.goal.map_or(String::new(), |goal| format!("{sign} {}", figure(goal)));
            let verdict = row.meets_goal().map_or("", |met| if met { MET } else { MISSED });
            table.add_row([
                Cell::new(&row.case),
                Cell::new(&row.metric),
                right(figure(row.value)),
                Cell::new(&row.unit),
                right(format!("{} – {}", figure(row.ci95[0]), figure(row.ci95[1]))),
                right(row.rounds.to_string()),
                right(goal),
                Cell::new(verdict),
            ]);
        }
        let table = table.to_string();
        if !colour {
            return table;
        }
        let paint = |text: &str, colour: AnsiColor| {
            let style = colour.on_default();
            format!("{style}{text}{style:#}")
        };
        // After the layout, which would count the codes as width.
        table.replace(MET, &paint(MET, AnsiColor::Green)).replace(MISSED, &paint(MISSED, AnsiColor::Red))
    }

    /// Writes the rows as one JSON array.
    ///
    /// # Errors
    /// The file cannot be written, or a figure is no number.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.rows)?;
        write(path, &(text + "\n"))
    }

    /// Writes the rows as a picture.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_svg(&self, path: &Path, title: &str) -> Result<()> {
        write(path, &plot::svg(title, &self.rows))
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let file = std::fs::File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    file.with_context(|| format!("write {}", path.display()))
}

/// A figure with as many digits as a reader wants: three after the point below 10, none from 1000 on.
pub fn figure(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_median_is_that_of_the_sign_test() {
        // Tables of order statistics: 4th and 12th of 15, 6th and 15th of 20, 40th and 61st of 100.
        for (count, low, high) in [(15, 4, 12), (20, 6, 15), (100, 40, 61)] {
            assert_eq!(ranks(count, 0.5), (low - 1, high - 1), "{count}");
        }
    }

    #[test]
    fn the_median_of_samples_in_any_order() {
        let estimate = quantile(&[3.0, 1.0, 2.0, 5.0, 4.0], 0.5);
        assert_eq!((estimate.value, estimate.low, estimate.high, estimate.rounds), (3.0, 1.0, 5.0, 5));
        assert!(quantile(&[], 0.5).value.is_nan());
    }

    #[test]
    fn a_high_quantile_lies_near_the_top_and_its_interval_around_it() {
        let samples: Vec<f64> = (1..=500).map(f64::from).collect();
        let p99 = quantile(&samples, 0.99);
        assert!((494.0..=496.5).contains(&p99.value), "{p99:?}");
        assert!(p99.low < p99.value && p99.value < p99.high && p99.low > 485.0, "{p99:?}");
    }

    #[test]
    fn many_samples_do_not_underflow() {
        let (low, high) = ranks(100_000, 0.5);
        assert!((49_600..50_000).contains(&low) && (50_000..50_400).contains(&high), "{low} {high}");
    }

    #[test]
    fn a_table_marks_what_was_missed() {
        let rows = [0.99, 0.97]
            .map(|value| Row::single("services=10", "connect_close_ratio", value, "ratio").goal(0.98));
        let report = Report { rows: rows.to_vec() };
        let table = report.table(false);
        assert!(table.contains("≥ 0.980") && table.contains(MET) && table.contains(MISSED), "{table}");
        assert!(report.table(true).contains("\u{1b}[31m✗ missed\u{1b}[0m"));
    }

    #[test]
    fn goals_are_at_least_for_ratios_and_at_most_for_times() {
        assert_eq!(Row::single("", "", 0.97, "ratio").goal(0.98).meets_goal(), Some(false));
        assert_eq!(Row::single("", "", 4.0, "ms").goal(5.0).meets_goal(), Some(true));
        assert_eq!(Row::single("", "", 4.0, "ms").meets_goal(), None);
    }
}
