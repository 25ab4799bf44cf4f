//! Asks the machine. Nothing is changed: what is made to try the kernel is gone when the answer is there.

use std::fs;
use std::path::{Path, PathBuf};

use libbpf_rs::ProgramType;
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Composite;
use nix::sys::resource::{Resource, getrlimit};

use super::facts::{Bpffs, Cgroup, Facts, FeatureFact, Foreign, Memlock, No, Pins};
use crate::datapath::load::SOCKET;
use crate::datapath::maps::{OpenError, Reader};
use crate::datapath::pins::{DEFAULT_BPF_ROOT, Tree};
use crate::datapath::{attach, feature};
use crate::host::{caps, cgroup, kubeproxy, mount, sysctl};
use crate::inspect::view;

impl Facts {
    /// Asks this machine, with the roots `run` would get.
    pub fn probe(bpf_root: &Path, cgroup_root: Option<&Path>) -> Facts {
        let tree = Tree::new(bpf_root);
        let cgroup = cgroup_facts(cgroup_root);
        let pins = pins(bpf_root);
        let hooks = if pins == Pins::None { Vec::new() } else { view::hooks(&attach::inspect(&tree, &SOCKET, None)) };
        Facts {
            capabilities: caps::effective().ok(),
            bpf: feature::bpf_syscall().map_err(no),
            btf: fs::File::open("/sys/kernel/btf/vmlinux").is_ok(),
            bpffs: Bpffs {
                path: bpf_root.to_owned(),
                mounted: mount::is_bpffs(bpf_root),
                mounted_by_run: bpf_root == Path::new(DEFAULT_BPF_ROOT),
                known: knows_file_system("bpf"),
            },
            memlock: memlock(),
            jit: number("net.core.bpf_jit_enable"),
            unprivileged_bpf_disabled: number("kernel.unprivileged_bpf_disabled"),
            features: features(),
            foreign: foreign(cgroup.root.as_deref()),
            kube_proxy: kubeproxy::leftovers().map_err(|e| format!("{e:#}")),
            agent: view::agent_runs(&tree),
            cgroup,
            pins,
            hooks,
        }
    }
}
