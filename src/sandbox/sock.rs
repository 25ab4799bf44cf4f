//! Sockets as the pods use them: plain calls on descriptors, errors by name.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{ReceiveTimeout, ReuseAddr, SendTimeout};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage, setsockopt,
};
use nix::sys::time::TimeVal;

use super::proto::Protocol;

/// The address as a socket of the wanted family takes it: with `mapped`, IPv4 becomes `::ffff:a.b.c.d`.
pub fn wire(address: SocketAddr, mapped: bool) -> SockaddrStorage {
    match (address, mapped) {
        (SocketAddr::V4(v4), true) => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0)).into()
        }
        (address, _) => address.into(),
    }
}

/// Opens a socket that can reach `address`.
///
/// # Errors
/// What `socket` answers.
pub fn open(protocol: Protocol, v6: bool, flags: SockFlag) -> Result<OwnedFd, Errno> {
    let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
    };
    socket::socket(family, kind, SockFlag::SOCK_CLOEXEC | flags, number)
}

/// Whether a wire address is one of IPv6, v4-mapped ones included.
pub fn is_v6(address: &SockaddrStorage) -> bool {
    address.family() == Some(AddressFamily::Inet6)
}

/// Limits how long `connect`, sending and receiving block.
///
/// # Errors
/// What `setsockopt` answers.
pub fn set_timeouts(fd: &OwnedFd, limit: Duration) -> Result<(), Errno> {
    let value = TimeVal::new(limit.as_secs() as i64, i64::from(limit.subsec_micros()));
    setsockopt(fd, SendTimeout, &value)?;
    setsockopt(fd, ReceiveTimeout, &value)
}

/// An address the kernel gave, as std has it; `None` for other families.
pub fn std_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}

/// Binds a socket to an address, port 0 for any, that a server which sets SO_REUSEADDR, as std's do, may
/// listen on and nobody else gets.
///
/// # Errors
/// What the calls answer.
pub fn reserve(protocol: Protocol, at: SocketAddr) -> Result<OwnedFd, Errno> {
    let fd = open(protocol, at.is_ipv6(), SockFlag::empty())?;
    setsockopt(&fd, ReuseAddr, &true)?;
    socket::bind(fd.as_raw_fd(), &wire(at, false))?;
    Ok(fd)
}

/// `getsockname`.
pub fn local(fd: &OwnedFd) -> Option<SocketAddr> {
    std_addr(&socket::getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok()?)
}

/// `getpeername`.
///
/// # Errors
/// What it answers, ENOTCONN among it.
pub fn peer(fd: &OwnedFd) -> Result<Option<SocketAddr>, Errno> {
    Ok(std_addr(&socket::getpeername::<SockaddrStorage>(fd.as_raw_fd())?))
}

/// Waits until `fd` has something, at most until `deadline`.
///
/// # Errors
/// ETIMEDOUT.
pub fn wait(fd: BorrowedFd<'_>, what: PollFlags, deadline: Instant) -> Result<(), Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that a wait of less than a millisecond does not spin.
        let limit = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, what)], limit) {
            Ok(0) if Instant::now() >= deadline => return Err(Errno::ETIMEDOUT),
            Ok(0) | Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Waits for data, as [`wait`].
///
/// # Errors
/// ETIMEDOUT.
pub fn wait_readable(fd: &OwnedFd, deadline: Instant) -> Result<(), Errno> {
    wait(fd.as_fd(), PollFlags::POLLIN, deadline)
}

/// The name of an error as the headers have it, `ECONNREFUSED`. What a blocking socket with a time limit
/// answers when the limit is reached is `ETIMEDOUT`.
pub fn name(errno: Errno) -> String {
    match errno {
        Errno::EINPROGRESS | Errno::EAGAIN => "ETIMEDOUT".to_owned(),
        other => format!("{other:?}"),
    }
}

/// The address without v4-mapping.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(v6) => SocketAddr::new(IpAddr::V6(v6).to_canonical(), address.port()),
        IpAddr::V4(_) => address,
    }
}
