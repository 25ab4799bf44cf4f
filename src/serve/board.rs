//! What the agent knows and the maps do not, for the servers to read.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use tokio::sync::Notify;

use super::kube_proxy::Kube;
use crate::model::addr::Family;
use crate::model::names::ObjectName;
use crate::plan::health::{Check, Effect, Health, Lacking, Moment};
use crate::plan::table::{Map, TableError};

/// The board: the agent writes after each step, the servers read when they are asked. Nobody holds it for
/// longer than it takes to copy a few numbers.
#[derive(Debug)]
pub struct Board {
    epoch: Instant,
    told: Mutex<Told>,
    /// Health check node ports came, went or moved.
    moved: Notify,
}

/// What is on it.
#[derive(Debug)]
pub struct Told {
    /// The source has delivered its whole first list, and the tables hold it (SYNC-1).
    pub synced: bool,
    /// Rows in use of the maps that are sized to need; none before the first step.
    pub used: Vec<(Map, u32)>,
    /// Rows that could not be written, by map and reason.
    pub pending: BTreeMap<(Map, Reason), u64>,
    /// Writes that were refused, by map and reason.
    pub failures: BTreeMap<(Map, Reason), u64>,
    /// Objects of the source that cannot be read, or not in full, by severity.
    pub problems: BTreeMap<&'static str, u64>,
    /// Whether changes get through (HLT-3).
    pub health: Health,
    /// Whether balancers may send new connections here (HLT-4).
    pub is_eligible: bool,
    /// What health check node ports answer (HC-5).
    pub checks: BTreeMap<(ObjectName, Family), Check>,
    /// Where health check node ports listen: on the node's addresses in these networks; on all of a family, if there
    /// are none of it (HC-2, NP-3).
    pub listen_in: Vec<IpNet>,
    /// Services that lack local endpoints (MET-7).
    pub lacking: BTreeMap<ObjectName, Lacking>,
    /// What kube-proxy counts.
    pub kube_proxy: Kube,
}

/// Why a row could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The map is full.
    Full,
    /// The kernel said something else.
    Refused,
}

impl Reason {
    /// Both.
    pub const ALL: [Reason; 2] = [Reason::Full, Reason::Refused];

    /// The value of the label.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::Refused => "refused",
        }
    }

    fn of(error: &TableError) -> Reason {
        match error {
            TableError::Full { .. } => Reason::Full,
            TableError::Kernel { .. } => Reason::Refused,
        }
    }
}

/// One sync of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Sync {
    /// Everything was compared, as after a start.
    pub is_full: bool,
    /// How long it took.
    pub took: Duration,
    /// By family, whether a change concerned it.
    pub touched: [bool; 2],
    /// By family, whether changes are not in force.
    pub behind: [bool; 2],
}

impl Board {
    /// A board on which nothing is told, with the zero of the steady clock. A change that waits for longer
    /// than `late` is ill health (HLT-3).
    pub fn new(epoch: Instant, late: Duration) -> Board {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = wall.saturating_sub(epoch.elapsed());
        let told = Told {
            synced: false,
            used: Vec::new(),
            pending: BTreeMap::new(),
            failures: BTreeMap::new(),
            problems: BTreeMap::new(),
            health: Health::new(late),
            is_eligible: false,
            checks: BTreeMap::new(),
            listen_in: Vec::new(),
            lacking: BTreeMap::new(),
            kube_proxy: Kube::new(since),
        };
        Board { epoch, told: Mutex::new(told), moved: Notify::new() }
    }

