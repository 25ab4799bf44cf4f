//! A TCP server without an event loop: threads wait in `accept`, each serves the connection it gets,
//! and there is always one more that waits. A short connection thus costs accept, read, write, close.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::socket::{self, shutdown};

use super::lock;
use crate::sandbox::proto::App;
use crate::sandbox::sock;

/// So many threads may wait for connections; more end after the connection they served.
const MOST_IDLE: usize = 16;
/// A thread needs a buffer and little else.
const STACK: usize = 128 * 1024;
/// The longest HTTP request head.
const HEAD: usize = 16 * 1024;

/// A TCP server that listens.
pub(super) struct TcpServer {
    shared: Arc<Shared>,
}

struct Shared {
    listener: TcpListener,
    app: App,
    /// The pod's name and a newline.
    name: Vec<u8>,
    idle: AtomicUsize,
    served: AtomicU64,
    closing: AtomicBool,
    open: Mutex<HashMap<i32, Arc<TcpStream>>>,
}

impl TcpServer {
    pub fn open(at: SocketAddr, app: App, name: &str) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(at)?;
        let local = listener.local_addr()?;
        let shared = Arc::new(Shared {
            listener,
            app,
            name: format!("{name}\n").into_bytes(),
            idle: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            open: Mutex::default(),
        });
        shared.clone().add_worker()?;
        Ok((Self { shared }, local))
    }

    /// Stops listening; with `cut` also ends the connections that are open. Answers how many were taken.
    pub fn close(self, cut: bool) -> u64 {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Wakes all that wait in accept, with EINVAL, and refuses from now on.
        shutdown(self.shared.listener.as_raw_fd(), socket::Shutdown::Both).ok();
        if cut {
            for stream in lock(&self.shared.open).values() {
                stream.shutdown(Shutdown::Both).ok();
            }
        }
        self.shared.served.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn add_worker(self: Arc<Self>) -> io::Result<()> {
        self.idle.fetch_add(1, Ordering::SeqCst);
        let shared = self.clone();
        let started = std::thread::Builder::new().stack_size(STACK).spawn(move || shared.work());
        if started.is_err() {
            self.idle.fetch_sub(1, Ordering::SeqCst);
        }
        started.map(drop)
    }

    /// Enters counted as idle, and leaves so counted off.
    fn work(self: &Arc<Self>) {
        while !self.closing.load(Ordering::SeqCst) {
            let accepted = self.listener.accept();
            if self.idle.fetch_sub(1, Ordering::SeqCst) == 1 && accepted.is_ok() {
                // The last that waited: without another, this connection would keep later ones waiting.
                self.clone().add_worker().ok();
            }
            match accepted {
                Ok((stream, _)) => self.serve(stream),
                Err(_) if self.closing.load(Ordering::SeqCst) => return,
                // Too many open files: wait for some to close.
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
            if self.idle.fetch_add(1, Ordering::SeqCst) >= MOST_IDLE {
                break;
            }
        }
        self.idle.fetch_sub(1, Ordering::SeqCst);
    }

    fn serve(&self, stream: TcpStream) {
        self.served.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(stream);
        let key = stream.as_raw_fd();
        lock(&self.open).insert(key, stream.clone());
        // An error is the client's: it went away.
        match self.app {
            App::Echo => converse(&stream, None),
            App::Identify => converse(&stream, Some(&self.name)),
            App::Locate => stream
                .local_addr()
                .and_then(|at| converse(&stream, Some(format!("{}\n", sock::canonical(at)).as_bytes()))),
            App::Http => http(&stream, &self.name),
        }
        .ok();
        lock(&self.open).remove(&key);
    }
}

/// Answers until the client closes: with what it said, or with `name` where it asked for it.
fn converse(mut stream: &TcpStream, name: Option<&[u8]>) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        match name {
            Some(name) if buffer[..length].contains(&b'?') => stream.write_all(name)?,
            _ => stream.write_all(&buffer[..length])?,
        }
    }
}

/// HTTP/1.1 as far as `curl` and a benchmark need it: the head is read, a body is not.
fn http(mut stream: &TcpStream, name: &[u8]) -> io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") else {
            let length = stream.read(&mut buffer)?;
            if length == 0 || head.len() + length > HEAD {
                return Ok(());
            }
            head.extend_from_slice(&buffer[..length]);
            continue;
        };
        let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
        head.drain(..end + 4);
        let first = text.lines().next().unwrap_or_default();
        let last = text.contains("\r\nconnection: close") || !first.ends_with("http/1.1");
        stream.write_all(&response(name, first.starts_with("head "), last))?;
        if last {
            return Ok(());
        }
    }
}

fn response(name: &[u8], head_only: bool, last: bool) -> Vec<u8> {
    let connection = if last { "close" } else { "keep-alive" };
    let mut response = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n",
        name.len()
    )
    .into_bytes();
    if !head_only {
        response.extend_from_slice(name);
    }
    response
}
