//! What the servers are told: from the configuration once, and of what the source says.

use ipnet::IpNet;

use crate::config::Config;
use crate::config::kube_proxy::configz;
use crate::model::addr::{Family, parse_cidr};
use crate::model::event::Event;
use crate::model::node::HostFacts;
use crate::serve::Options;

/// What is served over HTTP.
pub(super) fn serving(config: &Config, host: &HostFacts) -> Options {
    let file = &config.kube_proxy;
    Options {
        metrics: config.metrics,
        health: config.healthz,
        hard_fail: config.bind_hard_fail,
        bpf_root: config.bpf_root.clone(),
        node: config.node_name.clone(),
        node_port_networks: networks(&file.mode, file.node_port_addresses.as_deref(), host),
        mode: mode(&file.mode).to_owned(),
        configz: Some(configz(file)),
    }
}

/// The mode tools are told. An empty one is iptables, as on Linux.
fn mode(mode: &str) -> &str {
    if mode.is_empty() { "iptables" } else { mode }
}

/// Where health check node ports listen (HC-2): `nodePortAddresses`, else as the mode has it (DEC-3). None:
/// on all addresses.
fn networks(mode: &str, addresses: Option<&[String]>, host: &HostFacts) -> Vec<IpNet> {
    let addresses = addresses.unwrap_or_default();
    let is_primary = addresses.iter().any(|text| text == "primary");
    if is_primary || (addresses.is_empty() && mode == "nftables") {
        let first = |family| host.addresses.iter().find(|ip| Family::of(**ip) == family);
        return Family::ALL.into_iter().filter_map(first).map(|ip| IpNet::from(*ip)).collect();
    }
    addresses.iter().filter_map(|text| parse_cidr(text)).collect()
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

    #[test]
    fn health_check_node_ports_listen_where_node_ports_do() {
        // HC-2, DEC-3
        let addresses = ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|ip| ip.parse().unwrap()).to_vec();
        let host = HostFacts { addresses, ..HostFacts::default() };
        let at = |mode: &str, given: Option<&[&str]>| {
            let given: Option<Vec<String>> =
                given.map(|given| given.iter().map(|text| (*text).to_owned()).collect());
            networks(mode, given.as_deref(), &host).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(at("nftables", None), ["10.0.0.1/32", "fd00::1/128"]);
        assert_eq!(at("iptables", Some(&["primary"])), ["10.0.0.1/32", "fd00::1/128"]);
        assert_eq!(at("", None), [""; 0]);
        assert_eq!(at("nftables", Some(&["10.0.0.0/8"])), ["10.0.0.0/8"]);
    }
}
