//! The life of the pins: adoption, growth, locks, repair, cleanup.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use beeline::datapath::maps::{OpenError, Reader};
use beeline::datapath::pins::{Side, Tree};
use beeline::datapath::{Datapath, Options, SMALLEST, attach, feature, kernel, load, remove};
use beeline::plan::table::*;

use super::datapath::{STATE, VIP, every_op, service};
use super::datapath_rig::{Dialler, Exclusive, Grower, Rig, Server, bpftool, learn_in};

fn tables_dir(rig: &Rig, side: Side) -> std::path::PathBuf {
    Tree::new(&rig.bpf_root()).dir(load::group_of("bl_frontends").unwrap(), side)
}

#[test]
fn nothing_is_attached_or_in_place_before_it_is_published() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    assert!(!datapath.is_published());
    assert!(matches!(Reader::open(&rig.bpf_root()), Err(OpenError::Absent { .. })));
    datapath.apply_all(&every_op());
    datapath.publish().unwrap();
    let rows = Reader::open(&rig.bpf_root()).unwrap().rows().unwrap();
    assert_eq!(rows, datapath.reader().unwrap().rows().unwrap());
    assert!(rows.settings.synced);
}

#[test]
fn what_was_never_published_is_gone_with_its_agent() {
    let rig = Rig::new();
    drop(rig.open());
    assert_eq!(rig.pins(), ["beeline"]);
}

#[test]
fn a_second_start_adopts_the_tables_and_takes_over_the_links() {
    let rig = Rig::new();
    let server = Server::start();
    let mut first = rig.open();
    first.apply_all(&service(&[server.addr]));
    first.publish().unwrap();
    let before = first.reader().unwrap().rows().unwrap();
    drop(first);
    let dialler = Dialler::start(&rig, VIP);
    for _ in 0..5 {
        let mut again = rig.open();
        assert!(!again.is_fresh());
        assert_eq!(again.reader().unwrap().rows().unwrap(), before);
        again.publish().unwrap();
    }
    let (count, errors) = dialler.stop();
    assert_eq!(errors, "");
    assert!(count > 10);
}

#[test]
fn pins_are_for_root_and_its_group() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    datapath.publish().unwrap();
    for pin in rig.pins() {
        let mode = fs::metadata(rig.bpf_root().join(&pin)).unwrap().permissions();
        let expected = if pin.contains("/bl_") { 0o640 } else { 0o750 };
        assert_eq!(mode.mode() & 0o777, expected, "{pin}");
    }
}

#[test]
fn a_second_agent_is_told_who_holds_the_lock() {
    let rig = Rig::new();
    let _first = rig.open();
    let refused = format!("{:#}", Datapath::open(&rig.options()).unwrap_err());
    assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
    let refused = format!("{:#}", remove::remove_all(&rig.bpf_root()).unwrap_err());
    assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
}

#[test]
fn growth_keeps_every_row_and_no_connection_fails() {
    let rig = Rig::new();
    let server = Server::start();
    let mut datapath = rig.open();
    datapath.apply_all(&every_op());
    datapath.apply_all(&service(&[server.addr]));
    datapath.publish().unwrap();
    let dialler = Dialler::start(&rig, VIP);
    let before = datapath.reader().unwrap().rows().unwrap();
    let mut limits = SMALLEST;
    for _ in 0..3 {
        limits = Limits {
            frontends: limits.frontends * 2,
            services: limits.services * 2,
            slots: limits.slots * 2,
            backends: limits.backends * 2,
            names: limits.names * 2,
        };
        datapath.grow(limits).unwrap();
        assert_eq!(datapath.limits(), limits);
        assert_eq!(Reader::open(&rig.bpf_root()).unwrap().rows().unwrap(), before);
    }
    // What is written after growth is what the programs read.
    let other = Server::start();
    datapath.apply_all(&service(&[other.addr]));
    let last = SMALLEST.backends * 8 - 1;
    let row = BackendRow { addr: VIP.ip(), port: 1, service: ServiceId(3), state: STATE };
    assert_eq!(datapath.apply(&Op::Backend(BackendId(last), row)), Ok(()));
    std::thread::sleep(Duration::from_millis(20));
    let (count, errors) = dialler.stop();
    assert_eq!(errors, "");
    let reader = Reader::open(&rig.bpf_root()).unwrap();
    assert_eq!(reader.stats_of(ServiceId(3)).connections, count, "no count was lost");
    assert!(
        rig.pins().iter().all(|pin| !pin.contains("-grown") && !pin.contains("-old")),
        "{:?}",
        rig.pins()
    );
}

