//! What `run` was told, as one value. Pure: what the machine has to say comes in as an argument.

pub mod conntrack;
pub mod duration;
pub mod family;
pub mod flags;
pub mod kube_proxy;
pub mod tree;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use self::kube_proxy::defaults::split_host_port;
use self::kube_proxy::types::Conntrack;
use self::kube_proxy::{Detector, Effective, KubeProxyConfiguration};
use crate::model::addr::parse_ip;
use crate::model::node::HostFacts;

/// Where the pins lie unless told otherwise: `beeline` below it.
pub const BPF_ROOT: &str = "/sys/fs/bpf";

/// The flags of `run` that are Beeline's own, parsed and not yet judged together.
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
    /// `--config`, read.
    pub config: Option<ConfigFile>,
}

/// A configuration file as it was read at the start: another text later is a reason to end (SYNC-16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// What the machine has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its host name.
    pub hostname: String,
    /// There is the token of a pod's service account.
    pub has_account: bool,
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
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the objects come from.
    pub source: Source,
    /// The node's name (EP-10).
    pub node_name: Arc<str>,
    /// The node's addresses; empty: those of its interfaces (DEC-6).
    pub node_ips: Vec<IpAddr>,
    /// `bindAddress`: the primary address of its family, whatever else the node has.
    pub primary_ip: Option<IpAddr>,
    /// The node's zone; `None`: the Node object's label.
    pub zone: Option<Arc<str>>,
    /// The cgroup v2 folder to attach to; `None`: the root, where it is mounted.
    pub cgroup_root: Option<PathBuf>,
    /// The bpffs that holds the pins.
    pub bpf_root: PathBuf,
    /// The local detector (SNAT-8).
    pub detector: Detector,
    /// `masqueradeAll` (SNAT-5)
    pub masquerade_all: bool,
    /// Changes that come sooner after a write wait for each other; zero: none waits.
    pub min_sync_period: Duration,
    /// A change that waits for longer is ill health: twice `syncPeriod` (HLT-3).
    pub late: Duration,
    /// Where `/healthz` is served; `None`: nowhere (HLT-8).
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` is served; `None`: nowhere (HLT-8).
    pub metrics: Option<SocketAddr>,
    /// An address that cannot be had ends the agent (HLT-8).
    pub bind_hard_fail: bool,
    /// What conntrack should be like (CT-13).
    pub conntrack: Conntrack,
    /// The agent's own `oom_score_adj`; `None` leaves it.
    pub oom_score_adj: Option<i32>,
    /// The file it comes from.
    pub file: Option<ConfigFile>,
    /// All of it in kube-proxy's terms: what [`kube_proxy::configz`] shows.
    pub kube_proxy: KubeProxyConfiguration,
}

/// Flags that do not make sense together: a matter of usage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nothing to serve from.
    #[error(
        "no source of Services: give --manifests FILE or DIRECTORY, --kubeconfig FILE, --apiserver URL, or --config FILE \
         with clientConnection.kubeconfig, or run in a pod with a service account"
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
    /// EP-10
    #[error("--hostname-override holds nothing but blanks; give the name of the Node object")]
    BlankNodeName,
    /// A field that validation lets pass and that cannot be used.
    #[error("{0}")]
    Field(String),
}

impl Config {
    /// The configuration that flags and kube-proxy's configuration give on a machine.
    ///
    /// # Errors
    /// There is no source, or no name for the node.
    pub fn new(flags: Flags, effective: Effective, machine: &Machine) -> Result<Config, ConfigError> {
        let source = source(&flags, &effective.config, machine.has_account)?;
        let detector = effective.detector().map_err(|error| ConfigError::Field(format!("{error:#}")))?;
        let (masquerade_all, min_sync_period) = (effective.masquerade_all(), effective.min_sync_period());
        let late = effective.sync_period().to_std() * 2;
        // On a bare machine nothing is touched that nobody named.
        let is_bare = !effective.is_file && matches!(source, Source::Manifests(_));
        let Effective { config, given, .. } = effective;
        let touched = if is_bare { &given } else { &config };
        let (conntrack, oom_score_adj) = (touched.conntrack.clone(), touched.oom_score_adj);
        let mut kube_proxy = config;
        let node_name = node_name(&flags, &kube_proxy, &machine.hostname)?;
        if flags.node_name.is_some() {
            kube_proxy.hostname_override = node_name.to_string();
        }
        Ok(Config {
            source,
            node_name,
            node_ips: flags.node_ips,
            primary_ip: primary_ip(&kube_proxy),
            zone: flags.zone.filter(|zone| !zone.is_empty()).map(Arc::from),
            cgroup_root: flags.cgroup_root,
            bpf_root: flags.bpf_root.unwrap_or_else(|| BPF_ROOT.into()),
            detector,
            masquerade_all,
            min_sync_period: min_sync_period.to_std(),
            late,
            healthz: address(&kube_proxy.healthz_bind_address),
            metrics: address(&kube_proxy.metrics_bind_address),
            bind_hard_fail: kube_proxy.bind_address_hard_fail,
            conntrack,
            oom_score_adj,
            file: flags.config,
            kube_proxy,
        })
    }

    /// What the rules need to know of this node, given the addresses of its interfaces (DEC-6).
    pub fn host_facts(&self, interfaces: Vec<IpAddr>) -> HostFacts {
        let held = interfaces.iter().copied().collect();
        let addresses = if self.node_ips.is_empty() { interfaces } else { self.node_ips.clone() };
        let addresses = with_primary(addresses, self.primary_ip);
        HostFacts {
            node_name: self.node_name.clone(),
            zone: self.zone.clone(),
            addresses,
            local_detector: self.detector_cidrs(),
            masquerade_all: self.masquerade_all,
            held,
        }
    }

    /// The detector's networks, as far as the configuration names them.
    fn detector_cidrs(&self) -> Vec<IpNet> {
        match &self.detector {
            Detector::Cidrs(nets) => nets.clone(),
            Detector::NodeCidr | Detector::Interface => Vec::new(),
        }
    }
}

/// `bindAddress`, which names the primary address of its family, unless it stands for any (CFG-2).
pub fn primary_ip(config: &KubeProxyConfiguration) -> Option<IpAddr> {
    parse_ip(&config.bind_address).filter(|ip| !ip.is_unspecified())
}

/// The addresses of a node, the primary one first (CFG-2).
pub fn with_primary(mut addresses: Vec<IpAddr>, primary: Option<IpAddr>) -> Vec<IpAddr> {
    if let Some(primary) = primary {
        addresses.retain(|address| *address != primary);
        addresses.insert(0, primary);
    }
    addresses
}

/// The one source that is named: flags first, then the file, then the account of this pod.
fn source(flags: &Flags, config: &KubeProxyConfiguration, has_account: bool) -> Result<Source, ConfigError> {
    let is_cluster = flags.kubeconfig.is_some() || flags.apiserver.is_some();
    if let Some(path) = &flags.manifests {
        return if is_cluster { Err(ConfigError::TwoSources) } else { Ok(Source::Manifests(path.clone())) };
    }
    let named = Some(&config.client_connection.kubeconfig).filter(|file| !file.is_empty());
    // Beside a file the flag does not count, as in kube-proxy, unless the file names none.
    let kubeconfig = named.map(PathBuf::from).or_else(|| flags.kubeconfig.clone());
    if kubeconfig.is_none() && flags.apiserver.is_none() && !has_account {
        return Err(ConfigError::NoSource);
    }
    Ok(Source::Cluster(Cluster { kubeconfig, apiserver: flags.apiserver.clone() }))
}

/// The name of this node: the flag, else the file, else the host name; trimmed and in lower case (EP-10).
fn node_name(
    flags: &Flags,
    config: &KubeProxyConfiguration,
    hostname: &str,
) -> Result<Arc<str>, ConfigError> {
    let flag = flags.node_name.as_deref().filter(|name| !name.is_empty());
    if flag.is_some_and(|name| name.trim().is_empty()) {
        return Err(ConfigError::BlankNodeName);
    }
    let file = Some(config.hostname_override.as_str()).filter(|name| !name.is_empty());
    let name = flag.or(file).unwrap_or(hostname).trim().to_lowercase();
    if name.is_empty() { Err(ConfigError::NoNodeName) } else { Ok(name.into()) }
}

/// An address to serve on; validation has seen it.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = split_host_port(text)?;
    Some(SocketAddr::new(parse_ip(host)?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The configuration of flags, with a file, on a machine called so.
    fn config_of(flags: Flags, file: Option<&str>, hostname: &str) -> Result<Config, ConfigError> {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let text = file.map(|file| format!("{head}{file}\n"));
        let effective = kube_proxy::effective(text.as_deref(), &[]).unwrap();
        Config::new(flags, effective, &Machine { hostname: hostname.into(), has_account: false })
    }

    fn config(flags: Flags, hostname: &str) -> Result<Config, ConfigError> {
        config_of(Flags { manifests: Some("m".into()), ..flags }, None, hostname)
    }

    #[test]
    fn the_node_is_called_what_flag_file_or_host_name_say() {
        // EP-10
        let named = |name: &str| Flags {
            manifests: Some("m".into()),
            node_name: Some(name.into()),
            ..Flags::default()
        };
        assert_eq!(&*config(named("Node-B"), "host").unwrap().node_name, "node-b");
        assert_eq!(&*config(Flags::default(), " Host.Example\n").unwrap().node_name, "host.example");
        assert_eq!(config(Flags::default(), " "), Err(ConfigError::NoNodeName));
        let file = Some("hostnameOverride: ' Node-F'");
        assert_eq!(&*config_of(named("Node-B"), file, "host").unwrap().node_name, "node-b");
        let unnamed = Flags { manifests: Some("m".into()), ..Flags::default() };
        assert_eq!(&*config_of(unnamed, file, "host").unwrap().node_name, "node-f");
        assert_eq!(config(named("  "), "host"), Err(ConfigError::BlankNodeName));
        let shown = config_of(named("Node-B"), file, "host").unwrap().kube_proxy.hostname_override;
        assert_eq!(shown, "node-b", "what counts is what is shown");
    }

    #[test]
    fn one_source_is_needed() {
        // CFG-5
        assert_eq!(config_of(Flags::default(), None, "host"), Err(ConfigError::NoSource));
        let server = Flags { apiserver: Some("https://10.0.0.1:6443".into()), ..Flags::default() };
        assert_eq!(config(server.clone(), "host"), Err(ConfigError::TwoSources));
        let named = Some("clientConnection: {kubeconfig: /k}");
        let source = |flags: Flags, file| config_of(flags, file, "host").map(|config| config.source);
        let cluster = |kubeconfig: Option<&str>, apiserver: Option<&str>| {
            let kubeconfig = kubeconfig.map(PathBuf::from);
            Ok(Source::Cluster(Cluster { kubeconfig, apiserver: apiserver.map(str::to_owned) }))
        };
        assert_eq!(source(Flags::default(), named), cluster(Some("/k"), None));
        assert_eq!(source(server, named), cluster(Some("/k"), Some("https://10.0.0.1:6443")));
        let flag = Flags { kubeconfig: Some("/f".into()), ..Flags::default() };
        assert_eq!(source(flag.clone(), named), cluster(Some("/k"), None), "the file wins");
        assert_eq!(source(flag, Some("")), cluster(Some("/f"), None));
        let manifests = Flags { manifests: Some("m".into()), ..Flags::default() };
        assert_eq!(source(manifests, named), Ok(Source::Manifests("m".into())));
        let machine = Machine { hostname: "host".into(), has_account: true };
        let in_pod = Config::new(Flags::default(), kube_proxy::effective(None, &[]).unwrap(), &machine);
        assert_eq!(in_pod.map(|config| config.source), cluster(None, None));
    }

    #[test]
    fn node_addresses_are_the_flags_or_else_the_interfaces() {
        // DEC-6
        let ip: IpAddr = "192.168.0.2".parse().unwrap();
        let found: IpAddr = "10.0.0.1".parse().unwrap();
        let given = config(Flags { node_ips: vec![ip], ..Flags::default() }, "host").unwrap();
        assert_eq!(given.host_facts(vec![found]).addresses, [ip]);
        assert_eq!(config(Flags::default(), "host").unwrap().host_facts(vec![found]).addresses, [found]);
        let manifests = || Flags { manifests: Some("m".into()), ..Flags::default() };
        let bound = config_of(manifests(), Some("bindAddress: 192.168.0.2"), "host").unwrap();
        assert_eq!(bound.host_facts(vec![found, ip]).addresses, [ip, found], "the primary one comes first");
        let any = config_of(manifests(), Some("bindAddress: '::'"), "host").unwrap();
        assert_eq!(any.host_facts(vec![found]).addresses, [found]);
        assert_eq!(any.healthz, Some("[::]:10256".parse().unwrap()));
        assert_eq!(any.metrics, Some("[::1]:10249".parse().unwrap()));
    }

    #[test]
    fn a_bare_machine_is_left_as_it_is() {
        // DEC-7
        let bare = config(Flags::default(), "host").unwrap();
        assert_eq!((bare.conntrack, bare.oom_score_adj), (Conntrack::default(), None));
        let manifests = Flags { manifests: Some("m".into()), ..Flags::default() };
        let with_file = config_of(manifests, Some(""), "host").unwrap();
        assert_eq!(with_file.conntrack.max_per_core, Some(32768));
        assert_eq!(with_file.oom_score_adj, Some(-999));
        let server = Flags { apiserver: Some("https://10.0.0.1:6443".into()), ..Flags::default() };
        assert_eq!(config_of(server, None, "host").unwrap().oom_score_adj, Some(-999));
    }
}
