//! The tables that manifests would give: no root, no kernel.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use crate::cluster::manifest::{FileProblem, load};
use crate::config::kube_proxy::{self, Detector};
use crate::config::{primary_ip, with_primary};
use crate::model::event::Event;
use crate::model::node::HostFacts;
use crate::plan::book::{Book, Changes};
use crate::plan::compile::{NodeRows, compile, compile_node};
use crate::plan::mem::MemTables;
use crate::plan::table::{Limits, Settings};
use crate::plan::world::World;

/// What is known of the node whose answer is wanted.
#[derive(Debug, Default, clap::Args)]
pub struct NodeArgs {
    /// The node's name; without one no endpoint is local
    #[arg(long, value_name = "NAME", requires = "manifests")]
    pub node_name: Option<String>,
    /// The node's zone, instead of its Node object's label
    #[arg(long, requires = "manifests")]
    pub zone: Option<String>,
    /// The node's addresses, the first of a family being the primary one
    #[arg(long, value_name = "IP,…", value_delimiter = ',', value_parser = crate::cli::ip, requires = "manifests")]
    pub node_ip: Vec<IpAddr>,
    /// A KubeProxyConfiguration, for the local detector, masqueradeAll, hostnameOverride and bindAddress
    #[arg(long, value_name = "FILE", requires = "manifests")]
    pub config: Option<PathBuf>,
    /// The pods' networks, one of a family counts: what the local detector calls a pod
    #[arg(long, value_name = "CIDR,…", value_parser = cidrs, requires = "manifests", conflicts_with = "config")]
    pub cluster_cidr: Option<String>,
    /// Masquerade everything that goes to a ClusterIP
    #[arg(long, requires = "manifests", conflicts_with = "config")]
    pub masquerade_all: bool,
}

