//! What Beeline is compared with: the rules kube-proxy 1.36 writes in nftables mode, for the given
//! Services, in the structure of a recording of the real one. (One verdict map from address, protocol
//! and port to the Service's chain, one chain for each Service with a random choice of backend and DNAT.)

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::proto::Protocol;
use crate::host::netns::Netns;

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaselineService {
    /// `namespace/name`.
    pub name: String,
    /// The name of the port.
    pub port_name: String,
    /// The ClusterIP and port.
    pub vip: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it leads, of the family of `vip`; none is a refusal.
    pub backends: Vec<SocketAddr>,
}

/// Puts the rules for `services` into a namespace, in place of what this function put there before. The
/// rules of one family are switched in one transaction.
///
/// # Errors
/// There is no `nft` program (Debian: `apt install nftables`), or it refuses the rules.
pub fn install(netns: &Netns, services: &[BaselineService]) -> Result<()> {
    nft(netns, &ruleset(services))
}

/// Removes the rules of [`install`]. None there is no error.
///
/// # Errors
/// There is no `nft` program, or it may not change rules.
pub fn remove(netns: &Netns) -> Result<()> {
    nft(netns, &FAMILIES.iter().map(Family::delete).collect::<String>())
}

/// The rules for `services`, as `nft -f` reads them.
pub fn ruleset(services: &[BaselineService]) -> String {
    let mut text = String::new();
    for family in &FAMILIES {
        let of_family: Vec<&BaselineService> =
            services.iter().filter(|s| s.vip.is_ipv4() == family.is_v4).collect();
        text += &family.delete();
        if !of_family.is_empty() {
            text += &family.table(&of_family);
        }
    }
    text
}

struct Family {
    /// `ip` or `ip6`, of the table and of expressions.
    name: &'static str,
    is_v4: bool,
    address_type: &'static str,
    pods: &'static str,
    services: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        name: "ip",
        is_v4: true,
        address_type: "ipv4_addr",
        pods: "10.244.0.0/16",
        services: "10.96.0.0/16",
    },
    Family {
        name: "ip6",
        is_v4: false,
        address_type: "ipv6_addr",
        pods: "fd00:10:244::/48",
        services: "fd00:10:96::/112",
    },
];

impl Family {
    /// Deletes the table, whether it is there or not.
    fn delete(&self) -> String {
        format!("table {0} kube-proxy {{}}\ndelete table {0} kube-proxy\n", self.name)
    }

    fn table(&self, services: &[&BaselineService]) -> String {
        let mut text = format!("table {} kube-proxy {{\n\tcomment \"rules for kube-proxy\"\n", self.name);
        text += &self.sets(services);
        text += &self.base_chains();
        for service in services.iter().filter(|service| !service.backends.is_empty()) {
            text += &self.service_chain(service);
        }
        text + "}\n"
    }

    fn sets(&self, services: &[&BaselineService]) -> String {
        let address = self.address_type;
        let hairpins = services.iter().flat_map(|s| {
            s.backends.iter().map(|b| format!("{0} . {0} . {1} . {2}", b.ip(), proto(s.protocol), b.port()))
        });
        let vips = services.iter().map(|s| s.vip.ip().to_string());
        let key = |s: &BaselineService| format!("{} . {} . {}", s.vip.ip(), proto(s.protocol), s.vip.port());
        let (served, empty): (Vec<_>, Vec<_>) = services.iter().partition(|s| !s.backends.is_empty());
        let served = served.into_iter().map(|s| format!("{} : goto {}", key(s), chain(s)));
        let empty = empty.into_iter().map(|s| format!("{} : goto reject-chain", key(s)));
        let tuple = format!("{address} . inet_proto . inet_service : verdict");
        let mut text = String::new();
        let pair = format!("{address} . {address} . inet_proto . inet_service");
        text += &collection("set", "hairpin-connections", &pair, hairpins);
        text += &collection("set", "cluster-ips", address, vips);
        text += &collection("set", "nodeport-ips", address, std::iter::empty());
        text += &collection("map", "no-endpoint-services", &tuple, empty);
        let port = "inet_proto . inet_service : verdict";
        text += &collection("map", "no-endpoint-nodeports", port, std::iter::empty());
        text += &collection("map", "firewall-ips", &tuple, std::iter::empty());
        text += &collection("map", "service-ips", &tuple, served);
        text += &collection("map", "service-nodeports", port, std::iter::empty());
        text
    }

    /// The chains that do not depend on the Services, as recorded.
    fn base_chains(&self) -> String {
        BASE_CHAINS
            .replace("FAMILY", self.name)
            .replace("POD-RANGE", self.pods)
            .replace("SERVICE-RANGE", self.services)
    }

    fn service_chain(&self, service: &BaselineService) -> String {
        let mut map = String::new();
        for (index, backend) in service.backends.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(map, "{comma}{index} : {} . {}", backend.ip(), backend.port());
        }
        format!(
            "\tchain {} {{\n\t\tmeta l4proto {} dnat {} to numgen random mod {} map {{ {map} }}\n\t}}\n",
            chain(service),
            proto(service.protocol),
            self.name,
            service.backends.len()
        )
    }
}

