//! Guards the house: which room may use which, and which crates a room may know.
//! The rules are those of `docs/architecture.md`, "Rooms".

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A room, what it may use of the others, and crates it may not name.
struct Room {
    name: &'static str,
    uses: &'static [&'static str],
    not_crates: &'static [&'static str],
}

/// What decides is pure: no runtime, no kernel, no Kubernetes, no files, no clock.
const PURE: &[&str] = &[
    "tokio",
    "libbpf_rs",
    "libbpf_sys",
    "k8s_openapi",
    "serde_saphyr",
    "nix",
    "libc",
    "rtnetlink",
    "std::fs",
    "std::net::TcpStream",
    "Instant::now",
    "SystemTime::now",
];

/// A configuration is made of a text: reading that is no I/O.
const PURE_BUT_YAML: &[&str] = &[
    "tokio",
    "libbpf_rs",
    "libbpf_sys",
    "k8s_openapi",
    "nix",
    "libc",
    "rtnetlink",
    "std::fs",
    "Instant::now",
];

const ROOMS: &[Room] = &[
    Room { name: "model", uses: &[], not_crates: PURE },
    Room { name: "plan", uses: &["model"], not_crates: PURE },
    Room { name: "config", uses: &["model"], not_crates: PURE_BUT_YAML },
    Room {
        name: "cluster",
        uses: &["plan", "config", "model", "host"],
        not_crates: &["libbpf_rs", "libbpf_sys"],
    },
    Room { name: "host", uses: &["plan", "config", "model"], not_crates: &["libbpf_rs", "k8s_openapi"] },
    Room {
        name: "datapath",
        uses: &["plan", "config", "model", "host"],
        not_crates: &["k8s_openapi", "tokio"],
    },
    Room {
        name: "inspect",
        uses: &["cluster", "host", "datapath", "plan", "config", "model"],
        not_crates: &["k8s_openapi", "tokio"],
    },
    Room {
        name: "serve",
        uses: &["inspect", "cluster", "host", "datapath", "plan", "config", "model"],
        not_crates: &["k8s_openapi", "libbpf_rs", "libbpf_sys", "kube"],
    },
    Room {
        name: "agent",
        uses: &["serve", "inspect", "cluster", "host", "datapath", "plan", "config", "model"],
        not_crates: &["k8s_openapi", "libbpf_rs", "libbpf_sys"],
    },
    Room {
        name: "sandbox",
        uses: &["host", "model"],
        not_crates: &["libbpf_rs", "libbpf_sys", "k8s_openapi"],
    },
    Room {
        name: "cli",
        uses: &["agent", "inspect", "plan", "config", "model", "cluster", "datapath", "sandbox", "host"],
        not_crates: &["k8s_openapi", "libbpf_rs", "libbpf_sys"],
    },
];

/// One line of code that breaks a rule.
fn offences() -> Vec<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for room in ROOMS {
        for file in files_of(&src, room.name) {
            let text = fs::read_to_string(&file).expect("a source file is text");
            for (at, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or("");
                if let Some(why) = offence(room, code) {
                    found.push(format!("{}:{}: {why}: {}", file.display(), at + 1, line.trim()));
                }
            }
        }
    }
    found
}

