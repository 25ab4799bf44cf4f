//! Grace periods that go on aside: changes do not wait for them, and nothing is re-used before their end.

use std::sync::Arc;
use std::time::Duration;

use beeline::plan::book::Book;
use beeline::plan::mem::MemTables;
use beeline::plan::table::{BackendId, Limits, Op, Rows, TableError, Tables};

use crate::book_model::{LIMITS, name, ports, ready, rows};

const AT: fn(u64) -> Duration = Duration::from_millis;

/// Tables whose grace periods end when the test says so.
struct Slow {
    mem: MemTables,
    begun: u32,
    end: Option<Result<(), TableError>>,
}

impl Tables for Slow {
    fn apply(&mut self, op: &Op) -> Result<(), TableError> {
        self.mem.apply(op)
    }

    fn quiesce(&mut self) -> Result<(), TableError> {
        panic!("nothing may wait here");
    }

    fn begin_quiesce(&mut self) -> bool {
        self.begun += 1;
        true
    }

    fn ended(&mut self) -> Option<Result<(), TableError>> {
        self.end.take()
    }

    fn limits(&self) -> Limits {
        self.mem.limits()
    }
}

fn set(book: &mut Book, tables: &mut Slow, endpoints: &[u32], now: Duration) -> Option<Duration> {
    let node: Arc<str> = "node-0".into();
    let want = rows(1, endpoints.iter().map(|pod| ready(*pod, &node)).collect());
    book.sync(ports(vec![(name(1), Some(want))]), tables, now).wake
}

fn ids(rows: &Rows) -> Vec<BackendId> {
    rows.endpoints.iter().map(|(id, _)| *id).collect()
}

#[test]
fn changes_go_on_beside_a_grace_period_and_ids_rest_until_its_end() {
    let mut tables = Slow { mem: MemTables::new(LIMITS), begun: 0, end: None };
    let mut book = Book::new(LIMITS);
    set(&mut book, &mut tables, &[1], AT(0));
    let first = ids(&tables.mem.rows());
    let due = set(&mut book, &mut tables, &[2], AT(100)).expect("the old id waits for readers");
    let wake = book.maintain(&mut tables, due).wake.expect("the grace period is looked after");
    assert_eq!(tables.begun, 1);

    // It goes on: a change is made at once, without the id that rests, and no second one is begun.
    set(&mut book, &mut tables, &[2, 3], wake);
    assert!(first.iter().all(|id| !ids(&tables.mem.rows()).contains(id)), "the id was re-used too early");
    let wake = book.maintain(&mut tables, wake + AT(500)).wake.expect("it is looked after again");
    assert_eq!(tables.begun, 1);

    // It ends: the id is free.
    tables.end = Some(Ok(()));
    book.maintain(&mut tables, wake);
    set(&mut book, &mut tables, &[2, 3, 4], wake);
    assert!(first.iter().all(|id| ids(&tables.mem.rows()).contains(id)), "the lowest free id comes first");
    tables.mem.audit().unwrap();
}

#[test]
fn what_was_freed_after_one_began_waits_for_the_next() {
    let mut tables = Slow { mem: MemTables::new(LIMITS), begun: 0, end: None };
    let mut book = Book::new(LIMITS);
    set(&mut book, &mut tables, &[1, 2], AT(0));
    let due = set(&mut book, &mut tables, &[2], AT(100)).expect("an id waits");
    book.maintain(&mut tables, due);
    let late = ids(&tables.mem.rows());
    let wake = set(&mut book, &mut tables, &[3], due + AT(1)).expect("it is looked after");
    tables.end = Some(Ok(()));
    let next = book.maintain(&mut tables, wake).wake.expect("the other id waits for a later one");
    set(&mut book, &mut tables, &[3, 4, 5, 6], wake);
    assert!(late.iter().all(|id| !ids(&tables.mem.rows()).contains(id)), "freed after it began, and re-used");
    book.maintain(&mut tables, next.max(wake + AT(50)));
    assert_eq!(tables.begun, 2);
}

#[test]
fn one_that_failed_frees_nothing_is_told_and_is_tried_again() {
    let mut tables = Slow { mem: MemTables::new(LIMITS), begun: 0, end: None };
    let mut book = Book::new(LIMITS);
    set(&mut book, &mut tables, &[1], AT(0));
    let due = set(&mut book, &mut tables, &[2], AT(100)).expect("an id waits");
    book.maintain(&mut tables, due);
    let kernel = beeline::plan::table::Map::Services;
    tables.end = Some(Err(TableError::Kernel { map: kernel, message: "no".into() }));
    let settled = book.maintain(&mut tables, due + AT(4));
    assert_eq!(settled.failed.len(), 1);
    assert_eq!(book.pending().len(), 1);
    book.maintain(&mut tables, settled.wake.expect("it is tried again"));
    assert_eq!(tables.begun, 2);
}
