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

/// The file as written; the caller reads it from YAML or JSON, [`File::config`] makes sense of it.
#[derive(Clone, Debug, Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub struct File {
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

#[derive(Clone, Debug, Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Section {
    masquerade_all: bool,
}

impl File {
    /// What the file says, judged.
    ///
    /// # Errors
    /// It is no `KubeProxyConfiguration`, or a field cannot be used; the error names the field.
    pub fn config(self) -> Result<KubeProxyConfig> {
        const VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
        let (version, kind) = (self.api_version.as_str(), self.kind.as_str());
        if (version, kind) != (VERSION, "KubeProxyConfiguration") {
            bail!("it is a '{version} {kind}', not a {VERSION} KubeProxyConfiguration");
        }
        let detector = match self.detect_local_mode.as_str() {
            "" | "ClusterCIDR" => Detector::Cidrs(cluster_cidrs(&self.cluster_cidr).context("clusterCIDR")?),
            "NodeCIDR" => Detector::NodeCidr,
            "BridgeInterface" | "InterfaceNamePrefix" => Detector::Interface,
            other => bail!(
                "detectLocalMode: '{other}' is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix"
            ),
        };
        let section = if self.mode == "nftables" { self.nftables } else { self.iptables };
        Ok(KubeProxyConfig {
            hostname_override: self.hostname_override.trim().to_lowercase(),
            detector,
            masquerade_all: section.masquerade_all,
        })
    }
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
    use serde_json::{Value, json};

    use super::*;

    /// A file of these fields, besides those that say what it is.
    fn parse(mut fields: Value) -> Result<KubeProxyConfig> {
        fields["apiVersion"] = "kubeproxy.config.k8s.io/v1alpha1".into();
        fields["kind"] = "KubeProxyConfiguration".into();
        serde_json::from_value::<File>(fields)?.config()
    }

    #[test]
    fn the_first_network_of_each_family_is_the_detector() {
        // SNAT-8
        let file = json!({"clusterCIDR": "10.244.0.0/16, 10.9.0.0/16,fd00:10:244::/48", "unknownField": 1});
        let nets = vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()];
        assert_eq!(parse(file).unwrap().detector, Detector::Cidrs(nets));
        assert_eq!(parse(json!({})).unwrap(), KubeProxyConfig::default());
    }

    #[test]
    fn masquerade_all_is_that_of_the_mode() {
        // SNAT-5
        let all = |mode: &str| {
            let (yes, no) = (json!({"masqueradeAll": true}), json!({"masqueradeAll": false}));
            parse(json!({"mode": mode, "iptables": yes, "nftables": no})).unwrap().masquerade_all
        };
        assert!(all("iptables") && all("") && !all("nftables"));
    }

    #[test]
    fn a_field_that_cannot_be_used_is_named() {
        let error = |fields| format!("{:#}", parse(fields).unwrap_err());
        let cidr = error(json!({"clusterCIDR": "10.0.0.0"}));
        assert!(cidr.contains("clusterCIDR: '10.0.0.0' is no network"), "{cidr}");
        assert!(error(json!({"detectLocalMode": "Guess"})).contains("detectLocalMode: 'Guess'"));
        assert!(File { kind: "ConfigMap".into(), ..File::default() }.config().is_err());
    }
}
