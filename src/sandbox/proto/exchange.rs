//! Datagrams a pod sends, and their answers.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Step;

/// How a datagram is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SendCall {
    /// `send`: connected sockets only.
    Send,
    /// `sendto` with the address.
    #[default]
    Sendto,
    /// `sendmsg` with the address.
    Sendmsg,
    /// `sendmmsg`: all targets in one call.
    Sendmmsg,
}

/// See [`Request::Exchange`](super::Request::Exchange): one UDP socket, one datagram to each target, an answer from each.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exchange {
    /// Where to, in order; a target may come several times.
    pub to: Vec<SocketAddr>,
    /// Use an IPv6 socket for IPv4 addresses.
    pub mapped: bool,
    /// `connect` to the first target before.
    pub connect: bool,
    /// How to send. With [`SendCall::Send`] everything goes to the connected address.
    pub call: SendCall,
    /// Look at each answer with MSG_PEEK before it is taken.
    pub peek: bool,
    /// Let the kernel cut the payload into datagrams of this many bytes (UDP_SEGMENT); as many answers
    /// are awaited.
    pub segment: Option<u16>,
    /// What is sent.
    pub say: String,
    /// The longest to wait for each answer.
    pub timeout_ms: u64,
}

impl Exchange {
    /// One datagram by `sendto` from a socket that is not connected, two seconds at most.
    pub fn udp(to: impl Into<SocketAddr>) -> Self {
        Self {
            to: vec![to.into()],
            mapped: false,
            connect: false,
            call: SendCall::Sendto,
            peek: false,
            segment: None,
            say: "hello".into(),
            timeout_ms: 2000,
        }
    }

    /// The same on a connected socket, by `send`.
    pub fn connected(self) -> Self {
        Self { connect: true, call: SendCall::Send, ..self }
    }

    /// The same with another kind of call.
    pub fn by(self, call: SendCall) -> Self {
        Self { call, ..self }
    }

    /// The same through an IPv6 socket.
    pub fn mapped(self) -> Self {
        Self { mapped: true, ..self }
    }

    /// And to another target, from the same socket.
    pub fn and(mut self, to: impl Into<SocketAddr>) -> Self {
        self.to.push(to.into());
        self
    }
}

/// What came of an [`Exchange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeReport {
    /// Our address at the end (`getsockname`).
    pub local: Option<SocketAddr>,
    /// What `getpeername` says, if connected.
    pub peer: Option<SocketAddr>,
    /// An error before the first datagram: opening or connecting.
    pub errno: Option<String>,
    /// One for each target; with segments, one for each datagram.
    pub answers: Vec<Answer>,
}

/// An answer to one datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Where the datagram was sent to.
    pub to: SocketAddr,
    /// What came back: `NAME:PAYLOAD` from [`App::Identify`].
    pub reply: Option<String>,
    /// From which address, as `recvfrom` or `recvmsg` says.
    pub from: Option<SocketAddr>,
    /// From which address, as the call with MSG_PEEK said.
    pub peeked_from: Option<SocketAddr>,
    /// The error by its name.
    pub errno: Option<String>,
    /// Where the error came.
    pub failed: Option<Step>,
    /// From sending to the answer, in microseconds.
    pub elapsed_us: u64,
}

impl Answer {
    /// The name of the pod that answered.
    pub fn backend(&self) -> Option<&str> {
        Some(self.reply.as_deref()?.split_once(':')?.0)
    }
}
