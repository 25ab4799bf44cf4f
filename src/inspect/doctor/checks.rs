//! The checks: facts to findings, pure.

use super::{Facts, FeatureFact, Finding, MAIN_JOB, Pins, State};
use crate::host::caps;

fn has(facts: &Facts, capability: u64) -> bool {
    facts.capabilities.is_some_and(|all| all & capability != 0)
}

/// What `beeline run` asks for before it touches anything.
pub(super) fn privileges(facts: &Facts) -> Finding {
    const CHECK: &str = "privileges";
    let Some(held) = facts.capabilities else {
        return Finding::bad(CHECK, State::Failed, "/proc/self/status cannot be read")
            .lose("nothing is known of this process's capabilities")
            .next("mount /proc");
    };
    let missing = caps::missing(held);
    if missing.is_empty() {
        return Finding::ok(CHECK, caps::NEEDED.map(|(name, _)| name).join(", ")).needed();
    }
    Finding::bad(CHECK, State::Missing, format!("no {}", missing.join(", ")))
        .lose(format!("{MAIN_JOB}, and pinned tables may not be read"))
        .next("run as root, or give CAP_SYS_ADMIN and CAP_NET_ADMIN (a container: `privileged`, or these two in `capabilities.add`)")
        .needed()
}

/// Whether bpf(2) can be called at all.
pub(super) fn bpf_syscall(facts: &Facts) -> Finding {
    const CHECK: &str = "bpf-syscall";
    let no = match &facts.bpf {
        Ok(()) => return Finding::ok(CHECK, "a map can be made").needed(),
        Err(no) => no,
    };
    let (state, next) = match no.errno {
        libc::ENOSYS => (
            State::Missing,
            "use a kernel with CONFIG_BPF_SYSCALL=y, or a seccomp profile that allows bpf(2)",
        ),
        libc::EPERM | libc::EACCES => (
            State::Failed,
            "run as root in the machine's first user namespace; if that is so, look for a seccomp profile or `lockdown` (cat /sys/kernel/security/lockdown)",
        ),
        libc::ENOMEM => (State::Failed, "raise RLIMIT_MEMLOCK (ulimit -l unlimited), or free memory"),
        _ => (State::Failed, "read the error; it is the kernel's"),
    };
    Finding::bad(CHECK, state, &no.why).lose(MAIN_JOB).next(next).needed()
}

/// The kernel's own types, by which programs are fitted to it.
pub(super) fn btf(facts: &Facts) -> Finding {
    const CHECK: &str = "btf";
    const FILE: &str = "/sys/kernel/btf/vmlinux";
    if facts.btf {
        return Finding::ok(CHECK, FILE).needed();
    }
    Finding::bad(CHECK, State::Missing, format!("{FILE} cannot be read"))
        .lose(format!("{MAIN_JOB}: programs cannot be fitted to the kernel's types"))
        .next("mount sysfs at /sys; if it is mounted, use a kernel with CONFIG_DEBUG_INFO_BTF=y")
        .needed()
}

/// The tree programs are attached to.
pub(super) fn cgroup2(facts: &Facts) -> Finding {
    const CHECK: &str = "cgroup2";
    let Some(root) = &facts.cgroup.root else {
        let found = match &facts.cgroup.refused {
            Some(given) => format!("{} is no folder of a cgroup2", given.display()),
            None => "no cgroup2 is mounted".to_owned(),
        };
        return Finding::bad(CHECK, State::Missing, found)
            .lose(MAIN_JOB)
            .next("mount -t cgroup2 none /sys/fs/cgroup/unified, or name one with --cgroup-root")
            .needed();
    };
    if facts.cgroup.whole {
        return Finding::ok(CHECK, root.display().to_string()).needed();
    }
    Finding::bad(CHECK, State::Narrowed, format!("{} is a part of the tree", root.display()))
        .lose("sockets of processes outside it are not served")
        .next("show the host's whole tree: mount the host's /sys/fs/cgroup into the container, or leave out --cgroup-root")
        .needed()
}

/// net_cls and net_prio on kernels where a socket has room for one of them or a cgroup2, not both.
pub(super) fn net_classes(facts: &Facts) -> Finding {
    const CHECK: &str = "net-cls";
    let cgroup = &facts.cgroup;
    if cgroup.net_classes.is_empty() || cgroup.both_in_socket {
        let found = if cgroup.net_classes.is_empty() {
            "not mounted"
        } else {
            "mounted, and a socket has room for both"
        };
        return Finding::ok(CHECK, found);
    }
    let found =
        format!("{} mounted, and a socket has room for that or its cgroup2", cgroup.net_classes.join(", "));
    if cgroup.whole {
        return Finding::ok(CHECK, format!("{found}; the root serves them all the same"));
    }
    Finding::bad(CHECK, State::Failed, found)
        .lose("programs at a cgroup below the root never run")
        .next("attach at the root (leave out --cgroup-root), boot with cgroup_no_v1=net_cls,net_prio, or use Linux 5.15")
        .needed()
}

