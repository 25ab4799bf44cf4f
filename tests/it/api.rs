//! The API server as a source: whatever it and the network do, the tables end as those of a fresh start.

use std::time::{Duration, Instant};

use beeline::cluster::api::Pace;
use beeline::config::Cluster;
use beeline::sandbox::api_server::{ApiServer, End, Kind, StreamingLists, Trick, refusal};
use serde_json::json;

use super::api_stage::{Log, Stage, recorded, server, service, slice};
use super::cases::{cases, change};
use super::stage::Server as _;

/// The cases that hold of any API server.
macro_rules! before_the_scripted_server {
    ($($case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                super::cases::$case(&mut ApiServer::start().expect("a server"));
            }
        )*
    };
}
cases!(before_the_scripted_server);

#[test]
fn the_first_lists_are_complete_though_one_breaks_off() {
    // SYNC-1
    let server = server(20);
    server.play(Some(Kind::EndpointSlice), Trick::CutAfter(1000));
    let mut stage = Stage::new(&server);
    stage.until("synced", |stage| stage.source.is_synced());
    assert_eq!(stage.heard.iter().filter(|word| *word == "Synced").count(), 1);
    assert!(stage.heard.iter().all(|word| !word.starts_with('-')), "{:?}", stage.heard);
    let synced = stage.heard.iter().position(|word| word == "Synced").unwrap();
    let count = |kind: &str| stage.heard[..synced].iter().filter(|word| word.starts_with(kind)).count();
    assert!(count("Service ") == 20 && count("Slice ") >= 20 && count("Node ") == 1, "{:?}", stage.heard);
    stage.until_equal(&server);
    assert!(stage.problems().is_empty(), "{:?}", stage.problems());
}