#[test]
fn tables_grow_before_they_are_published() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    datapath.apply_all(&every_op());
    let before = datapath.reader().unwrap().rows().unwrap();
    datapath.grow(Limits { backends: SMALLEST.backends * 4, ..SMALLEST }).unwrap();
    assert_eq!(datapath.reader().unwrap().rows().unwrap(), before);
    datapath.publish().unwrap();
    assert_eq!(Reader::open(&rig.bpf_root()).unwrap().rows().unwrap(), before);
}

#[test]
fn a_start_after_a_kill_finds_the_live_tables() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    datapath.apply_all(&every_op());
    datapath.publish().unwrap();
    let before = datapath.reader().unwrap().rows().unwrap();
    drop(datapath);
    let (place, grown) = (tables_dir(&rig, Side::Place), tables_dir(&rig, Side::Grown));
    // Killed after the links went over, before the folder was put in place.
    fs::rename(&place, &grown).unwrap();
    let again = rig.open();
    assert!(!again.is_fresh());
    assert_eq!(again.reader().unwrap().rows().unwrap(), before);
    drop(again);
    // Killed while new tables were being filled beside the live ones.
    fs::create_dir(tables_dir(&rig, Side::New)).unwrap();
    fs::create_dir(tables_dir(&rig, Side::Old)).unwrap();
    let again = rig.open();
    assert_eq!(again.reader().unwrap().rows().unwrap(), before);
    assert!(!tables_dir(&rig, Side::New).exists() && !tables_dir(&rig, Side::Old).exists());
    assert!(place.exists());
}

#[test]
fn an_agent_killed_at_any_moment_leaves_tables_that_serve_and_are_adopted() {
    let rig = Rig::new();
    let server = Server::start();
    let mut datapath = rig.open();
    datapath.apply_all(&every_op());
    datapath.apply_all(&service(&[server.addr]));
    datapath.publish().unwrap();
    let before = datapath.reader().unwrap().rows().unwrap();
    drop(datapath);
    let dialler = Dialler::start(&rig, VIP);
    for round in 0..12 {
        let grower = Grower::start(&rig);
        std::thread::sleep(Duration::from_millis(7 * round));
        grower.kill();
        let mut again = rig.open();
        assert!(!again.is_fresh(), "round {round}: {:?}", rig.pins());
        assert_eq!(again.reader().unwrap().rows().unwrap(), before, "round {round}");
        again.publish().unwrap();
        assert!(again.is_published());
        let left = rig.pins().into_iter().find(|pin| pin.contains("-new") || pin.contains("-grown"));
        assert_eq!(left, None, "round {round}");
    }
    let (_, errors) = dialler.stop();
    assert_eq!(errors, "");
}

#[test]
fn a_rejected_unit_says_what_the_kernel_said_and_leaves_nothing_half_made() {
    let rig = Rig::new();
    // A map without rows is something every kernel refuses.
    let limits = Limits { slots: 0, ..SMALLEST };
    let refused = format!("{:#}", Datapath::open(&Options { limits, ..rig.options() }).unwrap_err());
    let log = Tree::new(&rig.bpf_root()).log("socket");
    for part in ["unit socket (feature socket_lb)", "bl_slots", &log.display().to_string()] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert!(fs::read_to_string(&log).unwrap().contains("bl_slots"));
    assert_eq!(rig.pins(), ["beeline"]);
    // The next start is none the worse, and cleanup takes the log along.
    rig.open().publish().unwrap();
    assert!(remove::remove_all(&rig.bpf_root()).unwrap().paths.contains(&log));
    assert!(!log.exists());
}

#[test]
fn tables_of_another_layout_stay_live_until_the_new_ones_are_published() {
    let rig = Rig::new();
    let server = Server::start();
    let mut old = rig.open();
    old.apply_all(&service(&[server.addr]));
    old.publish().unwrap();
    drop(old);
    let stranger = rig.bpf_root().join("beeline/tables-0123456789abcdef");
    fs::rename(tables_dir(&rig, Side::Place), &stranger).unwrap();
    let refused = Reader::open(&rig.bpf_root()).unwrap_err();
    assert!(
        matches!(&refused, OpenError::OtherLayout { found, .. } if found.contains("0123456789abcdef")),
        "{refused}"
    );
    let dialler = Dialler::start(&rig, VIP);
    let mut new = rig.open();
    assert!(new.is_fresh() && stranger.exists());
    new.apply_all(&service(&[server.addr]));
    new.publish().unwrap();
    assert!(!stranger.exists());
    std::thread::sleep(Duration::from_millis(20));
    let (_, errors) = dialler.stop();
    assert_eq!(errors, "");
}

