//! The registry of what Beeline uses of a kernel: how to ask for it, what is lost without it, and which
//! commit brought it. `doctor` shows it; the loader asks the few that become knobs.

use std::io;

use libbpf_sys as bpf;

use super::kernel;

/// One thing of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// Its name, as a check of `doctor`.
    pub name: &'static str,
    /// Without it the main job cannot run.
    pub needed: bool,
    /// What is lost without it.
    pub lose: &'static str,
    /// The version and commit that brought it.
    pub since: &'static str,
    probe: fn() -> io::Result<()>,
}

impl Feature {
    /// Asks the kernel, by doing it in the small. Changes nothing and leaves nothing.
    ///
    /// # Errors
    /// The kernel's own; `EPERM` and `ENOSYS` mean that it could not be asked.
    pub fn probe(&self) -> io::Result<()> {
        (self.probe)()
    }
}

const MAIN_JOB: &str = "the main job: Services are not reached by connect()";

/// Everything that is used, in the order of its use.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: "connect-hooks",
        needed: true,
        lose: MAIN_JOB,
        since: "Linux 4.17 (d74bad4e74ee)",
        probe: || addr_hooks([bpf::BPF_CGROUP_INET4_CONNECT, bpf::BPF_CGROUP_INET6_CONNECT]),
    },
    Feature {
        name: "sendmsg-hooks",
        needed: true,
        lose: "Services over UDP sockets that are not connected",
        since: "Linux 4.18 (1cedee13d25a)",
        probe: || addr_hooks([bpf::BPF_CGROUP_UDP4_SENDMSG, bpf::BPF_CGROUP_UDP6_SENDMSG]),
    },
    Feature {
        name: "recvmsg-hooks",
        needed: true,
        lose: "UDP clients see the backend's address instead of the one they dialled, and discard the answer",
        since: "Linux 5.2 (983695fa6765)",
        probe: || addr_hooks([bpf::BPF_CGROUP_UDP4_RECVMSG, bpf::BPF_CGROUP_UDP6_RECVMSG]),
    },
    Feature {
        name: "getpeername-hooks",
        needed: true,
        lose: "getpeername() shows the backend instead of what was dialled",
        since: "Linux 5.8 (1b66d253610c)",
        probe: || addr_hooks([bpf::BPF_CGROUP_INET4_GETPEERNAME, bpf::BPF_CGROUP_INET6_GETPEERNAME]),
    },
    Feature {
        name: "sock-release-hook",
        needed: true,
        lose: "the list of open flows, which nothing would empty",
        since: "Linux 5.9 (f5836749c9c0)",
        probe: || kernel::hook(bpf::BPF_PROG_TYPE_CGROUP_SOCK, bpf::BPF_CGROUP_INET_SOCK_RELEASE),
    },
    Feature {
        name: "socket-cookie",
        needed: true,
        lose: MAIN_JOB,
        since: "Linux 4.18 (d692f1138a4b)",
        probe: || kernel::helper_at_connect(bpf::BPF_FUNC_get_socket_cookie, None),
    },
    Feature {
        name: "netns-cookie",
        needed: true,
        lose: "host processes and pods cannot be told apart",
        since: "Linux 5.7 (f318903c0bf4)",
        probe: || kernel::helper_at_connect(bpf::BPF_FUNC_get_netns_cookie, None),
    },
    Feature {
        name: "set-retval",
        needed: false,
        lose: "a Service without endpoints does not refuse at connect(): the address is left alone, and the packet path decides",
        since: "Linux 5.18 (b44123b4a3dc)",
        probe: kernel::set_retval,
    },
    Feature {
        name: "kernel-reads",
        needed: false,
        lose: "time: every socket is looked up, also those that never dialled a Service; and flow rows of the kernel's own sockets (NFS, Ceph) stay",
        since: "Linux 5.5 (6ae08ae3dea2), unless lockdown is in its mode confidentiality",
        probe: kernel::read_kernel,
    },
    Feature {
        name: "cgroup-links",
        needed: true,
        lose: "programs that stay when the agent goes, and upgrades that nobody notices",
        since: "Linux 5.7 (af6eea57437a, 0c991ebc8c69)",
        probe: kernel::links,
    },
    Feature {
        name: "mapped-arrays",
        needed: true,
        lose: "sets that change with one store",
        since: "Linux 5.5 (fc9702273e2e)",
        probe: kernel::mapped_array,
    },
    Feature {
        name: "map-batches",
        needed: true,
        lose: "tables that are read and written thousands of rows a call",
        since: "Linux 5.6 (057996380a42)",
        probe: kernel::batches,
    },
    Feature {
        name: "grace-periods",
        needed: true,
        lose: "ids that can be used again: a map-in-map proves that no program still reads them",
        since: "Linux 4.20 (1ae80cf31938)",
        probe: kernel::grace,
    },
    Feature {
        name: "prefix-maps",
        needed: true,
        lose: "ServiceCIDRs and node addresses",
        since: "Linux 4.11 (b95a5c4db09b)",
        probe: || kernel::map(bpf::BPF_MAP_TYPE_LPM_TRIE, [8, 4, 1], bpf::BPF_F_NO_PREALLOC),
    },
    Feature {
        name: "lru-maps",
        needed: true,
        lose: "session affinity",
        since: "Linux 4.10 (29ba732acbee)",
        probe: || kernel::map(bpf::BPF_MAP_TYPE_LRU_HASH, [8, 8, 1], 0),
    },
];

/// Asks the kernel for everything.
pub fn survey() -> Vec<(&'static Feature, io::Result<()>)> {
    FEATURES.iter().map(|feature| (feature, feature.probe())).collect()
}

fn addr_hooks(attach_types: [u32; 2]) -> io::Result<()> {
    attach_types.into_iter().try_for_each(|ty| kernel::hook(bpf::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, ty))
}
