//! The writer of a race: changes Services in a tight loop, in tables so small that each change needs
//! ids and slots that another Service gave up a moment ago.

use std::time::Duration;

use beeline::model::addr::{Family, Protocol};
use beeline::model::names::{ObjectName, ServicePortName};
use beeline::plan::book::{Book, Changes};
use beeline::plan::compile::{BackendWant, PortRows};
use beeline::plan::table::{FrontendKind, Limits, Op, Policy, ServiceId, TableError, Tables, port_key};
use serde::{Deserialize, Serialize};

use super::race_board::{Board, Course, SERVICES, SIZE, vip};

/// Room for three Services of two endpoints (one of the four is always away) and one change: id 0 is
/// never used.
pub const LIMITS: Limits = Limits { frontends: 16, services: 3, slots: 8, backends: 9, names: 16 };

/// Longer than the book waits until it asks for a grace period.
const WHILE: Duration = Duration::from_millis(60);

/// What a writer did.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Written {
    /// Changes of Services.
    pub changes: u64,
    /// Grace periods asked for.
    pub grace_periods: u64,
    /// Backend ids that another Service had before.
    pub ids: u64,
    /// Ranges of slots that another Service had before.
    pub ranges: u64,
    /// Service indexes that another Service had before.
    pub indexes: u64,
}

/// Changes Services until the board says stop.
pub fn write(board: &Board, tables: &mut dyn Tables) -> Result<Written, String> {
    let mut writer = Writer::new(board, tables);
    // The first two Services are there before anybody dials.
    writer.change(0)?;
    writer.change(1)?;
    let mut coming = 2;
    while board.runs() {
        for service in [0, 1, 1, 0, 1, 0] {
            writer.change(service)?;
        }
        // One goes, then the other comes; it gets the index.
        if board.newest(coming) % 2 == 1 {
            writer.change(coming)?;
            coming = 5 - coming;
        }
        writer.change(coming)?;
    }
    Ok(writer.tables.written)
}

struct Writer<'a> {
    board: &'a Board,
    book: Book,
    tables: Watched<'a>,
    now: Duration,
}

impl<'a> Writer<'a> {
    fn new(board: &'a Board, tables: &'a mut dyn Tables) -> Writer<'a> {
        let book = Book::new(tables.limits());
        Writer { board, book, tables: Watched::new(tables), now: Duration::ZERO }
    }

    /// Takes a Service to its next version.
    fn change(&mut self, service: usize) -> Result<(), String> {
        let version = self.board.newest(service) + 1;
        let name = name(service);
        let want = rows(self.board, service, version);
        self.board.begin(service, version);
        let changes = Changes { ports: vec![(name.clone(), want)], ..Changes::default() };
        let mut settled = self.book.sync(changes, &mut self.tables, self.now);
        while !settled.written.contains(&name) {
            if !settled.failed.is_empty() {
                return Err(format!("version {version} of {name}: {:?}", settled.failed));
            }
            self.now += WHILE;
            settled = self.book.maintain(&mut self.tables, self.now);
        }
        self.board.end(service, version);
        self.tables.written.changes += 1;
        Ok(())
    }
}

fn name(service: usize) -> ServicePortName {
    ServicePortName {
        service: ObjectName::new("race", &format!("service-{service}")),
        port: "p".into(),
        protocol: Protocol::Udp,
        family: Family::V4,
    }
}

/// What the tables should hold for a version of a Service.
fn rows(board: &Board, service: usize, version: u64) -> Option<PortRows> {
    let endpoints = board.endpoints(service, version)?;
    assert_eq!(endpoints.len() as u64, SIZE);
    let affinity_seconds = if SERVICES[service] == Course::Leaps { 10 } else { 0 };
    let at = vip(service);
    Some(PortRows {
        frontends: vec![(port_key((*at.ip()).into(), at.port(), Protocol::Udp), FrontendKind::ClusterIp)],
        backends: endpoints.into_iter().map(|(addr, port)| backend(addr, port)).collect(),
        has_any: true,
        policy: Policy { used: true, affinity_seconds, ..Policy::default() },
        ..PortRows::default()
    })
}

fn backend(addr: std::net::IpAddr, port: u16) -> BackendWant {
    BackendWant {
        addr,
        port,
        in_cluster: true,
        in_local: false,
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        node: None,
        zone: None,
    }
}

/// Tables that count what is handed from one Service to another.
struct Watched<'a> {
    inner: &'a mut dyn Tables,
    /// Who had what last: backend ids, first slots, and the names of indexes.
    ids: Vec<Option<ServiceId>>,
    ranges: Vec<Option<ServiceId>>,
    indexes: Vec<Option<ServicePortName>>,
    written: Written,
}

impl<'a> Watched<'a> {
    fn new(inner: &'a mut dyn Tables) -> Watched<'a> {
        let of = |count: u32| vec![None; count as usize];
        let Limits { services, slots, backends, .. } = inner.limits();
        let indexes = vec![None; services as usize];
        Watched { inner, ids: of(backends), ranges: of(slots), indexes, written: Written::default() }
    }

    fn look_at(&mut self, op: &Op) {
        let written = &mut self.written;
        match op {
            Op::Backend(id, row) => {
                let before = self.ids[id.0 as usize].replace(row.service);
                written.ids += u64::from(before.is_some_and(|before| before != row.service));
            }
            Op::Set(id, _, set) if set.count > 0 => {
                let before = self.ranges[set.base as usize].replace(*id);
                written.ranges += u64::from(before.is_some_and(|before| before != *id));
            }
            Op::NamePut(id, name) => {
                let before = self.indexes[id.0 as usize].replace(name.name.clone());
                written.indexes += u64::from(before.is_some_and(|before| before != name.name));
            }
            _ => {}
        }
    }
}

impl Tables for Watched<'_> {
    fn apply(&mut self, op: &Op) -> Result<(), TableError> {
        self.look_at(op);
        self.inner.apply(op)
    }

    fn apply_all(&mut self, ops: &[Op]) -> Vec<(usize, TableError)> {
        ops.iter().for_each(|op| self.look_at(op));
        self.inner.apply_all(ops)
    }

    fn quiesce(&mut self) -> Result<(), TableError> {
        self.written.grace_periods += 1;
        self.inner.quiesce()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }
}
