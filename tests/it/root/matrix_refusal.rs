//! What sockets see where there is no backend: a Service without endpoints, another port or protocol, an
//! address that is no Service.

use std::net::SocketAddr;

use beeline::datapath::kernel::has_set_retval;
use beeline::model::addr::Protocol;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{ConnectCall, Dial, DialReport, Exchange, Open, Reconnect, Step};

use super::matrix::{Call, Cell, Form, Socket};
use super::matrix_client;
use super::matrix_raw::Ring;
use super::matrix_stage::{End, Stage, Svc, TARGET, ask, kernel_peers, who};

const CALLS: [ConnectCall; 4] = [
    ConnectCall::Blocking,
    ConnectCall::NonBlocking,
    ConnectCall::FastOpenSend,
    ConnectCall::FastOpenConnect,
];

/// To IPv4, IPv6 and v4-mapped by every call.
fn every_way(to: [SocketAddr; 2]) -> Vec<Dial> {
    let forms = [Dial::tcp(to[0]), Dial::tcp(to[1]), Dial::tcp(to[0]).mapped()];
    CALLS.into_iter().flat_map(|call| forms.clone().map(|form| form.by(call))).collect()
}

/// Dials all at the same time: what is left alone may wait until its time is up.
fn dial_all(client: &Pod, to: [SocketAddr; 2]) -> Vec<(Dial, DialReport)> {
    let begin = |what: Dial| {
        let pending = client.begin(Dial { timeout_ms: 3000, ..what.clone() }).expect("the pod is there");
        (what, pending)
    };
    let all: Vec<_> = every_way(to).into_iter().map(begin).collect();
    all.into_iter().map(|(what, pending)| (what, pending.wait().expect("the pod answers"))).collect()
}

/// What the network answers where nothing has the address, if it answers in time.
const NOBODY: &[&str] = &["ENETUNREACH", "ETIMEDOUT"];
/// What a host answers for a port at which nobody listens.
const NO_LISTENER: &[&str] = &["ECONNREFUSED"];

/// Every call is refused at once; where the kernel has no `bpf_set_retval` it is left alone. Answers how
/// many connections were tried.
fn every_dial_is_refused(client: &Pod, to: [SocketAddr; 2]) -> u64 {
    if !has_set_retval() {
        return every_dial_is_left_alone(client, to, NOBODY);
    }
    let all = dial_all(client, to);
    for (what, report) in &all {
        let failure = (report.errno.as_deref(), report.failed);
        assert_eq!(failure, (Some("ECONNREFUSED"), Some(Step::Connect)), "{what:?}: {report:?}");
        assert!(report.elapsed_us < 1_000_000, "at once: {report:?}");
    }
    all.len() as u64
}

/// Every call gets the network's own answer. Answers how many connections were tried.
fn every_dial_is_left_alone(client: &Pod, to: [SocketAddr; 2], answers: &[&str]) -> u64 {
    let all = dial_all(client, to);
    for (what, report) in &all {
        let errno = report.errno.as_deref().unwrap_or("no error");
        assert!(answers.contains(&errno), "{what:?}: {report:?}, not one of {answers:?}");
    }
    all.len() as u64
}

/// A UDP `connect` succeeds, and the kernel holds the very address that was dialled; answers how many
/// sockets were connected.
fn udp_is_left_alone(client: &Pod, to: [SocketAddr; 2]) -> u64 {
    for address in to {
        let opened = client.call(Open::udp("left-alone", address)).expect("the pod answers");
        assert_eq!((opened.errno.as_deref(), opened.peer), (None, Some(address)), "{address}");
        assert!(kernel_peers(client).contains(&address), "{address} among {:?}", kernel_peers(client));
    }
    2
}

/// Connects by io_uring to v4, v6 and v4-mapped; answers how each failed.
fn by_io_uring(client: &Pod, stage: &Stage, to: [SocketAddr; 2]) -> Vec<Option<String>> {
    let cell = |form: Form| {
        let to = form.of(to);
        Cell { call: Call::IoUring, socket: Socket::Tcp, form, to, other: to }
    };
    let cells = [Form::V4, Form::V6, Form::Mapped].map(cell);
    let outcomes = matrix_client::play(client, stage.sandbox.dir(), &cells);
    outcomes.into_iter().map(|outcome| outcome.failed).collect()
}

