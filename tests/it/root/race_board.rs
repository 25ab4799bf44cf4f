//! What the writer and the clients of a race know in common: which endpoints a Service has at which
//! version, and which versions can be seen now.
//!
//! An endpoint is an address of loopback that tells its Service and its number; no two Services
//! share one, and no number comes back before 65,536 others. So a single look at where a client
//! came to tells whether it may have come there.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How the endpoints of a Service follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// Each version has the next of two endpoints and keeps the other.
    Slides,
    /// Each version has two endpoints of its own. The Service has session affinity.
    Leaps,
    /// Odd versions have two endpoints of their own; at even ones the Service does not exist.
    Comes,
}

/// The Services, by number. The last two come and go by turns.
pub const SERVICES: [Course; 4] = [Course::Slides, Course::Leaps, Course::Comes, Course::Comes];
/// Endpoints at a time.
pub const SIZE: u64 = 2;
/// Addresses of a Service.
const NUMBERS: u64 = 1 << 16;
/// The port of all Services.
const PORT: u16 = 5353;

impl Course {
    /// The first endpoint of a version; the others follow. `None`: the Service does not exist.
    fn first(self, version: u64) -> Option<u64> {
        match self {
            Course::Slides => Some(version),
            Course::Leaps => Some(version * SIZE),
            Course::Comes => (version % 2 == 1).then_some(version / 2 * SIZE),
        }
    }

    /// By how many numbers the endpoints move in so many versions (an even number of them, if it comes and goes).
    fn numbers(self, versions: u64) -> u64 {
        match self {
            Course::Slides => versions,
            Course::Leaps => versions * SIZE,
            Course::Comes => versions / 2 * SIZE,
        }
    }
}

/// The address that a Service is dialled at.
pub fn vip(service: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(127, 64, 0, service as u8 + 1), PORT)
}

/// Where a client came to, against what it dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// An endpoint that the Service had at that time, or what was dialled while there was no Service.
    Right,
    /// An endpoint of the Service that was not of its set any more, or not yet.
    Stale,
    /// An endpoint of another Service.
    Foreign,
    /// No endpoint: half of one row and half of another.
    Torn,
    /// What was dialled, though the Service existed all the time.
    Untouched,
}

/// Shared by all threads of a race.
#[derive(Debug)]
pub struct Board {
    /// The two ports of endpoints: odd and even numbers.
    pub ports: [u16; 2],
    /// Versions that may be seen, because the writer has begun to write them.
    begun: [AtomicU64; SERVICES.len()],
    /// Versions before which none is seen by whoever begins now.
    done: [AtomicU64; SERVICES.len()],
    stop: AtomicBool,
    over: AtomicBool,
    failures: AtomicU64,
}

impl Board {
    pub fn new(ports: [u16; 2]) -> Board {
        Board {
            ports,
            begun: Default::default(),
            done: Default::default(),
            stop: AtomicBool::new(false),
            over: AtomicBool::new(false),
            failures: AtomicU64::new(0),
        }
    }

    /// The endpoints of a version, sorted; `None`: the Service does not exist.
    pub fn endpoints(&self, service: usize, version: u64) -> Option<Vec<(IpAddr, u16)>> {
        let first = SERVICES[service].first(version)?;
        let mut all: Vec<_> = (first..first + SIZE).map(|number| self.endpoint(service, number)).collect();
        all.sort_unstable();
        Some(all.into_iter().map(|at| (IpAddr::V4(*at.ip()), at.port())).collect())
    }

    fn endpoint(&self, service: usize, number: u64) -> SocketAddrV4 {
        let [.., high, low] = (number % NUMBERS).to_be_bytes();
        SocketAddrV4::new(
            Ipv4Addr::new(127, 100 + service as u8, high, low),
            self.ports[(number % 2) as usize],
        )
    }

    /// The endpoint that stands where this one does, `turns` times so many versions of each Service later.
    pub fn moved(&self, (addr, port): (IpAddr, u16), versions: &[u64], turns: u64) -> (IpAddr, u16) {
        let IpAddr::V4(v4) = addr else { return (addr, port) };
        let [_, of, high, low] = v4.octets();
        let service = usize::from(of - 100);
        let number = u64::from(high) << 8 | u64::from(low);
        let later = self.endpoint(service, number + SERVICES[service].numbers(versions[service] * turns));
        (IpAddr::V4(*later.ip()), later.port())
    }

