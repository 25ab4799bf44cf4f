//! The nouns against the running kernel: with an agent's tables, without any, and where nothing is allowed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use beeline::datapath::Datapath;
use beeline::datapath::kernel::has_set_retval;
use beeline::datapath::pins::Tree;
use beeline::model::addr::{Family, Protocol};
use beeline::model::names::{ObjectName, ServicePortName};
use beeline::plan::rule::RuleSet;
use beeline::plan::table::{BackendId, EndpointInfo, Op, ServiceId, ServiceName, Settings, Tables, TextId};
use serde_json::{Value, json};

use super::datapath::{VIP, service};
use super::datapath_rig::{Dialler, Rig, Server};

const BEELINE: &str = env!("CARGO_BIN_EXE_beeline");

/// Nobody: no capability, no group that may read pins.
const NOBODY: u32 = 65534;

fn beeline(rig: &Rig, arguments: &[&str]) -> Output {
    let mut command = Command::new(BEELINE);
    command.args(arguments).arg("--bpf-root").arg(rig.bpf_root()).output().expect("the binary starts")
}

/// The JSON a noun prints.
fn noun(rig: &Rig, arguments: &[&str]) -> Value {
    let output = beeline(rig, &[arguments, &["-o", "json"]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {error}");
    serde_json::from_slice(&output.stdout).expect("the output is JSON")
}

/// A data path with one Service, `default/web:http` at 192.0.2.1:80, published.
fn published(rig: &Rig, server: &Server) -> Datapath {
    let name = ServicePortName {
        service: ObjectName::new("default", "web"),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    };
    let info = EndpointInfo { node: TextId(1), ready: true, serving: true, used: true, ..Default::default() };
    let mut ops = service(&[server.addr]);
    ops.extend([
        Op::NamePut(ServiceId(3), ServiceName { name, rules: [RuleSet::default(); 2] }),
        Op::TextPut(TextId(1), "node-a".into()),
        Op::Endpoint(BackendId(1), info),
        Op::Settings(Settings {
            node: "node-a".into(),
            source_kind: "manifests".into(),
            ..Settings::default()
        }),
    ]);
    let mut datapath = rig.open();
    assert_eq!(datapath.apply_all(&ops), vec![]);
    datapath.publish().expect("the programs can be attached");
    datapath
}

/// The finding of one check.
fn finding<'a>(findings: &'a Value, check: &str) -> &'a Value {
    let all = findings.as_array().expect("findings are a list");
    all.iter().find(|f| f["check"] == check).unwrap_or_else(|| panic!("no check {check}"))
}

fn doctor(rig: &Rig) -> Value {
    let cgroup = rig.cgroup.to_string_lossy().into_owned();
    let output = beeline(rig, &["doctor", "-o", "json", "--cgroup-root", &cgroup]);
    serde_json::from_slice(&output.stdout).expect("the output is JSON")
}

/// The state of a data path at which nothing is missing that this kernel has.
fn whole() -> Value {
    if has_set_retval() { "on".into() } else { "narrowed".into() }
}

#[test]
fn status_tells_a_living_agent_from_tables_that_were_left() {
    let (rig, server) = (Rig::new(), Server::start());
    let datapath = published(&rig, &server);
    let status = noun(&rig, &["status"]);
    assert_eq!(status["agent"], true);
    assert_eq!(status["node"], "node-a");
    assert_eq!(status["source"]["kind"], "manifests");
    assert_eq!(status["counts"], json!({"services": 1, "frontends": 1, "backends": 1}));
    assert_eq!(status["features"]["socket_lb"]["state"], whole(), "{status:#}");
    assert_eq!(finding(&doctor(&rig), "agent")["state"], "ok");
    drop(datapath);
    let status = noun(&rig, &["status"]);
    assert_eq!(status["agent"], false);
    assert_eq!(status["features"]["socket_lb"]["state"], whole(), "traffic goes on without an agent");
    assert_eq!(finding(&doctor(&rig), "agent")["state"], "narrowed");
}

#[test]
fn status_shows_that_the_attached_programs_are_those_of_this_binary() {
    let (rig, server) = (Rig::new(), Server::start());
    let _datapath = published(&rig, &server);
    let status = noun(&rig, &["status"]);
    let programs = status["programs"].as_array().expect("programs are a list");
    assert_eq!(programs.len(), 9);
    for program in programs {
        assert!(program["loaded_tag"].as_str().is_some_and(|tag| tag.len() == 16), "{program}");
        assert_eq!(program["loaded_tag"], program["shipped_tag"], "{program}");
    }
}

#[test]
fn a_link_that_is_gone_is_seen_by_status_and_doctor() {
    let (rig, server) = (Rig::new(), Server::start());
    let _datapath = published(&rig, &server);
    assert_eq!(finding(&doctor(&rig), "links")["state"], "ok");
    fs::remove_file(Tree::new(&rig.bpf_root()).links().join("bl_connect6")).expect("the link is pinned");
    let socket_lb = &noun(&rig, &["status"])["features"]["socket_lb"];
    assert_eq!(socket_lb["state"], "failed");
    assert!(socket_lb["reason"].as_str().is_some_and(|r| r.contains("bl_connect6")), "{socket_lb}");
    assert_eq!(finding(&doctor(&rig), "links")["state"], "failed");
}

