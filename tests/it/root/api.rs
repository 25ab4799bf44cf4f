//! The main job over the API: an agent before a scripted API server serves a pod's connect().

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use beeline::host::memory;
use beeline::inspect::agent::read_state;
use beeline::sandbox::api_server::{ApiServer, Kind, StreamingLists};
use beeline::sandbox::cluster::Sandbox;
use beeline::sandbox::node::Node;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{Dial, Serve};
use serde_json::json;

use crate::api_stage;

/// Leaves alone what of conntrack is the whole machine's.
const MODEST: [&str; 2] = ["--conntrack-max-per-core=0", "--conntrack-min=0"];

/// A Service at 10.96.0.N:80 with these pods behind it.
fn put(server: &ApiServer, node: &Node, name: &str, n: u8, pods: &[&Pod]) -> Result<()> {
    server.put(json!({
        "kind": "Service", "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": format!("10.96.0.{n}"), "ports": [{"name": "http", "port": 80}]}
    }))?;
    let endpoints: Vec<_> =
        pods.iter().map(|pod| json!({"addresses": [pod.ip4()], "nodeName": node.name()})).collect();
    server.put(json!({
        "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"namespace": "default", "name": format!("{name}-1"),
            "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080}]
    }))?;
    Ok(())
}

/// Waits until something holds.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what}: not in ten seconds");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn pending(node: &Node) -> String {
    read_state(node.bpf_root()).map_or_else(String::new, |state| {
        state.pending.iter().map(|row| format!("{}: {}\n", row.what, row.error)).collect()
    })
}

#[test]
fn an_agent_serves_from_an_api_server_and_goes_on_without_it() -> Result<()> {
    // SYNC-11, SYNC-13
    let sandbox = Sandbox::new("api")?;
    let node = sandbox.add_node("n1")?;
    let (web, client) = (node.add_pod("web")?, node.add_pod("client")?);
    web.call(Serve::tcp(8080))?;
    let mut server = ApiServer::start_in(node.netns().as_fd().try_clone_to_owned()?)?;
    server.put(json!({"kind": "Node", "metadata": {"name": node.name()}}))?;
    put(&server, &node, "one", 10, &[&web])?;
    put(&server, &node, "two", 20, &[&web])?;
    let mut agent = node.start_agent_of(["--apiserver", &server.url()], &MODEST)?;
    let reply = |n: u8| -> Result<Option<String>> {
        Ok(client.call(Dial { timeout_ms: 500, ..Dial::tcp(([10, 96, 0, n], 80)) })?.reply)
    };
    assert_eq!((reply(10)?.as_deref(), reply(20)?.as_deref()), (Some("web"), Some("web")));
    assert_eq!(pending(&node), "");

    until("the start is an event, as kube-proxy's is", || {
        // MET-10, recorded/events.list-kube-proxy
        let events = server.events();
        let start = events.iter().find(|event| event["reason"] == "Starting");
        Ok(start.is_some_and(|start| {
            start["regarding"] == json!({"kind": "Node", "name": node.name(), "apiVersion": "v1"})
                && start["reportingController"] == "kube-proxy"
                && start["type"] == "Normal"
        }))
    })?;

    server.stop();
    until("status says so", || Ok(pending(&node).contains("the API server cannot be reached")))?;
    assert_eq!((reply(10)?.as_deref(), reply(20)?.as_deref()), (Some("web"), Some("web")));
    assert_eq!(agent.log()?.matches("cannot be reached").count(), 1, "said once: {}", agent.log()?);

    server.delete(Kind::Service, "default", "two");
    server.compact();
    server.restart()?;
    until("the Service goes", || Ok(reply(20)?.is_none()))?;
    until("status says so", || Ok(pending(&node).is_empty()))?;
    assert_eq!(reply(10)?.as_deref(), Some("web"));
    assert!(agent.log()?.contains("resolved"), "{}", agent.log()?);

    // Nothing is taken away by an agent that has not heard yet what there is (SYNC-1).
    agent.stop()?;
    server.stop();
    agent.restart_without_waiting()?;
    until("it runs", || Ok(pending(&node).contains("cannot be reached")))?;
    assert_eq!(reply(10)?.as_deref(), Some("web"));
    put(&server, &node, "two", 20, &[&web])?;
    server.delete(Kind::Service, "default", "one");
    server.restart()?;
    until("the lists are taken in", || Ok(reply(20)?.is_some() && reply(10)?.is_none()))?;
    drop(agent);
    sandbox.close()
}

/// Prints the time until `ready` and the memory with 10,000 Services of 10 endpoints. Goals: 3 s,
/// VmHWM 120 MiB, RSS 60 MiB; asserted is what a machine of any speed must keep.
#[test]
fn ten_thousand_services_are_taken_in_without_a_heap_of_copies() -> Result<()> {
    let sandbox = Sandbox::new("apiw")?;
    let node = sandbox.add_node("n1")?;
    let server = ApiServer::start_in(node.netns().as_fd().try_clone_to_owned()?)?;
    server.put(json!({"kind": "Node", "metadata": {"name": node.name()}}))?;
    for n in 0..10_000 {
        server.put(api_stage::service(n, 80))?;
        server.put(api_stage::slice(n, 10))?;
    }
    for mode in ["streaming", "pages"] {
        if mode == "pages" {
            server.behave(|manners| {
                manners.streaming_lists = StreamingLists::Refuse(422);
            });
        }
        let began = Instant::now();
        let agent = node.start_agent_of(["--apiserver", &server.url()], &MODEST)?;
        let ready = began.elapsed();
        let peak = memory::peak_of(agent.pid()?)? >> 20;
        std::thread::sleep(Duration::from_secs(3));
        let rss = memory::rss_of(agent.pid()?)? >> 20;
        println!("{mode}: ready after {ready:?}, VmHWM {peak} MiB, RSS {rss} MiB");
        assert!(peak < 200 && rss < 120, "{mode}: VmHWM {peak} MiB, RSS {rss} MiB");
        drop(agent);
        beeline::datapath::remove::remove_all(node.bpf_root())?;
    }
    sandbox.close()
}
