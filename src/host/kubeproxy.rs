//! What kube-proxy left in the kernel: its nft tables, its chains (iptables in both forms), its ipvs link.
//!
//! Only looked at, never changed: `ip_tables` is asked for a table's content only if that table exists already,
//! since asking makes it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// The chain every mode of kube-proxy that uses iptables begins with.
const CHAIN: &str = "KUBE-SERVICES";
/// The table of its nftables mode.
const TABLE: &str = "kube-proxy";
/// The link of its ipvs mode.
const IPVS_LINK: &str = "/sys/class/net/kube-ipvs0";

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADER: usize = 16 + 4;

/// What kube-proxy left in this network namespace, in words; empty if nothing is to be seen.
///
/// # Errors
/// CAP_NET_ADMIN is missing.
pub fn leftovers() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (table, chain) in nft_chains()? {
        if table == TABLE {
            found.push(format!("nft table {TABLE}"));
        } else if chain == CHAIN {
            found.push(format!("iptables (nft) chain {CHAIN} in table {table}"));
        }
    }
    for legacy in [LegacyTables::V4, LegacyTables::V6] {
        if legacy.has_nat() && legacy.nat_names(CHAIN)? {
            found.push(format!("{} (legacy) chain {CHAIN} in table nat", legacy.command()));
        }
    }
    if Path::new(IPVS_LINK).exists() {
        found.push("ipvs link kube-ipvs0".to_owned());
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// All nft chains of all families, as (table, chain).
fn nft_chains() -> Result<Vec<(String, String)>> {
    let Ok(mut netlink) = Socket::new(NETLINK_NETFILTER) else {
        return Ok(Vec::new()); // a kernel without nfnetlink has no nft chains
    };
    netlink.bind_auto().context("bind a netlink socket")?;
    let mut request = vec![0u8; HEADER];
    request[0..4].copy_from_slice(&(HEADER as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN).to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    netlink.send_to(&request, &SocketAddr::new(0, 0), 0).context("ask netfilter for its chains")?;
    let mut chains = Vec::new();
    loop {
        let (datagram, _) = netlink.recv_from_full().context("receive netfilter's chains")?;
        if read_chains(&datagram, &mut chains)? {
            return Ok(chains);
        }
    }
}

/// Reads the messages of one datagram; true at the end of the list.
fn read_chains(datagram: &[u8], chains: &mut Vec<(String, String)>) -> Result<bool> {
    let mut rest = datagram;
    while rest.len() >= 16 {
        let length = u32_at(rest, 0) as usize;
        if length < 16 || length > rest.len() {
            bail!("netfilter sent a message of {length} bytes in {}", rest.len());
        }
        let message = &rest[..length];
        match u16_at(message, 4) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR if length >= HEADER => match -(u32_at(message, 16) as i32) {
                0 => return Ok(true),
                // No nf_tables in this kernel.
                libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT => return Ok(true),
                errno => {
                    return Err(io::Error::from_raw_os_error(errno))
                        .context("list netfilter's chains (needs CAP_NET_ADMIN)");
                }
            },
            _ if length >= HEADER => chains.push((
                attribute(&message[HEADER..], NFTA_CHAIN_TABLE).unwrap_or_default(),
                attribute(&message[HEADER..], NFTA_CHAIN_NAME).unwrap_or_default(),
            )),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The text of an attribute.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<String> {
    while attributes.len() >= 4 {
        let length = usize::from(u16_at(attributes, 0));
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2) & 0x3fff == wanted {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The tables of iptables-legacy, in one family.
#[derive(Clone, Copy)]
enum LegacyTables {
    V4,
    V6,
}

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; ip6_tables has the same numbers.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// `sizeof(struct ipt_getinfo)`; its last field is the size of the entries.
const INFO_SIZE: usize = 84;
/// The entries' offset in `struct ipt_get_entries`.
const ENTRIES_AT: usize = 40;

impl LegacyTables {
    fn command(self) -> &'static str {
        match self {
            LegacyTables::V4 => "iptables",
            LegacyTables::V6 => "ip6tables",
        }
    }

    /// Whether the table nat exists. It is not made by looking at this file.
    fn has_nat(self) -> bool {
        let file = match self {
            LegacyTables::V4 => "/proc/net/ip_tables_names",
            LegacyTables::V6 => "/proc/net/ip6_tables_names",
        };
        fs::read_to_string(file).is_ok_and(|names| names.lines().any(|line| line == "nat"))
    }

    /// Whether the entries of the table nat name a chain.
    fn nat_names(self, chain: &str) -> Result<bool> {
        let mut info = [0u8; INFO_SIZE];
        info[..3].copy_from_slice(b"nat");
        self.getsockopt(GET_INFO, &mut info)?;
        let size = u32_at(&info, INFO_SIZE - 4) as usize;
        let mut entries = vec![0u8; ENTRIES_AT + size];
        entries[..3].copy_from_slice(b"nat");
        entries[32..36].copy_from_slice(&(size as u32).to_ne_bytes());
        self.getsockopt(GET_ENTRIES, &mut entries)?;
        Ok(entries.windows(chain.len()).any(|window| window == chain.as_bytes()))
    }

    fn getsockopt(self, option: i32, buffer: &mut [u8]) -> Result<()> {
        let (family, level) = match self {
            LegacyTables::V4 => (AddressFamily::Inet, libc::IPPROTO_IP),
            LegacyTables::V6 => (AddressFamily::Inet6, libc::IPPROTO_IPV6),
        };
        let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .or_else(|_| socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None))
            .with_context(|| format!("open a socket to ask {}", self.command()))?;
        let mut length = buffer.len() as libc::socklen_t;
        // SAFETY: `buffer` and `length` are valid for the call, and `length` is the buffer's size, which the kernel
        // checks before it writes.
        let done = unsafe {
            libc::getsockopt(raw.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut length)
        };
        if done != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("ask {} for its table nat (needs CAP_NET_ADMIN)", self.command()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain_message(table: &str, chain: &str) -> Vec<u8> {
        let mut attributes = Vec::new();
        for (kind, text) in [(NFTA_CHAIN_TABLE, table), (2, "xx"), (NFTA_CHAIN_NAME, chain)] {
            let length = 4 + text.len() + 1;
            attributes.extend((length as u16).to_ne_bytes());
            attributes.extend(kind.to_ne_bytes());
            attributes.extend(text.as_bytes());
            attributes.push(0);
            attributes.resize(attributes.len().next_multiple_of(4), 0);
        }
        let mut message = ((HEADER + attributes.len()) as u32).to_ne_bytes().to_vec();
        message.extend([0x03, 0x0a, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        message.extend([2, 0, 0, 0]);
        message.extend(attributes);
        message
    }

    #[test]
    fn chains_are_read_until_the_list_ends() {
        let mut datagram = chain_message("nat", "KUBE-SERVICES");
        datagram.extend(chain_message("kube-proxy", "services"));
        let mut chains = Vec::new();
        assert!(!read_chains(&datagram, &mut chains).expect("it is well formed"));
        assert_eq!(
            chains,
            [
                ("nat".to_owned(), "KUBE-SERVICES".to_owned()),
                ("kube-proxy".to_owned(), "services".to_owned())
            ]
        );
        let done = [20u8, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(read_chains(&done, &mut chains).expect("it is well formed"));
    }

    #[test]
    fn a_refusal_names_the_privilege() {
        let mut refused = vec![36u8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        refused.extend((-libc::EPERM).to_ne_bytes());
        refused.resize(36, 0);
        let error = read_chains(&refused, &mut Vec::new()).expect_err("it is refused");
        assert!(format!("{error:#}").contains("CAP_NET_ADMIN"), "{error:#}");
    }

    #[test]
    fn a_broken_message_is_an_error_not_a_panic() {
        for broken in [vec![8u8; 16], vec![0; 16]] {
            assert!(read_chains(&broken, &mut Vec::new()).is_err());
        }
    }
}