/// Where the pins go.
pub(super) fn bpffs(facts: &Facts) -> Finding {
    const CHECK: &str = "bpffs";
    let bpffs = &facts.bpffs;
    let path = bpffs.path.display();
    if bpffs.mounted {
        return Finding::ok(CHECK, path.to_string()).needed();
    }
    let mount = format!("mount -t bpf bpf {path}");
    if bpffs.known && bpffs.mounted_by_run && has(facts, caps::SYS_ADMIN) {
        return Finding::bad(CHECK, State::Narrowed, format!("none at {path}"))
            .lose("nothing while the mount that `beeline run` makes stays; in a container it goes with the container")
            .next(format!("{mount} on the host, at each boot"))
            .needed();
    }
    let next = if bpffs.known { mount } else { "use a kernel with CONFIG_BPF_SYSCALL=y".to_owned() };
    Finding::bad(CHECK, State::Missing, format!("none at {path}"))
        .lose(format!("{MAIN_JOB}: tables have nowhere to live"))
        .next(format!("{next}; or name another with --bpf-root"))
        .needed()
}

/// Locked memory on kernels that charge maps to it.
pub(super) fn memlock(facts: &Facts) -> Finding {
    const CHECK: &str = "memlock";
    let limit = match (facts.memlock.charged, facts.memlock.limit) {
        (Some(false), _) => return Finding::ok(CHECK, "maps are charged to the memory cgroup"),
        (_, None) => return Finding::ok(CHECK, "no limit"),
        (_, Some(limit)) => limit,
    };
    if has(facts, caps::SYS_RESOURCE) {
        return Finding::ok(CHECK, format!("{limit} bytes, which the agent may raise"));
    }
    Finding::bad(
        CHECK,
        State::Narrowed,
        format!("{limit} bytes, and maps may be charged to it (before Linux 5.11)"),
    )
    .lose("large tables may be refused with EPERM")
    .next("ulimit -l unlimited, LimitMEMLOCK=infinity in the unit, or CAP_SYS_RESOURCE")
}

/// Whether programs are compiled.
pub(super) fn jit(facts: &Facts) -> Finding {
    const CHECK: &str = "jit";
    match facts.jit {
        Some(0) => Finding::bad(CHECK, State::Narrowed, "net.core.bpf_jit_enable is 0")
            .lose("speed: programs are interpreted, each connect() takes microseconds more")
            .next("sysctl -w net.core.bpf_jit_enable=1"),
        Some(value) => Finding::ok(CHECK, format!("net.core.bpf_jit_enable is {value}")),
        None => Finding::ok(CHECK, "not to be seen from this network namespace"),
    }
}

/// Whether any user may load programs: nothing of ours, but an operator wants to know.
pub(super) fn unprivileged_bpf(facts: &Facts) -> Finding {
    const CHECK: &str = "unprivileged-bpf";
    match facts.unprivileged_bpf_disabled {
        Some(0) => Finding::bad(CHECK, State::Narrowed, "kernel.unprivileged_bpf_disabled is 0")
            .lose("nothing of Beeline; but any user of this machine may load BPF programs")
            .next("sysctl -w kernel.unprivileged_bpf_disabled=2"),
        Some(value) => Finding::ok(CHECK, format!("kernel.unprivileged_bpf_disabled is {value}")),
        None => Finding::ok(CHECK, "not to be seen from here"),
    }
}

/// What the configuration asks of conntrack and the agent could not set (DEC-7).
pub(super) fn sysctls(facts: &Facts) -> Finding {
    const CHECK: &str = "sysctls";
    if facts.sysctls.is_empty() {
        return Finding::ok(CHECK, "nothing that was asked for is missing");
    }
    Finding::bad(CHECK, State::Narrowed, facts.sysctls.join("; "))
        .lose("conntrack keeps its own limits and timeouts: a full table drops connections of others; nothing of Beeline's sockets")
        .next("run `beeline run --init-only` with the same --config, privileged and in the machine's first network namespace, or set them by sysctl; 0 in the configuration leaves them")
}

/// One thing of the kernel that Beeline would use.
pub(super) fn feature(fact: &FeatureFact) -> Finding {
    let no = match &fact.found {
        Ok(()) => {
            return Finding { needed: fact.needed, ..Finding::ok(&fact.name, "the kernel has it") };
        }
        Err(no) => no,
    };
    let asked = !matches!(no.errno, libc::EPERM | libc::EACCES | libc::ENOSYS);
    let finding = match (asked, fact.needed) {
        (false, _) => Finding::bad(&fact.name, State::Failed, format!("could not ask: {}", no.why))
            .next("repair `privileges` and `bpf-syscall` first"),
        (true, true) => Finding::bad(&fact.name, State::Missing, &no.why).next(kernel_that_has(fact)),
        (true, false) => Finding::bad(&fact.name, State::Narrowed, &no.why).next(kernel_that_has(fact)),
    };
    Finding { needed: fact.needed, ..finding.lose(&fact.lose) }
}

