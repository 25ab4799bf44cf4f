//! When the data path is looked after: whether it is still attached and pinned, and whether the tables
//! hold what was written (SYNC-6).

use std::time::Duration;

use super::reconcile::{Outcome, Reconciler};
use crate::datapath::Datapath;

/// Links and pins are looked at this often: some dozen system calls.
const LOOK: Duration = Duration::from_secs(10);

/// Rows are compared this often: 100,000 backends take some 60 ms. They are, besides, whenever something
/// had to be put back, for whoever removed that may have written too.
const AUDIT: Duration = Duration::from_secs(300);

/// An audit that is due for this long is said to be late.
const LATE: Duration = Duration::from_secs(3600);

/// What is due, on the clock of the agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Care {
    look: Duration,
    audit: Duration,
    /// It was said that the audit is late.
    is_late: bool,
}

/// What a look came to.
#[derive(Debug, Default)]
pub(super) struct Cared {
    /// What was not as it should be and is again, in words.
    pub repaired: Vec<String>,
    /// Why something could not be put back, or not be looked at.
    pub failed: Option<String>,
    /// What the repair of rows came to.
    pub outcome: Option<Outcome>,
}

impl Care {
    /// Nothing is due before a while has passed.
    pub(super) fn new(now: Duration) -> Care {
        Care { look: now + LOOK, audit: now + AUDIT, is_late: false }
    }

    /// When [`look`](Self::look) wants to be called.
    pub(super) fn due(&self) -> Duration {
        self.look
    }

    /// Looks after the data path, if it is time.
    pub(super) fn look(&mut self, reconciler: &mut Reconciler<Datapath>, now: Duration) -> Option<Cared> {
        if now < self.look {
            return None;
        }
        self.look = now + LOOK;
        let mut cared = Cared::default();
        match reconciler.tables().repair() {
            Ok(repaired) => cared.repaired = repaired,
            Err(error) => cared.failed = Some(format!("{error:#}")),
        }
        if !cared.repaired.is_empty() {
            self.audit = self.audit.min(now);
        }
        if now >= self.audit {
            self.audit_at_rest(reconciler, now, &mut cared);
        }
        Some(cared)
    }

    /// While something is under way there is nothing to compare: the next look tries again.
    fn audit_at_rest(&mut self, reconciler: &mut Reconciler<Datapath>, now: Duration, cared: &mut Cared) {
        if reconciler.is_at_rest() {
            (self.audit, self.is_late) = (now + AUDIT, false);
            self.audit(reconciler, now, cared);
        } else if now >= self.audit + LATE && !self.is_late {
            self.is_late = true;
            tracing::warn!(
                "rows were not compared with what was written for {} minutes, for some wait to be written or change \
                 all the time: `beeline status` names them; damage by others would go unseen",
                (LATE + AUDIT).as_secs() / 60
            );
        }
    }

    fn audit(&self, reconciler: &mut Reconciler<Datapath>, now: Duration, cared: &mut Cared) {
        let reader = reconciler.tables().reader().map_err(anyhow::Error::from);
        match reader.and_then(|reader| Ok(reader.rows()?)) {
            Ok(rows) => {
                if let Some((damage, outcome)) = reconciler.audit(&rows, now) {
                    cared.repaired.extend(damage);
                    cared.outcome = Some(outcome);
                }
            }
            Err(error) => drop(cared.failed.get_or_insert(format!("the tables cannot be read: {error:#}"))),
        }
        // After the rows are right: who is at home is who they say.
        if let Err(error) = reconciler.tables().tables().tend_homes() {
            cared.failed.get_or_insert(format!("who is at home in bl_services could not be looked after: {error:#}; it is tried again with the next audit"));
        }
        crate::host::memory::trim();
    }
}
