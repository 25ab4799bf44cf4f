//! What an agent serves over HTTP, next to the kernel.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use beeline::datapath::maps::Reader;
use beeline::datapath::pins::Tree;
use beeline::inspect::dump::canonical;
use beeline::sandbox;
use beeline::sandbox::api_server::ApiServer;
use beeline::sandbox::cluster::Sandbox;
use beeline::sandbox::node::Node;
use serde_json::{Value, json};

use super::agent::{Agent, until};
use super::datapath_rig::{Dialler, Rig, Server};
use crate::http::{free_address, get, sample};

/// An agent with its metrics on a free port.
fn start(rig: &Rig, manifests: &Path) -> (Agent, SocketAddr) {
    let metrics = free_address();
    let agent = Agent::start_with(rig, manifests, &["--metrics-bind-address", &metrics.to_string()]);
    until("the metrics port", || std::net::TcpStream::connect(metrics).is_ok());
    (agent, metrics)
}

fn status(rig: &Rig) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_beeline"));
    let output = command.args(["status", "-o", "json", "--bpf-root"]).arg(rig.bpf_root()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A Service `web` of one port with one endpoint.
fn web(dir: &Path, server: SocketAddr) {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
         spec: {{clusterIP: 172.30.0.1, ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n",
        server.port(),
        server.ip()
    );
    fs::write(dir.join("web.yaml"), text).unwrap();
}

#[test]
fn a_full_map_shows_in_status_log_and_metric_and_the_rest_goes_on() {
    // SYNC-5
    let (rig, dir, server) = (Rig::new(), tempfile::tempdir().unwrap(), Server::start());
    web(dir.path(), server.addr);
    let (agent, metrics) = start(&rig, dir.path());
    let metric = |name: &str| sample(&get(metrics, "/metrics").body, name);
    assert_eq!(metric(r#"beeline_pending{map="bl_prefixes",reason="full"}"#), Some(0.0));
    let max = metric(r#"beeline_map_max_entries{map="bl_prefixes"}"#).unwrap() as u32;

    let cidrs: Vec<_> =
        (0..=max).map(|n| format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255)).collect();
    let object = format!(
        "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: many}}\nspec: {{cidrs: [{}]}}\n",
        cidrs.join(", ")
    );
    fs::write(dir.path().join("many.yaml"), object).unwrap();
    until("the full map", || metric(r#"beeline_pending{map="bl_prefixes",reason="full"}"#) > Some(0.0));
    assert_eq!(metric(r#"beeline_map_entries{map="bl_prefixes"}"#), Some(f64::from(max)));
    assert_eq!(metric(r#"beeline_pending{map="bl_services",reason="full"}"#), Some(0.0));
    let pending = status(&rig)["pending"].clone();
    let error = pending[0]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains(&format!("bl_prefixes is full: all {max} rows")), "{pending}");
    assert!(error.contains("list fewer"), "the next step: {error}");
    assert!(agent.log().contains(&error), "{}", agent.log());
    assert!(status(&rig)["counts"]["backends"] == 1, "a Service goes on");

    fs::remove_file(dir.path().join("many.yaml")).unwrap();
    until("room again", || metric(r#"beeline_pending{map="bl_prefixes",reason="full"}"#) == Some(0.0));
    until("nothing is pending", || status(&rig)["pending"] == Value::Array(Vec::new()));
}

#[test]
fn metrics_show_the_tables_the_programs_and_what_was_dialled() {
    let (rig, dir, server) = (Rig::new(), tempfile::tempdir().unwrap(), Server::start());
    web(dir.path(), server.addr);
    let (_agent, metrics) = start(&rig, dir.path());
    let web = r#"{namespace="default",service="web",port="http",protocol="TCP",ip_family="IPv4"}"#;
    assert!(!get(metrics, "/metrics").body.contains(web), "nothing was counted");

    let (count, errors) = Dialler::start(&rig, "172.30.0.1:80".parse().unwrap()).stop();
    assert_eq!(errors, "");
    let answer = get(metrics, "/metrics");
    let metric = |name: &str| sample(&answer.body, name);
    assert_eq!(metric(&format!("beeline_service_connections_total{web}")), Some(count as f64));
    assert_eq!(metric(&format!("beeline_service_refused_total{web}")), Some(0.0));
    assert_eq!(answer.header("Transfer-Encoding"), Some("chunked"));
    assert_eq!(metric("beeline_source_synced"), Some(1.0));
    assert_eq!(metric("beeline_tables_readable"), Some(1.0));
    assert_eq!(metric(r#"beeline_map_entries{map="bl_services"}"#), Some(1.0));
    assert_eq!(metric(r#"beeline_programs_attached{program="bl_connect4"}"#), Some(1.0));
    let maps = status(&rig)["maps"].as_array().unwrap().clone();
    for map in maps.iter().filter(|map| map["name"] != "bl_flows_near") {
        let label = |name: &str| format!("{name}{{map={}}}", map["name"]);
        assert_eq!(metric(&label("beeline_map_max_entries")), map["max"].as_f64());
        if !map["name"].as_str().unwrap().starts_with("bl_flows") {
            assert_eq!(metric(&label("beeline_map_entries")), map["used"].as_f64(), "{map}");
        }
    }
    fs::remove_file(Tree::new(&rig.bpf_root()).links().join("bl_connect4")).unwrap();
    let body = get(metrics, "/metrics").body;
    assert_eq!(sample(&body, r#"beeline_programs_attached{program="bl_connect4"}"#), Some(0.0));
}

#[test]
fn an_address_that_is_taken_stops_nothing_and_is_had_as_soon_as_it_is_free() {
    // HLT-8
    let (rig, dir) = (Rig::new(), tempfile::tempdir().unwrap());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = taken.local_addr().unwrap();
    let agent = Agent::start_with(&rig, dir.path(), &["--metrics-bind-address", &metrics.to_string()]);
    until("the warning", || agent.log().contains("cannot listen on"));
    drop(taken);
    until("the metrics port", || agent.log().contains("served on"));
    assert_eq!(get(metrics, "/metrics").status(), 200);
    assert_eq!(agent.log().matches("cannot listen on").count(), 1, "{}", agent.log());
}

/// What an agent says and ends with before a health port that is taken, with a flag more; it has five seconds.
fn before_a_taken_port(node: &Node, source: [&str; 2], flag: &str) -> (Option<bool>, String) {
    let taken: SocketAddr = (node.ip4(), 10256).into();
    let taken = node.netns().run(|| Ok(std::net::TcpListener::bind(taken)?)).unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let mut agent = node.start_agent_of(source, &["--healthz-bind-address", &at, flag]).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    let says = |agent: &sandbox::agent::Agent| agent.log().unwrap().contains(&format!("listen on {at}"));
    while Instant::now() < end && (!says(&agent) || (flag.ends_with("true") && agent.runs())) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let success = if agent.runs() { None } else { agent.stop().ok().map(|status| status.success()) };
    (success, agent.log().unwrap())
}

#[test]
fn a_health_port_that_is_taken_ends_the_agent_only_if_that_is_asked_for() {
    // HLT-8, MET-10
    let sandbox = Sandbox::new("hard").unwrap();
    let node = sandbox.add_node("n1").unwrap();
    let server = ApiServer::start_in(node.netns().as_fd().try_clone_to_owned().unwrap()).unwrap();
    server.put(json!({"kind": "Node", "metadata": {"name": node.name()}})).unwrap();
    let failed = || server.events().into_iter().find(|e| e["reason"] == "FailedToStartProxierHealthcheck");
    let source = ["--apiserver", &server.url()];

    let (success, log) = before_a_taken_port(&node, source, "--bind-address-hard-fail=false");
    assert_eq!(success, None, "it goes on: {log}");
    assert!(log.contains("health: cannot listen on") && log.contains("--healthz-bind-address"), "{log}");
    assert_eq!(failed(), None);

    let (success, log) = before_a_taken_port(&node, source, "--bind-address-hard-fail=true");
    assert_eq!(success, Some(false), "{log}");
    assert!(log.contains("bindAddressHardFail is set: health: listen on"), "{log}");
    let event = failed().expect("it is an event");
    assert_eq!(event["regarding"]["name"], node.name());
    assert!(event["note"].as_str().unwrap().contains("listen on"), "{event}");
    sandbox.close().unwrap();
}

/// A load balancer `lb` with `externalTrafficPolicy: Local` and one endpoint on n1, and the Node n1.
fn balancer(dir: &Path, conditions: &str, taint: &str) {
    let time = humantime(SystemTime::now());
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: lb}}\n\
         spec: {{type: LoadBalancer, clusterIP: 172.30.0.9, externalTrafficPolicy: Local, healthCheckNodePort: 30500,\
         \x20 ports: [{{name: a, port: 80, nodePort: 30080}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: lb-1, labels: {{kubernetes.io/service-name: lb}},\
         \x20 annotations: {{endpoints.kubernetes.io/last-change-trigger-time: '{time}'}}}}\n\
         addressType: IPv4\nports: [{{name: a, port: 1}}]\n\
         endpoints: [{{addresses: [10.244.1.10], nodeName: n1, conditions: {{{conditions}}}}}]\n---\n\
         apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\nspec: {{taints: [{{key: {taint}, effect: NoSchedule}}]}}\n"
    );
    let aside = dir.join(".aside");
    fs::write(&aside, text).unwrap();
    fs::rename(aside, dir.join("lb.yaml")).unwrap();
}

fn humantime(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).unwrap().to_string()
}

#[test]
fn balancers_see_what_the_node_has() {
    // HC-3 to HC-7, HC-10, HLT-1, HLT-4, DEC-6, MET-2
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::with_binary("serve", Path::new(env!("CARGO_BIN_EXE_beeline"))).unwrap();
    let node = sandbox.add_node("n1").unwrap();
    let ask = |to: SocketAddr, path: &str| {
        node.netns()
            .run(|| Ok(crate::http::ask(to, "GET", path)?))
            .ok()
            .map(|answer| (answer.status(), answer))
    };
    let check: SocketAddr = (node.ip4(), 30500).into();
    let status = |to, path| ask(to, path).map(|(status, _)| status);
    let agent = node.start_agent(dir.path(), &[]).unwrap();
    let health: SocketAddr = (node.ip4(), 10256).into();
    until("no Node object and yet eligible", || status(health, "/healthz") == Some(200));
    assert_eq!(status((node.ip6(), 10256).into(), "/livez"), Some(200), "0.0.0.0 is both families, as in Go");
    assert_eq!(status(check, "/"), None);

    balancer(dir.path(), "ready: true", "node.kubernetes.io/unschedulable");
    until("a health check", || status(check, "/") == Some(200));
    assert_eq!(ask(check, "/x").unwrap().1.header("X-Load-Balancing-Endpoint-Weight"), Some("1"));
    assert_eq!(status((node.ip6(), 30500).into(), "/"), None, "the Service has one family");
    balancer(dir.path(), "ready: false, serving: true, terminating: true", "x");
    until("it drains", || status(check, "/") == Some(503));
    balancer(dir.path(), "ready: true", "ToBeDeletedByClusterAutoscaler");
    until("the node drains", || status(health, "/healthz") == Some(503));
    assert_eq!(status(health, "/livez"), Some(200));
    until("HC-6", || status(check, "/") == Some(200));

    let metrics: SocketAddr = ([127, 0, 0, 1], 10249).into();
    let body = ask(metrics, "/metrics").unwrap().1.body;
    let name = |what: &str| format!("kubeproxy_network_programming_duration_seconds_{what}");
    assert_eq!(sample(&body, &name("count{ip_family=\"IPv4\"}")), Some(3.0), "{body}");
    assert_eq!(
        sample(&body, &name("bucket{ip_family=\"IPv4\",le=\"0.25\"}")),
        Some(3.0),
        "well under a second"
    );
    assert_eq!(ask(metrics, "/proxyMode").unwrap().1.body, "nftables");

    // MET-4: a change that concerns no row does not wait.
    let counted = |what: &str| {
        let name = format!("kubeproxy_sync_proxy_rules_service_changes_{what}");
        sample(&ask(metrics, "/metrics").unwrap().1.body, &name).unwrap()
    };
    let before = counted("total");
    let text = fs::read_to_string(dir.path().join("lb.yaml")).unwrap();
    fs::write(
        dir.path().join(".aside"),
        text.replace("metadata: {name: lb}", "metadata: {name: lb, annotations: {x: y}}"),
    )
    .unwrap();
    fs::rename(dir.path().join(".aside"), dir.path().join("lb.yaml")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((counted("total"), counted("pending")), (before, 0.0));

    // HC-1
    let said = || agent.log().unwrap().matches("Service default/lb is of type LoadBalancer").count();
    assert_eq!(said(), 0);
    let text = fs::read_to_string(dir.path().join("lb.yaml")).unwrap();
    let without = text.replace(" healthCheckNodePort: 30500,", "");
    for change in ["port: 80", "port: 81"] {
        fs::write(dir.path().join(".aside"), without.replace("port: 80", change)).unwrap();
        fs::rename(dir.path().join(".aside"), dir.path().join("lb.yaml")).unwrap();
        let dialled = format!("172.30.0.9:{}", change.trim_start_matches("port: "));
        let rows = || canonical(&Reader::open(node.bpf_root()).unwrap().rows().unwrap());
        until("it is programmed", || rows().contains(&dialled) && said() > 0);
    }
    assert_eq!(said(), 1, "{}", agent.log().unwrap());
    assert_eq!(status(check, "/"), None, "no port");

    fs::remove_file(dir.path().join("lb.yaml")).unwrap();
    until("no Service, no port", || status(check, "/").is_none());
    drop(agent);
    sandbox.close().unwrap();
}
