//! Asks the machine. Nothing is changed: what is made to try the kernel is gone when the answer is there.

use std::fs;
use std::io;
use std::path::Path;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Composite;

use super::facts::{Bpffs, Cgroup, Facts, FeatureFact, Foreign, Memlock, No, Pins};
use crate::datapath::load::SOCKET;
use crate::datapath::maps::{OpenError, Reader};
use crate::datapath::pins::Tree;
use crate::datapath::{attach, feature, kernel};
use crate::host::mount;
use crate::host::{caps, cgroup, kubeproxy, sysctl};
use crate::inspect::agent::read_state;
use crate::inspect::view;

impl Facts {
    /// Asks this machine, with the roots `run` would get.
    pub fn probe(bpf_root: &Path, cgroup_root: Option<&Path>) -> Facts {
        let tree = Tree::new(bpf_root);
        let cgroup = cgroup_facts(cgroup_root);
        let bpf = kernel::map(libbpf_sys::BPF_MAP_TYPE_ARRAY, [4, 4, 1], 0).map_err(|e| no("make a map", &e));
        let pins = pins(bpf_root);
        let attached = if matches!(pins, Pins::None | Pins::Denied(_) | Pins::Unusable(_)) {
            Vec::new()
        } else {
            attach::inspect(&tree, &SOCKET, None)
        };
        Facts {
            capabilities: caps::effective().ok(),
            btf: fs::File::open("/sys/kernel/btf/vmlinux").is_ok(),
            bpffs: Bpffs {
                path: bpf_root.to_owned(),
                mounted: mount::is_bpffs(bpf_root),
                mounted_by_run: bpf_root == Path::new(mount::BPFFS),
                known: knows_file_system("bpf"),
            },
            memlock: memlock(),
            bpf,
            jit: number("net.core.bpf_jit_enable"),
            unprivileged_bpf_disabled: number("kernel.unprivileged_bpf_disabled"),
            sysctls: sysctls(bpf_root),
            features: features(),
            foreign: foreign(&tree, cgroup.root.as_deref()),
            kube_proxy: kubeproxy::leftovers().map_err(|e| format!("{e:#}")),
            agent: view::agent_runs(&tree),
            hooks: view::hooks(&attached),
            cgroup,
            pins,
        }
    }
}

fn no(what: &str, error: &io::Error) -> No {
    No { errno: error.raw_os_error().unwrap_or(0), why: format!("{what}: {error}") }
}

/// The tree, and whether a socket has room for a v1 class and a cgroup2 at once.
fn cgroup_facts(given: Option<&Path>) -> Cgroup {
    let mounts = mount::mounts().unwrap_or_default();
    let asked = given.map(Path::to_owned).or_else(|| cgroup::root().ok());
    let root = asked.filter(|root| is_cgroup2(root));
    let refused = given.filter(|_| root.is_none()).map(Path::to_owned);
    let whole = root.as_deref().is_some_and(is_whole);
    let net_classes: Vec<String> = ["net_cls", "net_prio"]
        .into_iter()
        .filter(|class| {
            mounts.iter().any(|m| m.fstype == "cgroup" && m.super_options.split(',').any(|o| o == *class))
        })
        .map(str::to_owned)
        .collect();
    let both_in_socket = net_classes.is_empty() || socket_has_cgroup_pointer();
    Cgroup { root, refused, whole, net_classes, both_in_socket }
}

fn is_cgroup2(path: &Path) -> bool {
    use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The root of the whole tree has none of the files that only a cgroup below it has. The path a mount shows
/// says nothing: a cgroup namespace sees its own root as `/`, and the machine's root as `/..`.
fn is_whole(root: &Path) -> bool {
    !root.join("cgroup.type").exists()
}

/// Since 5.15 (8520e224f547) `struct sock_cgroup_data` has a member `cgroup` beside the v1 classes.
fn socket_has_cgroup_pointer() -> bool {
    let Ok(btf) = Btf::from_vmlinux() else { return false };
    btf.type_by_name::<Composite<'_>>("sock_cgroup_data")
        .is_some_and(|data| data.iter().any(|member| member.name.is_some_and(|name| name == "cgroup")))
}

/// Whether the kernel lists a file system; without a list there is no reason to doubt it.
fn knows_file_system(name: &str) -> bool {
    fs::read_to_string("/proc/filesystems")
        .map_or(true, |text| text.lines().any(|line| line.split_whitespace().last() == Some(name)))
}

/// RLIMIT_MEMLOCK, and whether this kernel looks at it.
fn memlock() -> Memlock {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory")).unwrap_or_default();
    // The soft limit in bytes, or `unlimited`.
    let limit = line.split_whitespace().next().and_then(|soft| soft.parse().ok());
    Memlock { charged: kernel::charges_memlock().ok(), limit }
}

fn number(key: &str) -> Option<u32> {
    sysctl::read(key).ok()?.parse().ok()
}

/// What the agent that runs here could not set.
fn sysctls(bpf_root: &Path) -> Vec<String> {
    let state = read_state(bpf_root).unwrap_or_default();
    state.sysctls.into_iter().map(|setting| format!("{} {}", setting.what, setting.error)).collect()
}

/// The registry of the data path, asked one by one.
fn features() -> Vec<FeatureFact> {
    let fact = |(feature, found): (&feature::Feature, io::Result<()>)| FeatureFact {
        name: feature.name.to_owned(),
        found: found.map_err(|e| no("the kernel said", &e)),
        needed: feature.needed,
        lose: feature.lose.to_owned(),
        since: feature.since.to_owned(),
    };
    feature::survey().into_iter().map(fact).collect()
}

fn foreign(tree: &Tree, cgroup: Option<&Path>) -> Result<Vec<Foreign>, String> {
    let cgroup = cgroup.ok_or("there is no cgroup2 to look at")?;
    let all = attach::foreign(tree, cgroup).map_err(|e| format!("{e:#}"))?;
    let foreign = |f: attach::Foreign| Foreign {
        hook: f.hook.to_owned(),
        program: format!("{} at {}", f.program, f.cgroup.display()),
        exclusive: f.exclusive,
    };
    Ok(all.into_iter().map(foreign).collect())
}

fn pins(bpf_root: &Path) -> Pins {
    match Reader::open(bpf_root) {
        Ok(_) => Pins::Complete,
        Err(OpenError::Absent { .. }) => Pins::None,
        Err(OpenError::OtherLayout { .. }) => Pins::OtherLayout,
        Err(denied @ OpenError::Denied { .. }) => Pins::Denied(denied.to_string()),
        Err(other) => Pins::Unusable(other.to_string()),
    }
}
