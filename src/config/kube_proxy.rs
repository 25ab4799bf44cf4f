//! The fields of a `KubeProxyConfiguration` that a verdict depends on (CFG-1, CFG-2). Pure.
//!
//! Unknown fields are ignored, as kube-proxy's lenient decoding does (SYNC-12).

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::Deserialize;

use crate::model::addr::{Family, parse_cidr};

/// What is read of the file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KubeProxyConfig {
    /// `hostnameOverride`; empty if it says nothing.
    pub hostname_override: String,
    /// `detectLocalMode` with what it needs.
    pub detector: Detector,
    /// `masqueradeAll` of the mode's section (SNAT-5).
    pub masquerade_all: bool,
}

/// How pods of this node are told from others (SNAT-8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detector {
    /// `ClusterCIDR`: the first network of each family; empty without a detector.
    Cidrs(Vec<IpNet>),
    /// `NodeCIDR`: `spec.podCIDRs` of this node's object.
    NodeCidr,
    /// `BridgeInterface` or `InterfaceNamePrefix`: addresses say nothing.
    Interface,
}

impl Default for Detector {
    fn default() -> Self {
        Detector::Cidrs(Vec::new())
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    mode: String,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: String,
    detect_local_mode: String,
    hostname_override: String,
    iptables: Section,
    nftables: Section,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Section {
    masquerade_all: bool,
}

/// Reads the text of a `KubeProxyConfiguration`.
///
/// # Errors
/// It is no such configuration, or a field that is read cannot be used; the error names the field.
pub fn parse(text: &str) -> Result<KubeProxyConfig> {
    let file: File = serde_saphyr::from_str(text).context("parse the KubeProxyConfiguration")?;
    if file.kind != "KubeProxyConfiguration" || file.api_version != "kubeproxy.config.k8s.io/v1alpha1" {
        bail!(
            "the configuration is '{} {}', which is not kubeproxy.config.k8s.io/v1alpha1 KubeProxyConfiguration",
            file.api_version,
            file.kind
        );
    }
    let detector = match file.detect_local_mode.as_str() {
        "" | "ClusterCIDR" => Detector::Cidrs(cluster_cidrs(&file.cluster_cidr).context("clusterCIDR")?),
        "NodeCIDR" => Detector::NodeCidr,
        "BridgeInterface" | "InterfaceNamePrefix" => Detector::Interface,
        other => bail!(
            "detectLocalMode: '{other}' is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix"
        ),
    };
    let section = if file.mode == "nftables" { file.nftables } else { file.iptables };
    Ok(KubeProxyConfig {
        hostname_override: file.hostname_override.trim().to_lowercase(),
        detector,
        masquerade_all: section.masquerade_all,
    })
}

/// The networks of `clusterCIDR` or `--cluster-cidr`: separated by commas, the first of each family
/// counts (SNAT-8). An empty text is no detector.
///
/// # Errors
/// A part is no network.
pub fn cluster_cidrs(text: &str) -> Result<Vec<IpNet>> {
    let mut nets: Vec<IpNet> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let net = parse_cidr(part).with_context(|| format!("'{part}' is no network like 10.0.0.0/8"))?;
        if !nets.iter().any(|known| Family::of(known.addr()) == Family::of(net.addr())) {
            nets.push(net);
        }
    }
    Ok(nets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    #[test]
    fn the_first_network_of_each_family_is_the_detector() {
        // SNAT-8
        let text =
            format!("{HEAD}clusterCIDR: 10.244.0.0/16, 10.9.0.0/16,fd00:10:244::/48\nunknownField: 1\n");
        let nets = vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()];
        assert_eq!(parse(&text).unwrap().detector, Detector::Cidrs(nets));
        assert_eq!(parse(HEAD).unwrap(), KubeProxyConfig::default());
    }

    #[test]
    fn masquerade_all_is_that_of_the_mode() {
        // SNAT-5
        let all = |mode: &str| {
            let sections = "iptables: {masqueradeAll: true}\nnftables: {masqueradeAll: false}\n";
            parse(&format!("{HEAD}mode: '{mode}'\n{sections}")).unwrap().masquerade_all
        };
        assert!(all("iptables") && all("") && !all("nftables"));
    }

    #[test]
    fn a_field_that_cannot_be_used_is_named() {
        let error = |line: &str| format!("{:#}", parse(&format!("{HEAD}{line}\n")).unwrap_err());
        assert!(error("clusterCIDR: 10.0.0.0").contains("clusterCIDR: '10.0.0.0' is no network"));
        assert!(error("detectLocalMode: Guess").contains("detectLocalMode: 'Guess'"));
        assert!(parse("kind: ConfigMap").is_err());
    }
}
