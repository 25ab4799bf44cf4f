//! Addresses as Kubernetes objects write them: leniently parsed, canonically shown (SVC-13).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An IP family. The two are separate proxies that share nothing (SVC-7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address; a v4-mapped IPv6 address counts as IPv4 (SOCK-6).
    pub fn of(addr: IpAddr) -> Family {
        match addr.to_canonical() {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// `IPv4` or `IPv6`, as Kubernetes writes it.
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// 0 for IPv4, 1 for IPv6: an index into per-family pairs.
    pub fn index(self) -> usize {
        match self {
            Family::V4 => 0,
            Family::V6 => 1,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A transport protocol a Service port may name (SVC-9). The discriminant is the IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u8)]
pub enum Protocol {
    /// TCP, 6.
    Tcp = 6,
    /// UDP, 17.
    Udp = 17,
    /// SCTP, 132.
    Sctp = 132,
}

impl Protocol {
    /// The protocol of an IP protocol number, if it is one of the three.
    pub fn from_number(number: u8) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| *p as u8 == number)
    }

    /// The protocol of its Kubernetes name (`TCP`, `UDP`, `SCTP`; any case).
    pub fn from_name(name: &str) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|p| p.name().eq_ignore_ascii_case(name))
    }

    /// The Kubernetes name.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An address that counts on its link alone.
pub fn is_of_link(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Parses an address as kube-proxy does: surrounding white space is trimmed and leading zeros in
/// IPv4 octets are decimal (SVC-13). `None` if it is no address.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(|ip| IpAddr::V6(ip).to_canonical());
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then_some(IpAddr::V4(Ipv4Addr::from(octets)))
}

/// Parses a CIDR with the leniency of [`parse_ip`]; host bits are cleared (SVC-13, SVC-14).
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (addr, len) = text.trim().split_once('/')?;
    if len.is_empty() || !len.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    IpNet::new(parse_ip(addr)?, len.parse().ok()?).ok().map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal_and_output_is_canonical() {
        // SVC-13
        assert_eq!(parse_ip("172.30.0.041").unwrap().to_string(), "172.30.0.41");
        assert_eq!(parse_cidr("203.0.113.000/025").unwrap().to_string(), "203.0.113.0/25");
        assert_eq!(parse_ip(" fd00::0001 ").unwrap().to_string(), "fd00::1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["", "None", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.+4", "1.2..4", "fd00::g"] {
            assert_eq!(parse_ip(bad), None, "{bad}");
        }
        for bad in ["1.2.3.4", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/+8", "/8"] {
            assert_eq!(parse_cidr(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_v4_mapped_address_is_ipv4() {
        // SOCK-6
        assert_eq!(Family::of("::ffff:10.0.0.1".parse().unwrap()), Family::V4);
        assert_eq!(parse_ip("::ffff:10.0.0.1").unwrap().to_string(), "10.0.0.1");
    }
}
