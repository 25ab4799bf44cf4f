//! Servers of a pod.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::Protocol;

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum App {
    /// TCP and UDP: sends back what comes.
    Echo,
    /// TCP: each request that holds a `?` is answered with the pod's name and a newline, any other
    /// byte for byte. UDP: every datagram is answered with `NAME:` and the datagram.
    Identify,
    /// TCP: the same with the address and port that the client reached in place of the name, for a pod
    /// with many addresses.
    Locate,
    /// TCP: HTTP/1.1, every request is answered with 200 and the pod's name.
    Http,
}

/// See [`Request::Serve`](super::Request::Serve).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Serve {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address to listen at; `::` takes IPv4 as well.
    pub ip: IpAddr,
    /// The port, 0 for any.
    pub port: u16,
    /// What is served.
    pub app: App,
}

impl Serve {
    /// A TCP server that says its pod's name when asked, at every address.
    pub fn tcp(port: u16) -> Self {
        Self { protocol: Protocol::Tcp, ip: UNSPECIFIED, port, app: App::Identify }
    }

    /// A UDP server that says its pod's name with every answer, at every address.
    pub fn udp(port: u16) -> Self {
        Self { protocol: Protocol::Udp, ..Self::tcp(port) }
    }

    /// An HTTP server that answers with its pod's name, at every address.
    pub fn http(port: u16) -> Self {
        Self { app: App::Http, ..Self::tcp(port) }
    }

    /// The same server with another application.
    pub fn app(self, app: App) -> Self {
        Self { app, ..self }
    }

    /// The same server at one address only.
    pub fn at(self, ip: IpAddr) -> Self {
        Self { ip, ..self }
    }
}

const UNSPECIFIED: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);

/// A server that listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServeReport {
    /// Where, with the port the kernel gave.
    pub local: SocketAddr,
}

/// See [`Request::CloseServer`](super::Request::CloseServer).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloseServer {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port it listens at.
    pub port: u16,
    /// End connections that are open as well; else they go on.
    pub cut: bool,
}

/// What a server did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    /// Connections taken, or datagrams answered.
    pub served: u64,
}
