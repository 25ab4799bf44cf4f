//! After the writing: what is booked as done, what stays pending and until when, and grace periods.

use std::time::Duration;

use super::diff::Plan;
use super::port::Bits;
use super::{Book, Outcome, Settled, describe};
use crate::model::names::ServicePortName;
use crate::plan::compile::PortRows;
use crate::plan::ids::Epoch;
use crate::plan::table::{BackendId, Limits, Policy, TableError, Tables, TextId};

/// How long after something began to wait a grace period is asked for: many share one.
const GRACE_BATCH: Duration = Duration::from_millis(50);
/// One that goes on aside is looked after this often; most take 8 to 16 ms.
const GRACE_LOOK: Duration = Duration::from_millis(4);
/// The first and the longest pause before a refused write is tried again.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];

/// Why something is pending.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    /// A reader may still hold what it needs.
    Grace,
    /// A write was refused.
    Error(TableError),
}

/// A ServicePort that is not as wanted yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) want: Option<PortRows>,
    pub(super) cause: Cause,
    tries: u32,
    due: Duration,
}

impl Pending {
    pub(super) fn waits(&self) -> bool {
        matches!(self.cause, Cause::Grace)
    }

    pub(super) fn removes(&self) -> bool {
        self.want.is_none()
    }

    pub(super) fn error(&self) -> Option<&TableError> {
        match &self.cause {
            Cause::Error(error) => Some(error),
            Cause::Grace => None,
        }
    }
}

/// The pause before the next try.
pub(super) fn backoff(tries: u32) -> Duration {
    BACKOFF[0].saturating_mul(1 << tries.min(16)).min(BACKOFF[1])
}

impl Book {
    /// What is not as wanted, by what refused: map, limit and next step are in the error.
    pub fn pending(&self) -> Vec<(String, TableError)> {
        let ports = self
            .pending
            .iter()
            .filter_map(|(name, pending)| Some((describe(name), pending.error()?.clone())));
        let grace =
            self.grace_failed.iter().map(|(error, _)| ("the wait for readers".to_owned(), error.clone()));
        ports.chain(self.node.pending()).chain(grace).collect()
    }

