//! The book: fewest writes, in an order that hides them, and nothing lost over failures and restarts.

use std::time::Duration;

use beeline::plan::book::{Book, Changes};
use beeline::plan::mem::{CountingTables, MemTables};

use crate::book_model::{LIMITS, canon, cluster, drain, fresh, name, ports, ready, rows};

const AT: fn(u64) -> Duration = Duration::from_millis;

#[test]
fn a_service_appears_changes_and_goes() {
    let mut tables = MemTables::new(LIMITS);
    let mut book = Book::new(LIMITS);
    let node = "node-0".into();
    let one = rows(1, vec![ready(1, &node), ready(2, &node)]);
    let settled = book.sync(ports(vec![(name(1), Some(one))]), &mut tables, AT(0));
    assert_eq!(settled.written, [name(1)]);
    tables.audit().unwrap();
    let two = rows(1, vec![ready(2, &node), ready(3, &node)]);
    let settled = book.sync(ports(vec![(name(1), Some(two.clone()))]), &mut tables, AT(1));
    tables.audit().unwrap();
    let now = drain(&mut book, &mut tables, AT(1), settled);
    assert_eq!(canon(&tables.rows()), fresh(ports(vec![(name(1), Some(two))]), LIMITS));
    let settled = book.sync(ports(vec![(name(1), None)]), &mut tables, now);
    drain(&mut book, &mut tables, now, settled);
    assert_eq!(canon(&tables.rows()), fresh(Changes::default(), LIMITS));
    assert_eq!(book.known().count(), 0);
    assert!(book.usage().iter().all(|(_, used, _)| *used == 0), "{:?}", book.usage());
}

#[test]
fn a_relist_of_equal_objects_touches_nothing() {
    // SYNC-14
    let changes = ports(cluster(100, 10));
    let mut tables = CountingTables::new(MemTables::new(LIMITS));
    let mut book = Book::new(LIMITS);
    book.sync(changes.clone(), &mut tables, AT(0));
    tables.take();
    book.sync(changes.clone(), &mut tables, AT(1));
    assert_eq!(tables.take().rows(), 0);
    let mut book = Book::recover(&tables.inner.rows(), LIMITS);
    let settled = book.sync(changes, &mut tables, AT(2));
    assert_eq!(settled.wake, None);
    assert_eq!(tables.take(), Default::default());
}
