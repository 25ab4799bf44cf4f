//! `doctor` judges facts: every check in every state it can have, on machines nobody has at hand.

use std::path::PathBuf;

use beeline::inspect::doctor::{
    Bpffs, Cgroup, Facts, FeatureFact, Finding, Foreign, Memlock, No, Pins, State, examine, main_job_can_run,
};
use beeline::inspect::view::Hook;

const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// A node where all is well and the agent runs.
fn healthy() -> Facts {
    Facts {
        capabilities: Some(!0),
        bpf: Ok(()),
        btf: true,
        cgroup: Cgroup {
            root: Some(PathBuf::from("/sys/fs/cgroup")),
            refused: None,
            whole: true,
            net_classes: Vec::new(),
            both_in_socket: true,
        },
        bpffs: Bpffs { path: PathBuf::from("/sys/fs/bpf"), mounted: true, mounted_by_run: true, known: true },
        memlock: Memlock { charged: Some(false), limit: Some(8 << 20) },
        jit: Some(1),
        unprivileged_bpf_disabled: Some(2),
        sysctls: Vec::new(),
        features: vec![feature(true, Ok(())), feature(false, Ok(()))],
        foreign: Ok(Vec::new()),
        kube_proxy: Ok(Vec::new()),
        pins: Pins::Complete,
        hooks: vec![hook("bl_connect4", true), hook("bl_connect6", true)],
        agent: true,
    }
}

/// A machine where nothing is there and nothing is allowed.
fn nothing() -> Facts {
    let no = |errno, why: &str| No { errno, why: why.to_owned() };
    Facts {
        capabilities: Some(0),
        bpf: Err(no(libc::EPERM, "make a map: Operation not permitted")),
        btf: false,
        cgroup: Cgroup::default(),
        bpffs: Bpffs {
            path: PathBuf::from("/sys/fs/bpf"),
            mounted: false,
            mounted_by_run: true,
            known: false,
        },
        memlock: Memlock { charged: None, limit: Some(65536) },
        jit: None,
        unprivileged_bpf_disabled: None,
        sysctls: vec!["net.netfilter.nf_conntrack_max stays 1, wanted 2".to_owned()],
        features: vec![feature(true, Err(no(libc::EPERM, "not permitted")))],
        foreign: Err("not permitted".to_owned()),
        kube_proxy: Err("not permitted".to_owned()),
        pins: Pins::None,
        hooks: Vec::new(),
        agent: false,
    }
}

fn feature(needed: bool, found: Result<(), No>) -> FeatureFact {
    let name = if needed { "connect4" } else { "set-retval" };
    FeatureFact {
        name: name.to_owned(),
        found,
        needed,
        lose: "something".to_owned(),
        since: "Linux 5.18".to_owned(),
    }
}

fn hook(name: &str, attached: bool) -> Hook {
    Hook { name: name.to_owned(), attached }
}

/// The finding of one check on a healthy machine after `change`, and whether the main job can run.
fn judge(check: &str, change: impl FnOnce(&mut Facts)) -> (Finding, bool) {
    let mut facts = healthy();
    change(&mut facts);
    let findings = examine(&facts);
    let can = main_job_can_run(&findings);
    let finding = findings.into_iter().find(|f| f.check == check).expect("the check exists");
    (finding, can)
}

#[test]
fn a_healthy_node_has_nothing_to_say() {
    let findings = examine(&healthy());
    let bad: Vec<_> = findings.iter().filter(|f| f.state != State::Ok).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(main_job_can_run(&findings));
}

#[test]
fn whatever_is_not_ok_says_what_is_lost_and_what_to_do() {
    let mut machines = vec![nothing(), healthy()];
    let mut odd = healthy();
    odd.capabilities = Some(BPF | NET_ADMIN);
    odd.jit = Some(0);
    odd.unprivileged_bpf_disabled = Some(0);
    odd.cgroup.whole = false;
    odd.cgroup.both_in_socket = false;
    odd.cgroup.net_classes = vec!["net_cls".to_owned()];
    odd.pins = Pins::OtherLayout;
    odd.agent = false;
    machines.push(odd);
    for facts in machines {
        for finding in examine(&facts) {
            let silent = finding.lose.is_empty() || finding.next.is_empty();
            assert_eq!(silent, finding.state == State::Ok, "{finding:#?}");
        }
    }
}

#[test]
fn a_machine_where_nothing_is_possible_is_told_feature_by_feature() {
    let findings = examine(&nothing());
    assert!(!main_job_can_run(&findings));
    let state = |check: &str| findings.iter().find(|f| f.check == check).expect(check).state;
    for check in ["privileges", "btf", "cgroup2", "bpffs", "agent"] {
        assert_eq!(state(check), State::Missing, "{check}");
    }
    for check in ["bpf-syscall", "connect4", "foreign-programs", "kube-proxy"] {
        assert_eq!(state(check), State::Failed, "{check}");
    }
    for check in ["pins", "links", "net-cls"] {
        assert_eq!(state(check), State::Ok, "{check}");
    }
}

