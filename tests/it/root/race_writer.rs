//! The writer of a race: writes what was planned, in a tight loop.

use beeline::plan::table::{Limits, Op, ServiceId, TableError, Tables};
use serde::{Deserialize, Serialize};

use super::race_board::Board;
use super::race_plan::{LIMITS, Move, Plan};

/// What a writer did.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Written {
    /// Changes of Services.
    pub changes: u64,
    /// Grace periods waited for.
    pub grace_periods: u64,
    /// Backend ids handed from one Service to another.
    pub ids: u64,
    /// Ranges of slots handed from one Service to another.
    pub ranges: u64,
    /// Service indexes handed from one Service to another.
    pub indexes: u64,
}

/// Writes the opening. No client is there yet, so there is nobody to wait for.
pub fn open(plan: &Plan, board: &Board, tables: &mut dyn Tables) -> Result<(), TableError> {
    for done in plan.opening.iter().filter(|done| **done != Move::Quiesce) {
        carry_out(done, board, tables)?;
    }
    tables.quiesce()
}

/// Writes periods until the board says stop.
pub fn write(plan: &Plan, board: &Board, tables: &mut dyn Tables) -> Result<Written, TableError> {
    let per_period = count(plan);
    let mut turns = 0;
    let mut written = Written::default();
    while board.runs() {
        for done in &plan.period {
            match done {
                Move::Begin(service, version) => {
                    board.begin(*service, version + turns * plan.versions[*service]);
                }
                Move::End(service, version) => {
                    board.end(*service, version + turns * plan.versions[*service]);
                    written.changes += 1;
                    // A period may take seconds where grace periods are slow.
                    if !board.runs() {
                        break;
                    }
                }
                Move::Write(op) => match plan.moved(board, op, turns) {
                    Some(op) => tables.apply(&op)?,
                    None => tables.apply(op)?,
                },
                Move::Quiesce => {
                    written.grace_periods += 1;
                    tables.quiesce()?;
                }
            }
        }
        turns += 1;
    }
    let share = |per_period: u64| per_period * written.changes / plan.versions.iter().sum::<u64>();
    let (ids, ranges) = (share(per_period.ids), share(per_period.ranges));
    Ok(Written { ids, ranges, indexes: share(per_period.indexes), ..written })
}

fn carry_out(done: &Move, board: &Board, tables: &mut dyn Tables) -> Result<(), TableError> {
    match done {
        Move::Begin(service, version) => board.begin(*service, *version),
        Move::End(service, version) => board.end(*service, *version),
        Move::Write(op) => tables.apply(op)?,
        Move::Quiesce => tables.quiesce()?,
    }
    Ok(())
}

/// Counts what a period hands from one Service to another.
fn count(plan: &Plan) -> Written {
    let Limits { services, slots, backends, .. } = LIMITS;
    let of = |count: u32| vec![None; count as usize];
    let (mut ids, mut ranges): (Vec<Option<ServiceId>>, Vec<Option<ServiceId>>) = (of(backends), of(slots));
    let mut indexes = vec![None; services as usize];
    let mut counts = Written::default();
    // Once to know who has what, once to count.
    for turn in [0, 1] {
        for done in &plan.period {
            let Move::Write(op) = done else { continue };
            match op {
                Op::Backend(id, row) => {
                    let before = ids[id.0 as usize].replace(row.service);
                    counts.ids += turn * u64::from(before != Some(row.service));
                }
                Op::Set(id, _, set) if set.count > 0 => {
                    let before = ranges[set.base as usize].replace(*id);
                    counts.ranges += turn * u64::from(before != Some(*id));
                }
                Op::NamePut(id, name) => {
                    let before = indexes[id.0 as usize].replace(name.name.clone());
                    counts.indexes += turn * u64::from(before.as_ref() != Some(&name.name));
                }
                _ => {}
            }
        }
    }
    counts
}
