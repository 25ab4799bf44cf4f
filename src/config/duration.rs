//! Durations as Go writes them: `24h0m0s`, `1.5s`, `100ms`. Whole nanoseconds, as in Go.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The units of a duration, in nanoseconds. Both Greek letters are in use.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A `metav1.Duration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct GoDuration {
    /// Nanoseconds; negative ones can be written, and validation refuses them.
    pub nanos: i64,
}

impl GoDuration {
    /// That many seconds.
    pub const fn from_secs(seconds: i64) -> GoDuration {
        GoDuration { nanos: seconds * 1_000_000_000 }
    }

    /// As the standard library has it; zero if it is negative.
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanos).unwrap_or_default())
    }
}

impl FromStr for GoDuration {
    type Err = String;

    /// What Go's `time.ParseDuration` takes.
    fn from_str(text: &str) -> Result<GoDuration, String> {
        let wrong = || format!("'{text}' is no duration like 30s, 1m30s or 2h");
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(GoDuration::default());
        }
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (nanos, after) = part(rest).ok_or_else(wrong)?;
            total = total.checked_add(nanos).ok_or_else(wrong)?;
            rest = after;
        }
        // The largest negative number has no positive twin.
        let nanos = if negative { 0i64.checked_sub_unsigned(total) } else { i64::try_from(total).ok() };
        Ok(GoDuration { nanos: nanos.ok_or_else(wrong)? })
    }
}

/// One number with its unit, in nanoseconds, and what follows it.
fn part(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(end);
    let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let (_, unit) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Digits below a nanosecond do not count, as in Go.
    let mut place = unit;
    let mut nanos = 0;
    for digit in fraction.bytes() {
        place /= 10;
        nanos += u64::from(digit - b'0') * place;
    }
    Some((whole.checked_mul(unit)?.checked_add(nanos)?, rest))
}

impl fmt::Display for GoDuration {
    /// As Go's `Duration.String` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.nanos.unsigned_abs();
        if self.nanos < 0 {
            f.write_str("-")?;
        }
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}\u{b5}s", decimal(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", decimal(nanos, 1_000_000)),
            _ => {
                let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write!(f, "{}s", decimal(nanos % 60_000_000_000, 1_000_000_000))
            }
        }
    }
}

/// A number of units, with the digits after the point that it needs.
fn decimal(nanos: u64, unit: u64) -> String {
    let width = unit.ilog10() as usize;
    let text = format!("{}.{:0width$}", nanos / unit, nanos % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl From<GoDuration> for String {
    fn from(duration: GoDuration) -> String {
        duration.to_string()
    }
}

impl TryFrom<String> for GoDuration {
    type Error = String;

    fn try_from(text: String) -> Result<GoDuration, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanos(text: &str) -> Option<i64> {
        text.parse::<GoDuration>().ok().map(|duration| duration.nanos)
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, wanted) in [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("1m30s", 90_000_000_000),
            ("2h22m", 8_520_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("3us1\u{b5}s1\u{3bc}s", 5_000),
            ("-1.5s", -1_500_000_000),
            ("+7ns", 7),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(nanos(text), Some(wanted), "{text}");
        }
        for bad in ["", "-", "3", "s", ".s", "1.2.3s", "1d", "5 s", "1s ", "9223372036854775808ns", "\u{b5}"]
        {
            assert_eq!(nanos(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_shown_as_go_shows_them() {
        for (nanos, wanted) in [
            (0, "0s"),
            (86_400_000_000_000, "24h0m0s"),
            (900_000_000_000, "15m0s"),
            (1_500_000_000, "1.5s"),
            (100_000_000, "100ms"),
            (1_500, "1.5\u{b5}s"),
            (7, "7ns"),
            (-30_000_000_000, "-30s"),
        ] {
            assert_eq!(GoDuration { nanos }.to_string(), wanted);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(nanos in any::<i64>()) {
            let duration = GoDuration { nanos };
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_is_too_strange(text in "[-+0-9.a-z\u{b5}]{0,24}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
