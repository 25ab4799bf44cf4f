//! What the demo plays on: two nodes, their pods and agents, and a directory of manifests.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::datapath::kernel::has_set_retval;
use crate::sandbox::agent::Agent;
use crate::sandbox::cluster::Sandbox;
use crate::sandbox::node::Node;
use crate::sandbox::pod::Pod;
use crate::sandbox::proto::{Dial, DialReport, Serve};

const SHOP: &str = include_str!("../../../yaml/example/shop.yaml");
const ENDPOINTS: &str = include_str!("../../../yaml/example/endpoints.yaml");

/// The Service `shop/web`.
pub(super) const WEB: &str = "10.96.0.10:80";
/// The same, IPv6.
pub(super) const WEB6: &str = "[fd00:10:96::10]:80";
/// The Service `shop/clock`, UDP.
pub(super) const CLOCK: &str = "10.96.0.53:53";
/// The Service `shop/basket`, with session affinity.
pub(super) const BASKET: &str = "10.96.0.20:80";

/// Everything that is on stage. Fields are dropped in order: agents and pods before the sandbox.
pub(super) struct Stage {
    pub(super) agents: Vec<Agent>,
    pub(super) client: Pod,
    pub(super) web: Vec<Pod>,
    pub(super) node: Arc<Node>,
    manifests: PathBuf,
    /// The kernel lets a program refuse with ECONNREFUSED (DEC-1).
    pub(super) refuses: bool,
    pub(super) sandbox: Sandbox,
}

impl Stage {
    /// Builds nodes and pods, writes the manifests, and starts an agent on each node.
    ///
    /// # Errors
    /// Something cannot be made; what was made is removed.
    pub(super) fn build() -> Result<Stage> {
        let sandbox = Sandbox::new("demo")?;
        let (n1, n2) = (sandbox.add_node("n1")?, sandbox.add_node("n2")?);
        let web = vec![n1.add_pod_at("web-1", 11)?, n1.add_pod_at("web-2", 12)?, n2.add_pod_at("web-3", 13)?];
        for pod in &web {
            pod.call(Serve::http(8080))?;
            pod.call(Serve::udp(5353))?;
            pod.call(Serve::tcp(9090))?;
        }
        let client = n1.add_pod("client")?;
        let manifests = sandbox.dir().join("manifests");
        std::fs::create_dir(&manifests).with_context(|| format!("create {}", manifests.display()))?;
        std::fs::write(manifests.join("shop.yaml"), SHOP)?;
        std::fs::write(manifests.join("endpoints.yaml"), ENDPOINTS)?;
        let agents = vec![n1.start_agent(&manifests, &[])?, n2.start_agent(&manifests, &[])?];
        Ok(Stage { agents, client, web, node: n1, manifests, refuses: has_set_retval(), sandbox })
    }

    /// Replaces the endpoints by rename(2), without those whose addresses contain one of `gone`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn endpoints_without(&self, gone: &[&str]) -> Result<()> {
        let kept = ENDPOINTS.lines().filter(|line| !gone.iter().any(|address| line.contains(address)));
        let text = kept
            .map(|line| format!("{line}\n"))
            .collect::<String>()
            .replace("endpoints:\n---", "endpoints: []\n---");
        replace(&self.manifests.join("endpoints.yaml"), &text)
    }

    /// Adds a manifest.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn add_manifest(&self, name: &str, text: &str) -> Result<()> {
        replace(&self.manifests.join(name), text)
    }

    /// Waits until `to`, which speaks no HTTP, takes connections, for two seconds at most.
    ///
    /// # Errors
    /// It never does.
    pub(super) fn until_connected(&self, to: &str) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            if self.client.call(Dial { timeout_ms: 200, ..Dial::tcp(address(to)?) })?.errno.is_none() {
                return Ok(());
            }
        }
        anyhow::bail!("nothing answers at {to} within two seconds")
    }

    /// Dials `to` from the client pod with an HTTP request; the reply is the body, the name of a pod.
    ///
    /// # Errors
    /// The pod does not answer.
    pub(super) fn get(&self, to: &str) -> Result<DialReport> {
        let mut dial = Dial::tcp(address(to)?);
        dial.say = "GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n".into();
        let mut report = self.client.call(dial)?;
        report.reply = report.reply.and_then(|text| Some(text.lines().last()?.to_owned()));
        Ok(report)
    }

    /// Dials until `good` says so, for two seconds at most, and says how long it took.
    ///
    /// # Errors
    /// It does not come true.
    pub(super) fn until(&self, to: &str, what: &str, good: impl Fn(&DialReport) -> bool) -> Result<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            if good(&self.get(to)?) {
                return Ok(begun.elapsed());
            }
        }
        anyhow::bail!("within two seconds it was never seen that {what}")
    }

    /// Runs a noun of this binary against the first node's pins.
    ///
    /// # Errors
    /// It fails; its stderr is in the message.
    pub(super) fn noun(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(self.sandbox.binary())
            .args(arguments)
            .arg("--bpf-root")
            .arg(self.node.bpf_root())
            .output()
            .context("run beeline")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "beeline {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Parses an address of this file.
///
/// # Errors
/// It is none.
pub(super) fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("{text} is no address and port"))
}

fn replace(path: &Path, text: &str) -> Result<()> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, text).with_context(|| format!("write {}", aside.display()))?;
    std::fs::rename(&aside, path).with_context(|| format!("rename to {}", path.display()))
}
