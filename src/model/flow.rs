//! One new connection, as `resolve` and `explain` take it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::addr::Protocol;

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientKind {
    /// A pod of this node.
    Pod,
    /// A process in the node's own network namespace, hostNetwork pods included (DEC-4).
    Host,
    /// A client outside the cluster.
    External,
    /// The same, from an address that source ranges forbid (LB-3).
    ExternalBlocked,
    /// A pod of another node.
    RemotePod,
}

impl ClientKind {
    /// Whether the client's sockets are on this node, so that the socket path sees them.
    pub fn is_local(self) -> bool {
        matches!(self, ClientKind::Pod | ClientKind::Host)
    }

    /// The word used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ClientKind::Pod => "pod",
            ClientKind::Host => "host",
            ClientKind::External => "external",
            ClientKind::ExternalBlocked => "external-blocked",
            ClientKind::RemotePod => "remote-pod",
        }
    }
}

impl fmt::Display for ClientKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ClientKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use ClientKind::*;
        [Pod, Host, External, ExternalBlocked, RemotePod].into_iter().find(|k| k.name() == text).ok_or_else(
            || format!("client kind '{text}' is none of pod, host, external, external-blocked, remote-pod"),
        )
    }
}

/// One new connection: who dials what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who dials.
    pub from: ClientKind,
    /// The client's address, if known. A socket that is not bound has none yet.
    pub client: Option<IpAddr>,
    /// The address and port dialled; v4-mapped addresses are made canonical by `resolve`.
    pub to: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
}
