//! What the real kube-apiserver 1.36 said, played back: lists, streams and refusals as recorded.

use std::time::Duration;

use beeline::sandbox::api_server::{ApiServer, End, Kind, StreamingLists, Trick};
use serde_json::Value;

use super::api_stage::{Stage, dump_of, recorded, recorded_objects};

/// The recorded name of a kind.
fn file(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::Node => "node-kc-n1",
        Kind::ServiceCidr => "servicecidrs",
    }
}

/// The objects at the end of the recording, which are those at its beginning: all that was done was
/// undone (`watch-steps.txt`).
fn objects() -> Vec<Value> {
    Kind::ALL.into_iter().flat_map(|kind| recorded_objects(&format!("{}.list.json", file(kind)))).collect()
}

fn say(server: &ApiServer, kind: Kind, name: &str, end: End) {
    server.play(Some(kind), Trick::Say(recorded(name), end));
}

/// What the watches say in order, of objects of a name.
fn heard<'a>(stage: &'a Stage, of: &str) -> Vec<&'a str> {
    stage.heard.iter().map(String::as_str).filter(|word| word.ends_with(of)).collect()
}

/// Every line of a stream was heard, and it left the tables as they are now.
fn ends_right(stage: &mut Stage) {
    stage.until("the last events", |stage| {
        let ends = |of: &str, word: &str| heard(stage, of).last() == Some(&word);
        stage.source.is_synced()
            && ends(" demo/web", "-Service demo/web")
            && stage.heard.iter().filter(|word| *word == "Slice demo/s05-etp-local-ipv4").count() >= 3
            && ends("CIDR extra", "-ServiceCIDR extra")
    });
    stage.pump(Duration::from_millis(50));
    assert_eq!(stage.dump(), dump_of(&objects()));
    assert!(stage.problems().is_empty(), "{:?}", stage.problems());
    let web = heard(stage, "Service demo/web");
    assert_eq!(
        web.iter().filter(|word| **word == "-Service demo/web").count(),
        2,
        "the label, and the end: {web:?}"
    );
    assert!(!stage.heard.iter().any(|word| word.contains("headless")), "{:?}", stage.heard);
    let ext = heard(stage, "Service demo/ext");
    assert_eq!(
        ext,
        ["Service demo/ext", "Service demo/ext", "-Service demo/ext"],
        "ExternalName, ClusterIP, gone"
    );
}

#[test]
fn the_recorded_lists_and_watches_end_in_the_right_state() {
    // SVC-2, SVC-4: see watch-steps.txt
    let server = ApiServer::start().unwrap();
    server.behave(|manners| manners.streaming_lists = StreamingLists::Refuse(422));
    for kind in Kind::ALL {
        let body = recorded("services.watchlist-422.json");
        server.play(Some(kind), Trick::Refuse { status: 422, retry_after: None, body });
        say(&server, kind, &format!("{}.list-rv0.json", file(kind)), End::Close);
        say(&server, kind, &format!("{}.watch.jsonl", file(kind)), End::Hold);
    }
    let mut stage = Stage::new(&server);
    ends_right(&mut stage);
}

#[test]
fn the_recorded_streaming_lists_end_in_the_right_state() {
    let server = ApiServer::start().unwrap();
    say(&server, Kind::Service, "services.watchlist-then-events.jsonl", End::Hold);
    for kind in [Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr] {
        say(&server, kind, &format!("{}.watchlist.jsonl", file(kind)), End::Close);
        say(&server, kind, &format!("{}.watch.jsonl", file(kind)), End::Hold);
    }
    let mut stage = Stage::new(&server);
    ends_right(&mut stage);
}

#[test]
fn the_recorded_pages_are_the_recorded_list() {
    let server = ApiServer::start().unwrap();
    for kind in Kind::ALL {
        let body = recorded("services.watchlist-422.json");
        server.play(Some(kind), Trick::Refuse { status: 422, retry_after: None, body });
    }
    for page in 1..=3 {
        for kind in [Kind::Service, Kind::EndpointSlice] {
            say(&server, kind, &format!("{}.list-page{page}.json", file(kind)), End::Close);
        }
    }
    say(&server, Kind::Node, "node-kc-n1.list.json", End::Close);
    say(&server, Kind::ServiceCidr, "servicecidrs.list-page1.json", End::Close);
    for kind in Kind::ALL {
        server.play(Some(kind), Trick::Say(String::new(), End::Hold));
    }
    let mut stage = Stage::new(&server);
    stage.until("synced", |stage| stage.source.is_synced());
    assert_eq!(stage.dump(), dump_of(&objects()));
    let tokens = server.requests().into_iter().filter(|uri| uri.contains("continue=eyJ2")).count();
    assert_eq!(tokens, 4, "{:?}", server.requests());
}

#[test]
fn the_recorded_refusals_are_understood() {
    for (status, name, wanted) in [
        (401, "services.list-401.json", "does not accept the credentials (401)"),
        (403, "services.list-403-anonymous.json", "may not watch services (403)"),
        (404, "unknown-api-404.json", "the server has no services (404)"),
        (500, "services.watch-bad-rv-500.json", "the server answers 500: resourceVersion: Invalid value"),
        (
            504,
            "services.list-rv-too-large-504.json",
            "the server answers 504: Timeout: Too large resource version",
        ),
    ] {
        let server = ApiServer::start().unwrap();
        for _ in 0..2 {
            let body = recorded(name);
            server.play(Some(Kind::Service), Trick::Refuse { status, retry_after: None, body });
        }
        let mut stage = Stage::new(&server);
        stage.until(wanted, |stage| stage.complains(wanted));
        stage.until("asked again", |stage| stage.source.is_synced() && stage.problems().len() == 1);
        assert!(stage.complains("the cluster has no Node 'kc-n1'"), "{:?}", stage.problems());
    }
}
