//! What an agent tells people: a log line per change of state, the state file for `status`, and the board for
//! metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;

use super::care::Cared;
use super::reconcile::{Outcome, Reconciler};
use super::state::StateFile;
use crate::cluster::events::{Event, Recorder};
use crate::cluster::manifest::{FileProblem, Severity};
use crate::config::Config;
use crate::inspect::agent::AgentState;
use crate::inspect::status::Pending;
use crate::model::names::ObjectName;
use crate::plan::health::Effect;
use crate::plan::table::{FrontendKey, Limits, Tables};
use crate::serve::board::Board;

/// Remembers what has been said, so that nothing is said twice.
#[derive(Debug)]
pub struct Report {
    file: StateFile,
    board: Arc<Board>,
    recorder: Arc<Recorder>,
    problems: BTreeSet<FileProblem>,
    pending: BTreeMap<String, String>,
    conflicts: Vec<Pending>,
    checks: LackingChecks,
    /// What of the data path could not be put back.
    broken: Vec<Pending>,
    repaired: u64,
    sysctls: Vec<Pending>,
    is_file_bad: bool,
}

impl Report {
    /// Nothing said yet, but for the settings that could not be made.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn new(
        config: &Config,
        sysctls: Vec<Pending>,
        board: Arc<Board>,
        recorder: Arc<Recorder>,
    ) -> Result<Report> {
        Ok(Report {
            file: StateFile::new(&config.bpf_root)?,
            board,
            recorder,
            problems: BTreeSet::new(),
            pending: BTreeMap::new(),
            conflicts: Vec::new(),
            checks: LackingChecks::default(),
            broken: Vec::new(),
            repaired: 0,
            sysctls,
            is_file_bad: false,
        })
    }

    /// The first complete state is programmed.
    pub fn synced<T: Tables>(&self, reconciler: &Reconciler<T>) {
        self.board.told().synced = true;
        let services = reconciler.world().service_ports().count();
        tracing::info!(
            services,
            service_ports = reconciler.service_ports(),
            "synced: the tables are complete"
        );
    }

    /// The tables grew, or did not.
    pub fn grown(&self, limits: Limits, grown: &Result<()>) {
        match grown {
            Ok(()) => tracing::info!(?limits, "the tables grew"),
            Err(error) => tracing::error!("the tables cannot grow: {error:#}"),
        }
    }

    /// The data path was looked after. The state file is written by the [`step`](Self::step) that follows.
    pub(super) fn cared(&mut self, cared: &Cared) {
        for what in &cared.repaired {
            tracing::warn!("repaired: {what}");
        }
        self.repaired += cared.repaired.len() as u64;
        let broken = cared.failed.iter().map(|error| {
            let next = "it is tried again every 10 s; `beeline doctor` says what is in the way";
            Pending { what: "the data path".into(), error: format!("{error}; {next}") }
        });
        let broken: Vec<_> = broken.collect();
        for one in broken.iter().filter(|one| !self.broken.contains(one)) {
            tracing::error!("{} cannot be repaired: {}", one.what, one.error);
        }
        self.broken = broken;
    }

    /// Whether balancers may send to this node is another thing than before (HLT-4).
    pub fn eligible(&self, eligible: bool) {
        match eligible {
            true => tracing::info!("/healthz: load balancers may send to this node"),
            false => tracing::warn!(
                "/healthz is 503, so that load balancers drain this node: it is not known, is being deleted, or the \
                 autoscaler is about to take it away (HLT-4)"
            ),
        }
    }

    /// Rows of these Services are in force.
    pub fn effects(&mut self, effects: &[(ObjectName, Effect)]) {
        for service in self.checks.see(effects) {
            tracing::error!(
                "Service {service} is of type LoadBalancer with externalTrafficPolicy Local and has no \
                 spec.healthCheckNodePort, so nothing tells its balancer whether endpoints are here: set it, where no \
                 API server allocates it (HC-1)"
            );
        }
    }

    /// The source has something to say while its changes wait to be written.
    pub fn source(&mut self, problems: Vec<FileProblem>) {
        self.tell_problems(problems);
        self.write();
    }

    /// A step is done.
    pub fn step<T: Tables>(
        &mut self,
        outcome: &Outcome,
        problems: Vec<FileProblem>,
        reconciler: &Reconciler<T>,
    ) {
        for name in outcome.written.iter().filter(|_| !outcome.is_first) {
            tracing::debug!("programmed {name} ({}, {})", name.protocol, name.family);
        }
        self.tell_problems(problems);
        self.tell_pending(outcome, reconciler);
        self.tell_conflicts(reconciler);
        self.write();
    }

    fn tell_problems(&mut self, problems: Vec<FileProblem>) {
        let problems: BTreeSet<_> = problems.into_iter().collect();
        problems.difference(&self.problems).for_each(say);
        for problem in
            self.problems.difference(&problems).filter(|problem| problem.severity == Severity::Error)
        {
            tracing::info!("resolved: {problem}");
        }
        let counted = problems.iter().filter_map(|problem| match problem.severity {
            Severity::Error => Some("error"),
            Severity::Warning => Some("warning"),
            Severity::Note => None,
        });
        self.board.told().set_problems(counted);
        self.problems = problems;
    }

    fn tell_pending<T: Tables>(&mut self, outcome: &Outcome, reconciler: &Reconciler<T>) {
        let refused = reconciler.pending();
        let mut told = self.board.told();
        told.used = reconciler.used();
        told.count_failures(outcome.failed.iter().map(|(_, error)| error));
        told.set_pending(refused.iter().map(|(_, error)| error));
        drop(told);
        let pending: BTreeMap<_, _> =
            refused.into_iter().map(|(what, error)| (what, error.to_string())).collect();
        for (what, error) in pending.iter().filter(|(what, error)| self.pending.get(*what) != Some(*error)) {
            tracing::error!("{what} is pending: {error}");
        }
        for what in self.pending.keys().filter(|what| !pending.contains_key(*what)) {
            tracing::info!("{what} is not pending any more");
        }
        self.pending = pending;
    }

    /// Two Services that claim one address and port (SVC-17).
    fn tell_conflicts<T: Tables>(&mut self, reconciler: &Reconciler<T>) {
        let conflicts: Vec<_> = reconciler
            .world()
            .conflicts()
            .map(|(key, owner, waiting)| {
                let pending = Pending {
                    what: format!("{} of Service {}", shown(key), waiting.service),
                    error: format!("Service {} claims it too and comes first (SVC-17)", owner.service),
                };
                (waiting.service.clone(), pending)
            })
            .collect();
        for (service, conflict) in conflicts.iter().filter(|(_, conflict)| !self.conflicts.contains(conflict))
        {
            tracing::warn!("{}: {}", conflict.what, conflict.error);
            let note = format!("{}: {}", conflict.what, conflict.error);
            self.recorder.record(Event::conflict(service, note));
        }
        self.conflicts = conflicts.into_iter().map(|(_, conflict)| conflict).collect();
    }

    fn write(&mut self) {
        let problems = self.problems.iter().filter(|problem| problem.severity != Severity::Note);
        let problems =
            problems.map(|problem| Pending { what: problem.place(), error: problem.message.clone() });
        let rows =
            self.pending.iter().map(|(what, error)| Pending { what: what.clone(), error: error.clone() });
        let others = self.conflicts.iter().chain(&self.sysctls).cloned();
        let pending = self.broken.iter().cloned().chain(rows).chain(others).chain(problems).collect();
        let (repaired, sysctls) = (self.repaired, self.sysctls.clone());
        let written = self.file.write(AgentState { pending, repaired, sysctls, ..AgentState::default() });
        if let (Err(error), false) = (&written, self.is_file_bad) {
            tracing::warn!("status will not show what is pending: {error:#}");
        }
        self.is_file_bad = written.is_err();
    }
}

