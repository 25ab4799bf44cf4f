//! How often the tables are written (SYNC-4): changes within the period are applied together.

use std::time::Duration;

/// The least time from the end of one sync to the start of the next.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    period: Duration,
    ended: Option<Duration>,
}

impl Pace {
    /// A pace of `minSyncPeriod`; zero: at once, always.
    pub fn new(period: Duration) -> Pace {
        Pace { period, ended: None }
    }

    /// When a change that comes now is to be written: now, unless the last sync ended within the period.
    pub fn due(&self, now: Duration) -> Duration {
        self.ended.map_or(now, |ended| now.max(ended + self.period))
    }

    /// A sync has ended.
    pub fn ended(&mut self, now: Duration) {
        self.ended = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_change_after_quiet_is_written_at_once_and_those_that_follow_together() {
        // SYNC-4
        let mut pace = Pace::new(at(1000));
        assert_eq!(pace.due(at(5)), at(5));
        pace.ended(at(10));
        assert_eq!(pace.due(at(11)), at(1010));
        assert_eq!(pace.due(at(900)), at(1010));
        pace.ended(at(1012));
        assert_eq!(pace.due(at(2012)), at(2012));
        assert_eq!(pace.due(at(7000)), at(7000));
    }

    #[test]
    fn without_a_period_nothing_waits() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.ended(at(10));
        assert_eq!(pace.due(at(10)), at(10));
    }
}