    /// The maps have grown, or were found smaller or larger than thought: all that is pending is
    /// tried again at the next call.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        // The tables are others: the end of a grace period begun on the old ones is never told.
        if self.grace_running.take().is_some() {
            self.grace_wanted = Some(Duration::ZERO);
        }
        self.services.set_limit(limits.services);
        self.backends.set_limit(limits.backends);
        self.slots.set_limit(limits.slots);
        for pending in self.pending.values_mut() {
            pending.due = Duration::ZERO;
        }
    }

    pub(super) fn postpone(
        &mut self,
        name: ServicePortName,
        want: Option<PortRows>,
        cause: Cause,
        now: Duration,
    ) {
        let tries = match (self.pending.get(&name), &cause) {
            (Some(before), Cause::Error(_)) if !before.waits() => before.tries + 1,
            _ => 0,
        };
        let due = if matches!(cause, Cause::Grace) { Duration::MAX } else { now + backoff(tries) };
        self.pending.insert(name, Pending { want, cause, tries, due });
    }

    /// Books a plan that has been written as far as it went.
    pub(super) fn settle(&mut self, mut plan: Plan, now: Duration, out: &mut Outcome) {
        self.close(&mut plan);
        let unlinked = plan.failed.is_none() && plan.draining;
        if unlinked || !plan.removing {
            plan.port.unlinked = plan.port.unlinked.or(Some(self.epochs.now())).filter(|_| unlinked);
        }
        let cause = match plan.failed.take() {
            Some(error) => Some(Cause::Error(error)),
            None => (plan.blocked || plan.draining).then_some(Cause::Grace),
        };
        let (name, want) = (plan.name.clone(), (!plan.removing).then(|| std::mem::take(&mut plan.want)));
        self.shelve(plan);
        match cause {
            Some(cause) => {
                if let Cause::Error(error) = &cause {
                    out.failed.push((describe(&name), error.clone()));
                }
                self.postpone(name, want, cause, now);
            }
            None => {
                self.pending.remove(&name);
                out.written.push(name);
            }
        }
    }

    /// Gives back what the plan took and did not use, and frees what the tables no longer mention.
    pub(super) fn close(&mut self, plan: &mut Plan) {
        for flip in plan.flips.iter_mut().filter_map(Option::take) {
            flip.range.into_iter().for_each(|range| self.slots.put_back(range));
        }
        let since = self.epochs.now();
        let mut recs = std::mem::take(&mut plan.port.recs);
        recs.retain(|rec| {
            if !rec.has(Bits::ROW) {
                if rec.id != BackendId(0) {
                    self.backends.put_back(rec.id.0);
                }
                return false;
            }
            let gone = !rec.has(Bits::WANTED) && rec.is_bare();
            if gone {
                self.backends.retire(rec.id.0, since);
                self.texts.forget(rec.node);
                self.texts.forget(TextId(u32::from(rec.zone)));
            }
            !gone
        });
        recs.shrink_to_fit();
        plan.port.recs = recs;
        plan.port.frontends.shrink_to_fit();
    }

    /// Puts the ServicePort back among the others, unless nothing of it is left.
    pub(super) fn shelve(&mut self, plan: Plan) {
        let Plan { name, port, removing, .. } = plan;
        let empty =
            port.named.is_none() && port.policy == Policy::UNUSED && port.is_bare() && port.recs.is_empty();
        match port.id {
            Some(id) if empty && removing => self.services.retire(id.0, self.epochs.now()),
            Some(id) if empty => self.services.put_back(id.0),
            Some(_) => drop(self.ports.insert(name, port)),
            None => {}
        }
    }

    /// Tries again what is due.
    pub(super) fn retry(&mut self, tables: &mut dyn Tables, now: Duration, out: &mut Outcome) {
        let due: Vec<_> = self.pending.iter_mut().filter(|(_, pending)| pending.due <= now).collect();
        let wants: Vec<_> =
            due.into_iter().map(|(name, pending)| (name.clone(), pending.want.take())).collect();
        self.pass(wants, tables, now, out);
    }

    /// Begins a grace period when one is due, and takes in the end of one that was begun. The tables
    /// may let it go on aside, so that nothing else waits for it.
    pub(super) fn grace(&mut self, tables: &mut dyn Tables, now: Duration, out: &mut Outcome) {
        if let Some(period) = self.grace_running {
            if let Some(ended) = tables.ended() {
                self.grace_running = None;
                self.end_grace(period, ended, now, out);
            }
        } else if self.grace_due().is_some_and(|due| due <= now) {
            // What is unlinked from here on waits for the next one.
            let period = self.epochs.begin();
            if tables.begin_quiesce() {
                self.grace_running = Some(period);
            } else {
                let ended = tables.quiesce();
                self.end_grace(period, ended, now, out);
            }
        }
    }

    /// Waits for readers. `false` if the kernel did not; what rests goes on resting.
    pub(super) fn quiesce(&mut self, tables: &mut dyn Tables, now: Duration, out: &mut Outcome) -> bool {
        let period = self.epochs.begin();
        let ended = tables.quiesce();
        self.end_grace(period, ended, now, out)
    }

    /// Hands out again what rested until the end of a grace period, unless the kernel refused it.
    fn end_grace(
        &mut self,
        period: Epoch,
        ended: Result<(), TableError>,
        now: Duration,
        out: &mut Outcome,
    ) -> bool {
        if let Err(error) = ended {
            let tries = self.grace_failed.take().map_or(0, |(_, tries)| tries + 1);
            out.failed.push(("the wait for readers".to_owned(), error.clone()));
            self.grace_failed = Some((error, tries));
            self.grace_wanted = Some(now);
            return false;
        }
        self.epochs.end(period);
        (self.gate, self.grace_wanted, self.grace_failed) = (false, None, None);
        self.release();
        for pending in self.pending.values_mut().filter(|pending| pending.waits()) {
            pending.due = now;
        }
        true
    }

    /// Hands out again what nobody can hold any more.
    pub(super) fn release(&mut self) {
        self.services.release(&self.epochs);
        self.backends.release(&self.epochs);
        self.slots.release(&self.epochs);
        self.texts.release(&self.epochs);
        self.frontends.release(&self.epochs);
    }

    pub(super) fn awaits_grace(&self) -> bool {
        self.services.awaits_grace(&self.epochs)
            || self.backends.awaits_grace(&self.epochs)
            || self.slots.awaits_grace(&self.epochs)
            || self.texts.awaits_grace(&self.epochs)
            || self.frontends.awaits_grace()
            || self.pending.values().any(Pending::waits)
    }

    /// When the next grace period is due.
    pub(super) fn grace_due(&self) -> Option<Duration> {
        let pause = self.grace_failed.as_ref().map_or(GRACE_BATCH, |(_, tries)| backoff(*tries));
        self.grace_wanted.map(|since| since + pause)
    }

    /// Sums a call up.
    pub(super) fn finish(&mut self, out: Outcome, now: Duration) -> Settled {
        if self.awaits_grace() {
            self.grace_wanted.get_or_insert(now);
        }
        let retry = self.pending.values().filter(|pending| !pending.waits()).map(|pending| pending.due).min();
        let node = self.node.due();
        let grace = match self.grace_running {
            Some(_) => Some(now + GRACE_LOOK),
            None => self.grace_due(),
        };
        let wake = if self.started { [grace, retry, node].into_iter().flatten().min() } else { None };
        Settled { written: out.written, failed: out.failed, grow: self.growth(), wake }
    }
}
