//! What is asked of the API server, and how it is counted.

use beeline::sandbox::api_server::StreamingLists;

use super::api_stage::{Stage, server};
use super::cases::change;
use super::stage::NODE;

#[test]
fn four_streaming_watches_are_all_that_is_asked_for() {
    let server = server(10);
    let mut stage = Stage::new(&server);
    stage.until_equal(&server);
    change(&server, 0);
    stage.until_equal(&server);
    let watches = server.requests().iter().filter(|uri| uri.contains("watch=true")).count();
    assert_eq!((watches, server.requests().len()), (4, 4), "as kube-proxy does");
}

#[test]
fn requests_are_counted_as_client_go_counts_them() {
    // MET-9: a watch has no duration, a list by pages has; whoever is not there is an error
    let mut server = server(10);
    let host: std::sync::Arc<str> = server.url().trim_start_matches("http://").into();
    let mut stage = Stage::new(&server);
    stage.until_equal(&server);
    let tally = stage.source.tally();
    let asked = |code| tally.counts().requests.get(&((host.clone(), "GET"), code)).copied().unwrap_or(0);
    assert_eq!(asked(Some(200)), server.requests().len() as u64);
    assert!(tally.counts().whole.is_empty(), "only watches so far");
    let events = stage.recorder();
    events.record(beeline::cluster::events::Event::starting(NODE));
    stage.until("the event is posted", |_| !server.events().is_empty());
    let post = (host.clone(), "POST");
    stage.until("and counted", |_| tally.counts().whole.contains_key(&post));
    assert_eq!(tally.counts().requests[&(post.clone(), Some(201))], 1);
    let (event, one) = (server.events()[0].to_string().len() as f64, vec![1_u64]);
    let counts = tally.counts();
    let whole = &counts.whole[&post];
    assert_eq!((whole.sent.sum, whole.answered.sum), (event, event), "it is answered with itself");
    for histogram in [&whole.seconds, &whole.sent, &whole.answered] {
        assert_eq!(histogram.counts.iter().copied().filter(|count| *count > 0).collect::<Vec<_>>(), one);
    }
    drop(counts);
    server.stop();
    stage.until("nobody is there", |_| asked(None) > 0);

    server.behave(|manners| manners.streaming_lists = StreamingLists::Refuse(422));
    server.restart().unwrap();
    let mut stage = Stage::new(&server);
    stage.until_equal(&server);
    let tally = stage.source.tally();
    let counts = tally.counts();
    let lists = &counts.whole[&(host.clone(), "GET")];
    assert_eq!((lists.seconds.counts.iter().sum::<u64>(), lists.sent.sum), (4, 0.0), "one for each kind");
    assert!(lists.answered.sum > 10_000.0, "{}", lists.answered.sum);
    assert_eq!(counts.requests[&((host.clone(), "GET"), Some(422))], 4);
}

#[test]
fn requests_without_the_selectors_are_refused_by_the_scripted_server() {
    // SVC-1, SVC-4: so that every test here checks them
    let server = server(1);
    let host = server.url().trim_start_matches("http://").to_owned();
    for (path, status) in
        [("/api/v1/services?watch=true", 400), ("/api/v1/nodes?", 400), ("/api/v1/pods?", 404)]
    {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&host).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}
