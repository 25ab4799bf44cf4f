//! `doctor`: what this machine allows, feature by feature, on any machine at all.
//!
//! Probing ([`Facts::probe`]) asks the kernel and never fails as a whole: what cannot be found out
//! is a fact of its own. Judging ([`examine`]) is pure, so that tests cover machines nobody has at hand.

mod checks;
mod facts;
mod probe;

use serde::Serialize;

pub use facts::{Bpffs, Cgroup, Facts, FeatureFact, Foreign, Memlock, No, Pins};

/// One line of `beeline doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at; `docs/troubleshooting.md` has a paragraph for each.
    pub check: String,
    /// How it stands.
    pub state: State,
    /// What was seen.
    pub found: String,
    /// What is lost by it; empty if nothing is.
    pub lose: String,
    /// The next step; empty if none is needed.
    pub next: String,
    /// Without it the main job (Services resolved at `connect()`) cannot run.
    pub needed: bool,
}

/// How a check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, with something lost.
    Narrowed,
    /// The machine does not have it.
    Missing,
    /// The machine has it, but it does not work or could not be looked at.
    Failed,
}

impl State {
    /// The word shown in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Narrowed => "narrowed",
            State::Missing => "missing",
            State::Failed => "failed",
        }
    }
}

impl Finding {
    fn ok(check: &str, found: impl Into<String>) -> Finding {
        Finding {
            check: check.to_owned(),
            state: State::Ok,
            found: found.into(),
            lose: String::new(),
            next: String::new(),
            needed: false,
        }
    }

    fn bad(check: &str, state: State, found: impl Into<String>) -> Finding {
        Finding { state, ..Finding::ok(check, found) }
    }

    fn lose(mut self, lose: impl Into<String>) -> Finding {
        self.lose = lose.into();
        self
    }

    fn next(mut self, next: impl Into<String>) -> Finding {
        self.next = next.into();
        self
    }

    /// Says that the main job does not run without this.
    fn needed(mut self) -> Finding {
        self.needed = true;
        self
    }

    /// Whether this alone keeps the main job from running.
    pub fn stops_main_job(&self) -> bool {
        self.needed && matches!(self.state, State::Missing | State::Failed)
    }
}

/// What the main job is, as findings name its loss.
const MAIN_JOB: &str = "Services are not resolved at connect()";

/// Judges the facts: one finding a check, in the order in which an operator repairs them.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        checks::privileges(facts),
        checks::bpf_syscall(facts),
        checks::btf(facts),
        checks::cgroup2(facts),
        checks::net_classes(facts),
        checks::bpffs(facts),
        checks::memlock(facts),
        checks::jit(facts),
        checks::unprivileged_bpf(facts),
        checks::sysctls(facts),
    ];
    findings.extend(facts.features.iter().map(checks::feature));
    findings.extend([
        checks::foreign_programs(facts),
        checks::kube_proxy(facts),
        checks::pins(facts),
        checks::links(facts),
        checks::agent(facts),
    ]);
    findings
}

/// Whether the main job can run on a machine with these findings: exit code 0 or 1.
pub fn main_job_can_run(findings: &[Finding]) -> bool {
    !findings.iter().any(Finding::stops_main_job)
}