#[test]
fn a_link_that_went_away_is_seen_and_published_again() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    datapath.publish().unwrap();
    fs::remove_file(rig.bpf_root().join("beeline/links/bl_connect6")).unwrap();
    let missing: Vec<String> = datapath
        .attachments()
        .into_iter()
        .filter(|one| one.problem.is_some() && one.loaded_tag.is_none())
        .map(|one| one.name)
        .collect();
    assert_eq!(missing, ["bl_connect6"]);
    datapath.publish().unwrap();
    assert!(datapath.is_published());
    let shipped = load::shipped_tags(&load::SOCKET, load::Knobs::probe()).unwrap();
    let loaded = datapath.attachments().into_iter().map(|one| one.loaded_tag.unwrap());
    assert!(shipped.into_iter().map(|(_, tag)| tag).eq(loaded));
}

#[test]
fn cleanup_leaves_nothing_and_then_finds_nothing() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    datapath.publish().unwrap();
    drop(datapath);
    assert_eq!(attach::foreign(&Tree::new(&rig.bpf_root()), &rig.cgroup).unwrap(), []);
    let other = Tree::new(&rig.bpf_root().join("elsewhere"));
    let seen = attach::foreign(&other, &rig.cgroup).unwrap();
    assert_eq!(seen.len(), 9);
    assert!(seen.iter().all(|one| one.is_beeline() && !one.exclusive));
    let removed = remove::remove_all(&rig.bpf_root()).unwrap();
    assert_eq!(removed.programs.len(), 9);
    // What was dialled must be undone for as long as something is dialled.
    assert!(removed.programs[0].starts_with("bl_connect"), "{:?}", removed.programs);
    assert_eq!(rig.pins(), [""; 0]);
    assert_eq!(attach::foreign(&other, &rig.cgroup).unwrap(), []);
    assert!(remove::remove_all(&rig.bpf_root()).unwrap().is_empty());
}

/// Every program at a cgroup, by hook and id.
fn attached(rig: &Rig, cgroup: &Path) -> Vec<attach::Foreign> {
    attach::foreign(&Tree::new(&rig.bpf_root().join("elsewhere")), cgroup).unwrap()
}

#[test]
fn a_program_that_shuts_others_out_is_named() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    let exclusive = Exclusive::attach(&datapath, &rig.bpf_root(), &rig.cgroup, "connect4");
    let refused = format!("{:#}", datapath.publish().unwrap_err());
    assert!(refused.contains("attach bl_connect4 to cgroup"), "{refused}");
    assert!(refused.contains("(bl_connect4) is attached at"), "{refused}");
    assert_eq!(fs::read_dir(rig.bpf_root().join("beeline/links")).unwrap().count(), 0, "all or nothing");
    exclusive.detach();
    datapath.publish().unwrap();
}

#[test]
fn fresh_tables_that_one_hook_refuses_leave_every_link_on_the_live_ones() {
    let rig = Rig::new();
    let server = Server::start();
    let mut old = rig.open();
    old.apply_all(&service(&[server.addr]));
    old.publish().unwrap();
    drop(old);
    let stranger = rig.bpf_root().join("beeline/tables-0123456789abcdef");
    fs::rename(tables_dir(&rig, Side::Place), &stranger).unwrap();
    let dialler = Dialler::start(&rig, VIP);
    let mut new = rig.open();
    assert!(new.is_fresh());
    // As an agent does: the hooks before the one that refuses are served from these for a moment.
    new.apply_all(&service(&[server.addr]));
    // One link in the middle is to be made anew; the last one cannot be.
    let link = |name: &str| rig.bpf_root().join("beeline/links").join(name);
    for name in ["bl_getpeername6", "bl_connect6"] {
        bpftool(&["link", "detach", "pinned", &link(name).display().to_string()]);
    }
    fs::remove_file(link("bl_connect6")).unwrap();
    let exclusive = Exclusive::attach(&new, &rig.bpf_root(), &rig.cgroup, "connect6");
    let before = (attached(&rig, &rig.cgroup), rig.pins());
    assert_eq!(before.0.len(), 8);
    let refused = format!("{:#}", new.publish().unwrap_err());
    assert!(refused.contains("attach bl_connect6 to cgroup"), "{refused}");
    assert_eq!((attached(&rig, &rig.cgroup), rig.pins()), before);
    drop(new);
    let (_, errors) = dialler.stop();
    assert_eq!(errors, "");
    // The live tables are whole, and the next start has them.
    exclusive.detach();
    fs::rename(&stranger, tables_dir(&rig, Side::Place)).unwrap();
    let mut again = rig.open();
    assert!(!again.is_fresh());
    again.publish().unwrap();
    assert!(again.is_published());
}

