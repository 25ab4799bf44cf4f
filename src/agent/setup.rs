//! What an agent does to the machine before it serves: mounts, sysctls, its own standing when memory is short.

use std::fs;

use anyhow::{Context, Result};

use super::privilege;
use crate::config::{Config, conntrack};
use crate::datapath::pins;
use crate::host::cgroup;
use crate::host::conntrack::{Done, apply, cores};
use crate::inspect::status::Pending;

/// `--init-only`: all that needs more than an agent needs later (CFG-4).
///
/// # Errors
/// A privilege is missing, or there is no bpffs or no cgroup v2 and none can be had.
pub fn init(config: &Config) -> Result<()> {
    privilege::check()?;
    pins::ensure_bpffs(&config.bpf_root)?;
    if config.cgroup_root.is_none() {
        cgroup::root().context("find the cgroup v2 root (or name it with --cgroup-root)")?;
    }
    let failed = sysctls(config);
    tracing::info!(failed = failed.len(), "initialized: mounts and sysctls are done");
    Ok(())
}

/// Sets what conntrack should be like (CT-13). What cannot be set is said and given back, never fatal (DEC-7).
pub fn sysctls(config: &Config) -> Vec<Pending> {
    let mut failed = Vec::new();
    for (setting, done) in apply(&conntrack::settings(&config.conntrack, cores())) {
        let (key, value) = (setting.key, setting.value);
        match done {
            Done::Right => {}
            Done::Written(before) => tracing::info!("set {key} to {value} (it was {before})"),
            Done::Failed(why) => {
                tracing::warn!("{key} {why}");
                failed.push(Pending { what: key.to_owned(), error: why });
            }
        }
    }
    failed
}

/// Sets the agent's own `oom_score_adj`; a refusal is said, never fatal.
pub fn oom_score(config: &Config) {
    const FILE: &str = "/proc/self/oom_score_adj";
    let Some(score) = config.oom_score_adj else { return };
    let is_right = fs::read_to_string(FILE).is_ok_and(|now| now.trim() == score.to_string());
    if is_right {
        return;
    }
    if let Err(error) = fs::write(FILE, score.to_string()) {
        tracing::warn!(
            "oomScoreAdj: cannot be set to {score} (CAP_SYS_RESOURCE allows to lower it): {error}"
        );
    }
}
