//! Servers of a pod: opened, closed, and the one for datagrams.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::tcp_server::TcpServer;
use super::{Pod, lock};
use crate::sandbox::proto::{App, CloseServer, Protocol, Serve, ServeReport, ServerReport};

/// How often a datagram server looks whether it shall end.
const LOOK: Duration = Duration::from_millis(20);

/// A server that listens.
pub(super) enum Server {
    Tcp(TcpServer),
    Udp(UdpServer),
}

/// Opens a server.
pub(super) fn serve(pod: &Pod, serve: &Serve) -> Result<ServeReport> {
    let what = || format!("listen at {:?} {} port {}", serve.protocol, serve.ip, serve.port);
    let (server, local) = match serve.protocol {
        Protocol::Tcp => {
            let (server, local) =
                TcpServer::open((serve.ip, serve.port).into(), serve.app, &pod.name).with_context(what)?;
            (Server::Tcp(server), local)
        }
        Protocol::Udp => {
            if matches!(serve.app, App::Http | App::Locate) {
                bail!("{:?} is served on TCP only", serve.app);
            }
            let socket = UdpSocket::bind((serve.ip, serve.port)).with_context(what)?;
            let local = socket.local_addr().with_context(what)?;
            (Server::Udp(UdpServer::start(socket, serve.app, &pod.name)?), local)
        }
    };
    lock(&pod.servers).insert((serve.protocol, local.port()), server);
    Ok(ServeReport { local })
}

/// Closes a server; when this returns nothing listens at the port any more.
pub(super) fn close(pod: &Pod, close: &CloseServer) -> Result<ServerReport> {
    let server = lock(&pod.servers)
        .remove(&(close.protocol, close.port))
        .with_context(|| format!("no {:?} server listens at port {}", close.protocol, close.port))?;
    let served = match server {
        Server::Tcp(server) => server.close(close.cut),
        Server::Udp(server) => server.close(),
    };
    Ok(ServerReport { served })
}

/// A server of datagrams.
pub(super) struct UdpServer {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl UdpServer {
    fn start(socket: UdpSocket, app: App, name: &str) -> Result<Self> {
        socket.set_read_timeout(Some(LOOK)).context("limit how long a datagram is awaited")?;
        let prefix = match app {
            App::Identify => format!("{name}:").into_bytes(),
            App::Echo | App::Http | App::Locate => Vec::new(),
        };
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), served.clone());
        let thread = std::thread::spawn(move || answer(&socket, &prefix, &stopped, &count));
        Ok(Self { stop, served, thread })
    }

    fn close(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok();
        self.served.load(Ordering::Relaxed)
    }
}

fn answer(socket: &UdpSocket, prefix: &[u8], stop: &AtomicBool, served: &AtomicU64) {
    let mut buffer = vec![0; 65536 + prefix.len()];
    buffer[..prefix.len()].copy_from_slice(prefix);
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer[prefix.len()..]) {
            Ok((length, from)) => {
                if socket.send_to(&buffer[..prefix.len() + length], from).is_ok() {
                    served.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A client that is gone: its refusal is no matter of ours.
            Err(_) => {}
        }
    }
}