fn cidrs(text: &str) -> Result<String, String> {
    kube_proxy::cluster_cidrs(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// The tables that the agent would fill from these manifests.
#[derive(Debug)]
pub struct Offline {
    /// The tables.
    pub tables: MemTables,
    /// What is wrong with the manifests; everything else counts.
    pub problems: Vec<FileProblem>,
}

impl Offline {
    /// Reads manifests and configuration, and fills tables in memory.
    ///
    /// # Errors
    /// A file cannot be read, nothing in the manifests can, or the configuration cannot be used.
    pub fn load(path: &Path, args: &NodeArgs) -> Result<Offline> {
        let (events, problems) = load(path)?;
        // What is not there would be an answer like another.
        let holds_nothing = events.iter().all(|event| matches!(event, Event::Synced));
        if let Some(problem) = problems.first()
            && holds_nothing
        {
            bail!("there is no object in it that can be read: {problem}");
        }
        let config = args.rules()?;
        let mut world = World::new();
        let mut facts = HostFacts {
            node_name: args
                .node_name
                .as_ref()
                .unwrap_or(&config.hostname_override)
                .trim()
                .to_lowercase()
                .into(),
            zone: args.zone.as_deref().map(Into::into),
            addresses: with_primary(args.node_ip.clone(), config.primary_ip),
            local_detector: Vec::new(),
            masquerade_all: config.masquerade_all,
            // Manifests know no interfaces.
            held: BTreeSet::new(),
        };
        world.apply(Event::Host(Box::new(facts.clone())));
        events.into_iter().for_each(|event| world.apply(event));
        facts.local_detector = detector(config.detector, &world)?;
        world.apply(Event::Host(Box::new(facts)));
        Ok(Offline { tables: tables_of(&world), problems })
    }
}

/// What of the configuration a verdict depends on.
struct Rules {
    hostname_override: String,
    primary_ip: Option<IpAddr>,
    detector: Detector,
    masquerade_all: bool,
}

impl NodeArgs {
    fn rules(&self) -> Result<Rules> {
        if let Some(path) = &self.config {
            let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            let shown = || path.display().to_string();
            let effective = kube_proxy::effective(Some(&text), &[]).with_context(shown)?;
            return Ok(Rules {
                detector: effective.detector().with_context(shown)?,
                masquerade_all: effective.masquerade_all(),
                primary_ip: primary_ip(&effective.config),
                hostname_override: effective.config.hostname_override,
            });
        }
        let cidrs = kube_proxy::cluster_cidrs(self.cluster_cidr.as_deref().unwrap_or_default());
        Ok(Rules {
            hostname_override: String::new(),
            primary_ip: None,
            detector: Detector::Cidrs(cidrs.context("--cluster-cidr")?),
            masquerade_all: self.masquerade_all,
        })
    }
}

/// The detector's networks (SNAT-8).
fn detector(detector: Detector, world: &World) -> Result<Vec<IpNet>> {
    match detector {
        Detector::Cidrs(nets) => Ok(nets),
        Detector::NodeCidr => match world.node() {
            Some(node) => Ok(node.pod_cidrs.clone()),
            None => bail!(
                "detectLocalMode NodeCIDR needs spec.podCIDRs of Node '{}', which the manifests do not hold",
                world.host().node_name
            ),
        },
        Detector::Interface => bail!(
            "detectLocalMode by interface cannot be explained offline: manifests name no interfaces; use ClusterCIDR or NodeCIDR"
        ),
    }
}

/// A world as tables in memory, which have room for everything.
pub fn tables_of(world: &World) -> MemTables {
    let limits =
        Limits { frontends: 1 << 30, services: 0xff_ffff, slots: 1 << 30, backends: 1 << 30, names: 1 << 30 };
    let NodeRows { prefixes, node, zone, masquerade_all, local_detector } = compile_node(world);
    let settings = Settings {
        source_kind: "manifests".into(),
        node,
        zone,
        synced: world.is_synced(),
        masquerade_all,
        local_detector,
        ..Settings::default()
    };
    let rows = world.service_ports().flat_map(|service| compile(world, service));
    let changes = Changes {
        ports: rows.map(|(name, rows)| (name, Some(rows))).collect(),
        prefixes: Some(prefixes),
        netns: None,
        settings: Some(settings),
    };
    let mut tables = MemTables::new(limits);
    Book::new(limits).sync(changes, &mut tables, Duration::ZERO);
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::explain::Args;
    use crate::plan::table::PrefixClass;

    const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: ns, name: a}
spec: {clusterIP: 172.30.0.1, ports: [{name: p, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: ns, name: a-1, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
ports: [{name: p, port: 8080}]
endpoints: [{addresses: [10.0.0.1], nodeName: node-a}]
---
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: [10.0.0.0/24]}
";

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        explain: Args,
    }

    /// Runs `explain` on the manifest with a configuration, and gives the answer as JSON.
    fn explain(config: &str, flags: &[&str]) -> Result<serde_json::Value> {
        let dir = tempfile::tempdir()?;
        let (manifest, file) = (dir.path().join("a.yaml"), dir.path().join("config.conf"));
        fs::write(&manifest, MANIFEST)?;
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        fs::write(&file, format!("{head}{config}\n"))?;
        let mut line = vec!["explain", "--to", "172.30.0.1:80/TCP", "--node-name", "node-a"];
        line.extend(flags);
        let (manifest, file) = (manifest.to_str().unwrap(), file.to_str().unwrap());
        line.extend(["--manifests", manifest]);
        if !config.is_empty() {
            line.extend(["--config", file]);
        }
        let args = <Cli as clap::Parser>::try_parse_from(line)?.explain;
        Ok(serde_json::to_value(args.answer()?)?)
    }

    #[test]
    fn manifests_alone_answer() {
        let answer = explain("", &["--from", "pod", "--cluster-cidr", "10.0.0.0/8"]).unwrap();
        let wanted = serde_json::json!({
            "service": "ns/a:p", "frontend_kind": "ClusterIP", "action": "forward", "path": "socket",
            "backends": ["10.0.0.1:8080"], "client_ip_preserved": true, "affinity_seconds": null,
            "rules": ["CAT-1", "CAT-2", "CAT-7", "POL-1", "SNAT-1", "SNAT-9"],
        });
        assert_eq!(answer, wanted);
    }

    #[test]
    fn the_detector_is_what_the_configuration_says() {
        // SNAT-1, SNAT-5, SNAT-8
        let preserved = |config: &str, from: &str| {
            let answer = explain(config, &["--from", from])?;
            anyhow::Ok(answer["client_ip_preserved"].clone())
        };
        let node_cidr = "detectLocalMode: NodeCIDR";
        assert_eq!(preserved(node_cidr, "pod:10.0.0.9").unwrap(), true);
        assert_eq!(preserved(node_cidr, "remote-pod:10.0.1.9").unwrap(), false);
        assert_eq!(preserved("clusterCIDR: 10.0.0.0/8", "remote-pod:10.0.1.9").unwrap(), true);
        assert_eq!(preserved("clusterCIDR: 10.0.0.0/8", "external").unwrap(), serde_json::Value::Null);
        assert_eq!(preserved("iptables: {masqueradeAll: true}", "pod").unwrap(), false);
        assert!(preserved("detectLocalMode: BridgeInterface", "pod").is_err());
    }

    #[test]
    fn the_primary_address_is_what_the_configuration_says() {
        // CFG-2
        let dir = tempfile::tempdir().unwrap();
        let (manifest, config) = (dir.path().join("m.yaml"), dir.path().join("c.yaml"));
        fs::write(&manifest, MANIFEST).unwrap();
        let of_node = |bound: &str, node_ip: &[&str]| {
            let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration";
            fs::write(&config, format!("{head}\nbindAddress: '{bound}'\n")).unwrap();
            let node_ip = node_ip.iter().map(|ip| ip.parse().unwrap()).collect();
            let args = NodeArgs { config: Some(config.clone()), node_ip, ..NodeArgs::default() };
            let rows = Offline::load(&manifest, &args).unwrap().tables.rows();
            let prefixes = rows.prefixes.iter().filter(|prefix| prefix.class == PrefixClass::NodeAddress);
            prefixes.map(|prefix| prefix.net.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of_node("10.0.0.7", &[]), ["10.0.0.7/32"]);
        assert_eq!(of_node("10.0.0.7", &["10.0.0.8", "10.0.0.7"]), ["10.0.0.7/32", "10.0.0.8/32"]);
        assert_eq!(of_node("0.0.0.0", &["10.0.0.8"]), ["10.0.0.8/32"]);
    }

    #[test]
    fn what_cannot_be_read_at_all_is_an_error_and_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        for text in ["kind: Servce\napiVersion: v1\nmetadata: {name: a}\n", "a: [b\n", "root:x:0:0\n"] {
            fs::write(&file, text).unwrap();
            let loaded = Offline::load(&file, &NodeArgs::default());
            let error = loaded.expect_err(text).to_string();
            assert!(error.contains("a.yaml"), "{error}");
        }
        fs::write(&file, format!("{MANIFEST}---\nkind: Servce\napiVersion: v1\n")).unwrap();
        let offline = Offline::load(&file, &NodeArgs::default()).unwrap();
        assert_eq!(offline.problems.len(), 1, "the rest answers, and what is bad is told");
    }

    #[test]
    fn flags_about_the_node_are_for_manifests_only() {
        let line = ["explain", "--from", "pod", "--to", "1.2.3.4:80/TCP", "--node-name", "n"];
        assert!(<Cli as clap::Parser>::try_parse_from(line).is_err());
    }
}
