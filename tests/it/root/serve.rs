//! What an agent serves over HTTP, next to the kernel.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use beeline::datapath::pins::Tree;
use serde_json::Value;

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
    for map in status(&rig)["maps"].as_array().unwrap() {
        let label = |name: &str| format!("{name}{{map={}}}", map["name"]);
        assert_eq!(metric(&label("beeline_map_max_entries")), map["max"].as_f64());
        if map["name"] != "bl_flows" {
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
