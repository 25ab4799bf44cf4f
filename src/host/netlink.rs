//! One rtnetlink socket, in the network namespace it was opened in, wherever it is used from.
//!
//! Requests block until the kernel has answered, which it does within the system call, so there is no
//! runtime inside and this may be called from any thread, also one that drives tokio. What can be asked
//! is in [`links`](super::links) and [`addrs`](super::addrs).

use std::os::fd::BorrowedFd;

use anyhow::{Context, Result, bail, ensure};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::netns;

/// How often a list is asked for anew when the kernel says that it changed while it was read.
const DUMP_ATTEMPTS: usize = 16;

/// A connection to the kernel's routing subsystem in one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// What to do when the object is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfThere {
    Refuse,
    Replace,
}

impl Netlink {
    /// Opens a connection in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("open a netlink socket")?;
        socket.bind_auto().context("bind a netlink socket")?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Opens a connection in another namespace, in which it stays.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self> {
        netns::with_netns(netns, Self::open)
    }

    /// Makes a change and waits for the kernel's yes or no.
    pub(super) fn create(&mut self, message: RouteNetlinkMessage, there: IfThere) -> Result<()> {
        let more = match there {
            IfThere::Refuse => NLM_F_EXCL,
            IfThere::Replace => NLM_F_REPLACE,
        };
        self.request(message, NLM_F_ACK | NLM_F_CREATE | more).map(drop)
    }

    /// Changes or deletes something that exists.
    pub(super) fn change(&mut self, message: RouteNetlinkMessage) -> Result<()> {
        self.request(message, NLM_F_ACK).map(drop)
    }

    /// Reads a list.
    pub(super) fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.request(message.clone(), NLM_F_DUMP) {
                Err(error) if is_interrupted(&error) => {}
                other => return other,
            }
        }
        bail!("the list changed each of the {DUMP_ATTEMPTS} times it was read")
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        let sent = self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).context("send to netlink")?;
        ensure!(sent == bytes.len(), "netlink took {sent} of {} bytes", bytes.len());
        self.answers()
    }

    /// Reads until the kernel has said that it is done, or why it is not.
    fn answers(&mut self) -> Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            let (datagram, _) = self.socket.recv_from_full().context("receive from netlink")?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .context("read netlink's answer")?;
                let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
                ensure!(length > 0, "netlink sent a message without length");
                rest = &rest[length..];
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= message.header.flags & DUMP_INTERRUPTED != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io().into());
                    }
                    NetlinkPayload::Done(_) if interrupted => return Err(interrupted_error()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(found),
                    _ => {}
                }
            }
        }
    }
}

/// NLM_F_DUMP_INTR: the list changed while it was read and may miss what was there all the time.
const DUMP_INTERRUPTED: u16 = 0x10;

fn interrupted_error() -> anyhow::Error {
    std::io::Error::from(std::io::ErrorKind::Interrupted).into()
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::Interrupted)
}

/// Whether an error of this room says that the object does not exist.
pub fn is_missing(error: &anyhow::Error) -> bool {
    let missing = [libc::ENOENT, libc::ENODEV, libc::ESRCH, libc::EADDRNOTAVAIL];
    error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::raw_os_error)
        .is_some_and(|code| missing.contains(&code))
}
