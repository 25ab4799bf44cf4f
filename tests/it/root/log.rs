//! What an agent writes while it runs: a line per change of state, nothing per connection.

use std::fs;

use serde_json::Value;

use super::agent::{Agent, until, write};
use super::datapath_rig::{Dialler, Rig, Server};

#[test]
fn a_change_is_a_line_and_a_connection_is_none() {
    let (rig, server) = (Rig::new(), Server::start());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "web", "80");
    let slice = |name: &str, port: u16| {
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}\n\
             ports: [{{name: \"\", port: {port}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n"
        );
        let (aside, file) = (dir.path().join(".slice"), dir.path().join(format!("{name}.yaml")));
        fs::write(&aside, text).unwrap();
        fs::rename(aside, file).unwrap();
    };
    slice("web-1", server.addr.port());
    let agent = Agent::start_with(&rig, dir.path(), &["--log-format", "json", "--v", "4"]);
    let lines = || agent.log().lines().count();
    let before = lines();

    let (count, errors) = Dialler::start(&rig, ([172, 30, 0, 1], 80).into()).stop();
    assert!(errors.is_empty() && count > 10, "{count} connections: {errors}");
    assert_eq!(lines(), before, "{}", agent.log());

    slice("web-2", 9);
    until("the change is told", || lines() > before);
    let log = agent.log();
    let told: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(told.len(), before + 1, "{log}");
    let last = told.last().unwrap().to_string();
    assert!(last.contains("default/web") && last.contains("DEBUG"), "{last}");

    // What is wrong is told once, and that it is over.
    fs::write(dir.path().join("bad.yaml"), "a: [b\n").unwrap();
    until("the trouble is told", || agent.log().contains("bad.yaml"));
    let troubled = lines();
    slice("web-2", 10);
    until("the next change is told", || lines() > troubled);
    assert_eq!(lines(), troubled + 1, "{}", agent.log());
    fs::remove_file(dir.path().join("bad.yaml")).unwrap();
    until("its end is told", || agent.log().contains("resolved"));
}