    /// What is on it, to read or to change.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, on both clocks.
    pub fn now(&self) -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { steady: self.epoch.elapsed(), wall }
    }

    /// Puts up what follows a step, in the order of SYNC-7: metrics and health, then health check ports.
    pub fn follow(&self, sync: Option<Sync>, behind: [bool; 2], effects: Vec<(ObjectName, Effect)>) {
        let now = self.now();
        let mut told = self.told();
        if let Some(sync) = sync {
            told.synced(sync, now);
        }
        told.settled(behind, now);
        if told.effects(effects, now) {
            self.moved.notify_one();
        }
    }

    /// Puts up what is known of Services that wait for rows, by family (SVC-7): a health check may count fewer
    /// endpoints than before at once, so that a node whose tables are full is drained all the same, and more only
    /// when they are programmed (HC-10).
    pub fn waiting<'a>(&self, waiting: impl Iterator<Item = (&'a ObjectName, &'a Effect, [bool; 2])>) {
        let mut told = self.told();
        let mut moved = false;
        for (service, effect, awaits) in waiting {
            for family in Family::ALL {
                let (key, wanted) = ((service.clone(), family), effect.checks[family.index()]);
                moved |= match wanted.filter(|_| awaits[family.index()]) {
                    Some(wanted) => {
                        if let Some(known) = told.checks.get_mut(&key) {
                            known.local = known.local.min(wanted.local);
                        }
                        false
                    }
                    // That there is none any more needs no row either, and another may want the port.
                    None => told.set_check(key, wanted),
                };
            }
        }
        if moved {
            self.moved.notify_one();
        }
    }

    /// Health check node ports listen in these networks now (HC-2).
    pub fn listen_in(&self, networks: Vec<IpNet>) {
        let mut told = self.told();
        if told.listen_in != networks {
            told.listen_in = networks;
            self.moved.notify_one();
        }
    }

    /// Interfaces gained or lost addresses.
    pub fn interfaces_changed(&self) {
        self.moved.notify_one();
    }

    /// Waits until health check node ports came, went or moved.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }
}

impl Told {
    /// Changes have come that are not in force yet.
    pub fn queued(&mut self, now: Moment) {
        for family in Family::ALL {
            self.health.queued(family, now);
            self.kube_proxy.last_queued[family.index()] = now.wall;
        }
    }

    fn synced(&mut self, sync: Sync, now: Moment) {
        self.kube_proxy.synced(sync);
        for family in Family::ALL.into_iter().filter(|family| !sync.behind[family.index()]) {
            self.health.updated(family, now);
            self.kube_proxy.last_synced[family.index()] = now.wall;
        }
    }

    /// Whether changes are in force now that were not before, or the other way round.
    fn settled(&mut self, behind: [bool; 2], now: Moment) {
        for family in Family::ALL {
            if behind[family.index()] {
                self.health.queued(family, now);
            } else if self.health.is_queued(family) {
                self.health.updated(family, now);
                self.kube_proxy.last_synced[family.index()] = now.wall;
            }
        }
    }

    /// Returns whether ports came, went or moved.
    fn effects(&mut self, effects: Vec<(ObjectName, Effect)>, now: Moment) -> bool {
        let mut moved = false;
        for (service, effect) in effects {
            self.kube_proxy.programmed(&effect.triggers, now);
            for (family, check) in Family::ALL.into_iter().zip(effect.checks) {
                moved |= self.set_check((service.clone(), family), check);
            }
            if effect.lacking == Lacking::default() {
                self.lacking.remove(&service);
            } else {
                self.lacking.insert(service, effect.lacking);
            }
        }
        moved
    }

    /// Returns whether the port came, went or moved.
    fn set_check(&mut self, key: (ObjectName, Family), check: Option<Check>) -> bool {
        let known = match check {
            Some(check) => self.checks.insert(key, check),
            None => self.checks.remove(&key),
        };
        known.map(|check| check.port) != check.map(|check| check.port)
    }

    /// Replaces the rows that are pending.
    pub fn set_pending<'a>(&mut self, errors: impl Iterator<Item = &'a TableError>) {
        self.pending.clear();
        for error in errors {
            *self.pending.entry((error.map(), Reason::of(error))).or_default() += 1;
        }
    }

    /// Counts writes that were refused.
    pub fn count_failures<'a>(&mut self, errors: impl Iterator<Item = &'a TableError>) {
        for error in errors {
            *self.failures.entry((error.map(), Reason::of(error))).or_default() += 1;
        }
    }

    /// Replaces the problems of the source.
    pub fn set_problems(&mut self, severities: impl Iterator<Item = &'static str>) {
        self.problems.clear();
        for severity in severities {
            *self.problems.entry(severity).or_default() += 1;
        }
    }
}
