//! What an operator should know of a configuration that is good: fields that do nothing here.

use std::collections::BTreeMap;

use serde_json::Value;

use super::defaults;
use super::fields::{Effect, FIELDS};
use super::types::KubeProxyConfiguration;

/// A warning for each field that says something and does nothing. A field at its default says nothing:
/// kubeadm's ConfigMap names them all. `flags` are those that a field was set by.
pub fn notes(given: &KubeProxyConfiguration, flags: &BTreeMap<&'static str, &'static str>) -> Vec<String> {
    let shown = |config: &KubeProxyConfiguration| {
        let mut config = config.clone();
        defaults::set(&mut config);
        serde_json::to_value(config).unwrap_or_default()
    };
    let (ours, plain) = (shown(given), shown(&KubeProxyConfiguration::default()));
    let mut found = Vec::new();
    for field in FIELDS.iter().filter(|field| at(&ours, field.path) != at(&plain, field.path)) {
        let why = match field.effect {
            Effect::Does(_) => continue,
            Effect::OfMode(_) if counts(field.path, &given.mode) => continue,
            Effect::OfMode(_) => format!("has no effect: mode is {}", mode(given)),
            Effect::NotYet(why) => format!("has no effect in this version: {why}"),
            Effect::Never(why) => format!("has no meaning here: {why}"),
        };
        let name = match flags.get(field.path) {
            Some(flag) => format!("--{flag} ({})", field.path),
            None => field.path.to_owned(),
        };
        found.push(format!("{name}: {why}"));
    }
    if matches!(given.detect_local_mode.as_str(), "BridgeInterface" | "InterfaceNamePrefix") {
        found.push(format!(
            "detectLocalMode: {} has no effect in this version, which sees no packets: there is no local detector",
            given.detect_local_mode
        ));
    }
    found
}

/// Whether the section of a field is the one of the mode.
fn counts(path: &str, mode: &str) -> bool {
    let section = path.split('.').next().unwrap_or_default();
    match mode {
        "nftables" => section == "nftables",
        "ipvs" if path.ends_with("masqueradeAll") => section == "iptables",
        "ipvs" => section == "ipvs",
        _ => section == "iptables",
    }
}

fn mode(given: &KubeProxyConfiguration) -> &str {
    if given.mode.is_empty() { "iptables" } else { &given.mode }
}

/// The value of a path; what is left out is the same as empty.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let found = path.split('.').try_fold(value, |value, key| value.get(key))?;
    let is_empty = found.is_null() || found.as_array().is_some_and(Vec::is_empty);
    (!is_empty).then_some(found)
}
