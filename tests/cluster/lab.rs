//! A cluster in a box with the real control plane in the namespace of its first node.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use beeline::host::process::{self, Place};
use beeline::inspect::agent::read_state;
use beeline::sandbox::agent::Agent;
use beeline::sandbox::cluster::{Sandbox, default_binary};
use beeline::sandbox::node::Node;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{Dial, DialReport, Serve};
use serde_json::{Value, json};

use crate::assets::Assets;
use crate::real::RealServer;
use crate::stage::Server;

/// How long what is to happen may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two nodes, pods that answer with their names, and the servers.
pub(crate) struct Lab {
    pub server: RealServer,
    pub assets: Assets,
    pub node: Arc<Node>,
    /// A second one, without an agent.
    pub other: Arc<Node>,
    pub client: Pod,
    /// On the other node.
    pub far_client: Pod,
    /// web-1 and web-2 on the node, web-3 on the other.
    pub web: Vec<Pod>,
    _sandbox: Sandbox,
}

impl Lab {
    /// Sets all of it up.
    pub fn new(assets: &Assets) -> Result<Lab> {
        let sandbox = Sandbox::new("real")?;
        let (node, other) = (sandbox.add_node("n1")?, sandbox.add_node("n2")?);
        let web = vec![
            node.add_pod_at("web-1", 11)?,
            node.add_pod_at("web-2", 12)?,
            other.add_pod_at("web-3", 13)?,
        ];
        for pod in &web {
            pod.call(Serve::tcp(8080))?;
            pod.call(Serve::udp(5353))?;
        }
        let client = node.add_pod_at("client", 100)?;
        let far_client = other.add_pod_at("far-client", 101)?;
        let IpAddr::V4(address) = node.ip4() else { bail!("{} is no IPv4 address", node.ip4()) };
        let place = (node.netns().as_fd().try_clone_to_owned()?, address.octets());
        let server = RealServer::start(assets, Some(place))?;
        Ok(Lab { server, assets: assets.clone(), node, other, client, far_client, web, _sandbox: sandbox })
    }

    /// An agent with the rights of kube-proxy, in a cluster without Services of tests.
    pub fn agent(&mut self) -> Result<Agent> {
        self.server.ready()?;
        for node in [&self.node, &self.other] {
            self.server.put(json!({"kind": "Node", "metadata": {"name": node.name()}}));
            self.server.set_addresses(node.name(), &[node.ip4(), node.ip6()])?;
        }
        let way = self.server.way().kubeconfig.context("the way is a kubeconfig")?;
        self.agent_with(&way)
    }

    /// An agent with a kubeconfig.
    pub fn agent_with(&self, kubeconfig: &Path) -> Result<Agent> {
        let path = kubeconfig.to_str().context("a path is UTF-8")?;
        self.node.start_agent_of(["--kubeconfig", path], &[])
    }

    /// Runs kubectl as the administrator; what it says.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.assets.path("kubectl"));
        command.arg("--kubeconfig").arg(self.server.admin()?).args(arguments);
        let home = self.server.credentials.path("home");
        command.env("HOME", home);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let netns = Some(self.node.netns().as_fd().try_clone_to_owned()?);
        let child = process::spawn(command, Place { netns, cgroups: Vec::new() })?;
        let output = child.wait_with_output().context("wait for kubectl")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "kubectl {arguments:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    /// The tables in their canonical form.
    pub fn dump(&self) -> Result<String> {
        let output = Command::new(default_binary()?)
            .args(["dump", "--bpf-root"])
            .arg(self.node.bpf_root())
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// One connection of the client.
    pub fn dial(&self, to: ([u8; 4], u16)) -> Result<DialReport> {
        self.client.call(Dial { timeout_ms: 500, ..Dial::tcp(to) })
    }

    /// Who answers at an address; `None` if nobody does.
    pub fn reply(&self, to: ([u8; 4], u16)) -> Result<Option<String>> {
        Ok(self.dial(to)?.reply)
    }

    /// What `status` has to say.
    pub fn pending(&self) -> String {
        let state = read_state(self.node.bpf_root());
        state.map_or_else(String::new, |state| {
            state.pending.iter().map(|row| format!("{}: {}\n", row.what, row.error)).collect()
        })
    }
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A Service of tests at an address, and its slice with these endpoints, port 8080.
pub(crate) fn served(name: &str, cluster_ip: [u8; 4], port: u16, endpoints: &[IpAddr]) -> [Value; 2] {
    let address = IpAddr::from(cluster_ip);
    let service = json!({
        "kind": "Service", "metadata": {"namespace": "ns", "name": name},
        "spec": {"clusterIP": address, "ports": [{"name": "http", "port": port, "protocol": "TCP", "targetPort": 8080}]}
    });
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|ip| json!({"addresses": [ip], "nodeName": "n1", "conditions": {"ready": true}}))
        .collect();
    let slice = json!({
        "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"namespace": "ns", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
    });
    [service, slice]
}
