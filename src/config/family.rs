//! Configuration of the wrong IP family (CFG-3), judged as kube-proxy does (`checkBadIPConfig` and
//! `checkBadConfig`). Pure.
//!
//! Of what kube-proxy looks at three things have no meaning here and are left out: `ipvs.excludeCIDRs` and
//! `winkernel.sourceVip`, which do nothing, and a `nodePortAddresses` that is not set.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address;
use super::kube_proxy::{KubeProxyConfiguration, cluster_cidrs};
use crate::model::addr::{Family, parse_cidr};

/// The IP families of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    /// That of the node's first address.
    pub primary: Family,
    /// What the kernel can do, by family.
    pub kernel: [bool; 2],
}

/// Something in the configuration that does not fit the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Field, value and next step.
    pub message: String,
    /// The agent is not to run with it.
    pub is_fatal: bool,
}

/// The other family.
fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

impl Stack {
    /// The kernel can do both families.
    pub fn is_dual(self) -> bool {
        self.kernel == [true; 2]
    }

    /// As kube-proxy calls it.
    fn name(self) -> String {
        format!("{}-{}", self.primary, if self.is_dual() { "primary" } else { "only" })
    }
}

/// What does not fit: fatal where it is so in kube-proxy, else to be logged. `pod_cidrs` are those of the
/// node's object, as far as they are known.
pub fn judge(config: &KubeProxyConfiguration, pod_cidrs: &[IpNet], stack: Stack) -> Vec<Mismatch> {
    let mut found = Vec::new();
    if !stack.kernel[stack.primary.index()] {
        found.push(Mismatch { message: no_support(stack.primary), is_fatal: true });
        return found;
    }
    found.extend(detector(config, pod_cidrs, stack));
    found.extend(node_ports(config, pod_cidrs, stack));
    if !stack.is_dual() {
        let places = [
            ("healthzBindAddress", &config.healthz_bind_address),
            ("metricsBindAddress", &config.metrics_bind_address),
        ];
        found.extend(places.into_iter().filter_map(|(field, text)| bind(field, text, stack)));
    }
    found
}

fn no_support(primary: Family) -> String {
    format!(
        "this kernel has no {primary}, the family of the node's first address: enable it (sysctl \
         net.ipv6.conf.all.disable_ipv6=0), or name an address of the other family in bindAddress (CFG-3)"
    )
}

/// `clusterCIDR` and `spec.podCIDRs`, from which one the local detector is made (SNAT-8).
fn detector(config: &KubeProxyConfiguration, pod_cidrs: &[IpNet], stack: Stack) -> Vec<Mismatch> {
    let (ours, theirs, node) = (stack.primary, other(stack.primary), stack.name());
    let (mode, mut found) = (config.detect_local_mode.as_str(), Vec::new());
    // Validation has seen them.
    if is_all(theirs, &cluster_cidrs(&config.cluster_cidr).unwrap_or_default()) {
        found.push(Mismatch {
            message: format!(
                "clusterCIDR: '{}' names {theirs} networks alone, and this node is {node}: add the pods' {ours} \
                 network, or set detectLocalMode NodeCIDR (CFG-3)",
                config.cluster_cidr
            ),
            is_fatal: mode == "ClusterCIDR" && !stack.is_dual(),
        });
    }
    if is_all(theirs, pod_cidrs) {
        let shown: Vec<_> = pod_cidrs.iter().map(ToString::to_string).collect();
        found.push(Mismatch {
            message: format!(
                "spec.podCIDRs of this Node: '{}' are {theirs} networks alone, and this node is {node}: have \
                 {ours} networks allocated, or name a {theirs} address of the node in bindAddress (CFG-3)",
                shown.join(",")
            ),
            is_fatal: mode == "NodeCIDR",
        });
    }
    found
}

/// Where health check node ports listen (HC-2).
fn node_ports(config: &KubeProxyConfiguration, pod_cidrs: &[IpNet], stack: Stack) -> Option<Mismatch> {
    let texts = config.node_port_addresses.as_deref().unwrap_or_default();
    let nets: Vec<_> = texts.iter().filter_map(|text| parse_cidr(text)).collect();
    let is_of = |family| is_all(family, &nets);
    let cluster = cluster_cidrs(&config.cluster_cidr).unwrap_or_default();
    let is_dual_config = is_dual(pod_cidrs) || is_dual(&cluster);
    let missing = match (is_of(stack.primary), is_of(other(stack.primary))) {
        (true, _) if is_dual_config => other(stack.primary),
        (_, true) => stack.primary,
        _ => return None,
    };
    let message = format!(
        "nodePortAddresses: '{}' has no {missing} network, and this node is {}{}: node ports, and their health checks, \
         are had on all {missing} addresses (NP-3); add a network, or set nodePortAddresses to primary (CFG-3)",
        texts.join(","),
        stack.name(),
        if is_dual_config { ", its pods' networks dual-stack" } else { "" }
    );
    Some(Mismatch { message, is_fatal: false })
}

/// An address to serve on, in the family that the node has not.
fn bind(field: &str, text: &str, stack: Stack) -> Option<Mismatch> {
    let ip: IpAddr = address(text)?.ip();
    let is_wrong = !ip.is_unspecified() && Family::of(ip) != stack.primary;
    is_wrong.then(|| Mismatch {
        message: format!(
            "{field}: '{text}' is {}, and this node is {}: give one of its {} addresses (CFG-3)",
            Family::of(ip),
            stack.name(),
            stack.primary
        ),
        is_fatal: false,
    })
}

