//! What joins the nodes: a network namespace with a bridge that all uplinks are on, and that routes to
//! the nodes' pods. Also how namespaces are set up and how a pod is tied to its node.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::tidy::{Estate, Made};
use crate::host::addrs::Route;
use crate::host::netlink::Netlink;
use crate::host::netns::Netns;
use crate::host::{run, sysctl};

const BRIDGE: &str = "bl-fabric";
/// The link of every namespace but the router's to the rest of the world.
pub const UPLINK: &str = "eth0";
/// The gateway every pod knows; its node answers for it.
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The router on the nodes' subnet.
const ROUTER4: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 1);

/// An IPv4 and an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Pair {
    /// The addresses of a host of the nodes' subnet. The digits of the number are the last ones of both
    /// addresses: 172.30.0.11 and fd00:172:30::11.
    pub fn on_subnet(host: u8) -> Self {
        Self { v4: Ipv4Addr::new(172, 30, 0, host), v6: digits([0xfd00, 0x172, 0x30, 0], host) }
    }

    /// The addresses of a pod: 10.244.1.10 and fd00:10:244:1::10.
    pub fn of_pod(node: u8, pod: u8) -> Self {
        let node6 = u16::from_str_radix(&node.to_string(), 16).unwrap_or(0);
        Self { v4: Ipv4Addr::new(10, 244, node, pod), v6: digits([0xfd00, 0x10, 0x244, node6], pod) }
    }

    /// Both as prefixes of these lengths.
    fn nets(self, length4: u8, length6: u8) -> [IpNet; 2] {
        [IpNet::V4(Ipv4Net::new_assert(self.v4, length4)), IpNet::V6(Ipv6Net::new_assert(self.v6, length6))]
    }
}

/// The IPv6 address with the decimal digits of `host` at its end, so that a person recognizes it.
fn digits(prefix: [u16; 4], host: u8) -> Ipv6Addr {
    let [a, b, c, d] = prefix;
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, u16::from_str_radix(&host.to_string(), 16).unwrap_or(0))
}

/// The prefixes of a node's pods.
pub fn pod_ranges(node: u8) -> [IpNet; 2] {
    let base = Pair::of_pod(node, 0);
    base.nets(24, 64).map(|net| net.trunc())
}

const EVERYWHERE: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

/// The namespace between the nodes.
#[derive(Debug)]
pub struct Router {
    netns: Netns,
}

impl Router {
    /// Makes the router.
    ///
    /// # Errors
    /// A namespace or link cannot be made.
    pub fn create(estate: &Arc<Estate>, prefix: &str) -> Result<Self> {
        let netns = make_netns(estate, &format!("{prefix}-router"), Role::Forwards)?;
        let mut netlink = Netlink::open_in(netns.as_fd())?;
        netlink.add_bridge(BRIDGE)?;
        netlink.set_up(BRIDGE)?;
        for net in (Pair { v4: ROUTER4, v6: ROUTER6 }).nets(24, 64) {
            netlink.add_address(BRIDGE, net)?;
        }
        Ok(Self { netns })
    }

    /// The router's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Ties a namespace to the nodes' subnet: its uplink is on the bridge, its default route leads to
    /// the router.
    ///
    /// # Errors
    /// A link, address or route cannot be made.
    pub fn attach(&self, netns: &Netns, port: &str, addresses: Pair) -> Result<()> {
        let mut here = Netlink::open_in(self.netns.as_fd())?;
        here.add_veth(port, UPLINK, netns.as_fd())?;
        here.set_master(port, BRIDGE)?;
        here.set_up(port)?;
        let mut there = Netlink::open_in(netns.as_fd())?;
        there.set_up(UPLINK)?;
        here.await_running(port)?;
        there.await_running(UPLINK)?;
        for net in addresses.nets(24, 64) {
            there.add_address(UPLINK, net)?;
        }
        for (to, via) in EVERYWHERE.into_iter().zip([IpAddr::V4(ROUTER4), IpAddr::V6(ROUTER6)]) {
            there.add_route(Route { to, via: Some(via), link: UPLINK, onlink: false })?;
        }
        Ok(())
    }

    /// Makes the router send a node's pod ranges to the node.
    ///
    /// # Errors
    /// A route cannot be made.
    pub fn route_pods(&self, node: u8, addresses: Pair) -> Result<()> {
        let mut netlink = Netlink::open_in(self.netns.as_fd())?;
        for (to, via) in
            pod_ranges(node).into_iter().zip([IpAddr::V4(addresses.v4), IpAddr::V6(addresses.v6)])
        {
            netlink.add_route(Route { to, via: Some(via), link: BRIDGE, onlink: false })?;
        }
        Ok(())
    }
}

/// What a namespace is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nodes and the router pass packets on.
    Forwards,
    /// Pods and outside clients are ends.
    Ends,
}