const BASE_CHAINS: &str = r#"
	chain filter-prerouting-pre-dnat {
		type filter hook prerouting priority dstnat - 10; policy accept;
		ct state new jump firewall-check
	}
	chain filter-output-pre-dnat {
		type filter hook output priority -110; policy accept;
		ct state new jump firewall-check
	}
	chain filter-input {
		type filter hook input priority filter; policy accept;
		ct state new jump nodeport-endpoints-check
		ct state new jump service-endpoints-check
	}
	chain filter-forward {
		type filter hook forward priority filter; policy accept;
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}
	chain filter-output {
		type filter hook output priority filter; policy accept;
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}
	chain nat-prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		jump services
	}
	chain nat-output {
		type nat hook output priority -100; policy accept;
		jump services
	}
	chain nat-postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		jump masquerading
	}
	chain nodeport-endpoints-check {
		FAMILY daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
	}
	chain service-endpoints-check {
		FAMILY daddr . meta l4proto . th dport vmap @no-endpoint-services
	}
	chain firewall-check {
		FAMILY daddr . meta l4proto . th dport vmap @firewall-ips
	}
	chain services {
		FAMILY daddr @cluster-ips FAMILY saddr != POD-RANGE meta mark set meta mark | 0x00004000
		FAMILY daddr . meta l4proto . th dport vmap @service-ips
		FAMILY daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}
	chain masquerading {
		meta mark & 0x00004000 != 0x00000000 meta mark set meta mark ^ 0x00004000 masquerade fully-random
		ct status dnat FAMILY saddr . FAMILY daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
	}
	chain cluster-ips-check {
		FAMILY daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
		FAMILY daddr SERVICE-RANGE drop comment "Drop traffic to unallocated ClusterIPs"
	}
	chain reject-chain {
		reject
	}
"#;

/// A set or map with its elements, each once.
fn collection(kind: &str, name: &str, of: &str, elements: impl Iterator<Item = String>) -> String {
    let elements: BTreeSet<String> = elements.collect();
    let mut text = format!("\t{kind} {name} {{\n\t\ttype {of}\n");
    if !elements.is_empty() {
        let list = elements.into_iter().collect::<Vec<_>>().join(",\n\t\t\t");
        let _ = writeln!(text, "\t\telements = {{\n\t\t\t{list} }}");
    }
    text + "\t}\n"
}

fn proto(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// The chain of a Service: kube-proxy puts eight characters of a hash before the name.
fn chain(service: &BaselineService) -> String {
    let name = format!("{}/{}/{}", service.name, proto(service.protocol), service.port_name);
    format!("service-{}-{name}", hash(&name))
}

/// FNV-1a in base 32: as long as kube-proxy's, and the same for the same name.
fn hash(name: &str) -> String {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let sum = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (0..8).map(|digit| char::from(DIGITS[(sum >> (5 * digit)) as usize % 32])).collect()
}

fn nft(netns: &Netns, rules: &str) -> Result<()> {
    let output = netns.run(|| {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start nft; on Debian `apt install nftables` brings it")?;
        let mut stdin = child.stdin.take().context("nft has no stdin")?;
        // A refusal closes the pipe early; what nft has to say about it comes below.
        stdin.write_all(rules.as_bytes()).ok();
        drop(stdin);
        child.wait_with_output().context("wait for nft")
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "nft in {} refuses the rules: {}",
            netns.name(),
            said.lines().take(12).collect::<Vec<_>>().join("\n")
        );
    }
    Ok(())
}

/// `count` Services that lead to `backends`, with ClusterIPs counted up from 10.96.128.1 or
/// fd00:10:96::8001: ballast, so that tables have the size that is asked for.
pub fn ballast(count: u32, v4: bool, backends: &[SocketAddr]) -> Vec<BaselineService> {
    let address = |number: u32| -> IpAddr {
        match v4 {
            true => IpAddr::V4(std::net::Ipv4Addr::from(0x0a60_8001 + number)),
            false => IpAddr::V6(std::net::Ipv6Addr::from(
                (0xfd00_0010_0096_u128 << 80) + 0x8001 + u128::from(number),
            )),
        }
    };
    let service = |number| BaselineService {
        name: format!("bulk/svc-{number:05}"),
        port_name: "http".into(),
        vip: (address(number), 80).into(),
        protocol: Protocol::Tcp,
        backends: backends.to_vec(),
    };
    (0..count).map(service).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(vip: &str, backends: &[&str]) -> BaselineService {
        BaselineService {
            name: "demo/web".into(),
            port_name: "http".into(),
            vip: vip.parse().expect("vip"),
            protocol: Protocol::Tcp,
            backends: backends.iter().map(|b| b.parse().expect("backend")).collect(),
        }
    }

    #[test]
    fn a_service_is_an_element_and_a_chain_as_in_kube_proxys_rules() {
        let rules = ruleset(&[service("10.96.1.1:80", &["10.244.1.10:8080", "10.244.2.10:8080"])]);
        let chain = chain(&service("10.96.1.1:80", &[]));
        assert!(rules.contains(&format!("10.96.1.1 . tcp . 80 : goto {chain}")), "{rules}");
        let choice = "meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.1.10 . 8080, 1 : 10.244.2.10 . 8080 }";
        assert!(rules.contains(choice), "{rules}");
        assert!(!rules.contains("table ip6 kube-proxy {\n"), "no rules for a family without Services");
    }

    #[test]
    fn a_service_without_endpoints_is_rejected() {
        let rules = ruleset(&[service("[fd00:10:96::1]:80", &[])]);
        assert!(rules.contains("fd00:10:96::1 . tcp . 80 : goto reject-chain"), "{rules}");
    }

    #[test]
    fn ballast_stays_in_the_service_range() {
        let last = ballast(32_000, true, &[]).pop().map(|s| s.vip.to_string());
        assert_eq!(last.as_deref(), Some("10.96.253.0:80"));
        let first6 = ballast(1, false, &[]).pop().map(|s| s.vip.to_string());
        assert_eq!(first6.as_deref(), Some("[fd00:10:96::8001]:80"));
    }
}