/// The files of a room: `src/ROOM.rs` and all of `src/ROOM/`.
fn files_of(src: &Path, room: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let single = src.join(format!("{room}.rs"));
    if single.is_file() {
        files.push(single);
    }
    let mut folders = vec![src.join(room)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("a directory can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// Why a line of a room's code breaks the rules, if it does.
fn offence(room: &Room, code: &str) -> Option<String> {
    // What it names would stand on lines of their own, unseen.
    if code.contains("crate::{") && !code.contains('}') {
        return Some("a use of several rooms stands on one line, or is several".to_owned());
    }
    for used in rooms_named(code) {
        let known = ROOMS.iter().any(|r| r.name == used);
        if known && used != room.name && !room.uses.contains(&used.as_str()) {
            return Some(format!("room {} may not use {used}", room.name));
        }
    }
    for name in room.not_crates {
        if word_in(code, name) {
            return Some(format!("room {} may not know {name}", room.name));
        }
    }
    if !matches!(room.name, "datapath" | "host") && word_in(code, "unsafe") && !code.contains("unsafe_code") {
        return Some(format!("room {} may not be unsafe", room.name));
    }
    if room.name != "host" && word_in(code, "setns") {
        return Some("only host enters a network namespace".to_owned());
    }
    None
}

/// The rooms that `crate::ROOM` and `crate::{ROOM, …}` in a line name.
fn rooms_named(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for part in code.split("crate::").skip(1) {
        let inside = part.strip_prefix('{').map_or(part, |p| p.split('}').next().unwrap_or(p));
        let many = part.starts_with('{');
        for item in if many { inside.split(',').collect::<Vec<_>>() } else { vec![inside] } {
            let name: String =
                item.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            rooms.push(name);
        }
    }
    rooms
}

/// Whether `word` stands in `code` on its own.
fn word_in(code: &str, word: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    code.match_indices(word)
        .any(|(at, _)| edge(code[..at].chars().next_back()) && edge(code[at + word.len()..].chars().next()))
}

#[test]
fn every_room_uses_only_what_stands_below_it() {
    let found = offences();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// What the API calls its objects ends where they are converted; a kubeconfig's plugin speaks of one of its own.
#[test]
fn objects_of_the_api_do_not_outlive_their_conversion() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cluster");
    let knows =
        |file: &PathBuf| word_in(&fs::read_to_string(file).expect("a source file is text"), "k8s_openapi");
    let knowing: Vec<_> = files_of(&src, "").into_iter().filter(knows).collect();
    let may = |file: &PathBuf| file.starts_with(src.join("convert")) || file.ends_with("client/plugin.rs");
    assert!(knowing.len() > 3 && knowing.iter().all(may), "{knowing:?}");
}

#[test]
fn the_direction_of_dependency_has_no_circle() {
    let uses: BTreeMap<_, _> = ROOMS.iter().map(|r| (r.name, r.uses)).collect();
    for (room, used) in &uses {
        for below in *used {
            assert!(!uses[below].contains(room), "{room} and {below} use each other");
        }
    }
}

#[test]
fn a_breach_is_seen() {
    let plan = ROOMS.iter().find(|r| r.name == "plan").expect("plan is a room");
    for bad in [
        "use crate::datapath::maps;",
        "use crate::{model, host};",
        "tokio::spawn(x)",
        "let t = Instant::now();",
        "unsafe { x }",
        "use libbpf_rs::Map;",
    ] {
        assert!(offence(plan, bad).is_some(), "{bad}");
    }
    for good in ["use crate::model::addr::Family;", "use crate::plan::ids;", "let unsafety = 1;"] {
        assert!(offence(plan, good).is_none(), "{good}");
    }
}

#[test]
fn every_folder_of_src_is_a_room() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).expect("src can be read") {
        let name = entry.expect("src can be read").file_name().into_string().expect("names are text");
        let stem = name.trim_end_matches(".rs");
        let known = matches!(stem, "lib" | "main") || ROOMS.iter().any(|r| r.name == stem);
        assert!(known, "src/{name} is no room: add it to docs/architecture.md and to this test");
    }
}

#[test]
fn every_layout_of_the_pins_has_a_line_in_the_changelog() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CHANGELOG.md");
    let text = fs::read_to_string(path).expect("there is a changelog");
    for group in beeline::datapath::load::GROUPS {
        let line = format!("| {} | {} |", group.name, group.layout);
        assert!(
            text.contains(&line),
            "the layout of {} is new: add the line `{line} VERSION |` to CHANGELOG.md",
            group.name
        );
    }
}
