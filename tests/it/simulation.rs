//! The book under events, refused writes, crashes and restarts, with readers at every single write.
//!
//! Each run is a seed, printed when it fails; `BEELINE_SEED` runs that one alone, and
//! `BEELINE_SIMULATIONS` sets how many are run.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use beeline::plan::book::{Book, Changes, Settled};
use beeline::plan::mem::{Faults, FaultyTables};
use beeline::plan::table::{Limits, Tables};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::book_model::{canon, drain, fresh, ports};
use crate::simulation_events::{Change, Objects};
use crate::simulation_reader::Watched;

/// Small, so that ids and slots are re-used as fast as is allowed.
pub const TIGHT: Limits = Limits { frontends: 64, services: 16, slots: 200, backends: 80, names: 64 };

pub fn seeds(name: &str, default: u64, run: impl Fn(u64)) {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse().ok());
    let seeds = match number("BEELINE_SEED") {
        Some(seed) => seed..seed + 1,
        // A debug build is slow: a fifth is enough there.
        None => {
            0..number("BEELINE_SIMULATIONS").unwrap_or(if cfg!(debug_assertions) {
                default / 5
            } else {
                default
            })
        }
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("{name}: BEELINE_SEED={seed} fails");
            resume_unwind(panic);
        }
    }
}

/// A node: its tables, its agent, its clock.
pub struct Node {
    pub tables: FaultyTables<Watched>,
    book: Book,
    now: Duration,
    wake: Option<Duration>,
}

impl Node {
    pub fn new(limits: Limits, seed: u64) -> Node {
        let tables = FaultyTables::new(Watched::new(limits, seed), Faults { seed, ..Faults::default() });
        Node { tables, book: Book::new(limits), now: Duration::ZERO, wake: None }
    }

    pub fn sync(&mut self, changes: Vec<Change>) -> Settled {
        self.tables.inner.expect(&changes);
        let settled = self.book.sync(ports(changes), &mut self.tables, self.now);
        self.wake = settled.wake;
        settled
    }

    /// Time passes; the agent wakes up as often as it wanted to.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(wake) = self.wake.filter(|wake| *wake <= until) {
            self.now = self.now.max(wake);
            self.wake = self.book.maintain(&mut self.tables, self.now).wake;
        }
        self.now = until;
    }

    /// The agent starts again, from the tables alone, and is told of all objects and of leftovers.
    pub fn restart(&mut self, mut all: Vec<Change>) {
        self.tables.faults.crash_after = None;
        self.book = Book::recover(&self.tables.inner.mem.rows(), self.tables.limits());
        let gone: Vec<_> =
            self.book.known().filter(|name| all.iter().all(|(n, _)| n != *name)).cloned().collect();
        all.extend(gone.into_iter().map(|name| (name, None)));
        self.sync(all);
    }

    /// Faults end, and all that was put off is done.
    pub fn converge(&mut self) {
        self.tables.faults.per_mille = 0;
        let settled = self.book.sync(Changes::default(), &mut self.tables, self.now);
        self.now = drain(&mut self.book, &mut self.tables, self.now, settled);
        assert_eq!(self.book.pending(), []);
        assert!(self.book.is_at_rest());
        assert_eq!(self.book.audit(&self.tables.inner.mem.rows()), [""; 0], "the book knows what it wrote");
    }

    /// The dump is that of a fresh start; and without objects nothing is left.
    fn compare(&mut self, objects: &Objects) {
        self.converge();
        let dump = canon(&self.tables.inner.mem.rows());
        assert_eq!(dump, fresh(ports(objects.all()), self.tables.limits()));
        self.empty(objects.all());
    }

    /// With every object gone nothing is used, and nothing was lost on the way.
    pub fn empty(&mut self, all: Vec<Change>) {
        let gone = all.into_iter().map(|(name, _)| (name, None)).collect();
        let settled = self.sync(gone);
        self.now = drain(&mut self.book, &mut self.tables, self.now, settled);
        assert_eq!(self.book.known().count(), 0);
        for (map, used, _) in self.book.usage() {
            assert_eq!(used, 0, "{map:?}");
        }
        let rows = self.tables.inner.mem.rows();
        assert!(rows.frontends.is_empty() && rows.services.is_empty() && rows.names.is_empty());
        assert!(rows.texts.is_empty() && rows.endpoints.is_empty());
    }
}

#[test]
fn readers_see_the_old_or_the_new_at_every_write() {
    // SYNC-2, SYNC-15, SVC-18, CT-4
    let total = std::cell::Cell::new([0; 3]);
    seeds("events", 200, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut objects, mut node) = (Objects::new(6, 9), Node::new(TIGHT, seed));
        for _ in 0..40 {
            node.sync(objects.change(&mut rng));
            node.pass(Duration::from_millis(rng.random_range(0..80)));
        }
        node.compare(&objects);
        let [a, b, c] = total.get();
        let seen = node.tables.inner.seen;
        total.set([a + seen[0], b + seen[1], c + seen[2]]);
    });
    let [writes, reads, choices] = total.get();
    println!("{writes} writes, {reads} reads across them, {choices} looks at remembered choices");
}

#[test]
fn refused_writes_lose_nothing_and_hurt_only_their_service() {
    seeds("faults", 200, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut objects, mut node) = (Objects::new(6, 9), Node::new(TIGHT, seed));
        node.tables.faults.per_mille = [20, 100, 400][seed as usize % 3];
        for _ in 0..30 {
            node.sync(objects.change(&mut rng));
            node.pass(Duration::from_millis(rng.random_range(0..200)));
        }
        node.compare(&objects);
    });
}

#[test]
fn crashes_and_restarts_end_in_the_dump_of_a_fresh_start() {
    // SYNC-11
    seeds("restarts", 200, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut objects, mut node) = (Objects::new(6, 9), Node::new(TIGHT, seed));
        node.tables.faults.per_mille = if seed % 2 == 0 { 0 } else { 50 };
        for _ in 0..30 {
            if rng.random_ratio(1, 5) {
                node.tables.faults.crash_after = Some(node.tables.passed() + rng.random_range(0..30));
            }
            node.sync(objects.change(&mut rng));
            node.pass(Duration::from_millis(rng.random_range(0..80)));
            if node.tables.crashed() || rng.random_ratio(1, 10) {
                node.restart(objects.all());
            }
        }
        node.restart(objects.all());
        node.compare(&objects);
    });
}

#[test]
fn a_crash_after_any_write_converges() {
    seeds("prefixes", 20, |seed| {
        for crash_after in 0.. {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut objects, mut node) = (Objects::new(4, 6), Node::new(TIGHT, seed));
            node.tables.faults.crash_after = Some(crash_after);
            for _ in 0..6 {
                node.sync(objects.change(&mut rng));
                node.pass(Duration::from_millis(60));
            }
            if !node.tables.crashed() {
                assert!(crash_after > 20, "the scenario has only {crash_after} writes");
                return;
            }
            node.restart(objects.all());
            node.compare(&objects);
        }
    });
}
