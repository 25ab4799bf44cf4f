//! Golden tests: manifests in, problems and canonical dump out.
//!
//! A case is a folder of `tests/data/manifests`; next to its manifests lies `expected.txt`. After an
//! intended change `BEELINE_UPDATE_GOLDEN=1 cargo test --test it manifest` writes them anew.

use std::fs;
use std::path::Path;
use std::time::Duration;

use beeline::agent::reconcile::{Identity, Reconciler};
use beeline::cluster::manifest::load;
use beeline::inspect::dump::canonical;
use beeline::model::event::Event;
use beeline::model::node::HostFacts;
use beeline::plan::book::Book;
use beeline::plan::mem::MemTables;
use beeline::plan::table::{Limits, NetnsClass};
use beeline::plan::world::World;

/// What a folder of manifests comes to, on node-a in zone-a.
fn outcome(folder: &Path) -> String {
    let (events, problems) = load(folder).expect("the folder can be read");
    let mut world = World::new();
    let host = HostFacts {
        node_name: "node-a".into(),
        zone: Some("zone-a".into()),
        addresses: vec!["192.168.0.2".parse().expect("an address")],
        ..HostFacts::default()
    };
    world.apply(Event::Host(Box::new(host)));
    let limits = Limits { frontends: 256, services: 64, slots: 512, backends: 256, names: 128 };
    let identity = Identity { netns: vec![(7, NetnsClass::Host)], ..Identity::default() };
    let mut agent = Reconciler::new(world, Book::new(limits), MemTables::new(limits), identity);
    let step = agent.step(events, Duration::ZERO);
    assert!(step.is_first && step.failed.is_empty(), "{step:?}");
    let mut text = String::new();
    let prefix = format!("{}/", folder.display());
    for problem in problems {
        let severity = format!("{:?}", problem.severity).to_lowercase();
        text += &format!("{severity}: {}\n", problem.to_string().replace(&prefix, ""));
    }
    if !text.is_empty() {
        text += "\n";
    }
    text + &canonical(&agent.tables().rows())
}

#[test]
fn manifests_come_to_the_expected_tables_and_problems() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/manifests");
    let update = std::env::var_os("BEELINE_UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in fs::read_dir(&cases).expect("the cases are there") {
        let folder = case.expect("a case").path();
        let golden = folder.join("expected.txt");
        let got = outcome(&folder);
        if update {
            fs::write(&golden, &got).expect("the golden file can be written");
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if got != expected {
            wrong.push(format!("{}:\n--- expected\n{expected}\n--- got\n{got}", folder.display()));
        }
        count += 1;
    }
    assert!(count > 0, "no cases in {}", cases.display());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
