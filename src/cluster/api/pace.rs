//! How long things take and how often they are tried: backoff with jitter, and the times that tests
//! make shorter. Randomness is a seed.

use std::time::Duration;

/// Times of the API client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The first pause after a failure; it doubles with each that follows.
    pub first: Duration,
    /// The longest pause; after 401 and 403, which somebody has to mend, it is twice as long.
    pub longest: Duration,
    /// The longest pause where not even a connection could be made. It is shorter: a refused connection is no
    /// load, and as soon as a server is back its nodes want to know what they missed.
    pub unreachable: Duration,
    /// How often a kind that is not served is asked for; and streaming lists, where there were none.
    pub absent: Duration,
    /// The longest that an answer, or the next piece of a list, may take.
    pub answer: Duration,
    /// A streaming list that is silent for this long is none: an older server ignores that it was asked for.
    pub silence: Duration,
    /// The least time a watch is asked to last; at most twice that.
    pub watch: Duration,
    /// A stream that was stable for this long made the failures before it forgotten.
    pub stable: Duration,
    /// How long Node and ServiceCIDRs are waited for, once Services and EndpointSlices are there (SYNC-17).
    pub lesser_kinds: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(30),
            unreachable: Duration::from_secs(5),
            absent: Duration::from_secs(600),
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(5),
            watch: Duration::from_secs(300),
            stable: Duration::from_secs(30),
            lesser_kinds: Duration::from_secs(30),
        }
    }
}

impl Pace {
    /// A hundred times as fast, for tests.
    pub fn hurried() -> Pace {
        let fast = |time: Duration| time / 100;
        let pace = Pace::default();
        Pace {
            first: Duration::from_millis(5),
            longest: Duration::from_millis(100),
            unreachable: fast(pace.unreachable),
            absent: fast(pace.absent),
            answer: fast(pace.answer),
            silence: fast(pace.silence),
            watch: pace.watch,
            stable: fast(pace.stable),
            lesser_kinds: fast(pace.lesser_kinds),
        }
    }
}

/// Random numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Those of a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `least` to twice as much.
    pub fn once_to_twice(&mut self, least: Duration) -> Duration {
        let share = (self.roll() >> 11) as f64 / (1_u64 << 53) as f64;
        least.mul_f64(1.0 + share)
    }
}

/// The pauses between attempts.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    dice: Dice,
}

impl Backoff {
    /// Nothing has failed yet.
    pub fn new(seed: u64) -> Backoff {
        Backoff { failures: 0, dice: Dice::new(seed) }
    }

    /// Something failed: how long to wait. The pause is between half and all of what doubling gives.
    pub fn pause(&mut self, first: Duration, longest: Duration) -> Duration {
        let doubled = first.saturating_mul(1 << self.failures.min(16)).min(longest.max(first));
        self.failures = self.failures.saturating_add(1);
        self.dice.once_to_twice(doubled / 2)
    }

    /// How many failures there were in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It works.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Random numbers for other ends.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_success() {
        // SYNC-13
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(7);
        for expected_ms in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let pause = backoff.pause(first, longest).as_millis();
            assert!((expected_ms / 2..=expected_ms).contains(&pause), "{pause} of {expected_ms}");
        }
        backoff.reset();
        assert!(backoff.pause(first, longest) <= first);
        for _ in 0..100 {
            assert!(backoff.pause(first, longest) <= longest);
        }
    }

    #[test]
    fn two_nodes_do_not_ask_at_the_same_time() {
        let pauses = |seed| Backoff::new(seed).pause(Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
    }
}
