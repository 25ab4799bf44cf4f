//! kube-proxy's flags: each sets a field of its configuration, and means what that field means.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::duration::GoDuration;
use super::kube_proxy::decode::{FieldError, is_quantity};
use super::kube_proxy::fields::{Kind, field};
use crate::model::addr::parse_ip;

/// A flag of kube-proxy. Those that are flags of `run` besides (`--config`, `--kubeconfig`, …) are not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// What it sets.
    pub target: Target,
    /// What `--help` says.
    pub help: &'static str,
}

/// What a flag sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A field.
    Field(&'static str),
    /// `masqueradeAll` of the section of the mode.
    MasqueradeAll,
    /// A period of the section of the mode: `ipvs` or any other.
    Period {
        /// The field's name in the section.
        name: &'static str,
        /// The flag is for `--proxy-mode=ipvs`; else it is for the others.
        ipvs: bool,
    },
    /// The port of an address that has none; 0 is no server.
    Port(&'static str),
    /// Nothing.
    Nothing(&'static str),
}

impl Target {
    /// What `docs/configuration.md` says.
    pub fn text(self) -> String {
        match self {
            Field(path) => format!("sets `{path}`"),
            MasqueradeAll => "sets `masqueradeAll` of the mode's section".to_owned(),
            Period { name, ipvs: true } => format!("sets `ipvs.{name}`, with `--proxy-mode=ipvs`"),
            Period { name, ipvs: false } => {
                format!("sets `{name}` of the mode's section, unless that is `ipvs`")
            }
            Port(path) => {
                format!(
                    "0: an empty `{path}`, which is no server; others: the port of a `{path}` that has none"
                )
            }
            Nothing(why) => format!("no effect: {why}"),
        }
    }
}

use Target::{Field, MasqueradeAll, Nothing, Period, Port};

const CADVISOR: &str = "kube-proxy does not use it either";

/// All flags, in the order of kube-proxy's help.
pub const FLAGS: &[Flag] = &[
    f("bind-address", Field("bindAddress"), "The primary address of this node, in its family"),
    f("bind-address-hard-fail", Field("bindAddressHardFail"), "End if an address to serve on cannot be had"),
    f("boot-id-file", Nothing(CADVISOR), "Not used"),
    f(
        "cluster-cidr",
        Field("clusterCIDR"),
        "The addresses of pods, one range per family: who is not in it comes from outside",
    ),
    f("config-sync-period", Field("configSyncPeriod"), "Not used"),
    f(
        "conntrack-max-per-core",
        Field("conntrack.maxPerCore"),
        "Connections to track, per core; 0 leaves the limit",
    ),
    f("conntrack-min", Field("conntrack.min"), "Connections to track at least"),
    f(
        "conntrack-tcp-be-liberal",
        Field("conntrack.tcpBeLiberal"),
        "Do not mark packets out of window as invalid",
    ),
    f(
        "conntrack-tcp-timeout-close-wait",
        Field("conntrack.tcpCloseWaitTimeout"),
        "How long a connection in CLOSE_WAIT is tracked",
    ),
    f(
        "conntrack-tcp-timeout-established",
        Field("conntrack.tcpEstablishedTimeout"),
        "How long an idle connection is tracked; 0 leaves it",
    ),
    f(
        "conntrack-udp-timeout",
        Field("conntrack.udpTimeout"),
        "How long an unanswered UDP flow is tracked; 0 leaves it",
    ),
    f(
        "conntrack-udp-timeout-stream",
        Field("conntrack.udpStreamTimeout"),
        "How long an answered UDP flow is tracked; 0 leaves it",
    ),
    f("detect-local-mode", Field("detectLocalMode"), "What tells pods from others: ClusterCIDR, NodeCIDR, …"),
    f("feature-gates", Field("featureGates"), "Not used"),
    f("healthz-bind-address", Field("healthzBindAddress"), "Where /healthz is served; empty: nowhere"),
    f(
        "healthz-port",
        Port("healthzBindAddress"),
        "The port of /healthz, where --healthz-bind-address has none; 0: nowhere",
    ),
    f(
        "iptables-localhost-nodeports",
        Field("iptables.localhostNodePorts"),
        "Whether NodePorts are served on 127.0.0.0/8; this version serves none",
    ),
    f("iptables-masquerade-bit", Field("iptables.masqueradeBit"), "Not used"),
    f(
        "iptables-min-sync-period",
        Period { name: "minSyncPeriod", ipvs: false },
        "How long changes wait for others after a write",
    ),
    f(
        "iptables-sync-period",
        Period { name: "syncPeriod", ipvs: false },
        "Half the time that a change may wait before that is ill health",
    ),
    f("ipvs-exclude-cidrs", Field("ipvs.excludeCIDRs"), "Not used"),
    f(
        "ipvs-min-sync-period",
        Period { name: "minSyncPeriod", ipvs: true },
        "The same as --iptables-min-sync-period, for --proxy-mode=ipvs",
    ),
    f("ipvs-scheduler", Field("ipvs.scheduler"), "Not used"),
    f("ipvs-strict-arp", Field("ipvs.strictARP"), "Not used"),
    f(
        "ipvs-sync-period",
        Period { name: "syncPeriod", ipvs: true },
        "The same as --iptables-sync-period, for --proxy-mode=ipvs",
    ),
    f("ipvs-tcp-timeout", Field("ipvs.tcpTimeout"), "Not used"),
    f("ipvs-tcpfin-timeout", Field("ipvs.tcpFinTimeout"), "Not used"),
    f("ipvs-udp-timeout", Field("ipvs.udpTimeout"), "Not used"),
    f("kube-api-burst", Field("clientConnection.burst"), "Not used"),
    f("kube-api-content-type", Field("clientConnection.contentType"), "Not used"),
    f("kube-api-qps", Field("clientConnection.qps"), "Not used"),
    f("log-flush-frequency", Field("logging.flushFrequency"), "Not used"),
    f("log-json-info-buffer-size", Field("logging.options.json.infoBufferSize"), "Not used"),
    f("log-json-split-stream", Field("logging.options.json.splitStream"), "Not used"),
    f("log-text-info-buffer-size", Field("logging.options.text.infoBufferSize"), "Not used"),
    f("log-text-split-stream", Field("logging.options.text.splitStream"), "Not used"),
    f("logging-format", Field("logging.format"), "How log lines look: text or json"),
    f("machine-id-file", Nothing(CADVISOR), "Not used"),
    f("masquerade-all", MasqueradeAll, "Masquerade everything that goes through a ClusterIP"),
    f("metrics-bind-address", Field("metricsBindAddress"), "Where /metrics is served; empty: nowhere"),
    f(
        "metrics-port",
        Port("metricsBindAddress"),
        "The port of /metrics, where --metrics-bind-address has none; 0: nowhere",
    ),
    f(
        "nodeport-addresses",
        Field("nodePortAddresses"),
        "The addresses that health check node ports are served on: CIDRs, or primary",
    ),
    f("oom-score-adj", Field("oomScoreAdj"), "The agent's oom_score_adj"),
    f(
        "pod-bridge-interface",
        Field("detectLocal.bridgeInterface"),
        "The bridge of pods, for --detect-local-mode=BridgeInterface; of no use to sockets",
    ),
    f(
        "pod-interface-name-prefix",
        Field("detectLocal.interfaceNamePrefix"),
        "How names of pods' interfaces begin, for --detect-local-mode=InterfaceNamePrefix; of no use to sockets",
    ),
    f("profiling", Field("enableProfiling"), "Not used"),
    f("proxy-mode", Field("mode"), "Whose defaults count: nftables, iptables or ipvs"),
    f("show-hidden-metrics-for-version", Field("showHiddenMetricsForVersion"), "Not used"),
    f("v", Field("logging.verbosity"), "How much is logged: 4 adds every Service programmed, 6 everything"),
    f("vmodule", Field("logging.vmodule"), "Not used"),
];

const fn f(name: &'static str, target: Target, help: &'static str) -> Flag {
    Flag { name, target, help }
}

impl Flag {
    /// What may be given.
    pub fn kind(&self) -> Kind {
        match self.target {
            Field(path) => field(path).map_or(Kind::Text, |field| field.kind),
            MasqueradeAll => Kind::Bool,
            Period { .. } => Kind::Duration,
            Port(_) => Kind::Int,
            Nothing(_) => Kind::Text,
        }
    }

    /// Whether it counts beside a configuration file: those about logging do (CFG-1).
    pub fn is_logging(&self) -> bool {
        matches!(self.target, Field(path) if path.starts_with("logging."))
    }
}

/// What flags say, as fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch {
    /// Values by path.
    pub values: Vec<(&'static str, Value)>,
    /// Which flag set a field.
    pub by: BTreeMap<&'static str, &'static str>,
    /// Addresses that are not to be served at.
    pub closed: Vec<&'static str>,
    /// Ports for addresses that have none: flag, field and number.
    pub ports: Vec<(&'static str, &'static str, Value)>,
    /// Flags that do nothing, with the reason.
    pub notes: Vec<String>,
}

/// Reads flags as kube-proxy does. A flag that stands there several times counts as the last, but for
/// lists, which add up.
///
/// # Errors
/// A value is not of the flag's type.
pub fn patch(given: &[(String, Vec<String>)]) -> Result<Patch, FieldError> {
    let mut patch = Patch::default();
    let known = given
        .iter()
        .filter_map(|(name, values)| FLAGS.iter().find(|flag| flag.name == name).map(|flag| (flag, values)));
    let flags: Vec<_> = known.collect();
    let mode = flags.iter().find(|(flag, _)| flag.name == "proxy-mode").and_then(|(_, values)| values.last());
    let mode = mode.map_or("nftables", String::as_str);
    for (flag, values) in flags {
        let value = value(flag, values)?;
        patch.add(flag, value, mode);
    }
    patch.add_ports();
    Ok(patch)
}

impl Patch {
    fn add(&mut self, flag: &Flag, value: Value, mode: &str) {
        let path = match flag.target {
            Field(path) => path,
            MasqueradeAll if mode == "nftables" => "nftables.masqueradeAll",
            MasqueradeAll => "iptables.masqueradeAll",
            Period { ipvs, .. } if ipvs != (mode == "ipvs") => {
                return self.notes.push(format!("--{}: has no effect: --proxy-mode is {mode}", flag.name));
            }
            Period { name, .. } => match (mode, name) {
                ("nftables", "syncPeriod") => "nftables.syncPeriod",
                ("nftables", _) => "nftables.minSyncPeriod",
                ("ipvs", "syncPeriod") => "ipvs.syncPeriod",
                ("ipvs", _) => "ipvs.minSyncPeriod",
                (_, "syncPeriod") => "iptables.syncPeriod",
                _ => "iptables.minSyncPeriod",
            },
            Port(path) => {
                return match value.as_i64() {
                    Some(0) => self.closed.push(path),
                    _ => self.ports.push((flag.name, path, value)),
                };
            }
            Nothing(why) => return self.notes.push(format!("--{}: has no effect: {why}", flag.name)),
        };
        if value.as_str() == Some("") && matches!(path, "healthzBindAddress" | "metricsBindAddress") {
            self.closed.push(path);
        }
        self.by.insert(path, flag.name);
        self.values.push((path, value));
    }

    /// As in kube-proxy: a port counts for an address that has none, and the default one has one.
    fn add_ports(&mut self) {
        for (flag, path, port) in std::mem::take(&mut self.ports) {
            let given = self.values.iter_mut().rfind(|(given, _)| *given == path);
            let address = given.and_then(|(_, value)| Some((value.as_str().and_then(parse_ip)?, value)));
            if let (Some((ip, value)), Some(port)) =
                (address, port.as_u64().and_then(|port| port.try_into().ok()))
            {
                *value = SocketAddr::new(ip, port).to_string().into();
            } else {
                let other = flag.replace("port", "bind-address");
                self.notes
                    .push(format!("--{flag}: has no effect: --{other} is not given, or has a port itself"));
            }
        }
    }

    /// Puts the values into a configuration.
    pub fn apply(&self, config: &mut Value) {
        for (path, value) in &self.values {
            let mut at = &mut *config;
            for key in path.split('.') {
                if !at.is_object() {
                    *at = Value::Object(Map::new());
                }
                at = &mut at[key];
            }
            *at = value.clone();
        }
    }
}

/// A flag's value as its field would have it.
fn value(flag: &Flag, values: &[String]) -> Result<Value, FieldError> {
    let last = values.last().map(String::as_str).unwrap_or_default();
    let wrong = |wanted: &str| {
        let message = format!("'{last}' is not {wanted}");
        FieldError::new(&format!("--{}", flag.name), None, message)
    };
    let items =
        || values.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|item| !item.is_empty());
    match flag.kind() {
        Kind::Text => Ok(last.into()),
        Kind::Quantity if is_quantity(last) => Ok(last.into()),
        Kind::Quantity => Err(wrong("a number of bytes like 512 or 4Ki")),
        Kind::Bool => bool(last).map(Value::from).ok_or_else(|| wrong("true or false")),
        Kind::Int => last.parse::<i32>().map(Value::from).map_err(|_| wrong("a whole number of 32 bits")),
        Kind::Level => last.parse::<u32>().map(Value::from).map_err(|_| wrong("a whole number from 0")),
        Kind::Number => {
            serde_json::from_str::<serde_json::Number>(last).map(Value::Number).map_err(|_| wrong("a number"))
        }
        Kind::Duration | Kind::Flush => last
            .parse::<GoDuration>()
            .map(|duration| duration.to_string().into())
            .map_err(|_| wrong("a duration like 30s")),
        Kind::Texts => Ok(items().map(Value::from).collect()),
        Kind::Gates => {
            let gate = |item: &str| {
                Some((item.split_once('=')?.0.to_owned(), bool(item.split_once('=')?.1)?.into()))
            };
            items()
                .map(gate)
                .collect::<Option<Map<_, _>>>()
                .map(Value::Object)
                .ok_or_else(|| wrong("like Gate=true"))
        }
        Kind::VModule => {
            let item = |item: &str| {
                let (pattern, level) = item.split_once('=')?;
                Some(json!({"filePattern": pattern, "verbosity": level.parse::<u32>().ok()?}))
            };
            items().map(item).collect::<Option<Value>>().ok_or_else(|| wrong("like pattern=4"))
        }
    }
}

/// A truth value as Go's `ParseBool` reads it.
pub fn bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
