//! What the writer of a race writes, worked out beforehand so that it is written as fast as memory
//! takes it: the book plans changes of Services in tables so small that each change needs ids and
//! slots which another Service gave up a moment ago. Its writes repeat, but for generations and
//! endpoints, so that one period of them, moved on each time, is a race without an end.

use std::time::Duration;

use beeline::model::addr::{Family, Protocol};
use beeline::model::names::{ObjectName, ServicePortName};
use beeline::plan::book::{Book, Changes};
use beeline::plan::compile::{BackendWant, PortRows};
use beeline::plan::mem::MemTables;
use beeline::plan::table::{
    BackendRow, BackendState, FrontendKind, Limits, Op, Policy, TableError, Tables, port_key,
};

use super::race_board::{Board, Course, SERVICES, vip};

/// Room for three Services of two endpoints (one of the four is always away) and one change: id 0 is
/// never used.
pub const LIMITS: Limits = Limits { frontends: 16, services: 3, slots: 8, backends: 9, names: 16 };

/// Longer than the book waits until it asks for a grace period.
const WHILE: Duration = Duration::from_millis(60);
/// Rounds that are planned: the last ones repeat those before them.
const ROUNDS: usize = 60;

/// One thing the writer does.
#[derive(Debug, Clone, PartialEq)]
pub enum Move {
    /// A version of a Service may be seen from now on.
    Begin(usize, u64),
    /// A version of a Service is in effect.
    End(usize, u64),
    /// A write.
    Write(Op),
    /// A grace period is waited for.
    Quiesce,
}

/// All that is to be written.
#[derive(Debug)]
pub struct Plan {
    /// From empty tables to where the period begins.
    pub opening: Vec<Move>,
    /// Follows the opening, and itself as often as one likes, if it is moved on by one period each time.
    pub period: Vec<Move>,
    /// By how many versions a period takes each Service on.
    pub versions: [u64; SERVICES.len()],
    /// By how many generations a period takes each backend id on.
    pub generations: Vec<u32>,
}

impl Plan {
    /// Has the book plan.
    pub fn new(board: &Board) -> Plan {
        let mut planner =
            Planner { book: Book::new(LIMITS), tables: Recorder::new(), now: Duration::ZERO, board };
        let mut rounds: Vec<Vec<Move>> = (0..ROUNDS).map(|round| planner.round(round)).collect();
        let repeats = |length: &usize| {
            let [last, before, first] = [1, 2, 3].map(|back| &rounds[ROUNDS - back * length..][..*length]);
            same_shape(last, before) && same_shape(before, first)
        };
        let length = (1..=ROUNDS / 3).find(repeats).expect("the writes repeat");
        let period = rounds.split_off(ROUNDS - length).concat();
        let mut plan =
            Plan { opening: rounds.concat(), period, versions: [0; SERVICES.len()], generations: vec![0; 9] };
        plan.measure();
        plan
    }

    /// Finds out how far a period goes.
    fn measure(&mut self) {
        for done in &self.period {
            match done {
                Move::End(service, _) => self.versions[*service] += 1,
                Move::Write(Op::Backend(id, _)) => self.generations[id.0 as usize] += 1,
                _ => {}
            }
        }
        // The period before this one lies in the opening.
        let before = &self.opening[self.opening.len() - self.period.len()..];
        for (now, before) in self.period.iter().zip(before) {
            if let (Move::Write(Op::Backend(id, now)), Move::Write(Op::Backend(_, before))) = (now, before) {
                let step = now.state.generation - before.state.generation;
                assert_eq!(step, self.generations[id.0 as usize], "the period is one of generations too");
            }
        }
    }

    /// A write of the period, `turns` periods later; `None` if it is the same then.
    pub fn moved(&self, board: &Board, op: &Op, turns: u64) -> Option<Op> {
        let later = |id: usize, state: BackendState| BackendState {
            generation: state.generation.wrapping_add(self.generations[id].wrapping_mul(turns as u32)),
            ..state
        };
        match op {
            Op::Backend(id, row) => {
                let (addr, port) = board.moved((row.addr, row.port), &self.versions, turns);
                let state = later(id.0 as usize, row.state);
                Some(Op::Backend(*id, BackendRow { addr, port, state, ..*row }))
            }
            Op::BackendState(id, state) => Some(Op::BackendState(*id, later(id.0 as usize, *state))),
            _ => None,
        }
    }
}

/// Whether two lists differ in nothing but versions, generations and endpoints.
fn same_shape(one: &[Vec<Move>], other: &[Vec<Move>]) -> bool {
    let shape = |list: &[Vec<Move>]| -> Vec<Move> { list.iter().flatten().map(shape).collect() };
    shape(one) == shape(other)
}

fn shape(done: &Move) -> Move {
    let state = |state: &BackendState| BackendState { generation: 0, ..*state };
    match done {
        Move::Begin(service, _) => Move::Begin(*service, 0),
        Move::End(service, _) => Move::End(*service, 0),
        Move::Write(Op::Backend(id, row)) => {
            let addr = std::net::Ipv4Addr::UNSPECIFIED.into();
            Move::Write(Op::Backend(*id, BackendRow { addr, port: 0, state: state(&row.state), ..*row }))
        }
        Move::Write(Op::BackendState(id, of)) => Move::Write(Op::BackendState(*id, state(of))),
        other => other.clone(),
    }
}

struct Planner<'a> {
    board: &'a Board,
    book: Book,
    tables: Recorder,
    now: Duration,
}

impl Planner<'_> {
    /// Changes of all Services.
    fn round(&mut self, round: usize) -> Vec<Move> {
        for service in [0, 1, 1, 0, 1, 0].repeat(6) {
            self.change(service);
        }
        // One goes, then the other comes; it gets the index.
        let coming = 2 + round % 2;
        if round > 0 {
            self.change(5 - coming);
        }
        self.change(coming);
        std::mem::take(&mut self.tables.moves)
    }

    /// Takes a Service to its next version.
    fn change(&mut self, service: usize) {
        let version = self.tables.versions[service] + 1;
        self.tables.versions[service] = version;
        let name = name(service);
        self.tables.moves.push(Move::Begin(service, version));
        let changes =
            Changes { ports: vec![(name.clone(), rows(self.board, service, version))], ..Changes::default() };
        let mut settled = self.book.sync(changes, &mut self.tables, self.now);
        while !settled.written.contains(&name) {
            assert!(settled.failed.is_empty(), "version {version} of {name}: {:?}", settled.failed);
            self.now += WHILE;
            settled = self.book.maintain(&mut self.tables, self.now);
        }
        self.tables.moves.push(Move::End(service, version));
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

/// Tables in memory that take down what is written.
struct Recorder {
    inner: MemTables,
    moves: Vec<Move>,
    versions: [u64; SERVICES.len()],
}

impl Recorder {
    fn new() -> Recorder {
        Recorder { inner: MemTables::new(LIMITS), moves: Vec::new(), versions: [0; SERVICES.len()] }
    }
}

impl Tables for Recorder {
    fn apply(&mut self, op: &Op) -> Result<(), TableError> {
        self.inner.apply(op)?;
        self.moves.push(Move::Write(op.clone()));
        Ok(())
    }

    fn quiesce(&mut self) -> Result<(), TableError> {
        self.moves.push(Move::Quiesce);
        self.inner.quiesce()
    }

    fn limits(&self) -> Limits {
        LIMITS
    }
}