#[test]
fn a_service_without_endpoints_refuses_tcp_at_once_and_leaves_udp_alone() {
    // DEC-1, REJ-1, SOCK-11, SOCK-12
    let stage = Stage::build("no-endpoints");
    let host = stage.n1.add_host_process("host").expect("a host process");
    let mut empty = Svc::new("empty", 30, &[]);
    stage.publish(&[&empty]);
    let mut refused = every_dial_is_refused(&stage.client, empty.at(80));
    refused += every_dial_is_refused(&host, empty.at(80));
    assert_eq!(stage.counts(&empty, Protocol::Tcp), [0, refused, 0], "each is counted once");

    if Ring::new().is_ok() {
        for failed in by_io_uring(&stage.client, &stage, empty.at(80)) {
            let is_refused = failed.as_deref() == Some("IORING_OP_CONNECT: ECONNREFUSED");
            // What else the kernel says depends on when its second try comes (5.10).
            assert!(failed.is_some() && is_refused == has_set_retval(), "{failed:?}");
        }
        assert_eq!(stage.counts(&empty, Protocol::Tcp), [0, refused + 3, 0], "each is counted once");
    }

    let refused = udp_is_left_alone(&stage.client, empty.at(80));
    assert_eq!(stage.counts(&empty, Protocol::Udp), [0, refused, 0], "each is counted once");
    assert_eq!(stage.reader().flows().expect("flows can be read"), [], "no row for what was left alone");

    // The first endpoint serves new connections, and the UDP socket once it connects again.
    empty.ends.push(End::ready(2));
    stage.publish(&[&empty]);
    assert_eq!(who(&stage.client, empty.at(80)[0]), "web-3");
    let to = empty.at(80)[1];
    let again = Reconnect { socket: "left-alone".into(), to: Some(to) };
    assert_eq!(stage.client.call(again).expect("the pod answers").peer, Some(to));
    assert_eq!(ask(&stage.client, "left-alone", None), ("web-3".to_owned(), to));
}

#[test]
fn a_cluster_ip_refuses_ports_and_protocols_that_no_service_defines() {
    // UND-1
    let stage = Stage::build("undefined");
    let plain = stage.n1.add_plain_pod("plain").expect("a pod");
    let host = stage.n1.add_host_process("host").expect("a host process");
    let tcp = Svc { ports: vec![(Protocol::Tcp, 80)], ..Svc::new("tcp", 40, &[0]) };
    let udp = Svc { ports: vec![(Protocol::Udp, 53)], ..Svc::new("udp", 41, &[1]) };
    stage.publish(&[&tcp, &udp]);
    for client in [&stage.client, &host] {
        every_dial_is_refused(client, tcp.at(81));
        every_dial_is_refused(client, udp.at(53));
    }
    udp_is_left_alone(&stage.client, tcp.at(80));
    udp_is_left_alone(&stage.client, udp.at(54));
    let silent = Exchange { timeout_ms: 300, ..Exchange::udp(tcp.at(80)[0]) };
    let answers =
        [&stage.client, &plain].map(|pod| pod.call(silent.clone()).expect("the pod answers").answers);
    assert_eq!(answers[0][0].errno, answers[1][0].errno, "a datagram goes as where Beeline is not");
    assert_eq!(stage.counts(&tcp, Protocol::Tcp), [0, 0, 0], "they are no business of the Service");
    assert_eq!(stage.counts(&udp, Protocol::Udp), [0, 0, 0]);
    assert_eq!(who(&stage.client, tcp.at(80)[0]), "web-1");
}

#[test]
fn an_address_that_is_no_service_is_left_alone() {
    let stage = Stage::build("no-service");
    let web = Svc::new("web", 10, &[0]);
    stage.publish(&[&web]);
    // In the range of the Services, and the port of a pod at which nobody listens.
    let nobody = Svc::new("nobody", 99, &[]);
    every_dial_is_left_alone(&stage.client, nobody.at(80), NOBODY);
    every_dial_is_left_alone(&stage.client, stage.web[0].at(TARGET + 1), NO_LISTENER);
    udp_is_left_alone(&stage.client, nobody.at(80));
    udp_is_left_alone(&stage.client, stage.web[0].at(TARGET));
    assert_eq!(stage.reader().flows().expect("flows can be read"), [], "no row for what was left alone");
}

#[test]
fn a_local_policy_without_a_local_endpoint_does_not_refuse() {
    // REJ-2, SOCK-13, POL-1
    let stage = Stage::build("local");
    let mut local = Svc { local: true, ..Svc::new("local", 50, &[2]) };
    stage.publish(&[&local]);
    let dropped = every_dial_is_left_alone(&stage.client, local.at(80), NOBODY);
    assert_eq!(stage.counts(&local, Protocol::Tcp), [0, 0, dropped], "each is counted once");
    let dropped = udp_is_left_alone(&stage.client, local.at(80));
    assert_eq!(stage.counts(&local, Protocol::Udp), [0, 0, dropped]);
    local.ends.push(End::ready(1));
    stage.publish(&[&local]);
    for _ in 0..10 {
        assert_eq!(who(&stage.client, local.at(80)[1]), "web-2", "the local one alone");
    }
}