    /// The writer is about to write a version.
    pub fn begin(&self, service: usize, version: u64) {
        self.begun[service].store(version, Ordering::SeqCst);
    }

    /// The writer has written it.
    pub fn end(&self, service: usize, version: u64) {
        self.done[service].store(version, Ordering::SeqCst);
    }

    /// The oldest version that a call which begins now may see.
    pub fn oldest(&self, service: usize) -> u64 {
        self.done[service].load(Ordering::SeqCst)
    }

    /// The newest version that a call which has ended may have seen.
    pub fn newest(&self, service: usize) -> u64 {
        self.begun[service].load(Ordering::SeqCst)
    }

    /// Judges where somebody came who dialled `service` when `oldest` was the oldest version to be seen.
    pub fn judge(&self, service: usize, oldest: u64, came_to: SocketAddrV4) -> Finding {
        self.judge_between(service, (oldest, self.newest(service)), came_to)
    }

    /// The same for a call that had ended when `newest` was the newest version to be seen.
    pub fn judge_between(
        &self,
        service: usize,
        (oldest, newest): (u64, u64),
        came_to: SocketAddrV4,
    ) -> Finding {
        let course = SERVICES[service];
        if came_to == vip(service) {
            let absent = (oldest..=newest).take(2).any(|version| course.first(version).is_none());
            return if absent { Finding::Right } else { Finding::Untouched };
        }
        let [net, of, high, low] = came_to.ip().octets();
        let low16 = u64::from(high) << 8 | u64::from(low);
        let owner = usize::from(of.wrapping_sub(100));
        if net != 127 || owner >= SERVICES.len() || came_to.port() != self.ports[(low16 % 2) as usize] {
            return Finding::Torn;
        }
        if owner != service {
            return Finding::Foreign;
        }
        // Sets move on by as many numbers as there are at most in one: a few versions are looked at.
        let has = |version: u64| {
            course.first(version).is_some_and(|first| (low16.wrapping_sub(first) % NUMBERS) < SIZE)
        };
        let span = newest.saturating_sub(oldest).min(NUMBERS);
        if (newest - span..=newest).rev().any(has) { Finding::Right } else { Finding::Stale }
    }

    /// Ends the race.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Whether it goes on.
    pub fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// The clients are done: servers may end.
    pub fn leave(&self) {
        self.stop();
        self.over.store(true, Ordering::SeqCst);
    }

    /// Whether servers may end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A client found what must not be.
    pub fn fail(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

#[test]
fn a_finding_tells_what_was_right_at_the_time() {
    let board = Board::new([4000, 4001]);
    let of = |service, version| {
        let all: Vec<_> = board.endpoints(service, version).unwrap();
        let IpAddr::V4(ip) = all[0].0 else { unreachable!() };
        SocketAddrV4::new(ip, all[0].1)
    };
    board.begin(0, 7);
    assert_eq!(board.judge(0, 6, of(0, 7)), Finding::Right);
    assert_eq!(board.judge(0, 6, of(0, 6)), Finding::Right);
    assert_eq!(board.judge(0, 7, of(0, 6)), Finding::Stale, "the number that the set has slid past");
    assert_eq!(board.judge(0, 6, of(0, 9)), Finding::Stale);
    assert_eq!(board.judge(0, 6, of(1, 7)), Finding::Foreign);
    assert_eq!(board.judge(0, 6, vip(0)), Finding::Untouched);
    let torn = SocketAddrV4::new(*of(0, 6).ip(), of(0, 7).port());
    assert_eq!(board.judge(0, 6, torn), Finding::Torn);
    assert_eq!(board.judge(2, 0, vip(2)), Finding::Right, "there was no such Service");
    board.begin(2, 3);
    assert_eq!(board.judge(2, 3, vip(2)), Finding::Untouched);
    assert_eq!(board.judge(2, 2, vip(2)), Finding::Right);
    assert_eq!(board.judge(2, 3, of(2, 1)), Finding::Stale);
}
