//! Requests to the API server, counted as client-go counts them (MET-9).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::histogram::Histogram;

/// Buckets of durations, in seconds.
const SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// Buckets of sizes, in bytes.
const BYTES: &[f64] = &[
    64.0,
    256.0,
    512.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// The host and port that was asked, and the method.
pub type Asked = (Arc<str>, &'static str);

/// The counters, to be read by any thread.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

/// What they say.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests by status code; `None`: there was no answer.
    pub requests: BTreeMap<(Asked, Option<u16>), u64>,
    /// Requests that are over at some time, which a watch is not.
    pub whole: BTreeMap<Asked, Whole>,
}

/// Requests with a whole answer.
#[derive(Debug)]
pub struct Whole {
    /// From the request to the end of the answer, in seconds.
    pub seconds: Histogram,
    /// Sizes of what was sent.
    pub sent: Histogram,
    /// Sizes of what was answered.
    pub answered: Histogram,
}

impl Default for Whole {
    fn default() -> Whole {
        let (seconds, bytes) = (Histogram::new(SECONDS.to_vec()), Histogram::new(BYTES.to_vec()));
        Whole { seconds, sent: bytes.clone(), answered: bytes }
    }
}

impl Tally {
    /// What was counted so far.
    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was answered, or was not.
    pub fn asked(&self, asked: Asked, code: Option<u16>) {
        *self.counts().requests.entry((asked, code)).or_default() += 1;
    }

    /// A request is over: how long it took, and the bytes of both bodies.
    pub fn over(&self, asked: Asked, took: Duration, sent: usize, answered: usize) {
        let mut counts = self.counts();
        let whole = counts.whole.entry(asked).or_default();
        whole.seconds.observe(took.as_secs_f64());
        whole.sent.observe(sent as f64);
        whole.answered.observe(answered as f64);
    }
}
