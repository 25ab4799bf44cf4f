//! The IP families of this node: when its first address is known, the configuration is judged by it (CFG-3).
//! Pure.
//!
//! kube-proxy waits up to 30 s for a Node object with addresses before it does anything (SYNC-17), for it takes
//! its node IPs from there once and for all. Here nothing waits: the addresses of a Node are rows like others,
//! written when they come, and so is where health check node ports listen. Only this judgement needs the first
//! of them; it is made when they come, and after 30 s without them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use ipnet::IpNet;

use crate::config::family::{Stack, judge};
use crate::config::kube_proxy::KubeProxyConfiguration;
use crate::config::{Config, Source};
use crate::model::addr::Family;
use crate::model::event::Event;

/// How long a node may be without addresses after a start before it counts as one of IPv4 (SYNC-17).
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of this node's families, and what was said about them.
#[derive(Debug)]
pub(super) struct Families {
    node: Arc<str>,
    config: KubeProxyConfiguration,
    kernel: [bool; 2],
    /// That of the first address, once it is known; it does not change then, as in kube-proxy.
    primary: Option<Family>,
    /// The Node object's.
    addresses: Vec<IpAddr>,
    pod_cidrs: Vec<IpNet>,
    /// A Node object with addresses is still to come.
    is_awaited: bool,
    said: BTreeSet<String>,
}

impl Families {
    /// Nothing is known but what the configuration names: `bindAddress`, then `--node-ip`.
    pub(super) fn new(config: &Config, kernel: [bool; 2]) -> Families {
        let given = config.primary_ip.as_ref().or(config.node_ips.first());
        Families {
            node: config.node_name.clone(),
            config: config.kube_proxy.clone(),
            kernel,
            primary: given.copied().map(Family::of),
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            is_awaited: matches!(config.source, Source::Cluster(_)),
            said: BTreeSet::new(),
        }
    }

    /// Looks through events, and judges. Returns what is to be logged.
    ///
    /// # Errors
    /// The configuration does not fit the node, where that is fatal (CFG-3).
    pub(super) fn see(&mut self, events: &[Event]) -> Result<Vec<String>> {
        let mut news = Vec::new();
        for event in events {
            let Event::Node(node) = event else { continue };
            if node.name != self.node {
                continue;
            }
            self.pod_cidrs.clone_from(&node.pod_cidrs);
            let Some(first) = node.addresses.first() else { continue };
            if !self.addresses.is_empty() && self.addresses != node.addresses {
                // SYNC-16
                news.push(format!(
                    "the addresses of Node {} changed from {:?} to {:?}; they are taken in",
                    self.node, self.addresses, node.addresses
                ));
            }
            self.addresses.clone_from(&node.addresses);
            self.is_awaited = false;
            self.primary.get_or_insert(Family::of(*first));
        }
        news.extend(self.judge()?);
        Ok(news)
    }

    /// When patience ends, counted from the start; `None` once there is nothing to wait for.
    pub(super) fn due(&self) -> Option<Duration> {
        self.is_awaited.then_some(PATIENCE)
    }

    /// Goes on without addresses, when it is time. Returns what is to be logged.
    ///
    /// # Errors
    /// As [`see`](Self::see).
    pub(super) fn check(&mut self, now: Duration) -> Result<Vec<String>> {
        if self.due().is_none_or(|due| now < due) {
            return Ok(Vec::new());
        }
        self.is_awaited = false;
        let primary = *self.primary.get_or_insert(Family::V4);
        let mut news = vec![format!(
            "Node {} has had no status.addresses of type InternalIP for {} s: going on, as on a node of {primary}; \
             they are taken in when they come (SYNC-17)",
            self.node,
            PATIENCE.as_secs()
        )];
        news.extend(self.judge()?);
        Ok(news)
    }

