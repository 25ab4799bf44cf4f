//! Sockets of a pod that stay open between requests, so that a test can look at a flow across changes.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Protocol;

/// See [`Request::Open`](super::Request::Open).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Open {
    /// What later requests call the socket.
    pub socket: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Connect to this address; a TCP socket needs it.
    pub to: Option<SocketAddr>,
    /// Bind to this address before.
    pub from: Option<SocketAddr>,
    /// An IPv6 socket, whatever the addresses.
    pub v6: bool,
    /// The longest that connecting and sending may take.
    pub timeout_ms: u64,
}

impl Open {
    /// A TCP connection.
    pub fn tcp(socket: &str, to: impl Into<SocketAddr>) -> Self {
        let to = Some(to.into());
        Self { socket: socket.into(), protocol: Protocol::Tcp, to, from: None, v6: false, timeout_ms: 2000 }
    }

    /// A connected UDP socket.
    pub fn udp(socket: &str, to: impl Into<SocketAddr>) -> Self {
        Self { protocol: Protocol::Udp, ..Self::tcp(socket, to) }
    }

    /// A UDP socket that is not connected.
    pub fn unconnected(socket: &str, v6: bool) -> Self {
        Self { socket: socket.into(), protocol: Protocol::Udp, to: None, from: None, v6, timeout_ms: 2000 }
    }
}

/// What came of an [`Open`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenReport {
    /// Our address.
    pub local: Option<SocketAddr>,
    /// What `getpeername` says.
    pub peer: Option<SocketAddr>,
    /// The error by its name; the socket is not open then.
    pub errno: Option<String>,
}

/// See [`Request::Reconnect`](super::Request::Reconnect).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reconnect {
    /// The name given at [`Open`].
    pub socket: String,
    /// `connect` to this address; `None` dissolves what the socket is connected to (AF_UNSPEC).
    pub to: Option<SocketAddr>,
}

/// See [`Request::Send`](super::Request::Send).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Send {
    /// The name given at [`Open`].
    pub socket: String,
    /// What to send. A `?` asks [`App::Identify`] on TCP for its name.
    pub say: String,
    /// Where to, for `sendto`; `None` is `send`.
    pub to: Option<SocketAddr>,
}

/// What came of a [`Send`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendReport {
    /// Bytes the kernel took.
    pub sent: usize,
    /// The error by its name.
    pub errno: Option<String>,
}

/// See [`Request::Receive`](super::Request::Receive).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Receive {
    /// The name given at [`Open`].
    pub socket: String,
    /// With MSG_PEEK: the data stays.
    pub peek: bool,
    /// The longest to wait.
    pub timeout_ms: u64,
}

/// What came of a [`Receive`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveReport {
    /// What came, without a newline at its end; empty is the end of a stream.
    pub data: Option<String>,
    /// From which address (UDP).
    pub from: Option<SocketAddr>,
    /// The error by its name; nothing in time is `ETIMEDOUT`.
    pub errno: Option<String>,
}

/// See [`Request::PeerName`](super::Request::PeerName).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerName {
    /// The name given at [`Open`].
    pub socket: String,
}

/// What `getpeername` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerNameReport {
    /// The peer.
    pub peer: Option<SocketAddr>,
    /// The error by its name, `ENOTCONN`.
    pub errno: Option<String>,
}

/// See [`Request::Close`](super::Request::Close).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Close {
    /// The name given at [`Open`].
    pub socket: String,
}
