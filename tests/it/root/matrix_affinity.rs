//! Session affinity as sockets see it.

use std::collections::HashSet;
use std::time::Duration;

use beeline::sandbox::proto::{Dial, Exchange};

use super::matrix_stage::{End, Stage, Svc, dial, who, who_udp};

/// Connections in a row that upstream's own test makes (AFF-8).
const ROW: usize = 15;

#[test]
fn connections_of_one_client_stay_with_one_backend_until_affinity_is_switched_off() {
    // AFF-1, AFF-4, AFF-6, AFF-8
    let stage = Stage::build("affinity");
    let mut web = Svc { affinity: Some(10_800), ..Svc::new("web", 10, &[0, 1, 2]) };
    stage.publish(&[&web]);
    let host = stage.n1.add_host_process("host").expect("a host process");
    let [v4, v6] = web.at(80);
    let tcp = |to| (0..ROW).map(|_| who(&stage.client, to)).collect::<HashSet<_>>();
    let udp = |to: Exchange| (0..ROW).map(|_| who_udp(&stage.client, to.clone())).collect::<HashSet<_>>();
    let of_host = || (0..ROW).map(|_| who(&host, v4)).collect::<HashSet<_>>();
    let held = tcp(v4);
    assert_eq!(held.len(), 1, "{held:?}");
    let mapped = dial(&stage.client, Dial::tcp(v4).mapped());
    assert!(mapped.reply.is_some_and(|name| held.contains(&name)), "v4-mapped is IPv4");
    assert_eq!([tcp(v6).len(), of_host().len()], [1, 1]);
    let datagrams = udp(Exchange::udp(v4));
    assert_eq!(datagrams.len(), 1, "every time another socket");
    assert_eq!(udp(Exchange::udp(v4).connected()), datagrams, "connected or not");

    // What is no longer eligible is left, for one that is then kept.
    let at = ["web-1", "web-2", "web-3"].iter().position(|name| held.contains(*name)).expect("a backend");
    web.ends[at] = End::leaving(at);
    stage.publish(&[&web]);
    let next = tcp(v4);
    assert!(next.len() == 1 && next.is_disjoint(&held), "{held:?}, then {next:?}");

    web.ends[at] = End::ready(at);
    web.affinity = None;
    stage.publish(&[&web]);
    for several in [tcp(v4), tcp(v6), udp(Exchange::udp(v4)), of_host()] {
        assert!(several.len() >= 2, "{several:?}");
    }
}

#[test]
fn affinity_ends_when_its_time_has_passed_since_the_last_connection() {
    // AFF-3
    const TIMEOUT: Duration = Duration::from_secs(3);
    let stage = Stage::build("timeout");
    let web = Svc { affinity: Some(3), ..Svc::new("web", 10, &[0, 1, 2]) };
    stage.publish(&[&web]);
    let ask = || who(&stage.client, web.at(80)[0]);
    let first = ask();
    for _ in 0..4 {
        std::thread::sleep(TIMEOUT / 3);
        assert_eq!(ask(), first, "each connection makes it last longer");
    }
    // A new choice is the same one in three times.
    let moved = (0..10).any(|_| {
        std::thread::sleep(TIMEOUT + Duration::from_millis(100));
        ask() != first
    });
    assert!(moved, "ten choices after the time was up, all of them {first}");
}