/// A change of a healthy machine: the check it is seen by, what it is, the state, and whether the main job still runs.
type Case = (&'static str, fn(&mut Facts), State, bool);

const CASES: &[Case] = &[
    // `run` refuses to start with less than both (root::container::the_agent_needs_each_of_its_capabilities).
    ("privileges", |f| f.capabilities = Some(BPF | PERFMON | NET_ADMIN), State::Missing, false),
    ("privileges", |f| f.capabilities = Some(SYS_ADMIN), State::Missing, false),
    ("privileges", |f| f.capabilities = Some(SYS_ADMIN | NET_ADMIN), State::Ok, true),
    ("privileges", |f| f.capabilities = None, State::Failed, true),
    ("bpf-syscall", |f| f.bpf = no(libc::ENOSYS), State::Missing, false),
    ("bpf-syscall", |f| f.bpf = no(libc::EPERM), State::Failed, false),
    ("bpf-syscall", |f| f.bpf = no(libc::ENOMEM), State::Failed, false),
    ("btf", |f| f.btf = false, State::Missing, false),
    ("cgroup2", |f| f.cgroup.root = None, State::Missing, false),
    ("cgroup2", |f| f.cgroup.whole = false, State::Narrowed, true),
    ("bpffs", |f| f.bpffs.mounted = false, State::Narrowed, true),
    ("bpffs", |f| (f.bpffs.mounted, f.bpffs.mounted_by_run) = (false, false), State::Missing, false),
    ("memlock", |f| f.memlock.charged = Some(true), State::Ok, true),
    ("jit", |f| f.jit = Some(0), State::Narrowed, true),
    ("jit", |f| f.jit = None, State::Ok, true),
    ("unprivileged-bpf", |f| f.unprivileged_bpf_disabled = Some(0), State::Narrowed, true),
    ("sysctls", |f| f.sysctls.push("nf_conntrack_max stays 1, wanted 2".to_owned()), State::Narrowed, true),
    ("connect4", |f| f.features[0].found = no(libc::EINVAL), State::Missing, false),
    ("connect4", |f| f.features[0].found = no(libc::EPERM), State::Failed, false),
    ("set-retval", |f| f.features[1].found = no(libc::EINVAL), State::Narrowed, true),
    ("kube-proxy", |f| f.kube_proxy = Ok(vec!["nft table kube-proxy".to_owned()]), State::Narrowed, true),
    ("pins", |f| f.pins = Pins::OtherLayout, State::Narrowed, true),
    ("pins", |f| f.pins = Pins::Denied("permission denied".to_owned()), State::Failed, true),
    ("pins", |f| f.pins = Pins::Unusable("bl_slots is missing".to_owned()), State::Failed, true),
    ("links", |f| f.hooks[1].attached = false, State::Failed, false),
    ("links", |f| f.hooks.clear(), State::Failed, true),
    ("agent", |f| f.agent = false, State::Narrowed, true),
];

fn no<T>(errno: i32) -> Result<T, No> {
    Err(No { errno, why: "the kernel said no".to_owned() })
}

#[test]
fn each_change_of_a_healthy_machine_is_seen_by_its_check() {
    for (at, (check, change, state, can_run)) in CASES.iter().enumerate() {
        let (finding, can) = judge(check, change);
        assert_eq!((finding.state, can), (*state, *can_run), "case {at}: {finding:#?}");
    }
}

/// Cleaning up ends what works, because of a user who may not look.
#[test]
fn who_may_not_read_the_tables_is_not_told_to_remove_them() {
    let (finding, _) = judge("pins", |f| f.pins = Pins::Denied("permission denied".to_owned()));
    assert_eq!(finding.next, "run as root");
}

#[test]
fn a_cgroup_root_that_is_none_is_named() {
    let (finding, can) = judge("cgroup2", |f| {
        (f.cgroup.root, f.cgroup.refused) = (None, Some(PathBuf::from("/nope")));
    });
    assert_eq!((finding.state, can), (State::Missing, false));
    assert!(finding.found.contains("/nope"), "{finding:?}");
}

#[test]
fn locked_memory_matters_only_where_maps_are_charged_to_it() {
    let old = |capabilities| {
        judge("memlock", |f| {
            f.capabilities = Some(capabilities);
            f.memlock = Memlock { charged: None, limit: Some(65536) };
        })
        .0
        .state
    };
    assert_eq!(old(SYS_ADMIN | NET_ADMIN), State::Narrowed);
    assert_eq!(old(SYS_ADMIN | NET_ADMIN | SYS_RESOURCE), State::Ok);
}

#[test]
fn net_cls_on_an_old_kernel_shuts_out_cgroups_below_the_root_only() {
    let old = |whole| {
        judge("net-cls", |f| {
            f.cgroup.both_in_socket = false;
            f.cgroup.net_classes = vec!["net_cls".to_owned()];
            f.cgroup.whole = whole;
        })
    };
    assert_eq!((old(true).0.state, old(true).1), (State::Ok, true));
    assert_eq!((old(false).0.state, old(false).1), (State::Failed, false));
}

#[test]
fn a_foreign_program_that_was_attached_alone_keeps_ours_out() {
    let foreign = |exclusive| {
        judge("foreign-programs", |f| {
            f.foreign = Ok(vec![Foreign {
                hook: "connect4".to_owned(),
                program: "other (id 7)".to_owned(),
                exclusive,
            }]);
        })
    };
    assert_eq!((foreign(true).0.state, foreign(true).1), (State::Failed, false));
    assert_eq!((foreign(false).0.state, foreign(false).1), (State::Narrowed, true));
    assert!(foreign(true).0.found.contains("other (id 7)"));
}

#[test]
fn every_check_has_a_paragraph_for_the_operator() {
    let text = include_str!("../../docs/troubleshooting.md");
    let checks = examine(&healthy()).into_iter().map(|f| f.check);
    let features = beeline::datapath::feature::FEATURES.iter().map(|f| f.name.to_owned());
    let ours = ["connect4", "set-retval"]; // the features `healthy` makes up
    for check in checks.filter(|check| !ours.contains(&check.as_str())).chain(features) {
        assert!(
            text.contains(&format!("\n### {check}\n")),
            "docs/troubleshooting.md says nothing of {check}"
        );
    }
}
