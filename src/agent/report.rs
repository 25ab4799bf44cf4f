//! What an agent tells people: a log line per change of state, and the state file for `status`.

use std::collections::BTreeSet;

use anyhow::Result;

use super::reconcile::{Outcome, Reconciler};
use super::state::StateFile;
use crate::cluster::manifest::{FileProblem, Severity};
use crate::config::Config;
use crate::inspect::agent::AgentState;
use crate::inspect::status::Pending;
use crate::plan::table::{FrontendKey, Limits, Tables};

/// Remembers what has been said, so that nothing is said twice.
#[derive(Debug)]
pub struct Report {
    file: StateFile,
    problems: BTreeSet<FileProblem>,
    pending: Vec<Pending>,
    conflicts: Vec<Pending>,
    sysctls: Vec<Pending>,
    is_file_bad: bool,
}

impl Report {
    /// Nothing said yet, but for the settings that could not be made.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn new(config: &Config, sysctls: Vec<Pending>) -> Result<Report> {
        Ok(Report {
            file: StateFile::new(&config.bpf_root)?,
            problems: BTreeSet::new(),
            pending: Vec::new(),
            conflicts: Vec::new(),
            sysctls,
            is_file_bad: false,
        })
    }

    /// The first complete state is programmed.
    pub fn synced<T: Tables>(&self, reconciler: &Reconciler<T>) {
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
        self.tell_pending(reconciler);
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
        self.problems = problems;
    }

    fn tell_pending<T: Tables>(&mut self, reconciler: &Reconciler<T>) {
        let pending: Vec<_> = reconciler
            .pending()
            .into_iter()
            .map(|(what, error)| Pending { what, error: error.to_string() })
            .collect();
        for row in pending.iter().filter(|row| !self.pending.contains(row)) {
            tracing::error!("{} is pending: {}", row.what, row.error);
        }
        for row in self.pending.iter().filter(|row| !pending.iter().any(|new| new.what == row.what)) {
            tracing::info!("{} is not pending any more", row.what);
        }
        self.pending = pending;
    }

    /// Two Services that claim one address and port (SVC-17).
    fn tell_conflicts<T: Tables>(&mut self, reconciler: &Reconciler<T>) {
        let conflicts: Vec<_> = reconciler
            .world()
            .conflicts()
            .map(|(key, owner, waiting)| Pending {
                what: format!("{} of Service {}", shown(key), waiting.service),
                error: format!("Service {} claims it too and comes first (SVC-17)", owner.service),
            })
            .collect();
        for conflict in conflicts.iter().filter(|conflict| !self.conflicts.contains(conflict)) {
            tracing::warn!("{}: {}", conflict.what, conflict.error);
        }
        self.conflicts = conflicts;
    }

    fn write(&mut self) {
        let problems = self.problems.iter().filter(|problem| problem.severity != Severity::Note);
        let problems =
            problems.map(|problem| Pending { what: problem.place(), error: problem.message.clone() });
        let pending = self
            .pending
            .iter()
            .chain(&self.conflicts)
            .chain(&self.sysctls)
            .cloned()
            .chain(problems)
            .collect();
        let written =
            self.file.write(AgentState { pending, sysctls: self.sysctls.clone(), ..AgentState::default() });
        if let (Err(error), false) = (&written, self.is_file_bad) {
            tracing::warn!("status will not show what is pending: {error:#}");
        }
        self.is_file_bad = written.is_err();
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
