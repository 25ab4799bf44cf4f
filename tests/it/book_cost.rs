//! What planning costs; printed, not judged (run with `--release -- --nocapture book_cost`).

use std::time::{Duration, Instant};

use beeline::plan::book::{Book, limits_for};
use beeline::plan::mem::MemTables;
use beeline::plan::table::{Limits, Op, TableError, Tables};

use crate::book_model::{LIMITS, cluster, pod, ports};

/// Tables that forget: only the planning is left to measure.
struct Nowhere(Limits);

impl Tables for Nowhere {
    fn apply(&mut self, _: &Op) -> Result<(), TableError> {
        Ok(())
    }

    fn apply_all(&mut self, _: &[Op]) -> Vec<(usize, TableError)> {
        Vec::new()
    }

    fn quiesce(&mut self) -> Result<(), TableError> {
        Ok(())
    }

    fn limits(&self) -> Limits {
        self.0
    }
}

/// Resident memory of this process, in KiB.
fn resident() -> i64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn planning_100000_backends_is_measured() {
    let all = cluster(10_000, 10);
    let limits = limits_for(all.iter().filter_map(|(_, rows)| rows.as_ref()), 50, LIMITS);
    let mut tables = Nowhere(limits);
    let mut book = Book::new(limits);
    let changes = ports(all.clone());
    let (before, start) = (resident(), Instant::now());
    book.sync(changes, &mut tables, Duration::ZERO);
    println!("first load of 10,000 x 10: {:?}; resident {:+} KiB", start.elapsed(), resident() - before);
    let changes = ports(all.clone());
    let start = Instant::now();
    book.sync(changes, &mut tables, Duration::ZERO);
    println!("relist of the same: {:?}", start.elapsed());
    let mut times: Vec<Duration> = Vec::new();
    for n in 0..1000 {
        let (name, mut want) = all[n * 7 % 10_000].clone();
        want.as_mut().unwrap().backends[3].addr = pod(900_000 + n as u32);
        let start = Instant::now();
        book.sync(ports(vec![(name, want)]), &mut tables, Duration::ZERO);
        times.push(start.elapsed());
        book.maintain(&mut tables, Duration::from_secs(n as u64));
    }
    times.sort();
    println!("one endpoint of one Service: p50 {:?}, p99 {:?}", times[500], times[990]);
    let mut tables = MemTables::new(limits);
    Book::new(limits).sync(ports(all), &mut tables, Duration::ZERO);
    let rows = tables.rows();
    let (before, start) = (resident(), Instant::now());
    let book = Book::recover(&rows, limits);
    println!("recovery: {:?}; resident {:+} KiB", start.elapsed(), resident() - before);
    assert_eq!(book.known().count(), 10_000);
}
