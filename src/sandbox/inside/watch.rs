//! A pod looks for changes.

use std::time::{Duration, Instant};

use super::dial::attempt;
use crate::sandbox::proto::{Watch, WatchReport, Watched};
use crate::sandbox::sock;

/// Connects by turns until the time is up.
pub(super) fn watch(watch: &Watch) -> WatchReport {
    let end = Instant::now() + Duration::from_millis(watch.duration_ms);
    let patience = Duration::from_millis(watch.timeout_ms);
    let targets: Vec<_> = watch.to.iter().map(|&to| sock::wire(to, false)).collect();
    let mut report = WatchReport { targets: vec![Watched::default(); targets.len()] };
    while Instant::now() < end {
        for (target, seen) in targets.iter().zip(&mut report.targets) {
            match attempt(target, Instant::now() + patience) {
                Ok((before, after, backend)) => seen.saw(backend, before, after),
                Err(errno) => *seen.errors.entry(sock::name(errno)).or_default() += 1,
            }
        }
    }
    report
}
