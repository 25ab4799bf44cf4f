//! Sockets a pod keeps open between requests.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, SockFlag};

use super::{Pod, exchange, lock};
use crate::host::socket::dissolve;
use crate::sandbox::proto::{
    Close, Open, OpenReport, PeerName, PeerNameReport, Protocol, Receive, ReceiveReport, Reconnect, Send,
    SendReport,
};
use crate::sandbox::sock;

/// A socket with a name.
pub(super) struct OpenSocket {
    fd: OwnedFd,
    protocol: Protocol,
    v6: bool,
}

pub(super) fn open(pod: &Pod, open: &Open) -> Result<OpenReport> {
    let socket = match open_socket(open) {
        Ok(socket) => socket,
        Err(errno) => {
            return Ok(OpenReport { local: None, peer: None, errno: Some(sock::name(errno)) });
        }
    };
    let (local, peer) = (sock::local(&socket.fd), sock::peer(&socket.fd).unwrap_or_default());
    lock(&pod.sockets).insert(open.socket.clone(), Arc::new(socket));
    Ok(OpenReport { local, peer, errno: None })
}

fn open_socket(open: &Open) -> Result<OpenSocket, Errno> {
    let v6 = open.v6 || open.to.or(open.from).is_some_and(|address| address.is_ipv6());
    let fd = sock::open(open.protocol, v6, SockFlag::empty())?;
    sock::set_timeouts(&fd, Duration::from_millis(open.timeout_ms))?;
    if let Some(from) = open.from {
        socket::bind(fd.as_raw_fd(), &sock::wire(from, v6))?;
    }
    if let Some(to) = open.to {
        socket::connect(fd.as_raw_fd(), &sock::wire(to, v6))?;
    }
    Ok(OpenSocket { fd, protocol: open.protocol, v6 })
}

pub(super) fn reconnect(pod: &Pod, reconnect: &Reconnect) -> Result<OpenReport> {
    let socket = find(pod, &reconnect.socket)?;
    let connected = match reconnect.to {
        Some(to) => socket::connect(socket.fd.as_raw_fd(), &sock::wire(to, socket.v6)),
        None => dissolve(socket.fd.as_fd()),
    };
    let (local, peer) = (sock::local(&socket.fd), sock::peer(&socket.fd).unwrap_or_default());
    Ok(OpenReport { local, peer, errno: connected.err().map(sock::name) })
}

fn find(pod: &Pod, name: &str) -> Result<Arc<OpenSocket>> {
    lock(&pod.sockets).get(name).cloned().with_context(|| format!("no open socket is called {name:?}"))
}

pub(super) fn send(pod: &Pod, send: &Send) -> Result<SendReport> {
    let socket = find(pod, &send.socket)?;
    let (fd, data, flags) = (socket.fd.as_raw_fd(), send.say.as_bytes(), MsgFlags::MSG_NOSIGNAL);
    let sent = match send.to {
        None => socket::send(fd, data, flags),
        Some(to) => socket::sendto(fd, data, &sock::wire(to, socket.v6), flags),
    };
    Ok(match sent {
        Ok(sent) => SendReport { sent, errno: None },
        Err(errno) => SendReport { sent: 0, errno: Some(sock::name(errno)) },
    })
}

pub(super) fn receive(pod: &Pod, receive: &Receive) -> Result<ReceiveReport> {
    let socket = find(pod, &receive.socket)?;
    let flags = if receive.peek { MsgFlags::MSG_PEEK } else { MsgFlags::empty() };
    let deadline = Instant::now() + Duration::from_millis(receive.timeout_ms);
    let received =
        sock::wait_readable(&socket.fd, deadline).and_then(|()| exchange::receive_message(&socket.fd, flags));
    Ok(match received {
        Err(errno) => ReceiveReport { data: None, from: None, errno: Some(sock::name(errno)) },
        Ok((data, from)) => {
            let text = String::from_utf8_lossy(&data).trim_end_matches('\n').to_owned();
            let from = from.filter(|_| socket.protocol == Protocol::Udp);
            ReceiveReport { data: Some(text), from, errno: None }
        }
    })
}

pub(super) fn peer_name(pod: &Pod, which: &PeerName) -> Result<PeerNameReport> {
    Ok(match sock::peer(&find(pod, &which.socket)?.fd) {
        Ok(peer) => PeerNameReport { peer, errno: None },
        Err(errno) => PeerNameReport { peer: None, errno: Some(sock::name(errno)) },
    })
}

pub(super) fn close(pod: &Pod, close: &Close) -> Result<()> {
    lock(&pod.sockets)
        .remove(&close.socket)
        .map(drop)
        .with_context(|| format!("no open socket is called {:?}", close.socket))
}
