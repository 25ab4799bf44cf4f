//! UDP flows across changes: they keep a backend while it serves, several frontends share a socket, a
//! socket connects again.

use std::collections::HashSet;
use std::net::SocketAddr;

use beeline::model::addr::Protocol;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{Dial, Exchange, Open, PeerName, Reconnect, SendCall};
use beeline::sandbox::sock::canonical;

use super::matrix_stage::{End, Stage, Svc, TARGET, ask, dial, receive, send, who, who_udp};

/// The name `web-3` has place 2.
fn place(name: &str) -> usize {
    let number: usize =
        name.strip_prefix("web-").and_then(|n| n.parse().ok()).expect("the name of a backend");
    number - 1
}

/// The peer of an open socket, without v4-mapping.
fn peer(client: &Pod, socket: &str) -> Option<SocketAddr> {
    client.call(PeerName { socket: socket.into() }).expect("the pod answers").peer.map(canonical)
}

fn reconnect(client: &Pod, socket: &str, to: Option<SocketAddr>) {
    let done = client.call(Reconnect { socket: socket.into(), to }).expect("the pod answers");
    assert_eq!(done.errno, None, "{socket} connects to {to:?}");
    assert_eq!(done.peer.map(canonical), to, "getpeername shows what was dialled");
}

#[test]
fn a_udp_flow_keeps_its_backend_until_that_stops_serving() {
    // DEC-2, CT-4, SOCK-4
    let stage = Stage::build("keeps");
    let mut web = Svc::new("web", 10, &[0, 1, 2]);
    stage.publish(&[&web]);
    let client = &stage.client;
    let [v4, v6] = web.at(80);
    // Not connected: IPv4, IPv6, v4-mapped.
    let free = [("v4", false, v4), ("v6", true, v6), ("mapped", true, v4)];
    for (name, is_v6, _) in free {
        client.call(Open::unconnected(name, is_v6)).expect("the pod answers");
    }
    let asked = || free.map(|(name, _, to)| ask(client, name, Some(to)).0);
    let before = asked();
    // Connected, and connected to the same once more on each question.
    client.call(Open::udp("connected", v6)).expect("the pod answers");
    let connected = || {
        reconnect(client, "connected", Some(v6));
        ask(client, "connected", None).0
    };
    let first = connected();

    let leaving: HashSet<usize> = before.iter().chain([&first]).map(|name| place(name)).collect();
    web.ends =
        (0..3).map(|at| if leaving.contains(&at) { End::leaving(at) } else { End::ready(at) }).collect();
    stage.publish(&[&web]);
    for _ in 0..10 {
        assert_eq!(asked(), before, "they stay with what serves, though it is not eligible");
        assert_eq!(connected(), first);
    }

    let gone = place(&before[0]);
    web.ends = (0..3).map(|at| if at == gone { End::gone(at) } else { End::ready(at) }).collect();
    stage.publish(&[&web]);
    let after = asked();
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(
            old == new,
            place(old) != gone,
            "only those move whose backend does not serve: {old} {new}"
        );
    }
    assert_eq!(connected() == first, place(&first) != gone);
    assert!((0..10).all(|_| asked() == after), "and stay with the next");
}

/// As every pod of a rollout is: its endpoint is there before it is ready.
#[test]
fn endpoints_that_become_ready_are_kept_like_those_that_were_ready_at_first() {
    // CT-4, AFF-1, AFF-5
    let stage = Stage::build("starting");
    let mut web = Svc { affinity: Some(10_800), ..Svc::new("web", 10, &[0, 1, 2]) };
    let mut plain = Svc::new("plain", 11, &[0, 1, 2]);
    web.ends = (0..3).map(End::starting).collect();
    plain.ends = web.ends.clone();
    stage.publish(&[&web, &plain]);
    web.ends = (0..3).map(End::ready).collect();
    plain.ends = web.ends.clone();
    stage.publish(&[&web, &plain]);

    let client = &stage.client;
    client.call(Open::unconnected("free", false)).expect("the pod answers");
    let asked: HashSet<_> = (0..20).map(|_| ask(client, "free", Some(plain.at(80)[0]))).collect();
    assert_eq!(asked.len(), 1, "one socket, one backend, and what was dialled answers: {asked:?}");
    let dialled: HashSet<_> = (0..20).map(|_| who(client, web.at(80)[0])).collect();
    assert_eq!(dialled.len(), 1, "session affinity: {dialled:?}");
}

#[test]
fn each_service_of_one_socket_answers_under_its_own_address() {
    // SOCK-4, SOCK-6
    let stage = Stage::build("several");
    let services = [Svc::new("a", 11, &[0]), Svc::new("b", 12, &[1]), Svc::new("c", 13, &[2])];
    stage.publish(&services.each_ref());
    for call in [SendCall::Sendto, SendCall::Sendmsg, SendCall::Sendmmsg] {
        for (family, mapped) in [(0, false), (1, false), (0, true)] {
            let [a, b, c] = services.each_ref().map(|service| service.at(80)[family]);
            let several =
                Exchange { mapped, timeout_ms: 10_000, ..Exchange::udp(a).by(call).and(b).and(c).and(a) };
            let report = stage.client.call(several).expect("the pod answers");
            let answers = report.answers.iter().map(|answer| (answer.backend(), answer.from.map(canonical)));
            // One call may send all: then answers come in any order.
            let answers: HashSet<_> = answers.collect();
            let expected =
                HashSet::from([(Some("web-1"), Some(a)), (Some("web-2"), Some(b)), (Some("web-3"), Some(c))]);
            assert_eq!(answers, expected, "{call:?} mapped={mapped}: {report:?}");
        }
    }
}

