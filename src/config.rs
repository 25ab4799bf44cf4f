//! What `run` was told, as one value. Pure: what the machine has to say comes in as an argument.

pub mod kube_proxy;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::model::node::HostFacts;

/// Where the pins lie unless told otherwise: `beeline` below it.
pub const BPF_ROOT: &str = "/sys/fs/bpf";

/// Where metrics are served unless told otherwise (HLT-9).
pub const METRICS_BIND_ADDRESS: &str = "127.0.0.1:10249";

/// Where health is served unless told otherwise (HLT-1).
pub const HEALTHZ_BIND_ADDRESS: &str = "0.0.0.0:10256";

/// The flags of `run`, parsed and not yet judged together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--manifests`
    pub manifests: Option<PathBuf>,
    /// `--kubeconfig`
    pub kubeconfig: Option<PathBuf>,
    /// `--apiserver`
    pub apiserver: Option<String>,
    /// `--node-name`, alias `--hostname-override`
    pub node_name: Option<String>,
    /// `--node-ip`: the first of a family is the primary one.
    pub node_ips: Vec<IpAddr>,
    /// `--zone`
    pub zone: Option<String>,
    /// `--cgroup-root`
    pub cgroup_root: Option<PathBuf>,
    /// `--bpf-root`
    pub bpf_root: Option<PathBuf>,
    /// `--cluster-cidr`: the local detector (SNAT-8).
    pub cluster_cidrs: Vec<IpNet>,
    /// `--masquerade-all` (SNAT-5)
    pub masquerade_all: bool,
    /// `--metrics-bind-address` (HLT-9)
    pub metrics_bind_address: Option<String>,
    /// `--healthz-bind-address` (HLT-1)
    pub healthz_bind_address: Option<String>,
}

/// Where the objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or directory of manifests.
    Manifests(PathBuf),
    /// An API server.
    Cluster(Cluster),
}

impl Source {
    /// The word for it in `status`.
    pub fn kind(&self) -> &'static str {
        match self {
            Source::Manifests(_) => "manifests",
            Source::Cluster(_) => "kubernetes",
        }
    }

    /// The path or URL, as configured.
    pub fn place(&self) -> String {
        match self {
            Source::Manifests(path) => path.to_string_lossy().into_owned(),
            Source::Cluster(Cluster { apiserver: Some(url), .. }) => url.clone(),
            Source::Cluster(Cluster { kubeconfig: Some(file), .. }) => file.to_string_lossy().into_owned(),
            Source::Cluster(_) => "the account of this pod".into(),
        }
    }
}

/// How the API server is reached (CFG-5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// A kubeconfig; `None`: the account of this pod.
    pub kubeconfig: Option<PathBuf>,
    /// The URL of the API server, which wins over what the kubeconfig says.
    pub apiserver: Option<String>,
}

/// What the agent does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the objects come from.
    pub source: Source,
    /// The node's name (EP-10).
    pub node_name: Arc<str>,
    /// The node's addresses; empty: those of its interfaces (DEC-6).
    pub node_ips: Vec<IpAddr>,
    /// The node's zone; `None`: the Node object's label.
    pub zone: Option<Arc<str>>,
    /// The cgroup v2 folder to attach to; `None`: the root, where it is mounted.
    pub cgroup_root: Option<PathBuf>,
    /// The bpffs that holds the pins.
    pub bpf_root: PathBuf,
    /// The local detector's CIDRs (SNAT-8).
    pub cluster_cidrs: Vec<IpNet>,
    /// `masqueradeAll` (SNAT-5)
    pub masquerade_all: bool,
    /// Where metrics are served (HLT-9); `None`: nowhere.
    pub metrics_bind: Option<SocketAddr>,
    /// Where health is served (HLT-1); `None`: nowhere.
    pub healthz_bind: Option<SocketAddr>,
    /// `bindAddressHardFail` (HLT-8)
    pub bind_hard_fail: bool,
    /// `minSyncPeriod` (SYNC-4); zero: every change at once.
    pub min_sync_period: Duration,
    /// `nodePortAddresses` as networks, for health check node ports (HC-2); none: all addresses.
    pub node_port_networks: Vec<IpNet>,
    /// What `/proxyMode` says: the mode of the configuration, else that whose semantics these are.
    pub proxy_mode: String,
    /// What `/configz` says; `None`: no such page.
    pub configz: Option<serde_json::Value>,
}

/// Flags that do not make sense together: a matter of usage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nothing to serve from.
    #[error(
        "no source of Services: give --manifests FILE or DIRECTORY, --kubeconfig FILE or --apiserver URL"
    )]
    NoSource,
    /// Two answers to one question.
    #[error(
        "two sources of Services: --manifests is one, --kubeconfig and --apiserver are another; give one"
    )]
    TwoSources,
    /// EP-10
    #[error("the node has no name: the machine's host name is empty; give --node-name")]
    NoNodeName,
    /// HLT-8
    #[error("{flag}: '{text}' is no address to listen on: give one like 127.0.0.1:10249, or '' for none")]
    BadBindAddress {
        /// The flag.
        flag: &'static str,
        /// What it was given.
        text: String,
    },
}

