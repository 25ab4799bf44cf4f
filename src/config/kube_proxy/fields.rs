//! Every field of a `KubeProxyConfiguration`, its type, and what it does here: the one table that decoding,
//! warnings and `docs/configuration.md` follow.

/// A field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its path, like `iptables.masqueradeBit`.
    pub path: &'static str,
    /// What may stand there.
    pub kind: Kind,
    /// What it does.
    pub effect: Effect,
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number of 32 bits.
    Int,
    /// A number of 32 bits from 0.
    Level,
    /// A number, whole or not.
    Number,
    /// `metav1.Duration`.
    Duration,
    /// Nanoseconds or a duration.
    Flush,
    /// A list of texts.
    Texts,
    /// A map of truth values.
    Gates,
    /// A list of maps with `filePattern` and `verbosity`.
    VModule,
    /// A number of bytes, like `512` or `4Ki`.
    Quantity,
}

/// What a field does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is honoured.
    Does(&'static str),
    /// It is honoured if `mode` is that of its section.
    OfMode(&'static str),
    /// What it is about does not exist in this version.
    NotYet(&'static str),
    /// It is about something that Beeline does not have.
    Never(&'static str),
}

impl Effect {
    /// What `docs/configuration.md` says.
    pub fn text(self) -> String {
        match self {
            Effect::Does(text) => text.to_owned(),
            Effect::OfMode(text) => format!("{text}; only the section of `mode` counts"),
            Effect::NotYet(why) => format!("no effect in this version: {why}"),
            Effect::Never(why) => format!("no meaning here: {why}"),
        }
    }
}

use Effect::{Does, Never, NotYet, OfMode};
use Kind::{Bool, Duration, Flush, Gates, Int, Level, Number, Quantity, Text, Texts, VModule};

const IPVS: &str = "there is no IPVS in Beeline's data path";
const WINDOWS: &str = "it is for Windows";
const STREAMS: &str = "all log lines go to stderr at once";
const MARK: &str = "no packet is marked";
const SYNC: &str = "a change that waits for more than twice this long is ill health (HLT-3); nothing is synced again by the clock";
const CLIENT: &str = "watches are few and last long, so nothing is throttled";
const ENCODING: &str = "the source asks for JSON, which meets the figures of performance.md; no crate reads protobuf into these types";
const CONNTRACK: &str = "set as given, 0 leaves it";
const MIN_SYNC: &str = "changes that come sooner after the last write are written together; 0 and nothing mean at once (kube-proxy: 1s)";
const MASQUERADE: &str = "everything that goes to a ClusterIP counts as masqueraded";

/// All fields, in the order of the type.
pub const FIELDS: &[Field] = &[
    f("apiVersion", Text, Does("must be `kubeproxy.config.k8s.io/v1alpha1`")),
    f("kind", Text, Does("must be `KubeProxyConfiguration`")),
    f("featureGates", Gates, Never("the gates are about kube-proxy's own code")),
    f(
        "clientConnection.kubeconfig",
        Text,
        Does("how the API server is reached, unless `--manifests` names another source"),
    ),
    f("clientConnection.acceptContentTypes", Text, Never(ENCODING)),
    f("clientConnection.contentType", Text, Never(ENCODING)),
    f("clientConnection.qps", Number, Never(CLIENT)),
    f("clientConnection.burst", Int, Never(CLIENT)),
    f("logging.format", Text, Does("`text` or `json`")),
    f("logging.flushFrequency", Flush, Never(STREAMS)),
    f("logging.verbosity", Level, Does("4 adds every Service programmed, 6 everything")),
    f("logging.vmodule", VModule, Never("it names files of kube-proxy's source")),
    f("logging.options.text.splitStream", Bool, Never(STREAMS)),
    f("logging.options.text.infoBufferSize", Quantity, Never(STREAMS)),
    f("logging.options.json.splitStream", Bool, Never(STREAMS)),
    f("logging.options.json.infoBufferSize", Quantity, Never(STREAMS)),
    f(
        "hostnameOverride",
        Text,
        Does("the name of the node, trimmed and in lower case; the host name, if empty (EP-10)"),
    ),
    f(
        "bindAddress",
        Text,
        Does(
            "the primary address of the node in its family, unless it is 0.0.0.0 or ::, and the family of the addresses below",
        ),
    ),
    f(
        "healthzBindAddress",
        Text,
        Does("where `/healthz` and `/livez` are served; a port is added where none is"),
    ),
    f("metricsBindAddress", Text, Does("where `/metrics` is served; a port is added where none is")),
    f("bindAddressHardFail", Bool, Does("an address of these two that cannot be had ends the agent (HLT-8)")),
    f("enableProfiling", Bool, Never("there is no /debug/pprof; use perf(1)")),
    f("showHiddenMetricsForVersion", Text, Never("no metric is hidden")),
    f(
        "mode",
        Text,
        Does(
            "one of `iptables`, `ipvs`, `nftables` or empty (iptables): which section counts, and which NodePort addresses are the default (DEC-3); the data path is Beeline's own in each",
        ),
    ),
    f("iptables.masqueradeBit", Int, Never(MARK)),
    f("iptables.masqueradeAll", Bool, OfMode(MASQUERADE)),
    f("iptables.localhostNodePorts", Bool, NotYet("NodePorts are not served")),
    f("iptables.syncPeriod", Duration, OfMode(SYNC)),
    f("iptables.minSyncPeriod", Duration, OfMode(MIN_SYNC)),
    f("ipvs.syncPeriod", Duration, OfMode(SYNC)),
    f("ipvs.minSyncPeriod", Duration, OfMode(MIN_SYNC)),
    f("ipvs.scheduler", Text, Never(IPVS)),
    f("ipvs.excludeCIDRs", Texts, Never(IPVS)),
    f("ipvs.strictARP", Bool, Never(IPVS)),
    f("ipvs.tcpTimeout", Duration, Never(IPVS)),
    f("ipvs.tcpFinTimeout", Duration, Never(IPVS)),
    f("ipvs.udpTimeout", Duration, Never(IPVS)),
    f("nftables.masqueradeBit", Int, Never(MARK)),
    f("nftables.masqueradeAll", Bool, OfMode(MASQUERADE)),
    f("nftables.syncPeriod", Duration, OfMode(SYNC)),
    f("nftables.minSyncPeriod", Duration, OfMode(MIN_SYNC)),
    f("winkernel.networkName", Text, Never(WINDOWS)),
    f("winkernel.sourceVip", Text, Never(WINDOWS)),
    f("winkernel.enableDSR", Bool, Never(WINDOWS)),
    f("winkernel.rootHnsEndpointName", Text, Never(WINDOWS)),
    f("winkernel.forwardHealthCheckVip", Bool, Never(WINDOWS)),
    f(
        "detectLocalMode",
        Text,
        Does(
            "`ClusterCIDR` (also if empty) or `NodeCIDR`: what tells pods from others (SNAT-8); `BridgeInterface` and `InterfaceNamePrefix` have no effect in this version, which sees no packets: then there is no detector",
        ),
    ),
    f(
        "detectLocal.bridgeInterface",
        Text,
        NotYet("packets are not seen, so their interfaces are not either"),
    ),
    f(
        "detectLocal.interfaceNamePrefix",
        Text,
        NotYet("packets are not seen, so their interfaces are not either"),
    ),
    f(
        "clusterCIDR",
        Text,
        Does(
            "the pods' networks for `detectLocalMode: ClusterCIDR`, separated by commas; the first of each family counts (SNAT-8)",
        ),
    ),
    f(
        "nodePortAddresses",
        Texts,
        Does(
            "where health check node ports listen (HC-2); NodePorts themselves are not served in this version",
        ),
    ),
    f("oomScoreAdj", Int, Does("written to the agent's own `oom_score_adj`")),
    f(
        "conntrack.maxPerCore",
        Int,
        Does(
            "`nf_conntrack_max` is raised to this times the cores, at least `min`, at most 1048576; 0 leaves it (CT-13, DEC-7)",
        ),
    ),
    f("conntrack.min", Int, Does("see `conntrack.maxPerCore`")),
    f("conntrack.tcpEstablishedTimeout", Duration, Does(CONNTRACK)),
    f("conntrack.tcpCloseWaitTimeout", Duration, Does(CONNTRACK)),
    f("conntrack.tcpBeLiberal", Bool, Does("`true` sets `nf_conntrack_tcp_be_liberal`, `false` leaves it")),
    f("conntrack.udpTimeout", Duration, Does(CONNTRACK)),
    f("conntrack.udpStreamTimeout", Duration, Does(CONNTRACK)),
    f("configSyncPeriod", Duration, Never("objects are watched, and never read again by the clock")),
    f("portRange", Text, Never("kube-proxy does not use it either")),
    f("windowsRunAsService", Bool, Never(WINDOWS)),
];

const fn f(path: &'static str, kind: Kind, effect: Effect) -> Field {
    Field { path, kind, effect }
}

/// The field of this path.
pub fn field(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

/// Whether a path leads to fields, like `iptables`.
pub fn is_section(path: &str) -> bool {
    FIELDS.iter().any(|field| field.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::super::types::KubeProxyConfiguration;
    use super::*;

    /// The paths of a value's leaves, as far as they are fields.
    fn paths(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) if at.is_empty() || is_section(at) => {
                for (key, value) in map {
                    paths(value, &if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, found);
                }
            }
            _ => found.push(at.to_owned()),
        }
    }

    #[test]
    fn the_table_and_the_type_have_the_same_fields() {
        let all = KubeProxyConfiguration {
            feature_gates: [("a".into(), true)].into(),
            windows_run_as_service: true,
            logging: super::super::types::Logging {
                format: "text".into(),
                vmodule: vec![Default::default()],
                options: super::super::types::LogOptions {
                    text: super::super::types::LogRouting { split_stream: true, ..Default::default() },
                    json: super::super::types::LogRouting { split_stream: true, ..Default::default() },
                },
                ..Default::default()
            },
            ..Default::default()
        };
        let mut found = Vec::new();
        paths(&serde_json::to_value(all).unwrap(), "", &mut found);
        let mut known: Vec<_> = FIELDS.iter().map(|field| field.path).collect();
        found.sort();
        known.sort_unstable();
        assert_eq!(found, known);
    }
}
