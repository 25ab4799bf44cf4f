//! Nodes and ServiceCIDRs.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;

use super::{Converted, Converter, Outcome, Problem, label, required};
use crate::model::addr::{parse_cidr, parse_ip};
use crate::model::node::Node;

/// The zone of a node (TOP-4).
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

impl Converter {
    /// A Node, slimmed.
    ///
    /// # Errors
    /// It has no name.
    pub fn node(&mut self, object: &core::Node) -> Outcome<Node> {
        let name = required(object.metadata.name.as_deref(), "metadata.name")?;
        let mut warnings = Vec::new();
        let taints = object.spec.iter().filter_map(|spec| spec.taints.as_deref()).flatten();
        let node = Node {
            name: self.share(name),
            zone: self.share_some(label(&object.metadata, ZONE_LABEL)),
            addresses: internal_ips(object, &mut warnings),
            pod_cidrs: pod_cidrs(object, &mut warnings),
            deleting: object.metadata.deletion_timestamp.is_some(),
            taints: taints.map(|taint| self.share(&taint.key)).collect(),
        };
        Ok(Converted { value: Some(node), warnings })
    }

    /// A ServiceCIDR: its name and ranges (UND-2).
    ///
    /// # Errors
    /// It has no name.
    pub fn service_cidr(&mut self, object: &networking::ServiceCIDR) -> Outcome<(Arc<str>, Vec<IpNet>)> {
        let name = required(object.metadata.name.as_deref(), "metadata.name")?;
        let texts = object.spec.iter().filter_map(|spec| spec.cidrs.as_deref()).flatten();
        let mut warnings = Vec::new();
        let cidrs = cidrs(texts, "spec.cidrs", &mut warnings);
        Ok(Converted { value: Some((self.share(name), cidrs)), warnings })
    }
}

/// `status.addresses` of type InternalIP, in their order.
fn internal_ips(object: &core::Node, warnings: &mut Vec<Problem>) -> Vec<std::net::IpAddr> {
    let entries = object.status.iter().filter_map(|status| status.addresses.as_deref()).flatten();
    let mut addresses = Vec::new();
    for (at, entry) in entries.enumerate().filter(|(_, entry)| entry.type_ == "InternalIP") {
        match parse_ip(&entry.address) {
            Some(ip) => addresses.push(ip),
            None => warnings.push(Problem::new(
                format!("status.addresses[{at}].address"),
                format!("'{}' is no IP address; skipped", entry.address),
            )),
        }
    }
    addresses
}

/// `spec.podCIDRs`, or the older `spec.podCIDR` where only that is given.
fn pod_cidrs(object: &core::Node, warnings: &mut Vec<Problem>) -> Vec<IpNet> {
    let Some(spec) = &object.spec else { return Vec::new() };
    match &spec.pod_cidrs {
        Some(texts) if !texts.is_empty() => cidrs(texts.iter(), "spec.podCIDRs", warnings),
        _ => cidrs(spec.pod_cidr.iter(), "spec.podCIDR", warnings),
    }
}

fn cidrs<'a>(
    texts: impl Iterator<Item = &'a String>,
    field: &str,
    warnings: &mut Vec<Problem>,
) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for (at, text) in texts.enumerate() {
        match parse_cidr(text) {
            Some(net) => nets.push(net),
            None => {
                warnings
                    .push(Problem::new(format!("{field}[{at}]"), format!("'{text}' is no CIDR; skipped")));
            }
        }
    }
    nets
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_keeps_zone_internal_addresses_and_pod_cidrs() {
        // TOP-4, SNAT-8, HLT-4
        let object = json!({"metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": ""}},
            "spec": {"podCIDRs": ["10.1.0.0/24", "bad"], "taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {"addresses": [{"type": "Hostname", "address": "node-a"},
                {"type": "InternalIP", "address": "192.168.0.2"}, {"type": "InternalIP", "address": "fd00::2"}]}});
        let converted = Converter::new().node(&serde_json::from_value(object).unwrap()).unwrap();
        let node = converted.value.unwrap();
        assert_eq!(node.zone, None, "an empty zone is none");
        assert_eq!(node.addresses.len(), 2);
        assert_eq!(node.pod_cidrs.len(), 1);
        assert_eq!(converted.warnings[0].field, "spec.podCIDRs[1]");
        assert_eq!(&*node.taints[0], "k");
    }

    #[test]
    fn a_service_cidr_gives_its_ranges() {
        // UND-2, SVC-13
        let object =
            json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["172.30.0.0/016", "fd00::/112"]}});
        let converted = Converter::new().service_cidr(&serde_json::from_value(object).unwrap()).unwrap();
        let (name, cidrs) = converted.value.unwrap();
        assert_eq!((&*name, cidrs.len()), ("kubernetes", 2));
    }
}