impl Config {
    /// The configuration that flags give on a machine of that host name.
    ///
    /// # Errors
    /// There is no source, or no name for the node.
    pub fn new(flags: Flags, hostname: &str) -> Result<Config, ConfigError> {
        Ok(Config {
            source: source(flags.manifests, flags.kubeconfig, flags.apiserver)?,
            node_name: node_name(flags.node_name.as_deref(), hostname).ok_or(ConfigError::NoNodeName)?,
            node_ips: flags.node_ips,
            zone: flags.zone.filter(|zone| !zone.is_empty()).map(Arc::from),
            cgroup_root: flags.cgroup_root,
            bpf_root: flags.bpf_root.unwrap_or_else(|| BPF_ROOT.into()),
            cluster_cidrs: flags.cluster_cidrs,
            masquerade_all: flags.masquerade_all,
            metrics_bind: bind(
                "--metrics-bind-address",
                flags.metrics_bind_address.as_deref().unwrap_or(METRICS_BIND_ADDRESS),
                10249,
            )?,
            healthz_bind: bind(
                "--healthz-bind-address",
                flags.healthz_bind_address.as_deref().unwrap_or(HEALTHZ_BIND_ADDRESS),
                10256,
            )?,
            bind_hard_fail: false,
            min_sync_period: Duration::ZERO,
            node_port_networks: Vec::new(),
            proxy_mode: "nftables".into(),
            configz: None,
        })
    }

    /// What the rules need to know of this node, given the addresses of its interfaces (DEC-6).
    pub fn host_facts(&self, interfaces: Vec<IpAddr>) -> HostFacts {
        HostFacts {
            node_name: self.node_name.clone(),
            zone: self.zone.clone(),
            addresses: if self.node_ips.is_empty() { interfaces } else { self.node_ips.clone() },
            local_detector: self.cluster_cidrs.clone(),
            masquerade_all: self.masquerade_all,
        }
    }
}

/// Where a server listens: an address, with the port that belongs to it unless it names one. Empty: nowhere (HLT-8).
fn bind(flag: &'static str, text: &str, port: u16) -> Result<Option<SocketAddr>, ConfigError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let bare = || text.trim_start_matches('[').trim_end_matches(']').parse().ok();
    let all = || text.strip_prefix(':')?.parse().ok().map(|port| (Ipv6Addr::UNSPECIFIED, port).into());
    let addr = text.parse().ok().or_else(all).or_else(|| Some(SocketAddr::new(bare()?, port)));
    addr.map(Some).ok_or_else(|| ConfigError::BadBindAddress { flag, text: text.into() })
}

/// The one source that the flags name.
fn source(
    manifests: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
    apiserver: Option<String>,
) -> Result<Source, ConfigError> {
    let in_cluster = kubeconfig.is_some() || apiserver.is_some();
    match manifests {
        Some(_) if in_cluster => Err(ConfigError::TwoSources),
        Some(path) => Ok(Source::Manifests(path)),
        None if in_cluster => Ok(Source::Cluster(Cluster { kubeconfig, apiserver })),
        None => Err(ConfigError::NoSource),
    }
}

/// The name of this node: the flag, else the host name; trimmed and in lower case (EP-10).
fn node_name(flag: Option<&str>, hostname: &str) -> Option<Arc<str>> {
    let name = flag.filter(|name| !name.is_empty()).unwrap_or(hostname).trim().to_lowercase();
    (!name.is_empty()).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: Flags, hostname: &str) -> Result<Config, ConfigError> {
        Config::new(Flags { manifests: Some("m".into()), ..flags }, hostname)
    }

    #[test]
    fn the_node_is_called_what_the_flag_or_the_host_name_says() {
        // EP-10
        let named = Flags { node_name: Some("Node-B".into()), ..Flags::default() };
        assert_eq!(&*config(named, "host").unwrap().node_name, "node-b");
        assert_eq!(&*config(Flags::default(), " Host.Example\n").unwrap().node_name, "host.example");
        assert_eq!(config(Flags::default(), " "), Err(ConfigError::NoNodeName));
    }

    #[test]
    fn one_source_is_needed() {
        assert_eq!(Config::new(Flags::default(), "host"), Err(ConfigError::NoSource));
        let both = Flags { apiserver: Some("https://10.0.0.1:6443".into()), ..Flags::default() };
        assert_eq!(config(both, "host"), Err(ConfigError::TwoSources));
    }

    #[test]
    fn a_server_listens_where_it_is_told_and_an_empty_address_is_no_server() {
        // HLT-8, HLT-9
        let at =
            |text: &str| bind("--metrics-bind-address", text, 10249).map(|at| at.map(|at| at.to_string()));
        for (text, want) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("10.0.0.1", "10.0.0.1:10249"),
            ("[::1]:2", "[::1]:2"),
            ("::1", "[::1]:10249"),
            ("[::1]", "[::1]:10249"),
            (":3", "[::]:3"),
        ] {
            assert_eq!(at(text), Ok(Some(want.to_owned())), "{text}");
        }
        assert_eq!(at(""), Ok(None));
        for bad in ["localhost", "1.2.3.4:99999", "1.2.3:4", "x"] {
            assert!(matches!(at(bad), Err(ConfigError::BadBindAddress { .. })), "{bad}");
        }
    }

    #[test]
    fn node_addresses_are_the_flags_or_else_the_interfaces() {
        // DEC-6
        let ip: IpAddr = "192.168.0.2".parse().unwrap();
        let found: IpAddr = "10.0.0.1".parse().unwrap();
        let given = config(Flags { node_ips: vec![ip], ..Flags::default() }, "host").unwrap();
        assert_eq!(given.host_facts(vec![found]).addresses, [ip]);
        assert_eq!(config(Flags::default(), "host").unwrap().host_facts(vec![found]).addresses, [found]);
    }
}
