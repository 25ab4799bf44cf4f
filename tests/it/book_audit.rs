//! Rows that strangers changed are found, and repaired from what is there (SYNC-6).

use std::time::Duration;

use beeline::plan::book::Book;
use beeline::plan::mem::MemTables;
use beeline::plan::table::{BackendId, BackendState, EndpointInfo, Op, Rows, SetWord, Tables, TextId, Which};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::book_model::{canon, drain, fresh, ports};
use crate::simulation::{TIGHT, seeds};
use crate::simulation_events::Objects;

#[test]
fn damage_by_strangers_is_found_and_repaired() {
    // SYNC-6
    seeds("damage", 400, |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut objects, mut tables) = (Objects::new(6, 9), MemTables::new(TIGHT));
        let (mut book, mut now) = (Book::new(TIGHT), Duration::ZERO);
        for _ in 0..10 {
            let settled = book.sync(ports(objects.change(&mut rng)), &mut tables, now);
            now = drain(&mut book, &mut tables, now, settled);
        }
        let before = tables.rows();
        let Some(op) = damage(&before, &mut rng) else { return };
        tables.apply(&op).expect("a stranger writes");
        let rows = tables.rows();
        assert_ne!(rows, before, "{op:?}");
        assert_ne!(book.audit(&rows), [""; 0], "{op:?} goes unseen");

        let mut book = Book::recover(&rows, TIGHT);
        let settled = book.sync(ports(objects.all()), &mut tables, now);
        drain(&mut book, &mut tables, now, settled);
        assert_eq!(canon(&tables.rows()), fresh(ports(objects.all()), TIGHT), "after {op:?}");
        assert_eq!(book.audit(&tables.rows()), [""; 0]);
    });
}

/// A write that nobody should have made to these rows; `None` where there is nothing to damage.
fn damage(rows: &Rows, rng: &mut StdRng) -> Option<Op> {
    let kind = rng.random_range(0..7);
    let mut one_of = |len: usize| (len > 0).then(|| rng.random_range(0..len));
    match kind {
        0 => Some(Op::FrontendDelete(rows.frontends[one_of(rows.frontends.len())?].0)),
        1 => {
            let (id, row) = rows.services[one_of(rows.services.len())?];
            let set = row.sets[0];
            Some(Op::Set(id, Which::Cluster, SetWord { count: set.count ^ 1, ..set }))
        }
        2 => {
            let (id, which, _) = rows.slots[one_of(rows.slots.len())?];
            let (_, row) = rows.services.iter().find(|(service, _)| *service == id)?;
            Some(Op::Slots { base: row.sets[which as usize].base, ids: vec![BackendId(79)] })
        }
        3 => {
            let (id, row) = rows.backends[one_of(rows.backends.len())?];
            Some(Op::BackendState(id, BackendState { serving: !row.state.serving, ..row.state }))
        }
        4 => Some(Op::NameDelete(rows.names[one_of(rows.names.len())?].0)),
        5 => {
            let (id, info) = rows.endpoints[one_of(rows.endpoints.len())?];
            Some(Op::Endpoint(id, EndpointInfo { local: !info.local, ..info }))
        }
        _ => Some(Op::TextPut(TextId(63), "stranger".into())),
    }
}
