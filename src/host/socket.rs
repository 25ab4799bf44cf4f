//! What sockets can do beyond the safe wrappers.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens on one address, in its family alone. The socket does not block.
///
/// # Errors
/// The address is taken, or none of this machine.
pub fn listen_on(addr: SocketAddr) -> Result<TcpListener, Errno> {
    open(addr, true)
}

/// Listens on one address; on an unspecified one in both families, as Go does and so kube-proxy. The socket
/// does not block.
///
/// # Errors
/// As [`listen_on`].
pub fn listen_widely(addr: SocketAddr) -> Result<TcpListener, Errno> {
    if !addr.ip().is_unspecified() {
        return open(addr, true);
    }
    let all = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), addr.port());
    match open(all, false) {
        // A machine without IPv6.
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => open(addr, true),
        done => done,
    }
}

fn open(addr: SocketAddr, only_its_family: bool) -> Result<TcpListener, Errno> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if addr.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &only_its_family)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(fd))
}

/// Dissolves what a socket is connected to: `connect` with AF_UNSPEC. A UDP socket is then as before its
/// first `connect`, but keeps its port if it was bound to it.
///
/// # Errors
/// What `connect` answers.
pub fn dissolve(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let nobody = libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap_or(0),
        sa_data: [0; 14],
    };
    // SAFETY: the pointer is to a sockaddr on this stack, and the length is its size.
    let answer =
        unsafe { libc::connect(fd.as_raw_fd(), &raw const nobody, size_of_val(&nobody) as libc::socklen_t) };
    Errno::result(answer).map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_unspecified_address_is_listened_on_in_both_families_and_any_other_alone() {
        let wide = listen_widely("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = wide.local_addr().unwrap().port();
        for ip in ["127.0.0.1", "::1"] {
            TcpStream::connect((ip, port)).unwrap();
        }
        let narrow = listen_on("[::]:0".parse().unwrap()).unwrap();
        let port = narrow.local_addr().unwrap().port();
        TcpStream::connect(("::1", port)).unwrap();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        assert_eq!(listen_on(SocketAddr::new("::1".parse().unwrap(), port)).unwrap_err(), Errno::EADDRINUSE);
    }
}