#[test]
fn services_count_what_was_dialled() {
    let (rig, server) = (Rig::new(), Server::start());
    let _datapath = published(&rig, &server);
    let dialler = Dialler::start(&rig, VIP);
    let (count, errors) = dialler.stop();
    assert_eq!(errors, "");
    let list = noun(&rig, &["services", "-n", "default"]);
    assert_eq!(list[0]["connections"], count);
    assert_eq!(list[0]["frontends"], json!([{"kind": "ClusterIP", "addr": "192.0.2.1", "port": 80}]));
    assert_eq!(list[0]["backends"][0]["port"], server.addr.port());
    assert_eq!(list[0]["backends"][0]["node"], "node-a");
    assert_eq!(noun(&rig, &["services", "-n", "other"]), json!([]));
}

#[test]
fn the_dump_is_text_and_json() {
    let (rig, server) = (Rig::new(), Server::start());
    let _datapath = published(&rig, &server);
    let text = String::from_utf8(beeline(&rig, &["dump"]).stdout).expect("the dump is text");
    assert!(text.contains("service default/web:http TCP IPv4\n"), "{text}");
    assert!(text.contains(&format!("  set cluster {}\n", server.addr)), "{text}");
    assert_eq!(noun(&rig, &["dump"])["services"][0]["name"], "default/web:http");
    assert_eq!(noun(&rig, &["dump", "--ids"])["services"][0]["index"], 3);
}

/// Each noun that reads tables, with what it cannot do without.
const NOUNS: [&[&str]; 4] =
    [&["status"], &["services"], &["dump"], &["explain", "--from", "pod", "--to", "192.0.2.1:80/TCP"]];

#[test]
fn every_noun_answers_with_the_agent_gone() {
    let (rig, server) = (Rig::new(), Server::start());
    drop(published(&rig, &server));
    let [status, services, dump, explain] = NOUNS.map(|line| noun(&rig, line));
    assert_eq!((&status["agent"], &status["features"]["socket_lb"]["state"]), (&false.into(), &whole()));
    assert_eq!(services[0]["name"], "web");
    assert_eq!(dump["services"][0]["name"], "default/web:http");
    let backends = json!([server.addr.to_string()]);
    assert_eq!((&explain["service"], &explain["backends"]), (&"default/web:http".into(), &backends));
    assert_eq!((&explain["action"], &explain["path"]), (&"forward".into(), &"socket".into()));
}

#[test]
fn without_tables_the_nouns_say_so_with_code_3() {
    let rig = Rig::new();
    for line in NOUNS {
        let output = beeline(&rig, line);
        assert_eq!(output.status.code(), Some(3), "{line:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("beeline run"), "{line:?} names the next step");
    }
}

#[test]
fn without_privilege_the_nouns_name_it_with_code_4() {
    let (rig, server) = (Rig::new(), Server::start());
    let _datapath = published(&rig, &server);
    for noun in NOUNS {
        let root = rig.bpf_root().to_string_lossy().into_owned();
        let line = [noun, &["--bpf-root", &root]].concat();
        let output = nobody(Path::new("/"), Path::new(BEELINE), &line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{noun:?}: {error}");
        assert!(error.contains("CAP_"), "{noun:?} names the privilege: {error}");
    }
}

#[test]
fn doctor_works_where_nothing_is_there_and_nothing_is_allowed() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    fs::copy(BEELINE, empty.path().join("beeline")).expect("the binary can be copied");
    fs::set_permissions(empty.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    let output = nobody(empty.path(), Path::new("/beeline"), &["doctor", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let findings: Value = serde_json::from_slice(&output.stdout).expect("the output is JSON");
    for check in ["btf", "cgroup2", "bpffs"] {
        assert_eq!(finding(&findings, check)["state"], "missing", "{check}");
    }
    for check in
        ["privileges", "bpf-syscall", "connect-hooks", "set-retval", "foreign-programs", "kube-proxy"]
    {
        assert_eq!(finding(&findings, check)["state"], "failed", "{check}");
    }
    for bad in findings.as_array().into_iter().flatten().filter(|f| f["state"] != "ok") {
        assert!(bad["lose"] != "" && bad["next"] != "", "{bad}");
    }
    assert_eq!(fs::read_dir(empty.path()).expect("the folder is there").count(), 1, "doctor made nothing");
}

/// Runs a program without any privilege, in a root of its own (where there is nothing but the program).
fn nobody(root: &Path, program: &Path, arguments: &[&str]) -> Output {
    Command::new("chroot")
        .arg(format!("--userspec={NOBODY}:{NOBODY}"))
        .arg(root)
        .arg(program)
        .args(arguments)
        .output()
        .expect("chroot starts")
}
