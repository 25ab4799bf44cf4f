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

/// What is due, on the clock of the agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Care {
    look: Duration,
    audit: Duration,
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
        Care { look: now + LOOK, audit: now + AUDIT }
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
        if now >= self.audit || !cared.repaired.is_empty() {
            self.audit = now + AUDIT;
            self.audit(reconciler, now, &mut cared);
        }
        Some(cared)
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