fn kernel_that_has(fact: &FeatureFact) -> String {
    if fact.since.is_empty() {
        "use a newer kernel".to_owned()
    } else {
        format!("use a kernel that has it: {}", fact.since)
    }
}

/// Programs of others at the places ours go to.
pub(super) fn foreign_programs(facts: &Facts) -> Finding {
    const CHECK: &str = "foreign-programs";
    let all = match &facts.foreign {
        Ok(all) if all.is_empty() => return Finding::ok(CHECK, "none at our hooks"),
        Ok(all) => all,
        Err(why) => {
            return Finding::bad(CHECK, State::Failed, format!("could not look: {why}"))
                .lose("a program that shuts ours out, or translates first, goes unseen")
                .next("run as root");
        }
    };
    let list = |exclusive: bool| {
        let some: Vec<String> = all
            .iter()
            .filter(|f| f.exclusive == exclusive)
            .map(|f| format!("{} ({})", f.program, f.hook))
            .collect();
        some.join(", ")
    };
    if all.iter().any(|f| f.exclusive) {
        return Finding::bad(CHECK, State::Failed, format!("attached alone: {}", list(true)))
            .lose(format!("{MAIN_JOB}: the kernel refuses to attach ours beside them (EPERM)"))
            .next("detach them (`bpftool cgroup detach`), or have them attached with the flag `multi`")
            .needed();
    }
    Finding::bad(CHECK, State::Narrowed, list(false))
        .lose("the first program that translates wins, and any refusal wins: they may answer instead of Beeline")
        .next("see whose they are (`bpftool cgroup show`, `bpftool prog show`); one Service proxy per node")
}

/// What kube-proxy left behind.
pub(super) fn kube_proxy(facts: &Facts) -> Finding {
    const CHECK: &str = "kube-proxy";
    match &facts.kube_proxy {
        Ok(left) if left.is_empty() => Finding::ok(CHECK, "no rules of kube-proxy"),
        Ok(left) => Finding::bad(CHECK, State::Narrowed, left.join(", "))
            .lose("nothing on the socket path; what it leaves alone follows these rules, which nobody updates if kube-proxy is gone")
            .next("if kube-proxy is not meant to run here any more: `kube-proxy --cleanup`, or reboot"),
        Err(why) => Finding::bad(CHECK, State::Failed, format!("could not look: {why}"))
            .lose("rules that kube-proxy left go unseen")
            .next("run as root"),
    }
}

/// Our tables.
pub(super) fn pins(facts: &Facts) -> Finding {
    const CHECK: &str = "pins";
    match &facts.pins {
        Pins::None => Finding::ok(CHECK, "none: Beeline has not run here"),
        Pins::Complete => Finding::ok(CHECK, "the tables are there"),
        Pins::OtherLayout => Finding::bad(CHECK, State::Narrowed, "the tables are those of another version")
            .lose("this binary cannot show them; traffic follows them all the same")
            .next("use the binary that the agent runs, or upgrade the agent: `beeline run`"),
        Pins::Denied(why) => Finding::bad(CHECK, State::Failed, why)
            .lose("status, services, dump and explain have nothing to read; traffic follows the tables all the same")
            .next("run as root"),
        Pins::Unusable(why) => Finding::bad(CHECK, State::Failed, why)
            .lose("status, services, dump and explain have nothing to read")
            .next("restart the agent, which repairs what is missing; or `beeline cleanup` and then `beeline run`"),
    }
}

/// Our programs, if tables are there.
pub(super) fn links(facts: &Facts) -> Finding {
    const CHECK: &str = "links";
    if facts.pins == Pins::None {
        return Finding::ok(CHECK, "none: Beeline has not run here");
    }
    let dead: Vec<&str> = facts.hooks.iter().filter(|h| !h.attached).map(|h| h.name.as_str()).collect();
    if facts.hooks.is_empty() {
        return Finding::bad(CHECK, State::Failed, "could not look")
            .lose("it is not known whether programs are attached")
            .next("repair `privileges` and `pins` first");
    }
    if dead.is_empty() {
        return Finding::ok(CHECK, format!("{} programs attached", facts.hooks.len())).needed();
    }
    Finding::bad(CHECK, State::Failed, format!("not attached: {}", dead.join(", ")))
        .lose(format!("{MAIN_JOB} where these are missing"))
        .next("restart the agent: `beeline run` attaches them again")
        .needed()
}

/// Who keeps the tables true.
pub(super) fn agent(facts: &Facts) -> Finding {
    const CHECK: &str = "agent";
    match (facts.agent, &facts.pins) {
        (true, _) => Finding::ok(CHECK, "it runs"),
        (false, Pins::None) => Finding::bad(CHECK, State::Missing, "it does not run and has not run here")
            .lose("no Service is served yet")
            .next("beeline run --manifests DIR"),
        (false, _) => Finding::bad(CHECK, State::Narrowed, "it does not run")
            .lose("changes of Services are not followed; traffic goes on by the tables as they are")
            .next("beeline run, or read the last lines of its log"),
    }
}
