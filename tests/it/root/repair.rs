//! What others remove or change is noticed and put back (SYNC-6).

use std::fs;
use std::time::Duration;

use beeline::datapath::maps::Reader;
use beeline::datapath::pins::{Side, Tree};
use beeline::datapath::{load, remove};
use beeline::inspect::agent::read_state;
use beeline::plan::table::*;

use super::agent::{Agent, dump, until_within, write};
use super::datapath::{VIP, service};
use super::datapath_rig::{Dialler, Rig, Server, bpftool};

#[test]
fn pins_and_links_that_were_removed_are_put_back() {
    let (rig, server) = (Rig::new(), Server::start());
    let mut datapath = rig.open();
    datapath.apply_all(&service(&[server.addr]));
    datapath.publish().unwrap();
    assert_eq!(datapath.repair().unwrap(), [""; 0], "all is well");
    let whole = rig.pins();
    let tree = Tree::new(&rig.bpf_root());

    fs::remove_file(tree.links().join("bl_connect4")).unwrap();
    let repaired = datapath.repair().unwrap();
    assert_eq!(repaired.len(), 1, "{repaired:?}");
    assert!(repaired[0].starts_with("bl_connect4: not attached"), "{repaired:?}");

    let pin = tree.dir(load::group_of("bl_services").unwrap(), Side::Place).join("bl_services");
    fs::remove_file(&pin).unwrap();
    let repaired = datapath.repair().unwrap();
    assert!(repaired.len() == 1 && repaired[0].contains("bl_services"), "{repaired:?}");

    bpftool(&["link", "detach", "pinned", &tree.links().join("bl_sendmsg6").display().to_string()]);
    assert!(datapath.repair().unwrap()[0].starts_with("bl_sendmsg6: detached"));

    fs::remove_dir_all(tree.root()).unwrap();
    let repaired = datapath.repair().unwrap();
    assert!(repaired.iter().any(|what| what.ends_with("was removed")), "{repaired:?}");
    assert_eq!(rig.pins(), whole);
    assert_eq!(datapath.repair().unwrap(), [""; 0]);
    let (count, errors) = Dialler::start(&rig, VIP).stop();
    assert!(count > 0 && errors.is_empty(), "{count} {errors}");

    let refused = beeline::datapath::Datapath::open(&rig.options()).unwrap_err();
    assert!(
        format!("{refused:#}").contains("one agent per --bpf-root"),
        "the new tree is locked: {refused:#}"
    );
    drop(datapath);
    remove::remove_all(&rig.bpf_root()).unwrap();
}

#[test]
fn an_agent_looks_after_its_data_path_and_says_what_it_repaired() {
    let (rig, dir) = (Rig::new(), tempfile::tempdir().unwrap());
    write(dir.path(), "web", "80");
    let _agent = Agent::start(&rig, dir.path());
    let left = dump(&rig);
    let rows = Reader::open(&rig.bpf_root()).unwrap().rows().unwrap();
    let tree = Tree::new(&rig.bpf_root());

    let pin = tree.dir(load::group_of("bl_frontends").unwrap(), Side::Place).join("bl_frontends");
    let mut key: Vec<String> =
        [&[0; 10][..], &[255, 255, 172, 30, 0, 1, 0, 80, 6, 0]].concat().iter().map(u8::to_string).collect();
    let pin = pin.display().to_string();
    let mut delete = vec!["map", "delete", "pinned", &pin, "key"];
    let bytes = std::mem::take(&mut key);
    delete.extend(bytes.iter().map(String::as_str));
    bpftool(&delete);
    assert_ne!(dump(&rig), left);
    fs::remove_file(tree.links().join("bl_connect6")).unwrap();

    until_within("row and link are back", Duration::from_secs(30), || {
        dump(&rig) == left && tree.links().join("bl_connect6").exists()
    });
    assert_eq!(Reader::open(&rig.bpf_root()).unwrap().rows().unwrap(), rows, "no id has moved");
    until_within("status counts it", Duration::from_secs(5), || {
        read_state(&rig.bpf_root()).is_some_and(|state| state.repaired == 2)
    });

    // An empty sieve hides every frontend from BPF. A link that is missing has all of it looked at.
    let pin = tree.dir(load::group_of("bl_sieve").unwrap(), Side::Place).join("bl_sieve");
    let pin = pin.display().to_string();
    let mut update = vec!["map", "update", "pinned", &pin, "key", "0", "0", "0", "0", "value"];
    update.extend([&"0"; 64]);
    bpftool(&update);
    assert_ne!(dump(&rig), left);
    fs::remove_file(tree.links().join("bl_connect6")).unwrap();
    until_within("it holds them again", Duration::from_secs(30), || dump(&rig) == left);
}
