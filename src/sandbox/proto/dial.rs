//! TCP connections a pod makes.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How a TCP connection is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectCall {
    /// `connect` on a blocking socket.
    #[default]
    Blocking,
    /// `connect` on a non-blocking socket, then `poll` and SO_ERROR.
    NonBlocking,
    /// TCP fast open: `sendto` with MSG_FASTOPEN.
    FastOpenSend,
    /// TCP fast open: TCP_FASTOPEN_CONNECT, `connect`, `write`.
    FastOpenConnect,
}

/// See [`Request::Dial`](super::Request::Dial). Connects, asks the server for its name, closes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dial {
    /// Where to.
    pub to: SocketAddr,
    /// Use an IPv6 socket for an IPv4 address (`::ffff:a.b.c.d`).
    pub mapped: bool,
    /// How.
    pub call: ConnectCall,
    /// What is sent; an answer is awaited unless this is empty. A `?` asks [`App::Identify`] for its name.
    pub say: String,
    /// The longest to wait for the connection, and for the answer, each.
    pub timeout_ms: u64,
    /// The local address and port to bind first.
    pub from: Option<SocketAddr>,
}

impl Dial {
    /// Dials by a blocking `connect` and asks for a name, two seconds at most.
    pub fn tcp(to: impl Into<SocketAddr>) -> Self {
        Self {
            to: to.into(),
            mapped: false,
            call: ConnectCall::Blocking,
            say: "?".into(),
            timeout_ms: 2000,
            from: None,
        }
    }

    /// The same with another kind of call.
    pub fn by(self, call: ConnectCall) -> Self {
        Self { call, ..self }
    }

    /// The same through an IPv6 socket.
    pub fn mapped(self) -> Self {
        Self { mapped: true, ..self }
    }
}

/// The step of an exchange that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// `socket`, `bind` or a socket option.
    Open,
    /// `connect`.
    Connect,
    /// `send`, `sendto`, …
    Send,
    /// `recv`, `recvfrom`, …
    Receive,
}

/// What came of a [`Dial`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialReport {
    /// Our address after the connection was made (`getsockname`).
    pub local: Option<SocketAddr>,
    /// What `getpeername` says; v4-mapped addresses as such.
    pub peer: Option<SocketAddr>,
    /// What the server said, without the newline.
    pub reply: Option<String>,
    /// The error by its name, `ECONNREFUSED`; a wait that took too long is `ETIMEDOUT`.
    pub errno: Option<String>,
    /// Where the error came.
    pub failed: Option<Step>,
    /// Until connected, in microseconds.
    pub connect_us: u64,
    /// Until the answer was there, in microseconds.
    pub elapsed_us: u64,
}

/// See [`Request::DialUntil`](super::Request::DialUntil). Connects and asks in a tight loop until `name` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DialUntil {
    /// Where to.
    pub to: SocketAddr,
    /// The backend that is waited for.
    pub name: String,
    /// The longest to wait.
    pub timeout_ms: u64,
}

/// What came of a [`DialUntil`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialUntilReport {
    /// CLOCK_MONOTONIC, which all processes share, in nanoseconds, just before the `connect` that
    /// reached the backend; `None` if the time ran out.
    pub connect_at_ns: Option<u64>,
    /// The same clock just after that `connect`.
    pub connected_at_ns: Option<u64>,
    /// Connections made.
    pub attempts: u64,
    /// Errors met on the way, by name.
    pub errors: Vec<String>,
}
