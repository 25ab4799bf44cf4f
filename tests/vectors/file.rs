//! The file of vectors as types. A key that is not known is an error.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A set of keys that override those of the defaults.
pub type Patch = Map<String, Value>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub version: u32,
    pub defaults: Defaults,
    pub vectors: Vec<Vector>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    pub node: Patch,
    pub config: Patch,
    pub clients: Patch,
}

/// `defaults.node` with what a vector or step overrides.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Node {
    pub name: String,
    pub zone: Option<String>,
    pub ips: Vec<IpAddr>,
    #[serde(rename = "primaryIPs")]
    pub primary_ips: Vec<IpAddr>,
}

/// `defaults.config` with what a vector overrides.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    pub mode: String,
    #[serde(rename = "localDetectorCIDRs")]
    pub local_detector_cidrs: Vec<IpNet>,
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<IpNet>,
    #[serde(rename = "masqueradeAll")]
    pub masquerade_all: bool,
    pub node_port_addresses: Vec<String>,
    #[serde(rename = "nodePortAddresses_by_mode")]
    pub node_port_addresses_by_mode: Option<BTreeMap<String, Vec<String>>>,
    pub localhost_node_ports: bool,
    #[serde(rename = "allowServiceExternalIPs")]
    pub allow_service_external_ips: bool,
}

/// `defaults.clients` with what a vector overrides: addresses by kind of client.
pub type Clients = BTreeMap<String, Vec<IpAddr>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    pub id: String,
    pub title: String,
    pub rules: Vec<String>,
    #[serde(rename = "ref")]
    pub reference: String,
    #[serde(default)]
    pub node: Patch,
    #[serde(default)]
    pub config: Patch,
    #[serde(default)]
    pub clients: Patch,
    #[serde(default)]
    pub services: Vec<Value>,
    #[serde(default, rename = "endpointSlices")]
    pub slices: Vec<Value>,
    #[serde(default)]
    pub steps: Vec<Step>,
    #[serde(default)]
    pub flows: Vec<Flow>,
    #[serde(default)]
    pub affinity: Vec<AffinityItem>,
    #[serde(default, rename = "healthChecks")]
    pub health_checks: Vec<Value>,
    #[serde(default, rename = "nodeHealth")]
    pub node_health: Vec<Value>,
    pub conntrack: Option<Value>,
    #[serde(rename = "noLocalEndpoints")]
    pub no_local_endpoints: Option<Value>,
    pub latency: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    #[serde(default)]
    pub apply: Apply,
    #[serde(default)]
    pub flows: Vec<Flow>,
    #[serde(default)]
    pub affinity: Vec<AffinityItem>,
    #[serde(default, rename = "healthChecks")]
    pub health_checks: Vec<Value>,
    #[serde(default, rename = "nodeHealth")]
    pub node_health: Vec<Value>,
    pub conntrack: Option<Value>,
    #[serde(rename = "noLocalEndpoints")]
    pub no_local_endpoints: Option<Value>,
    pub latency: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    #[serde(default)]
    pub services: Vec<Value>,
    #[serde(default, rename = "endpointSlices")]
    pub slices: Vec<Value>,
    /// `Kind/namespace/name`.
    #[serde(default)]
    pub delete: Vec<String>,
    #[serde(default)]
    pub node: Patch,
}

/// Who dials: a kind, or a kind with an address of its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum From {
    Kind(String),
    Client { kind: String, ip: IpAddr },
}

/// The result of a flow that reaches no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Reject,
    Drop,
    Pass,
}

/// What is expected of a flow, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub backends: Option<Vec<String>>,
    pub result: Option<Outcome>,
    pub client_ip_preserved: Option<bool>,
    pub hairpin_snat: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    pub from: From,
    pub to: String,
    backends: Option<Vec<String>>,
    result: Option<Outcome>,
    client_ip_preserved: Option<bool>,
    hairpin_snat: Option<Vec<String>>,
    /// What another mode does; the reference is nftables, so this is only checked to differ.
    mode_differs: Option<BTreeMap<String, Differs>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Differs {
    backends: Option<Vec<String>>,
    result: Option<Outcome>,
    client_ip_preserved: Option<bool>,
}

impl Flow {
    pub fn expected(&self) -> Expected {
        Expected {
            backends: self.backends.clone(),
            result: self.result,
            client_ip_preserved: self.client_ip_preserved,
            hairpin_snat: self.hairpin_snat.clone(),
        }
    }

