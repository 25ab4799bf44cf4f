//! kube-proxy's configuration: a `KubeProxyConfiguration`, from a file or from flags (CFG-1, CFG-2). Pure.

pub mod decode;
pub mod defaults;
pub mod fields;
#[cfg(test)]
mod fuzz;
mod notes;
#[cfg(test)]
mod tests;
pub mod types;
mod validate;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::{Value, json};

use self::decode::{FieldError, decode, typed};
pub use self::types::KubeProxyConfiguration;
use super::duration::GoDuration;
use super::flags::{self, FLAGS, Patch};
use crate::model::addr::{Family, parse_cidr};

/// The flags of kube-proxy that were given, each with its values.
pub type GivenFlags = Vec<(String, Vec<String>)>;

/// A configuration that holds: what was given, and what it comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    /// What counts, with everything filled in: what `/configz` shows and `--write-config-to` writes.
    pub config: KubeProxyConfiguration,
    /// What was given, and nothing else.
    pub given: KubeProxyConfiguration,
    /// It comes from a file.
    pub is_file: bool,
    /// What an operator should know, one line each.
    pub warnings: Vec<String>,
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

/// Makes sense of a file, if there is one, and of kube-proxy's flags. Beside a file only the flags about
/// logging count (CFG-1). Without one the defaults are those of `mode: nftables` (DEC-3).
///
/// # Errors
/// The file is of another kind, or a field cannot be used; the error says which and where.
pub fn effective(file: Option<&str>, flags: &[(String, Vec<String>)]) -> Result<Effective, FieldError> {
    let mut warnings = Vec::new();
    let (given, lines, patch) = match file {
        Some(text) => {
            let decoded = decode(text)?;
            if !decoded.strict.is_empty() {
                warnings.push(format!(
                    "decoded leniently, for strict decoding failed: {}",
                    decoded.strict.join(", ")
                ));
            }
            let (logging, ignored) = beside_file(flags);
            if !ignored.is_empty() {
                warnings.push(format!("ignored, for a configuration file is given: {}", ignored.join(", ")));
            }
            (decoded.given, decoded.lines, flags::patch(&logging)?)
        }
        None => (
            KubeProxyConfiguration { mode: "nftables".into(), ..Default::default() },
            BTreeMap::new(),
            flags::patch(flags)?,
        ),
    };
    let given = patched(given, &patch)?;
    let config = complete(given.clone(), &patch.closed);
    let mut wrong = validate::validate(&config, &lines).into_iter();
    if let Some(first) = wrong.next() {
        let rest: String = wrong.map(|error| format!("; {error}")).collect();
        return Err(FieldError { message: first.message + &rest, ..first });
    }
    warnings.extend(patch.notes);
    warnings.extend(notes::notes(&given, &patch.by));
    if file.is_some() && config.detect_local_mode == "ClusterCIDR" && config.cluster_cidr.is_empty() {
        warnings.push(
            "clusterCIDR: is empty, so there is no local detector: no client counts as a pod (SNAT-8)".into(),
        );
    }
    Ok(Effective { config, given, is_file: file.is_some(), warnings })
}

/// The flags that count beside a file, and those that do not, with their dashes.
fn beside_file(flags: &[(String, Vec<String>)]) -> (GivenFlags, Vec<String>) {
    let is_logging = |name: &str| FLAGS.iter().any(|flag| flag.name == name && flag.is_logging());
    let (logging, ignored): (GivenFlags, GivenFlags) =
        flags.iter().cloned().partition(|(name, _)| is_logging(name));
    (logging, ignored.into_iter().map(|(name, _)| format!("--{name}")).collect())
}

/// A configuration with what flags say put in.
fn patched(given: KubeProxyConfiguration, patch: &Patch) -> Result<KubeProxyConfiguration, FieldError> {
    if patch.values.is_empty() {
        return Ok(given);
    }
    let vmodule = given.logging.vmodule.clone();
    let mut value =
        serde_json::to_value(given).map_err(|error| FieldError::new("", None, error.to_string()))?;
    patch.apply(&mut value);
    let mut given = typed(value)?;
    if patch.by.contains_key("logging.vmodule") {
        // As in kube-proxy: what flags say comes first, and the file's goes on to count.
        given.logging.vmodule.extend(vmodule);
    }
    Ok(given)
}

/// Everything filled in; an address that flags close stays empty.
fn complete(mut config: KubeProxyConfiguration, closed: &[&'static str]) -> KubeProxyConfiguration {
    defaults::set(&mut config);
    defaults::set_for_linux(&mut config);
    config.kind = types::KIND.into();
    config.api_version = types::API_VERSION.into();
    for path in closed {
        match *path {
            "healthzBindAddress" => config.healthz_bind_address.clear(),
            _ => config.metrics_bind_address.clear(),
        }
    }
    config
}

impl Effective {
    /// How pods are told from others (SNAT-8).
    ///
    /// # Errors
    /// `clusterCIDR` holds what is no network; a validated one does not.
    pub fn detector(&self) -> Result<Detector> {
        Ok(match self.config.detect_local_mode.as_str() {
            "NodeCIDR" => Detector::NodeCidr,
            "BridgeInterface" | "InterfaceNamePrefix" => Detector::Interface,
            _ => Detector::Cidrs(cluster_cidrs(&self.config.cluster_cidr).context("clusterCIDR")?),
        })
    }

    /// `masqueradeAll` of the mode's section (SNAT-5).
    pub fn masquerade_all(&self) -> bool {
        self.config.iptables.masquerade_all || self.config.nftables.masquerade_all
    }

    /// `syncPeriod` of the mode's section.
    pub fn sync_period(&self) -> GoDuration {
        let config = &self.config;
        match config.mode.as_str() {
            "nftables" => config.nftables.sync_period,
            "ipvs" => config.ipvs.sync_period,
            _ => config.iptables.sync_period,
        }
    }

    /// `minSyncPeriod` of the mode's section.
    pub fn min_sync_period(&self) -> GoDuration {
        let config = &self.config;
        match config.mode.as_str() {
            "nftables" => config.nftables.min_sync_period,
            "ipvs" => config.ipvs.min_sync_period,
            _ => config.iptables.min_sync_period,
        }
    }

    /// The file that reads as this configuration.
    ///
    /// # Errors
    /// An address is closed, which no file can say.
    pub fn to_yaml(&self) -> Result<String> {
        for (name, address) in
            [("healthz", &self.config.healthz_bind_address), ("metrics", &self.config.metrics_bind_address)]
        {
            anyhow::ensure!(
                !address.is_empty(),
                "a file cannot say that there is no {name} server, for an empty {name}BindAddress is the default; leave \
                 out --{name}-bind-address and --{name}-port"
            );
        }
        serde_saphyr::to_string(&serde_json::to_value(&self.config)?)
            .context("write the configuration as YAML")
    }
}

/// What `/configz` answers.
pub fn configz(config: &KubeProxyConfiguration) -> Value {
    json!({"kubeproxy.config.k8s.io": config})
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
