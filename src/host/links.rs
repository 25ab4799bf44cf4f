//! Links: listed, made in pairs across namespaces, joined to a bridge, removed.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::link::{LinkFlags, State};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::netlink::{IfThere, Netlink};

/// The longest name of a link, in bytes.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// How long [`Netlink::await_running`] waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// A link of a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The number the kernel knows it by, in its namespace.
    pub index: u32,
    /// The name.
    pub name: String,
    /// `veth`, `bridge`, `vxlan`, …; `None` for hardware and loopback.
    pub kind: Option<String>,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Whether it was set up.
    pub up: bool,
    /// Whether packets pass: it is up, so is what it stands on, and the kernel has acted on that.
    pub running: bool,
    /// The index of what it stands on; for a veth its peer, in the peer's namespace.
    pub link: Option<u32>,
    /// The index of the bridge or bond it belongs to.
    pub master: Option<u32>,
    /// The Ethernet address.
    pub mac: Option<Vec<u8>>,
}

impl Netlink {
    /// All links of the namespace.
    ///
    /// # Errors
    /// The kernel refuses the list.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let answer =
            self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).context("list links")?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(read(link)),
                _ => None,
            })
            .collect())
    }

    /// The link called `name`, if there is one.
    ///
    /// # Errors
    /// The kernel refuses the list.
    pub fn find_link(&mut self, name: &str) -> Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// The index of the link called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn index_of(&mut self, name: &str) -> Result<u32> {
        Ok(self.find_link(name)?.with_context(|| format!("there is no link {name}"))?.index)
    }

    /// Makes a veth pair: `name` here, `peer` directly in another namespace. Both are down.
    ///
    /// # Errors
    /// A name is taken or too long.
    pub fn add_veth(&mut self, name: &str, peer: &str, peer_netns: BorrowedFd<'_>) -> Result<()> {
        check_name(name)?;
        check_name(peer)?;
        let other = LinkMessageBuilder::<LinkUnspec>::default()
            .name(peer.to_owned())
            .append_extra_attribute(LinkAttribute::NetNsFd(peer_netns.as_raw_fd()))
            .build();
        let pair = LinkVeth::new(name, peer).set_info_data(InfoData::Veth(InfoVeth::Peer(other))).build();
        self.create(RouteNetlinkMessage::NewLink(pair), IfThere::Refuse)
            .with_context(|| format!("make veth pair {name} and {peer}"))
    }

    /// Makes a bridge that forwards at once and to everybody: no spanning tree, no multicast snooping.
    ///
    /// # Errors
    /// The name is taken or too long.
    pub fn add_bridge(&mut self, name: &str) -> Result<()> {
        check_name(name)?;
        let bridge = LinkBridge::new(name)
            .set_info_data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]))
            .build();
        self.create(RouteNetlinkMessage::NewLink(bridge), IfThere::Refuse)
            .with_context(|| format!("make bridge {name}"))
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// There is no such link.
    pub fn set_up(&mut self, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.change(RouteNetlinkMessage::SetLink(message)).with_context(|| format!("set link {name} up"))
    }

    /// Waits until packets pass a link. After both ends of a veth pair are up, the kernel still has to
    /// give the first of them its queue, which it does in the background (`linkwatch`); until then what
    /// that end sends is lost, and a lost SYN costs a second.
    ///
    /// # Errors
    /// There is no such link, or its other end is down for five seconds.
    pub fn await_running(&mut self, name: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.find_link(name)?.with_context(|| format!("there is no link {name}"))?.running {
            ensure!(Instant::now() < deadline, "link {name} is not running: is its other end up?");
            std::thread::sleep(Duration::from_micros(200));
        }
        // The state is set before the queue, both under one lock (RTNL), which this has to wait for.
        self.set_up(name)
    }

    /// Joins a link to a bridge.
    ///
    /// # Errors
    /// One of the two does not exist.
    pub fn set_master(&mut self, name: &str, master: &str) -> Result<()> {
        let bridge = self.index_of(master)?;
        let message = LinkUnspec::new_with_name(name).controller(bridge).build();
        self.change(RouteNetlinkMessage::SetLink(message))
            .with_context(|| format!("join link {name} to {master}"))
    }

    /// Deletes a link; with a veth its peer goes too.
    ///
    /// # Errors
    /// There is no such link ([`is_missing`](super::netlink::is_missing)).
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_name(name).build();
        self.change(RouteNetlinkMessage::DelLink(message)).with_context(|| format!("delete link {name}"))
    }
}

fn check_name(name: &str) -> Result<()> {
    ensure!(
        !name.is_empty() && name.len() <= NAME_MAX,
        "{name:?} is no name for a link: it needs 1 to {NAME_MAX} bytes and has {}",
        name.len()
    );
    Ok(())
}

fn read(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: false,
        link: None,
        master: None,
        mac: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::OperState(state) => link.running = state == State::Up,
            LinkAttribute::Link(index) => link.link = Some(index),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Address(mac) => link.mac = Some(mac.to_vec()),
            LinkAttribute::LinkInfo(infos) => link.kind = infos.into_iter().find_map(kind),
            _ => {}
        }
    }
    link
}

fn kind(info: LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(InfoKind::Other(name)) => Some(name),
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}