/// A datagram carries no more than its sender's address: which of two frontends an answer belongs to is
/// not in it. It is shown as from the one that was dialled first; a connected socket knows.
#[test]
fn two_services_of_one_backend_on_one_socket_answer_as_the_first() {
    let stage = Stage::build("twice");
    let (one, two) = (Svc::new("one", 14, &[0]), Svc::new("two", 15, &[0]));
    stage.publish(&[&one, &two]);
    let client = &stage.client;
    client.call(Open::unconnected("both", false)).expect("the pod answers");
    let (one, two) = (one.at(80)[0], two.at(80)[0]);
    assert_eq!(ask(client, "both", Some(one)), ("web-1".to_owned(), one));
    assert_eq!(ask(client, "both", Some(two)), ("web-1".to_owned(), one), "the exception");
    client.call(Open::unconnected("other", false)).expect("the pod answers");
    assert_eq!(ask(client, "other", Some(two)), ("web-1".to_owned(), two), "another socket is not touched");
    for to in [one, two] {
        reconnect(client, "both", Some(to));
        assert_eq!(ask(client, "both", None), ("web-1".to_owned(), to));
    }
}

#[test]
fn a_socket_that_connects_again_shows_what_it_dialled_last() {
    // SOCK-2, SOCK-6
    let stage = Stage::build("again");
    let (a, b) = (Svc::new("a", 11, &[0]), Svc::new("b", 12, &[1]));
    stage.publish(&[&a, &b]);
    let client = &stage.client;
    for (socket, is_v6, family) in [("v4", false, 0), ("v6", true, 1), ("mapped", true, 0)] {
        client.call(Open::unconnected(socket, is_v6)).expect("the pod answers");
        let pod = stage.web[0].at(TARGET)[family];
        // The pod is the very backend of the first Service.
        let steps = [(a.at(80)[family], "web-1"), (b.at(80)[family], "web-2"), (pod, "web-1")];
        for (to, name) in steps {
            reconnect(client, socket, Some(to));
            let (said, from) = ask(client, socket, None);
            assert_eq!((said.as_str(), canonical(from)), (name, to), "{socket}");
            assert_eq!(peer(client, socket), Some(to));
        }
        // An answer on its way while the connection is dissolved is from the pod that was dialled.
        send(client, socket, None);
        reconnect(client, socket, None);
        assert_eq!(peer(client, socket), None, "{socket}");
        let (said, from) = ask(client, socket, Some(pod));
        assert_eq!((said.as_str(), canonical(from)), ("web-1", pod), "{socket}");
        let (said, from) = ask(client, socket, Some(a.at(80)[family]));
        assert_eq!((said.as_str(), canonical(from)), ("web-1", a.at(80)[family]), "{socket}");
    }
}

/// An answer that comes after the connection to a Service was dissolved, from the pod the Service led to,
/// is from that pod: the socket is connected to nothing.
#[test]
fn a_dissolved_connection_shows_nothing_stale() {
    // SOCK-2
    let stage = Stage::build("dissolved");
    let web = Svc::new("web", 10, &[0]);
    stage.publish(&[&web]);
    let client = &stage.client;
    for family in [0, 1] {
        let pod = stage.web[0].at(TARGET)[family];
        client.call(Open::udp("socket", web.at(80)[family])).expect("the pod answers");
        assert_eq!(ask(client, "socket", None).1, web.at(80)[family]);
        reconnect(client, "socket", None);
        send(client, "socket", Some(pod));
        let answer = receive(client, "socket");
        assert_eq!(answer.from, Some(pod), "{answer:?}");
    }
}

#[test]
fn connections_are_counted_exactly() {
    let stage = Stage::build("counted");
    let web = Svc::new("web", 10, &[0, 1, 2]);
    stage.publish(&[&web]);
    let host = stage.n1.add_host_process("host").expect("a host process");
    let [v4, v6] = web.at(80);
    for client in [&stage.client, &host] {
        for to in [v4, v6] {
            (0..10).for_each(|_| drop(who(client, to)));
        }
        (0..10).for_each(|_| drop(dial(client, Dial::tcp(v4).mapped())));
    }
    assert_eq!(stage.counts(&web, Protocol::Tcp), [60, 0, 0]);
    for to in [v4, v6] {
        // A socket is one flow, however many datagrams it sends.
        let many = Exchange::udp(to).and(to).and(to);
        who_udp(&stage.client, many.clone());
        who_udp(&stage.client, many.clone().by(SendCall::Sendmmsg));
        who_udp(&stage.client, many.connected());
        stage.client.call(Open::udp("again", to)).expect("the pod answers");
        reconnect(&stage.client, "again", Some(to));
    }
    assert_eq!(stage.counts(&web, Protocol::Udp), [8, 0, 0], "connecting again to the same is the same flow");
}
