//! A ClusterIP that an interface of the node holds, as NodeLocal DNSCache does.

use std::net::SocketAddr;
use std::process::Command;

use beeline::cli::explain::Answer;
use beeline::model::addr::Protocol;
use beeline::model::flow::{ClientKind, Flow};
use beeline::plan::resolve::resolve;
use beeline::sandbox::proto::{Dial, Exchange, Serve};

use super::matrix_stage::{Stage, Svc, dial, until, who};

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().expect("ip");
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_cluster_ip_that_an_interface_holds_is_answered_by_who_holds_it_while_it_does() {
    // DEC-5
    let stage = Stage::build("held");
    let [dns, other] = [Svc::new("dns", 10, &[0]), Svc::new("other", 11, &[1])];
    stage.publish(&[&dns, &other]);
    let cache = stage.n1.add_host_process("cache").expect("a host process");
    cache.call(Serve::tcp(80)).expect("a server");
    cache.call(Serve::udp(80)).expect("a server");
    // A process of the node, which needs no route to what the node holds.
    let client = stage.n1.add_host_process("local").expect("a host process");
    let answers = || {
        let [v4, v6] = dns.at(80);
        let tcp = |to| dial(&client, Dial::tcp(to)).reply.unwrap_or_default();
        let report = client.call(Exchange { timeout_ms: 500, ..Exchange::udp(v4) });
        let answer = report.ok().and_then(|report| report.answers.into_iter().next());
        let udp = answer.and_then(|answer| answer.backend().map(str::to_owned));
        [tcp(v4), tcp(v6), udp.unwrap_or_default()]
    };
    let explain = || {
        let to = dns.at(80)[0];
        let flow = Flow { from: ClientKind::Pod, client: None, to, protocol: Protocol::Tcp };
        let reader = stage.reader();
        let answer = Answer::of(&reader, &resolve(&reader, &flow));
        serde_json::to_value(answer).expect("an answer")
    };
    assert_eq!(answers(), ["web-1"; 3]);
    assert_eq!(explain()["action"], "forward");

    let node = stage.n1.netns().name();
    ip(&["-n", node, "addr", "add", "10.96.0.10/32", "dev", "lo"]);
    ip(&["-n", node, "addr", "add", "fd00:10:96::10/128", "dev", "lo", "nodad"]);
    until("whoever holds the address answers", || answers() == ["cache"; 3]);
    assert_eq!((&explain()["action"], &explain()["rules"][0]), (&"pass".into(), &"DEC-5".into()));
    let undefined = SocketAddr::new(dns.ips[0], 81);
    assert_eq!(dial(&client, Dial::tcp(undefined)).errno.as_deref(), Some("ECONNREFUSED"), "by the holder");
    assert_eq!(who(&client, other.at(80)[0]), "web-2", "other Services are as before");

    ip(&["-n", node, "addr", "del", "10.96.0.10/32", "dev", "lo"]);
    ip(&["-n", node, "addr", "del", "fd00:10:96::10/128", "dev", "lo"]);
    until("the Service answers", || answers() == ["web-1"; 3]);
}