#[test]
fn tables_that_are_live_but_not_yet_in_place_stay_and_are_adopted() {
    let rig = Rig::new();
    let mut datapath = rig.open();
    datapath.apply_all(&every_op());
    let before = datapath.reader().unwrap().rows().unwrap();
    // No folder can be renamed over a symbolic link.
    std::os::unix::fs::symlink("nowhere", tables_dir(&rig, Side::Place)).unwrap();
    let refused = format!("{:#}", datapath.publish().unwrap_err());
    assert!(refused.contains("-new in the place of"), "{refused}");
    assert_eq!(attached(&rig, &rig.cgroup).len(), 9);
    drop(datapath);
    fs::remove_file(tables_dir(&rig, Side::Place)).unwrap();
    let again = rig.open();
    assert!(!again.is_fresh());
    assert_eq!(again.reader().unwrap().rows().unwrap(), before);
}

#[test]
fn a_move_to_another_cgroup_that_one_hook_refuses_leaves_the_first_one_served() {
    let (rig, other) = (Rig::new(), Rig::new());
    let server = Server::start();
    let mut first = rig.open();
    first.apply_all(&service(&[server.addr]));
    first.publish().unwrap();
    drop(first);
    let dialler = Dialler::start(&rig, VIP);
    let mut moved = Datapath::open(&Options { cgroup_root: other.cgroup.clone(), ..rig.options() }).unwrap();
    let exclusive = Exclusive::attach(&moved, &rig.bpf_root(), &other.cgroup, "connect4");
    let before = (attached(&rig, &rig.cgroup), attached(&rig, &other.cgroup), rig.pins());
    assert_eq!((before.0.len(), before.1.len()), (9, 1));
    let refused = format!("{:#}", moved.publish().unwrap_err());
    assert!(refused.contains("attach bl_connect4 to cgroup"), "{refused}");
    assert_eq!((attached(&rig, &rig.cgroup), attached(&rig, &other.cgroup), rig.pins()), before);
    let (_, errors) = dialler.stop();
    assert_eq!(errors, "");
    exclusive.detach();
    moved.publish().unwrap();
    assert!(moved.is_published());
    assert_eq!((attached(&rig, &rig.cgroup).len(), attached(&rig, &other.cgroup).len()), (0, 9));
    assert_eq!(rig.pins(), before.2);
}

#[test]
fn a_root_that_is_no_bpffs_is_refused_with_the_command_to_run() {
    let rig = Rig::new();
    let dir = tempfile::tempdir().unwrap();
    let mut options = rig.options();
    options.bpf_root = dir.path().to_owned();
    let refused = format!("{:#}", Datapath::open(&options).unwrap_err());
    assert!(refused.contains("mount -t bpf bpf"), "{refused}");
    options.cgroup_root = dir.path().to_owned();
    let refused = format!("{:#}", Datapath::open(&options).unwrap_err());
    assert!(refused.contains("is not a cgroup v2"), "{refused}");
}

#[test]
fn the_kernel_has_what_is_needed() {
    for (feature, found) in feature::survey() {
        assert!(found.is_ok() || !feature.needed, "{}: {found:?}", feature.name);
    }
    // Either answer is one; the kernels before 5.11 say yes.
    kernel::charges_memlock().unwrap();
}

#[test]
fn the_namespace_is_learnt_by_the_program_as_by_the_socket_option() {
    let rig = Rig::new();
    let learnt = learn_in(&rig);
    assert_eq!(learn_in(&rig), learnt);
    // Before 5.14 there is no other way to know.
    assert_eq!(beeline::host::netns::cookie().unwrap().unwrap_or(learnt), learnt);
}