/// Makes a namespace with loopback up and the settings of the sandbox.
///
/// # Errors
/// The namespace cannot be made or set up.
pub fn make_netns(estate: &Arc<Estate>, name: &str, role: Role) -> Result<Netns> {
    estate.note(Made::Netns(name.to_owned()))?;
    let netns = Netns::create(name)?;
    netns.run(|| {
        settings(role)?;
        Netlink::open()?.set_up("lo")
    })?;
    use_cubic(&netns)?;
    Ok(netns)
}

/// Makes cubic the congestion control of a namespace: a new one has the machine's default, which may be
/// bbr, and bbr paces streams.
///
/// A namespace takes only what the machine's list of allowed ones has (6670e1524477 "tcp: Namespace-ify
/// sysctl_tcp_default_congestion_control"), which can be written in the first namespace alone. So cubic
/// is put on that list for a moment, one sandbox at a time.
fn use_cubic(netns: &Netns) -> Result<()> {
    const CONTROL: &str = "net.ipv4.tcp_congestion_control";
    const ALLOWED: &str = "net.ipv4.tcp_allowed_congestion_control";
    if netns.run(|| sysctl::read(CONTROL))? == "cubic" {
        return Ok(());
    }
    let one_at_a_time = File::open(run::DIR).with_context(|| format!("open {}", run::DIR))?;
    one_at_a_time.lock().with_context(|| format!("lock {}", run::DIR))?;
    let allowed = sysctl::read(ALLOWED)?;
    if allowed.split(' ').any(|name| name == "cubic") {
        return netns.run(|| sysctl::write(CONTROL, "cubic"));
    }
    sysctl::write(ALLOWED, &format!("{allowed} cubic"))?;
    let set = netns.run(|| sysctl::write(CONTROL, "cubic"));
    sysctl::write(ALLOWED, &allowed)?;
    set
}

/// Settings of a new namespace, before it has links.
fn settings(role: Role) -> Result<()> {
    let all = [
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
        ("net.ipv6.conf.all.accept_dad", "0"),
        ("net.ipv6.conf.default.accept_dad", "0"),
        ("net.ipv6.conf.all.accept_ra", "0"),
        ("net.ipv6.conf.default.accept_ra", "0"),
        // A refusal that is rate-limited looks like a time-out.
        ("net.ipv4.icmp_ratelimit", "0"),
        ("net.ipv6.icmp.ratelimit", "0"),
        ("net.ipv4.tcp_tw_reuse", "1"),
        // Client and server, data without a cookie on both sides, every listener.
        ("net.ipv4.tcp_fastopen", "1543"),
    ];
    let role_only: &[(&str, &str)] = match role {
        Role::Forwards => &[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")],
        Role::Ends => &[("net.ipv4.ip_local_port_range", "10240 65535")],
    };
    all.iter().chain(role_only).try_for_each(|(key, value)| sysctl::write(key, value))
}

/// Ties a pod's namespace to its node's by a routed pair of links, as Calico does: the pod has a /32 and
/// a /128 and knows one gateway, the node one route to each pod. So a packet between two pods crosses
/// the node's stack.
///
/// # Errors
/// A link, address or route cannot be made.
pub fn attach_pod(node: &Netns, pod: &Netns, host_link: &str, addresses: Pair) -> Result<()> {
    let mut on_node = Netlink::open_in(node.as_fd())?;
    on_node.add_veth(host_link, UPLINK, pod.as_fd())?;
    node.run(|| {
        sysctl::write(&format!("net/ipv4/conf/{host_link}/proxy_arp"), "1")?;
        sysctl::write(&format!("net/ipv4/neigh/{host_link}/proxy_delay"), "0")
    })?;
    on_node.add_address(host_link, IpNet::V6(Ipv6Net::new_assert(GATEWAY6, 64)))?;
    on_node.set_up(host_link)?;
    let mut in_pod = Netlink::open_in(pod.as_fd())?;
    in_pod.set_up(UPLINK)?;
    on_node.await_running(host_link)?;
    in_pod.await_running(UPLINK)?;
    for net in addresses.nets(32, 128) {
        on_node.add_route(Route { to: net, via: None, link: host_link, onlink: false })?;
        in_pod.add_address(UPLINK, net)?;
    }
    for (to, via) in EVERYWHERE.into_iter().zip([IpAddr::V4(GATEWAY4), IpAddr::V6(GATEWAY6)]) {
        in_pod.add_route(Route { to, via: Some(via), link: UPLINK, onlink: true })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_show_the_same_digits() {
        let pod = Pair::of_pod(1, 10);
        assert_eq!(
            (pod.v4.to_string(), pod.v6.to_string()),
            ("10.244.1.10".into(), "fd00:10:244:1::10".into())
        );
        let node = Pair::on_subnet(11);
        assert_eq!(
            (node.v4.to_string(), node.v6.to_string()),
            ("172.30.0.11".into(), "fd00:172:30::11".into())
        );
        assert_eq!(pod_ranges(2).map(|net| net.to_string()), ["10.244.2.0/24", "fd00:10:244:2::/64"]);
    }
}