/// There are networks, all of one family.
fn is_all(family: Family, nets: &[IpNet]) -> bool {
    !nets.is_empty() && nets.iter().all(|net| Family::of(net.addr()) == family)
}

fn is_dual(nets: &[IpNet]) -> bool {
    !nets.is_empty() && Family::ALL.into_iter().all(|family| !is_all(family, nets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kube_proxy::effective;

    const V4_ONLY: Stack = Stack { primary: Family::V4, kernel: [true, false] };
    const V4_PRIMARY: Stack = Stack { primary: Family::V4, kernel: [true; 2] };
    const V6_PRIMARY: Stack = Stack { primary: Family::V6, kernel: [true; 2] };

    /// What is found, an exclamation mark before what is fatal, by its first word.
    fn found(file: &str, pod_cidrs: &[&str], stack: Stack) -> Vec<String> {
        let file =
            format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{file}\n");
        let pod_cidrs: Vec<IpNet> = pod_cidrs.iter().map(|net| net.parse().unwrap()).collect();
        let config = effective(Some(&file), &[]).unwrap().config;
        let word = |mismatch: &Mismatch| {
            let word = mismatch.message.split([' ', ':']).next().unwrap();
            format!("{}{word}", if mismatch.is_fatal { "!" } else { "" })
        };
        judge(&config, &pod_cidrs, stack).iter().map(word).collect()
    }

    #[test]
    fn a_cluster_cidr_of_the_other_family_is_fatal_on_a_single_stack_node_that_detects_by_it() {
        // CFG-3
        let six = "clusterCIDR: 'fd00::/8'";
        assert_eq!(found(six, &[], V4_ONLY), ["!clusterCIDR"]);
        assert_eq!(found(six, &[], V4_PRIMARY), ["clusterCIDR"], "a dual-stack kernel serves both");
        assert_eq!(found(&format!("{six}\ndetectLocalMode: NodeCIDR"), &[], V4_ONLY), ["clusterCIDR"]);
        assert_eq!(found(six, &[], V6_PRIMARY), [""; 0]);
        assert_eq!(found("clusterCIDR: 'fd00::/8,10.0.0.0/8'", &[], V4_ONLY), [""; 0]);
        assert_eq!(found("clusterCIDR: '10.0.0.0/8'", &[], V6_PRIMARY), ["clusterCIDR"]);
        assert_eq!(found("", &[], V4_ONLY), [""; 0]);
    }

    #[test]
    fn pod_cidrs_of_the_other_family_are_fatal_where_they_are_the_detector() {
        // CFG-3
        let by_node = "detectLocalMode: NodeCIDR";
        assert_eq!(found(by_node, &["fd00::/64"], V4_ONLY), ["!spec.podCIDRs"]);
        assert_eq!(found(by_node, &["fd00::/64"], V4_PRIMARY), ["!spec.podCIDRs"]);
        assert_eq!(found("", &["fd00::/64"], V4_PRIMARY), ["spec.podCIDRs"]);
        assert_eq!(found(by_node, &["10.1.0.0/24"], V6_PRIMARY), ["!spec.podCIDRs"]);
        assert_eq!(found(by_node, &["fd00::/64", "10.1.0.0/24"], V4_ONLY), [""; 0]);
    }

    #[test]
    fn node_port_addresses_and_servers_of_the_other_family_are_logged() {
        // CFG-3
        assert_eq!(found("nodePortAddresses: ['fd00::/8']", &[], V4_PRIMARY), ["nodePortAddresses"]);
        assert_eq!(found("nodePortAddresses: [10.0.0.0/8]", &[], V4_PRIMARY), [""; 0]);
        let dual = &["10.1.0.0/24", "fd00::/64"];
        assert_eq!(found("nodePortAddresses: [10.0.0.0/8]", dual, V4_PRIMARY), ["nodePortAddresses"]);
        let dual = "clusterCIDR: '10.0.0.0/8,fd00::/8'\nnodePortAddresses: [10.0.0.0/8]";
        assert_eq!(found(dual, &[], V4_PRIMARY), ["nodePortAddresses"]);
        assert_eq!(found("nodePortAddresses: [primary]", &["fd00::/64"], V6_PRIMARY), [""; 0]);
        let servers = "healthzBindAddress: '[::]:1'\nmetricsBindAddress: '[fd00::1]:2'";
        assert_eq!(found(servers, &[], V4_ONLY), ["metricsBindAddress"]);
        assert_eq!(found(servers, &[], V4_PRIMARY), [""; 0]);
        assert_eq!(found("healthzBindAddress: '[::1]:1'", &[], V4_ONLY), ["healthzBindAddress"]);
    }

    #[test]
    fn a_kernel_without_the_primary_family_is_fatal() {
        // CFG-3
        let stack = Stack { kernel: [true, false], ..V6_PRIMARY };
        assert_eq!(found("clusterCIDR: '10.0.0.0/8'", &[], stack), ["!this"]);
    }

    #[test]
    fn a_message_has_field_value_and_next_step() {
        // CFG-3
        let file = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 'fd00::/8'\n";
        let config = effective(Some(file), &[]).unwrap().config;
        let said = judge(&config, &[], V4_ONLY).remove(0).message;
        for part in ["clusterCIDR: 'fd00::/8'", "IPv4-only", "add the pods' IPv4 network"] {
            assert!(said.contains(part), "{said}");
        }
    }
}
