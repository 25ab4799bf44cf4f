//! `minSyncPeriod`: changes that come soon after a write wait, and are written together. Pure.

use std::time::Duration;

use crate::model::event::Event;

/// Holds events back until a period after the last write is over.
#[derive(Debug, Default)]
pub struct Pace {
    period: Duration,
    /// When events were let through last.
    last: Option<Duration>,
    held: Vec<Event>,
}

impl Pace {
    /// A pace of this period; with zero nothing ever waits.
    pub fn new(period: Duration) -> Pace {
        Pace { period, ..Pace::default() }
    }

    /// Takes events in, and gives what is to be done now: all that is held, or nothing yet. No events at all do
    /// not wait: what the source has to say may be a problem.
    pub fn take(&mut self, events: Vec<Event>, now: Duration) -> Option<Vec<Event>> {
        if events.is_empty() && self.held.is_empty() {
            return Some(events);
        }
        self.held.extend(events);
        self.release(now)
    }

    /// What is held, if its time has come.
    pub fn release(&mut self, now: Duration) -> Option<Vec<Event>> {
        if self.held.is_empty() || self.due().is_some_and(|due| due > now) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held))
    }

    /// When what is held is to be released.
    pub fn due(&self) -> Option<Duration> {
        (!self.held.is_empty()).then(|| self.last.map_or(Duration::ZERO, |last| last + self.period))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn events(count: usize) -> Vec<Event> {
        vec![Event::Synced; count]
    }

    #[test]
    fn without_a_period_nothing_waits() {
        let mut pace = Pace::new(Duration::ZERO);
        for now in [0, 0, 1] {
            assert_eq!(pace.take(events(1), ms(now)).map(|all| all.len()), Some(1));
        }
        assert_eq!((pace.take(Vec::new(), ms(9)), pace.due()), (Some(Vec::new()), None), "a problem is told");
    }

    #[test]
    fn changes_within_the_period_are_written_together() {
        let mut pace = Pace::new(ms(1000));
        assert_eq!(pace.take(events(1), ms(5)).map(|all| all.len()), Some(1), "the first goes at once");
        assert_eq!(pace.take(events(2), ms(10)), None);
        assert_eq!(pace.take(events(3), ms(900)), None);
        assert_eq!((pace.due(), pace.release(ms(1004))), (Some(ms(1005)), None));
        assert_eq!(pace.release(ms(1005)).map(|all| all.len()), Some(5));
        assert_eq!(pace.due(), None);
        assert_eq!(pace.take(events(1), ms(2005)).map(|all| all.len()), Some(1), "after the period at once");
    }
}
