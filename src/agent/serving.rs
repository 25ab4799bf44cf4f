//! What the servers are told: from the configuration once, and of what the source says.

use ipnet::IpNet;

use super::source::Source;
use crate::config::Config;
use crate::config::kube_proxy::configz;
use crate::model::addr::{Family, parse_cidr};
use crate::model::event::Event;
use crate::model::node::HostFacts;
use crate::serve::Options;

/// What is served over HTTP.
pub(super) fn serving(config: &Config, host: &HostFacts, source: &Source) -> Options {
    let file = &config.kube_proxy;
    Options {
        metrics: config.metrics,
        health: config.healthz,
        hard_fail: config.bind_hard_fail,
        bpf_root: config.bpf_root.clone(),
        node: config.node_name.clone(),
        node_port_networks: networks(file.node_port_addresses.as_deref(), host),
        mode: file.mode.clone(),
        configz: Some(configz(file)),
        tally: source.tally(),
    }
}

/// Where health check node ports listen (HC-2): `nodePortAddresses`, in which the mode's default has been set
/// (DEC-3). None: on all addresses.
fn networks(addresses: Option<&[String]>, host: &HostFacts) -> Vec<IpNet> {
    let addresses = addresses.unwrap_or_default();
    if addresses.iter().any(|text| text == "primary") {
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
    use crate::config::kube_proxy::effective;

    #[test]
    fn health_check_node_ports_listen_where_node_ports_do() {
        // HC-2, DEC-3
        let addresses = ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|ip| ip.parse().unwrap()).to_vec();
        let host = HostFacts { addresses, ..HostFacts::default() };
        let at = |file: &str| {
            let file =
                format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{file}");
            let addresses = effective(Some(&file), &[]).unwrap().config.node_port_addresses;
            networks(addresses.as_deref(), &host).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(at("mode: nftables"), ["10.0.0.1/32", "fd00::1/128"]);
        assert_eq!(at("mode: iptables\nnodePortAddresses: [primary]"), ["10.0.0.1/32", "fd00::1/128"]);
        assert_eq!(at(""), [""; 0]);
        assert_eq!(at("mode: nftables\nnodePortAddresses: [10.0.0.0/8]"), ["10.0.0.0/8"]);
    }
}