    /// What does not fit and was not said yet. Without a first address only a kernel of one family tells.
    fn judge(&mut self) -> Result<Vec<String>> {
        let of_kernel = || match self.kernel {
            [true, false] => Some(Family::V4),
            [false, true] => Some(Family::V6),
            _ => None,
        };
        let Some(primary) = self.primary.or_else(of_kernel) else { return Ok(Vec::new()) };
        let found = judge(&self.config, &self.pod_cidrs, Stack { primary, kernel: self.kernel });
        if let Some(fatal) = found.iter().find(|mismatch| mismatch.is_fatal) {
            bail!("the configuration does not fit this node: {}", fatal.message);
        }
        let new = found.into_iter().filter(|mismatch| self.said.insert(mismatch.message.clone()));
        Ok(new.map(|mismatch| mismatch.message).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kube_proxy::effective;
    use crate::config::{Flags, Machine};
    use crate::model::node::Node;

    const BOTH: [bool; 2] = [true; 2];

    fn families(file: &str, is_cluster: bool, kernel: [bool; 2]) -> Families {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let flags = Flags {
            manifests: (!is_cluster).then(|| "m".into()),
            apiserver: is_cluster.then(|| "https://10.0.0.1".into()),
            ..Flags::default()
        };
        let effective = effective(Some(&format!("{head}{file}\n")), &[]).unwrap();
        let machine = Machine { hostname: "a".into(), has_account: false };
        Families::new(&Config::new(flags, effective, &machine).unwrap(), kernel)
    }

    fn node(name: &str, addresses: &[&str], pod_cidrs: &[&str]) -> Event {
        Event::Node(Box::new(Node {
            name: name.into(),
            zone: None,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            pod_cidrs: pod_cidrs.iter().map(|net| net.parse().unwrap()).collect(),
            deleting: false,
            taints: Vec::new(),
        }))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_nodes_first_address_decides_and_what_does_not_fit_is_said_once() {
        // CFG-3
        let mut families = families("clusterCIDR: 'fd00::/8'", true, BOTH);
        assert_eq!(families.see(&[]).unwrap(), [""; 0], "nothing is known yet");
        assert_eq!(families.see(&[node("b", &["10.0.0.2"], &[])]).unwrap(), [""; 0], "another node");
        let said = families.see(&[node("a", &["10.0.0.1"], &[])]).unwrap();
        assert!(said.len() == 1 && said[0].starts_with("clusterCIDR: 'fd00::/8'"), "{said:?}");
        assert_eq!(families.see(&[node("a", &["10.0.0.1"], &[])]).unwrap(), [""; 0]);
        let said = families.see(&[node("a", &["fd00::1"], &[])]).unwrap();
        assert!(said.len() == 1 && said[0].contains("[10.0.0.1] to [fd00::1]"), "SYNC-16: {said:?}");
    }

    #[test]
    fn a_configuration_for_the_other_family_ends_the_agent_where_it_ends_kube_proxy() {
        // CFG-3
        let error = |mut families: Families, events: &[Event]| families.see(events).unwrap_err().to_string();
        let one = [true, false];
        assert!(
            error(families("clusterCIDR: 'fd00::/8'", true, one), &[]).contains("clusterCIDR: 'fd00::/8'")
        );
        let bound = "bindAddress: 'fd00::1'";
        assert!(error(families(bound, false, one), &[]).contains("no IPv6"));
        assert!(error(families("", true, one), &[node("a", &["fd00::1"], &[])]).contains("no IPv6"));
        let by_node = "detectLocalMode: NodeCIDR";
        let said = error(families(by_node, true, BOTH), &[node("a", &["10.0.0.1"], &["fd00::/64"])]);
        assert!(said.contains("spec.podCIDRs of this Node: 'fd00::/64'"), "{said}");
        let mut bound = families(&format!("{by_node}\nbindAddress: 'fd00::1'"), true, BOTH);
        assert!(bound.see(&[node("a", &["10.0.0.1"], &["fd00::/64"])]).is_ok(), "bindAddress comes first");
    }

    #[test]
    fn a_node_without_addresses_counts_as_ipv4_after_half_a_minute() {
        // SYNC-17
        let mut awaiting = families("detectLocalMode: NodeCIDR", true, BOTH);
        assert_eq!(awaiting.see(&[node("a", &[], &["fd00::/64"])]).unwrap(), [""; 0]);
        assert_eq!(awaiting.due(), Some(at(30)));
        assert_eq!(awaiting.check(at(29)).unwrap(), [""; 0]);
        assert!(awaiting.check(at(30)).unwrap_err().to_string().contains("spec.podCIDRs"));
        let mut without = families("", true, BOTH);
        let said = without.check(at(30)).unwrap();
        assert!(said.len() == 1 && said[0].contains("Node a has had no status.addresses"), "{said:?}");
        assert_eq!((without.due(), without.check(at(31)).unwrap()), (None, Vec::new()), "said once");
        let mut known = families("", true, BOTH);
        known.see(&[node("a", &["10.0.0.1"], &[])]).unwrap();
        assert_eq!(known.due(), None);
        assert_eq!(families("", false, BOTH).due(), None, "a directory need not hold a Node (DEC-6)");
    }
}
