//! What the servers are told: from the configuration once, and of what the source says.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::source::Source;
use crate::config::Config;
use crate::config::kube_proxy::configz;
use crate::model::addr::{Family, is_of_link, parse_cidr};
use crate::model::event::Event;
use crate::serve::Options;

/// What is served over HTTP.
pub(super) fn serving(config: &Config, listening: &Listening, source: &Source) -> Options {
    let file = &config.kube_proxy;
    Options {
        metrics: config.metrics,
        health: config.healthz,
        hard_fail: config.bind_hard_fail,
        bpf_root: config.bpf_root.clone(),
        node: config.node_name.clone(),
        node_port_networks: listening.networks(),
        mode: file.mode.clone(),
        configz: Some(configz(file)),
        tally: source.tally(),
    }
}

/// Where health check node ports listen (HC-2): `nodePortAddresses`, in which the mode's default has been set
/// (DEC-3). `primary` follows the node's object (SYNC-17).
#[derive(Debug)]
pub(super) struct Listening {
    node: Arc<str>,
    /// The networks that are named; `None`: `primary`.
    named: Option<Vec<IpNet>>,
    /// `bindAddress`, then `--node-ip`
    given: Vec<IpAddr>,
    /// The addresses of the node's object.
    object: Vec<IpAddr>,
    interfaces: Vec<IpAddr>,
}

impl Listening {
    /// Before the node's object has come.
    pub(super) fn new(config: &Config, interfaces: Vec<IpAddr>) -> Listening {
        let texts = config.kube_proxy.node_port_addresses.as_deref().unwrap_or_default();
        let is_primary = texts.iter().any(|text| text == "primary");
        Listening {
            node: config.node_name.clone(),
            named: (!is_primary).then(|| texts.iter().filter_map(|text| parse_cidr(text)).collect()),
            given: config.primary_ip.iter().chain(&config.node_ips).copied().collect(),
            object: Vec::new(),
            interfaces: interfaces.into_iter().filter(|ip| !is_of_link(*ip)).collect(),
        }
    }

    /// The interfaces have other addresses.
    pub(super) fn interfaces(&mut self, interfaces: &[IpAddr]) {
        self.interfaces = interfaces.iter().copied().filter(|ip| !is_of_link(*ip)).collect();
    }

    /// Looks through events.
    pub(super) fn see(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Node(node) = event
                && node.name == self.node
            {
                self.object.clone_from(&node.addresses);
            }
        }
    }

    /// The networks. None: all addresses, as where a primary one is nowhere to be found. Of `primary` the first
    /// of a family counts: flags win over the object, interfaces fill what neither says; never loopback.
    pub(super) fn networks(&self) -> Vec<IpNet> {
        if let Some(named) = &self.named {
            return named.clone();
        }
        let known = || self.given.iter().chain(&self.object).chain(&self.interfaces);
        let first = |family| known().find(|ip| Family::of(**ip) == family && !ip.is_loopback());
        Family::ALL.into_iter().filter_map(first).map(|ip| IpNet::from(*ip)).collect()
    }
}

/// How many events are about Services, and how many about slices (MET-4).
pub(super) fn changes(events: &[Event]) -> (u64, u64) {
    let count = |of: fn(&Event) -> bool| events.iter().filter(|event| of(event)).count() as u64;
    (
        count(|event| matches!(event, Event::Service(_) | Event::ServiceGone(_))),
        count(|event| matches!(event, Event::Slice(_) | Event::SliceGone(_))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kube_proxy::effective;
    use crate::config::{Flags, Machine};
    use crate::model::node::Node;

    fn listening(file: &str, node_ip: Option<&str>) -> Listening {
        let file =
            format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{file}\n");
        let flags = Flags {
            manifests: Some("m".into()),
            node_ips: node_ip.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..Flags::default()
        };
        let machine = Machine { hostname: "a".into(), has_account: false };
        let config = Config::new(flags, effective(Some(&file), &[]).unwrap(), &machine).unwrap();
        let interfaces = ["127.0.0.1", "169.254.0.1", "10.0.0.1", "10.0.0.2", "::1", "fe80::1", "fd00::1"];
        Listening::new(&config, interfaces.map(|ip| ip.parse().unwrap()).to_vec())
    }

    fn node(name: &str, addresses: &[&str]) -> Event {
        Event::Node(Box::new(Node {
            name: name.into(),
            zone: None,
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            pod_cidrs: Vec::new(),
            deleting: false,
            taints: Vec::new(),
        }))
    }

    fn shown(listening: &Listening) -> Vec<String> {
        listening.networks().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn health_check_node_ports_listen_where_node_ports_do() {
        // HC-2, DEC-3
        let at = |file| shown(&listening(file, None));
        assert_eq!(at("mode: nftables"), ["10.0.0.1/32", "fd00::1/128"], "never loopback");
        assert_eq!(at("mode: iptables\nnodePortAddresses: [primary]"), ["10.0.0.1/32", "fd00::1/128"]);
        assert_eq!(at(""), [""; 0]);
        assert_eq!(at("mode: nftables\nnodePortAddresses: [10.0.0.0/8]"), ["10.0.0.0/8"]);
    }

    #[test]
    fn the_primary_address_is_the_flags_then_the_objects_then_an_interfaces() {
        // HC-2, SYNC-17
        let mut late = listening("mode: nftables", None);
        late.see(&[node("b", &["10.0.0.8"]), node("a", &["10.0.0.9", "10.0.0.2"])]);
        assert_eq!(shown(&late), ["10.0.0.9/32", "fd00::1/128"], "IPv6 is not in the object");
        late.see(&[node("a", &["fd00::9"])]);
        assert_eq!(shown(&late), ["10.0.0.1/32", "fd00::9/128"]);
        let mut given = listening("mode: nftables\nbindAddress: 'fd00::7'", Some("10.0.0.7"));
        given.see(&[node("a", &["10.0.0.9", "fd00::9"])]);
        assert_eq!(shown(&given), ["10.0.0.7/32", "fd00::7/128"]);
    }
}
