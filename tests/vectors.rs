//! The conformance vectors: what a Service proxy does with a connection, by the pure functions and
//! by the binary's `explain`. No root, no kernel.
//!
//! `cargo test --release --test vectors [ID…]`; `BEELINE_VECTORS=FILE` reads other vectors. What a
//! later piece of work will serve is listed in `tests/data/vectors-later.txt`. The last line says how
//! many vectors passed, failed and were skipped.

#![allow(clippy::print_stdout, reason = "what a test without a harness prints is its result")]

#[path = "vectors/file.rs"]
mod file;
#[path = "vectors/follow.rs"]
mod follow;
#[path = "vectors/judge.rs"]
mod judge;
#[path = "vectors/later.rs"]
mod later;
#[path = "vectors/run.rs"]
mod run;
#[path = "vectors/stage.rs"]
mod stage;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::file::Vector;
use crate::later::Later;
use crate::run::Case;

fn main() -> ExitCode {
    match all() {
        Ok(tally) => tally.finish(),
        Err(error) => {
            println!("{error:#}\nvectors: 0 passed, 1 failed, 0 skipped");
            ExitCode::FAILURE
        }
    }
}

/// How the vectors came out.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Failures that belong to no vector: the judge is blind, or the list names nothing.
    errors: Vec<String>,
    flipped: usize,
}

fn all() -> Result<Tally> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let other = env::var_os("BEELINE_VECTORS").map(PathBuf::from);
    let path = other.clone().unwrap_or_else(|| data.join("test-vectors.yaml"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let file = file::read(&text).with_context(|| path.display().to_string())?;
    let later = fs::read_to_string(data.join("vectors-later.txt")).context("read vectors-later.txt")?;
    let later = Later::read(&later);

    let only: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let chosen = |vector: &&Vector| only.is_empty() || only.iter().any(|part| vector.id.contains(part));
    let dir = tempfile::tempdir().context("make a directory for manifests")?;
    let mut tally = Tally::default();
    let mut seen = Vec::new();
    for vector in file.vectors.iter().filter(chosen) {
        let cases = run::run(&file.defaults, vector, &dir.path().join(&vector.id));
        tally.count(vector, &cases, &later);
        seen.push((vector.id.as_str(), cases));
    }
    if only.is_empty() && other.is_none() {
        let unknown = later.unknown(seen.iter().map(|(id, cases)| (*id, cases.as_slice())));
        tally
            .errors
            .extend(unknown.into_iter().map(|line| format!("vectors-later.txt names nothing: {line}")));
    }
    Ok(tally)
}

impl Tally {
    fn count(&mut self, vector: &Vector, cases: &[Case], later: &Later) {
        let judged = later.judge(&vector.id, cases);
        let word = match (judged.failures.is_empty(), judged.skipped) {
            (false, _) => {
                self.failed += 1;
                "FAILED"
            }
            (true, true) => {
                self.skipped += 1;
                "later"
            }
            (true, false) => {
                self.passed += 1;
                "ok"
            }
        };
        println!("{} {word} - {}", vector.id, vector.title);
        judged.failures.iter().for_each(|failure| println!("    {failure}"));
        for case in cases {
            self.flipped += case.flipped;
            let blind = case.blind.iter();
            self.errors
                .extend(blind.map(|blind| format!("self-check: {} {}: {blind}", vector.id, case.name)));
        }
    }

    fn finish(mut self) -> ExitCode {
        println!("self-check: {} expectations turned around, each has to fail", self.flipped);
        if self.flipped == 0 && self.passed > 0 {
            self.errors.push("self-check: vectors passed, but no expectation could be turned around".into());
        }
        self.errors.iter().for_each(|error| println!("{error}"));
        let failed = self.failed + self.errors.len();
        println!("vectors: {} passed, {failed} failed, {} skipped", self.passed, self.skipped);
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
