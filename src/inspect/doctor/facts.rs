//! What doctor wants to know of a machine, as values.

use std::path::PathBuf;

use crate::inspect::view::Hook;

/// A machine as doctor sees it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The effective capabilities, as bits of `CapEff`; `None` if /proc does not say.
    pub capabilities: Option<u64>,
    /// Whether bpf(2) made a small map.
    pub bpf: Result<(), No>,
    /// `/sys/kernel/btf/vmlinux` can be read.
    pub btf: bool,
    /// The cgroup2 tree.
    pub cgroup: Cgroup,
    /// The bpffs.
    pub bpffs: Bpffs,
    /// Locked memory.
    pub memlock: Memlock,
    /// `net.core.bpf_jit_enable`; `None` if it is not to be seen.
    pub jit: Option<u32>,
    /// `kernel.unprivileged_bpf_disabled`; `None` if it is not to be seen.
    pub unprivileged_bpf_disabled: Option<u32>,
    /// Settings that the agent wanted and could not make, each with the reason (DEC-7).
    pub sysctls: Vec<String>,
    /// What the kernel said to each thing Beeline would use.
    pub features: Vec<FeatureFact>,
    /// Programs of others at the places ours go to, or why they could not be listed.
    pub foreign: Result<Vec<Foreign>, String>,
    /// What kube-proxy left in the kernel, or why it could not be looked for.
    pub kube_proxy: Result<Vec<String>, String>,
    /// Our pins.
    pub pins: Pins,
    /// Our programs, if pins are there.
    pub hooks: Vec<Hook>,
    /// An agent holds the tree's lock.
    pub agent: bool,
}

/// The kernel's no.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct No {
    /// The errno; 0 if nobody was asked.
    pub errno: i32,
    /// What was asked and what came back.
    pub why: String,
}

/// The cgroup2 tree programs are attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Its root, as named by the flag or found.
    pub root: Option<PathBuf>,
    /// What the flag names, if that is no cgroup2.
    pub refused: Option<PathBuf>,
    /// It is the root of the whole tree, not a cgroup below.
    pub whole: bool,
    /// Mounted v1 controllers that took the place of the cgroup2 pointer in a socket (net_cls, net_prio).
    pub net_classes: Vec<String>,
    /// The kernel keeps both in a socket (5.15, 8520e224f547); without, sockets count as those of the root.
    pub both_in_socket: bool,
}

/// The bpffs that is to hold the pins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bpffs {
    /// Where it is looked for.
    pub path: PathBuf,
    /// A bpffs is there.
    pub mounted: bool,
    /// `beeline run` mounts one there if there is none.
    pub mounted_by_run: bool,
    /// The kernel knows the file system.
    pub known: bool,
}

/// Locked memory: before Linux 5.11 maps are charged to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memlock {
    /// Maps are charged to it on this kernel; `None` if that could not be found out.
    pub charged: Option<bool>,
    /// RLIMIT_MEMLOCK in bytes; `None` for no limit.
    pub limit: Option<u64>,
}

/// One thing of the kernel that Beeline would use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureFact {
    /// Its name, as a check.
    pub name: String,
    /// Whether the kernel has it.
    pub found: Result<(), No>,
    /// Without it the main job cannot run.
    pub needed: bool,
    /// What is lost without it.
    pub lose: String,
    /// Since when kernels have it.
    pub since: String,
}

/// Somebody else's program at a place of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The place, like `connect4`.
    pub hook: String,
    /// The program's name and id.
    pub program: String,
    /// It was attached so that no other program may join it.
    pub exclusive: bool,
}

/// Our pins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pins {
    /// None: Beeline has not run here, or `cleanup` took all away.
    #[default]
    None,
    /// All maps of this binary's layout are there.
    Complete,
    /// Only those of another version are there.
    OtherLayout,
    /// They may not be opened with the privileges of this process.
    Denied(String),
    /// They are there and cannot be used.
    Unusable(String),
}