#[test]
fn an_event_is_handed_on_at_once_and_many_together() {
    let server = server(300);
    let mut stage = Stage::new(&server);
    stage.until_equal(&server);
    let mut took: Vec<Duration> = Vec::new();
    for round in 0..50 {
        let (began, before) = (Instant::now(), stage.heard.len());
        server.put(service(0, 1000 + round)).unwrap();
        while stage.heard.len() == before {
            stage.pump(Duration::from_secs(5));
        }
        took.push(began.elapsed());
    }
    took.sort();
    println!("from put() to the event taken in: p50 {:?}, p90 {:?}", took[25], took[45]);
    // Whoever gathered events for a while would do it each time.
    assert!(took[0] < Duration::from_millis(20), "{:?}", took[0]);
    for n in 0..300 {
        server.put(slice(n, 2)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    let (before, mut steps) = (stage.heard.len(), 0);
    while stage.heard.len() < before + 300 {
        assert!(stage.pump(Duration::from_secs(5)));
        steps += 1;
    }
    assert!(steps <= 100, "300 changes in {steps} steps");
}

#[test]
fn a_dropped_watch_goes_on_without_a_list() {
    // SYNC-13, SYNC-14
    let mut server = server(10);
    let mut stage = Stage::new(&server);
    stage.until_equal(&server);
    server.stop();
    change(&server, 0);
    stage.until("said", |stage| stage.complains("the API server cannot be reached"));
    assert_eq!(stage.problems().len(), 1, "one message, not one for each kind: {:?}", stage.problems());
    let before = server.requests().len();
    server.restart().unwrap();
    stage.until_equal(&server);
    stage.until("resolved", |stage| stage.problems().is_empty());
    let requests = server.requests().split_off(before);
    assert!(requests.iter().all(|uri| uri.contains("resourceVersion=")), "no list: {requests:?}");
}

#[test]
fn whatever_the_form_of_lists_what_was_deleted_meanwhile_goes() {
    // SYNC-11, and 410 as an ERROR event
    for mode in [StreamingLists::Serve, StreamingLists::Refuse(422), StreamingLists::Ignore] {
        let mut server = server(10);
        server.behave(|manners| (manners.streaming_lists, manners.page) = (mode, 3));
        let mut stage = Stage::new(&server);
        stage.until_equal(&server);
        server.stop();
        change(&server, 0);
        server.compact();
        server.restart().unwrap();
        stage.until_equal(&server);
        assert!(stage.heard.contains(&"-Service ns/s2".to_owned()), "{mode:?}: {:?}", stage.heard);
        stage.until("resolved", |stage| stage.problems().is_empty());
    }
}

#[test]
fn a_version_that_is_gone_is_answered_410_in_two_ways_and_both_lead_to_a_list() {
    for body in [recorded("services.list-exact-410.json"), refusal(410, "Gone", "too old")] {
        let server = server(5);
        let mut stage = Stage::new(&server);
        stage.until_equal(&server);
        server.play(Some(Kind::Service), Trick::Insert(0, recorded("services.watch-410.jsonl")));
        server.play(Some(Kind::EndpointSlice), Trick::Refuse { status: 410, retry_after: None, body });
        server.compact();
        change(&server, 0);
        stage.until_equal(&server);
        stage.until("resolved", |stage| stage.problems().is_empty());
    }
}

#[test]
fn lists_come_in_pages_where_they_cannot_be_streamed() {
    for mode in [StreamingLists::Refuse(422), StreamingLists::Refuse(400), StreamingLists::Ignore] {
        let mut server = server(25);
        server.behave(|manners| (manners.streaming_lists, manners.page) = (mode, 4));
        let mut stage = Stage::new(&server);
        stage.until_equal(&server);
        assert!(stage.problems().is_empty(), "{:?}", stage.problems());
        let first =
            server.requests().into_iter().find(|uri| uri.contains("services") && uri.contains("limit=500"));
        assert!(first.unwrap().ends_with("resourceVersion=0"), "CFG-7: the first list is from the cache");
        server.stop();
        change(&server, 0);
        server.compact();
        server.restart().unwrap();
        stage.until_equal(&server);
        let pages = server.requests().iter().filter(|uri| uri.contains("continue=")).count();
        assert!(pages >= 6, "{mode:?}: {pages} pages");
    }
}

#[test]
fn a_page_token_that_expires_leads_to_a_list_in_one_piece() {
    let mut server = server(25);
    server.behave(|manners| (manners.streaming_lists, manners.page) = (StreamingLists::Refuse(422), 4));
    let mut stage = Stage::new(&server);
    stage.until_equal(&server);
    server.stop();
    change(&server, 0);
    server.compact();
    for kind in [Kind::Service, Kind::EndpointSlice] {
        // The watch ends by a 410, a first page is given, and the second is gone.
        server.play(Some(kind), Trick::Twice);
        server.play(Some(kind), Trick::Twice);
        let body = recorded("services.list-continue-410.json");
        server.play(Some(kind), Trick::Refuse { status: 410, retry_after: None, body });
    }
    server.restart().unwrap();
    stage.until_equal(&server);
    let tokens = server.requests().iter().filter(|uri| uri.contains("continue=")).count();
    assert_eq!((tokens, server.tricks_left()), (2, 0), "no page after the one that is gone");
    stage.until("resolved", |stage| stage.problems().is_empty());
}

#[test]
fn a_stream_may_break_anywhere() {
    // Half events: whatever the byte, nothing is lost, nothing is taken twice.
    let server = server(6);
    for bytes in (0..4000).step_by(211) {
        for kind in Kind::ALL {
            server.play(Some(kind), Trick::CutAfter(bytes));
        }
        let mut stage = Stage::new(&server);
        stage.until_equal(&server);
        assert_eq!(server.tricks_left(), 0, "every trick was played");
    }
}

#[test]
fn a_body_may_come_byte_by_byte() {
    for mode in [StreamingLists::Serve, StreamingLists::Refuse(422)] {
        let server = server(4);
        server.behave(|manners| manners.streaming_lists = mode);
        for kind in Kind::ALL {
            if mode != StreamingLists::Serve {
                server.play(Some(kind), Trick::CutAfter(0));
            }
            server.play(Some(kind), Trick::ByteByByte);
        }
        let mut stage = Stage::new(&server);
        stage.until_equal(&server);
        change(&server, 0);
        stage.until_equal(&server);
    }
}

#[test]
fn events_twice_or_in_the_wrong_order_do_no_harm() {
    for trick in [Trick::Twice, Trick::Swapped] {
        let mut server = server(10);
        let mut stage = Stage::new(&server);
        stage.until_equal(&server);
        server.stop();
        // Even numbers of events, so that swapped ones are of one object.
        for round in 0..6 {
            server.put(service(1, 90 + round)).unwrap();
        }
        change(&server, 2);
        for n in 6..9 {
            server.put(service(n, 99)).unwrap();
            server.delete(Kind::Service, "ns", &format!("s{n}"));
        }
        for kind in Kind::ALL {
            server.play(Some(kind), trick.clone());
        }
        server.restart().unwrap();
        stage.until_equal(&server);
    }
}

#[test]
fn garbage_is_said_and_survived() {
    let lines = [
        "not json",
        "{}",
        "null",
        "{\"type\":\"ADDED\"}",
        "{\"type\":\"ADDED\",\"object\":null}",
        "{\"type\":\"ADDED\",\"object\":{\"metadata\":{}}}",
        "{\"type\":\"EXPLODED\",\"object\":{}}",
        "{\"type\":\"ERROR\",\"object\":{\"code\":500,\"message\":\"etcd is ill\"}}",
        "{\"type\":\"ERROR\",\"object\":7}",
        "{\"type\":\"BOOKMARK\",\"object\":{}}",
        "\u{1}\u{0}\u{fffd}",
    ];
    for line in lines {
        let server = server(6);
        server.play(Some(Kind::Service), Trick::Insert(3, line.to_owned()));
        server.play(Some(Kind::Service), Trick::Insert(0, line.to_owned()));
        let mut stage = Stage::new(&server);
        stage.until("said", |stage| stage.complains("services") || stage.source.is_synced());
        stage.until_equal(&server);
        change(&server, 0);
        stage.until_equal(&server);
        stage.until("resolved", |stage| stage.problems().is_empty());
    }
    for body in
        ["", "{", "[]", "<html>", "{\"kind\":\"Status\",\"code\":200}", "{\"items\":[{\"metadata\":{}}]}"]
    {
        let server = server(3);
        server.behave(|manners| manners.streaming_lists = StreamingLists::Refuse(422));
        server.play(Some(Kind::Service), Trick::CutAfter(0));
        server.play(Some(Kind::Service), Trick::Say(body.to_owned(), End::Close));
        let mut stage = Stage::new(&server);
        stage.until_equal(&server);
        stage.until("resolved", |stage| stage.problems().is_empty());
    }
}

#[test]
fn a_bad_object_is_named_and_all_others_count() {
    let server = server(3);
    let mut stage = Stage::new(&server);
    stage.until_equal(&server);
    let (wanted, mut bad) = (stage.dump(), service(1, 80));
    bad["spec"]["ports"][0]["port"] = 99_999.into();
    server.put(bad).unwrap();
    stage.until("named", |stage| stage.complains("Service ns/s1: spec.ports[0].port"));
    assert_eq!(stage.dump(), wanted, "its last good version stays");
    server.put(service(1, 80)).unwrap();
    stage.until("mended", |stage| stage.problems().is_empty());
    let mut odd = slice(2, 2);
    odd["endpoints"][0]["addresses"] = json!(["10.1.2"]);
    server.put(odd).unwrap();
    stage.until("named", |stage| stage.complains("EndpointSlice ns/s2-1: endpoints[0].addresses[0]"));
    server.delete(Kind::EndpointSlice, "ns", "s2-1");
    stage.until("gone with the object", |stage| stage.problems().is_empty());
}

#[test]
fn a_server_that_refuses_for_a_while_is_asked_again() {
    for (status, retry_after) in [(429, Some(1)), (500, None), (503, Some(0)), (504, Some(1)), (502, None)] {
        let server = server(3);
        for kind in Kind::ALL {
            let body = refusal(status, "Any", "the server is busy");
            server.play(Some(kind), Trick::Refuse { status, retry_after, body });
        }
        let began = Instant::now();
        let mut stage = Stage::new(&server);
        stage.until("said", |stage| stage.complains(&status.to_string()));
        stage.until_equal(&server);
        if let Some(seconds @ 1..) = retry_after {
            assert!(began.elapsed() >= Duration::from_secs(seconds.into()), "{status} asked for {seconds} s");
        }
        stage.until("resolved", |stage| stage.problems().is_empty());
    }
}

#[test]
fn a_missing_right_is_said_once_with_verb_and_resource() {
    let server = server(3);
    for _ in 0..3 {
        let body = recorded("services.watch-403-anonymous.json");
        server.play(Some(Kind::Service), Trick::Refuse { status: 403, retry_after: None, body });
    }
    let mut stage = Stage::new(&server);
    let wanted = "may not watch services (403): bind the ClusterRole system:node-proxier to the user 'system:anonymous'";
    stage.until("said", |stage| stage.complains(wanted));
    let said = stage.problems();
    stage.until("asked again", |_| server.tricks_left() == 0);
    assert_eq!(stage.problems(), said, "the same words, so that the log has them once");
    assert!(!stage.source.is_synced());
    stage.until_equal(&server);
    assert!(stage.problems().is_empty());
}

#[test]
fn a_server_that_comes_back_after_long_is_not_made_to_wait_for() {
    // SYNC-13; as the real one does, it denies everything until it has read who may what.
    let mut server = server(10);
    let pace = Pace { longest: Duration::from_secs(60), ..Pace::hurried() };
    let mut stage = Stage::with(&server.way(), pace);
    stage.until_equal(&server);
    server.stop();
    stage.until("said", |stage| stage.complains("the API server cannot be reached"));
    let outage = Instant::now();
    while outage.elapsed() < Duration::from_secs(2) {
        stage.pump(Duration::from_millis(100));
    }
    change(&server, 0);
    server.compact();
    let body = recorded("services.watch-403-anonymous.json");
    for kind in Kind::ALL {
        server.play(Some(kind), Trick::Refuse { status: 403, retry_after: None, body: body.clone() });
    }
    server.restart().unwrap();
    let back = Instant::now();
    let mut said = false;
    stage.until("denied", |_| server.tricks_left() == 0);
    stage.until("all is well", |stage| {
        said |= stage.complains("403") || stage.complains("410");
        stage.problems().is_empty()
    });
    stage.until_equal(&server);
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    assert!(!said, "what passes by itself is no problem");
}

#[test]
fn a_cluster_without_service_cidrs_has_none() {
    // UND-2
    let server = server(3);
    server.behave(|manners| manners.serves_cidrs = false);
    server.delete(Kind::ServiceCidr, "", "it");
    let mut stage = Stage::new(&server);
    stage.until_equal(&server);
    assert!(stage.problems().is_empty(), "{:?}", stage.problems());
    server.behave(|manners| manners.serves_cidrs = true);
    server.put(json!({"kind": "ServiceCIDR", "metadata": {"name": "later"}, "spec": {"cidrs": ["10.200.0.0/16"]}})).unwrap();
    stage.until("it is looked for again", |stage| stage.heard.contains(&"ServiceCIDR later".to_owned()));
    stage.until_equal(&server);
}

#[test]
fn a_cluster_that_denies_service_cidrs_has_none() {
    // UND-2: who may ask is judged before it is looked whether a kind is served, and the role of kube-proxy
    // does not name what a cluster does not serve.
    let server = server(3);
    server.behave(|manners| (manners.serves_cidrs, manners.denies_cidrs) = (false, true));
    server.delete(Kind::ServiceCidr, "", "it");
    let log = Log::begin();
    let pace =
        Pace { lesser_kinds: Duration::from_secs(60), absent: Duration::from_secs(1), ..Pace::hurried() };
    let mut stage = Stage::with(&server.way(), pace);
    stage.until("synced, and nothing is waited for", |stage| stage.source.is_synced());
    stage.until_equal(&server);
    let asked = || server.requests().iter().filter(|uri| uri.contains("servicecidrs")).count();
    stage.until("asked again", |_| asked() >= 9);
    assert!(stage.problems().is_empty(), "{:?}", stage.problems());
    let said = log.text();
    assert_eq!(said.matches("ServiceCIDRs are not known").count(), 1, "{said}");
    assert!(said.contains("UND-2") && said.contains("system:node-proxier"), "{said}");
    let before = asked();
    stage.pump_for(Duration::from_millis(400));
    assert!(asked() <= before + 1, "it is asked for as rarely as a kind that is not served");
    server.behave(|manners| (manners.serves_cidrs, manners.denies_cidrs) = (true, false));
    server.put(json!({"kind": "ServiceCIDR", "metadata": {"name": "later"}, "spec": {"cidrs": ["10.200.0.0/16"]}})).unwrap();
    stage.until("it is looked for again", |stage| stage.heard.contains(&"ServiceCIDR later".to_owned()));
    stage.until_equal(&server);
}

#[test]
fn a_fault_after_a_long_healthy_stream_is_the_first() {
    // SYNC-13
    let server = server(3);
    for _ in 0..4 {
        let body = refusal(500, "InternalError", "not yet");
        server.play(Some(Kind::Service), Trick::Refuse { status: 500, retry_after: None, body });
    }
    // After the three objects, the end of the list and one change.
    let ill = "{\"type\":\"ERROR\",\"object\":{\"code\":500,\"message\":\"etcd is ill\"}}";
    server.play(Some(Kind::Service), Trick::Insert(5, ill.to_owned()));
    let pace =
        Pace { first: Duration::from_millis(200), longest: Duration::from_secs(60), ..Pace::hurried() };
    let (stable, longest) = (pace.stable, pace.longest);
    let mut stage = Stage::with(&server.way(), pace);
    stage.until_equal(&server);
    stage.pump_for(stable);
    let asked = || server.requests().iter().filter(|uri| uri.contains("/services?")).count();
    let before = asked();
    server.put(service(1, 99)).unwrap();
    let began = Instant::now();
    stage.until("asked again", |_| asked() > before);
    assert!(began.elapsed() < longest / 4, "{:?}", began.elapsed());
    stage.until_equal(&server);
}

#[test]
fn a_proxy_that_says_yes_and_breaks_off_resolves_nothing() {
    let mut server = server(3);
    let mut stage = Stage::new(&server);
    stage.until_equal(&server);
    server.stop();
    let troubled = |stage: &Stage| stage.complains("the API server cannot be reached");
    stage.until("said", |stage| troubled(stage));
    for kind in Kind::ALL {
        (0..2).for_each(|_| server.play(Some(kind), Trick::Say(String::new(), End::Close)));
    }
    server.restart().unwrap();
    stage.until("all broke off", |stage| {
        assert!(troubled(stage), "resolved before anything was heard");
        server.tricks_left() == 0
    });
    stage.until("resolved, though nothing changes", |stage| stage.problems().is_empty());
}

#[test]
fn streaming_lists_are_tried_again_after_a_while() {
    // CFG-7
    let mut server = server(10);
    server.play(Some(Kind::Service), Trick::Say(String::new(), End::Hold));
    let pace = Pace { absent: Duration::from_secs(1), ..Pace::hurried() };
    let mut stage = Stage::with(&server.way(), pace);
    stage.until_equal(&server);
    let count = |server: &ApiServer, part: &str| {
        let requests = server.requests();
        requests.iter().filter(|uri| uri.contains("/services?") && uri.contains(part)).count()
    };
    assert_eq!((count(&server, "sendInitialEvents"), count(&server, "limit=")), (1, 1), "silence ends it");
    stage.pump_for(Duration::from_secs(2));
    server.stop();
    change(&server, 0);
    server.compact();
    server.restart().unwrap();
    stage.until_equal(&server);
    assert_eq!(
        (count(&server, "sendInitialEvents"), count(&server, "limit=")),
        (2, 1),
        "a slow moment is over"
    );
}

#[test]
fn a_kind_that_is_refused_holds_nobody_up_for_long() {
    // SYNC-17
    let server = server(3);
    for _ in 0..50 {
        let body = refusal(403, "Forbidden", "no");
        server.play(Some(Kind::Node), Trick::Refuse { status: 403, retry_after: None, body });
    }
    let mut stage = Stage::new(&server);
    stage.until("synced", |stage| stage.source.is_synced());
    assert!(stage.complains("may not watch nodes"));
}

#[test]
fn a_server_restored_from_a_backup_is_listed_anew() {
    // It is silent about versions that it has not reached yet.
    let mut server = server(8);
    (0..50).for_each(|_| server.bookmark());
    let cluster = Cluster { apiserver: Some(server.url()), ..Cluster::default() };
    let pace = Pace { watch: Duration::from_secs(1), ..Pace::hurried() };
    let mut stage = Stage::with(&cluster, pace);
    stage.until_equal(&server);
    server.stop();
    server.delete(Kind::Service, "ns", "s1");
    server.put(service(2, 99)).unwrap();
    server.restore();
    server.restart().unwrap();
    stage.until_equal(&server);
}