    /// How the flow is called in output and in the list of what is served later.
    pub fn name(&self) -> String {
        flow_name(&self.from, &self.to)
    }
}

/// `pod 172.30.0.1:80/TCP`, `pod:10.0.0.7 172.30.0.1:80/TCP`.
pub fn flow_name(from: &From, to: &str) -> String {
    match from {
        From::Kind(kind) => format!("{kind} {to}"),
        From::Client { kind, ip } => format!("{kind}:{ip} {to}"),
    }
}

/// A connection at a moment, or a change between two.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum AffinityItem {
    Connect(AffinityConnect),
    Change(AffinityChange),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityConnect {
    pub t: u64,
    pub from: From,
    pub to: String,
    /// Which backends this connection may reach.
    pub backends: Vec<String>,
    /// Which one a random pick took.
    pub assume: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffinityChange {
    pub apply: Apply,
}

/// Reads the file and checks what types alone cannot.
pub fn read(text: &str) -> Result<File> {
    let file: File = serde_saphyr::from_str(text).context("parse the vectors")?;
    if file.version != 1 {
        bail!("the vectors are of version {}, this runner knows version 1", file.version);
    }
    for vector in &file.vectors {
        check(vector).with_context(|| format!("{} ({})", vector.id, vector.reference))?;
    }
    Ok(file)
}

fn check(vector: &Vector) -> Result<()> {
    if vector.title.is_empty() || vector.rules.is_empty() {
        bail!("a vector has a title and cites rules");
    }
    let steps = vector.steps.iter();
    for flow in vector.flows.iter().chain(steps.clone().flat_map(|step| &step.flows)) {
        check_flow(flow).with_context(|| flow.name())?;
    }
    let own = (&vector.health_checks, &vector.node_health, &vector.conntrack);
    let of_steps = steps.clone().map(|step| (&step.health_checks, &step.node_health, &step.conntrack));
    for (health_checks, node_health, conntrack) in of_steps.chain([own]) {
        let keys = ["service", "port", "status", "weight", "proxyHealthy", "family"];
        health_checks.iter().try_for_each(|item| only(item, &keys))?;
        let keys = ["node", "syncPeriodSeconds", "oldestPendingSeconds", "healthz", "livez"];
        node_health.iter().try_for_each(|item| only(item, &keys))?;
        let Some(conntrack) = conntrack else { continue };
        only(conntrack, &["udpEndpointsChanged", "entries"])?;
        for entry in conntrack["entries"].as_array().into_iter().flatten() {
            only(entry, &["origDst", "replySrc", "deleted"])?;
        }
    }
    for gauge in steps.filter_map(|step| step.no_local_endpoints.as_ref()).chain(&vector.no_local_endpoints) {
        only(gauge, &["IPv4", "IPv6"])?;
        gauge
            .as_object()
            .into_iter()
            .flat_map(Map::values)
            .try_for_each(|g| only(g, &["internal", "external"]))?;
    }
    let latencies = vector.steps.iter().filter_map(|step| step.latency.as_ref()).chain(&vector.latency);
    latencies.into_iter().try_for_each(|l| only(l, &["trackerStart", "events", "observedSeconds"]))
}

fn check_flow(flow: &Flow) -> Result<()> {
    if flow.backends.is_some() == flow.result.is_some() {
        bail!("a flow expects either backends or a result");
    }
    for (mode, other) in flow.mode_differs.iter().flatten() {
        if mode != "iptables" {
            bail!("mode_differs names a mode '{mode}' that this runner does not know");
        }
        let same = other.backends == flow.backends
            && other.result == flow.result
            && other.client_ip_preserved == flow.client_ip_preserved;
        if same {
            bail!("mode_differs of {mode} does not differ");
        }
    }
    Ok(())
}

/// An error if an object holds a key that is not in the list.
fn only(value: &Value, keys: &[&str]) -> Result<()> {
    let Some(object) = value.as_object() else { bail!("{value} is no mapping") };
    match object.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => bail!("unknown key '{key}'"),
        None => Ok(()),
    }
}

/// The defaults with keys overridden, as a type that knows all keys.
pub fn overlay<T: DeserializeOwned>(defaults: &Patch, patches: &[&Patch]) -> Result<T> {
    let mut merged = defaults.clone();
    for patch in patches {
        merged.extend(patch.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    serde_json::from_value(Value::Object(merged)).context("node, config or clients")
}
