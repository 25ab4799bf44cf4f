//! `beeline cleanup`: removes all of ours from the machine.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use super::render::print;
use crate::agent::state;
use crate::datapath::pins::Tree;
use crate::datapath::{attach, remove};
use crate::host::{cgroup, mount};

/// Flags of `cleanup`.
#[derive(Debug, clap::Args)]
pub struct CleanupArgs {
    /// The bpffs that holds the pins
    #[arg(long, default_value = mount::BPFFS)]
    bpf_root: PathBuf,
    /// The cgroup v2 folder the programs are attached to; found by itself if not given
    #[arg(long)]
    cgroup_root: Option<PathBuf>,
    /// Stay until SIGTERM once it is done, as the pod of a DaemonSet must (`yaml/uninstall.yaml`)
    #[arg(long)]
    stay: bool,
}

impl CleanupArgs {
    /// For `run --cleanup`.
    pub fn new(bpf_root: PathBuf, cgroup_root: Option<PathBuf>) -> CleanupArgs {
        CleanupArgs { bpf_root, cgroup_root, stay: false }
    }
}

/// Removes what is there, and stays if it is told to.
///
/// # Errors
/// An agent holds the tree's lock, or something cannot be removed.
pub fn run(args: CleanupArgs) -> Result<ExitCode> {
    if !args.stay {
        return clean(args);
    }
    // Blocked before the work: a signal that comes meanwhile is found afterwards.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("block signals")?;
    let code = clean(args)?;
    print("done; staying until SIGTERM")?;
    signals.wait().context("wait for a signal")?;
    Ok(code)
}

/// Detaches the programs and removes the tables, unless an agent is at work there. Then says what of ours is
/// still attached, which belongs to another `--bpf-root`.
fn clean(args: CleanupArgs) -> Result<ExitCode> {
    let removed = remove::remove_all(&args.bpf_root)?;
    let state = state::remove_left(&args.bpf_root);
    let mut out = std::io::stdout().lock();
    if removed.is_empty() && state.is_none() {
        writeln!(out, "nothing of Beeline is at {}", args.bpf_root.display())?;
    }
    for program in &removed.programs {
        writeln!(out, "detached {program}")?;
    }
    for path in removed.paths.iter().chain(&state) {
        writeln!(out, "removed {}", path.display())?;
    }
    if removed.unmounted {
        writeln!(out, "unmounted {}", args.bpf_root.display())?;
    }
    let Some(root) = args.cgroup_root.or_else(|| cgroup::root().ok()) else { return Ok(ExitCode::SUCCESS) };
    let others = attach::foreign(&Tree::new(&args.bpf_root), &root).unwrap_or_default();
    for other in others.iter().filter(|other| other.is_beeline()) {
        let at = other.cgroup.display();
        writeln!(
            out,
            "{} is still attached at {at}: it belongs to an agent with another --bpf-root",
            other.program
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
