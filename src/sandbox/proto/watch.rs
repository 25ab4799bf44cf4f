//! A client that looks for changes: which backends it reaches, and when.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// See [`Request::Watch`](super::Request::Watch). Connects to each address by turns, asks who answers,
/// closes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watch {
    /// Where to, by turns.
    pub to: Vec<SocketAddr>,
    /// How long, in milliseconds.
    pub duration_ms: u64,
    /// The longest that a connection, and an answer, may take, in milliseconds.
    pub timeout_ms: u64,
}

/// What came of a [`Watch`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchReport {
    /// By address, in the order of [`Watch::to`].
    pub targets: Vec<Watched>,
}

/// What was seen at one address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Connections that were answered.
    pub done: u64,
    /// Those that failed, by the name of the error.
    pub errors: BTreeMap<String, u64>,
    /// Who answered.
    pub backends: BTreeMap<String, Sighting>,
}

/// When a backend was reached: CLOCK_MONOTONIC, which all processes share, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Connections to it.
    pub count: u64,
    /// Just after the `connect` that came first.
    pub first_ns: u64,
    /// Just before the `connect` that came last.
    pub last_ns: u64,
}

impl Watched {
    /// Counts a connection that a backend answered, with the clock before and after its `connect`.
    pub fn saw(&mut self, backend: String, before: u64, after: u64) {
        self.done += 1;
        let sighting =
            self.backends.entry(backend).or_insert(Sighting { count: 0, first_ns: after, last_ns: before });
        sighting.count += 1;
        sighting.first_ns = sighting.first_ns.min(after);
        sighting.last_ns = sighting.last_ns.max(before);
    }
}
