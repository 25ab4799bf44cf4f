//! Addresses of links, and routes. IPv4 and IPv6 go the same ways.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use super::netlink::{IfThere, Netlink};

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The index of the link.
    pub link: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// Duplicate address detection is not over: the address cannot be used yet.
    pub tentative: bool,
}

/// A route to make or delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// What it leads to; `0.0.0.0/0` or `::/0` is the default route.
    pub to: IpNet,
    /// The next hop; `None`: the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// The link's name.
    pub link: &'a str,
    /// The next hop is on the link although no address of ours says so.
    pub onlink: bool,
}

impl Netlink {
    /// All addresses of the namespace.
    ///
    /// # Errors
    /// The kernel refuses the list.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let query = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answer = self.dump(&query).context("list addresses")?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(address) => read(&address),
                _ => None,
            })
            .collect())
    }

    /// Gives a link an address that can be used at once (no duplicate address detection).
    ///
    /// # Errors
    /// There is no such link, or it has the address already.
    pub fn add_address(&mut self, link: &str, address: IpNet) -> Result<()> {
        let index = self.index_of(link)?;
        self.create(RouteNetlinkMessage::NewAddress(message(index, address)), IfThere::Refuse)
            .with_context(|| format!("add address {address} to link {link}"))
    }

    /// Makes a route in the main table, or puts it in place of one to the same destination.
    ///
    /// # Errors
    /// The next hop cannot be reached, or there is no such link.
    pub fn add_route(&mut self, route: Route<'_>) -> Result<()> {
        let message = self.route(route)?;
        self.create(RouteNetlinkMessage::NewRoute(message), IfThere::Replace)
            .with_context(|| format!("add route to {} through link {}", route.to, route.link))
    }

    fn route(&mut self, route: Route<'_>) -> Result<RouteMessage> {
        let same = route.via.is_none_or(|via| via.is_ipv4() == route.to.addr().is_ipv4());
        ensure!(same, "route to {}: the next hop is of the other address family", route.to);
        let index = self.index_of(route.link)?;
        let (length, onlink) = (route.to.prefix_len(), route.onlink);
        Ok(match (route.to.network(), route.via) {
            (IpAddr::V4(to), via) => {
                let builder = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, length);
                let builder =
                    if let Some(IpAddr::V4(via)) = via { builder.gateway(via) } else { link_scope(builder) };
                finish(builder, index, onlink)
            }
            (IpAddr::V6(to), via) => {
                let builder = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, length);
                let builder = if let Some(IpAddr::V6(via)) = via { builder.gateway(via) } else { builder };
                finish(builder, index, onlink)
            }
        })
    }
}

/// Tells that addresses of this network namespace changed, not which.
#[derive(Debug)]
pub struct AddressWatch {
    socket: Socket,
}

impl AddressWatch {
    /// Watches from now on. Its descriptor can be read when something has changed.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn open() -> Result<AddressWatch> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("open a netlink socket")?;
        socket.bind_auto().context("bind a netlink socket")?;
        socket.set_non_blocking(true).context("make a netlink socket non-blocking")?;
        for group in [libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR] {
            socket.add_membership(group).context("subscribe to changes of addresses")?;
        }
        Ok(AddressWatch { socket })
    }

    /// Takes out all that was told. That messages were lost (ENOBUFS) is news as well.
    pub fn drain(&self) {
        let mut told = Vec::with_capacity(1 << 14);
        loop {
            told.clear();
            match self.socket.recv_from(&mut told, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return,
                _ => {}
            }
        }
    }
}

impl AsRawFd for AddressWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// An IPv4 destination without a next hop is on the link.
fn link_scope(builder: RouteMessageBuilder<Ipv4Addr>) -> RouteMessageBuilder<Ipv4Addr> {
    builder.scope(rtnetlink::packet_route::route::RouteScope::Link)
}

fn finish<T>(builder: RouteMessageBuilder<T>, index: u32, onlink: bool) -> RouteMessage {
    let builder = builder.output_interface(index);
    if onlink { builder.onlink().build() } else { builder.build() }
}

fn message(index: u32, address: IpNet) -> AddressMessage {
    let length = address.prefix_len();
    let mut message = match address.addr() {
        IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, length).build(),
        IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, length).build(),
    };
    message.header.flags = AddressHeaderFlags::Nodad;
    message
}

fn read(message: &AddressMessage) -> Option<Address> {
    // On a point-to-point link IFA_ADDRESS is the other end and IFA_LOCAL ours; IPv6 has only the first.
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    let tentative = message.attributes.iter().any(|a| match a {
        AddressAttribute::Flags(flags) => flags.contains(AddressFlags::Tentative),
        _ => false,
    });
    Some(Address { link: message.header.index, net, tentative })
}