/// Services that are to have a health check node port and have none, as far as that was said (HC-1).
#[derive(Debug, Default)]
struct LackingChecks(BTreeSet<ObjectName>);

impl LackingChecks {
    /// Those of them that are new.
    fn see<'a>(&mut self, effects: &'a [(ObjectName, Effect)]) -> Vec<&'a ObjectName> {
        let mut new = Vec::new();
        for (service, effect) in effects {
            if !effect.lacks_check {
                self.0.remove(service);
            } else if self.0.insert(service.clone()) {
                new.push(service);
            }
        }
        new
    }
}

/// Says what is wrong, as loud as it is bad.
fn say(problem: &FileProblem) {
    match problem.severity {
        Severity::Error => tracing::error!("{problem}"),
        Severity::Warning => tracing::warn!("{problem}"),
        Severity::Note => tracing::info!("{problem}"),
    }
}

/// A frontend as people write it, like `10.96.0.10:53/UDP`.
fn shown(key: &FrontendKey) -> String {
    match *key {
        FrontendKey::Port { addr, port, protocol } => {
            format!("{}/{protocol}", std::net::SocketAddr::new(addr, port))
        }
        FrontendKey::Active { addr } => addr.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_node_port_that_is_missing_is_said_once_until_it_is_there() {
        // HC-1
        let name = |name: &str| ObjectName::new("ns", name);
        let mut lacking = LackingChecks::default();
        let mut see = |service: &str, lacks_check| {
            lacking.see(&[(name(service), Effect { lacks_check, ..Effect::default() })]).len()
        };
        assert_eq!([see("a", true), see("a", true), see("b", true)], [1, 0, 1]);
        assert_eq!([see("a", false), see("a", true), see("b", true)], [0, 1, 0]);
    }
}
