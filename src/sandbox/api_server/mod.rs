//! An API server by script: it keeps objects, serves lists and watches as the real one does, and
//! misbehaves when told to. For tests, benches and the demo; it decides nothing and checks no schema.
//!
//! A request without the selectors of SVC-1 and SVC-4 is a 400: asking for more than kube-proxy asks
//! for is a fault.

mod answer;
mod objects;
mod trick;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{Shutdown, shutdown};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

pub use self::objects::Kind;
use self::objects::Objects;
pub use self::trick::{End, Manners, StreamingLists, Trick, refusal};
use super::proto::Protocol;
use super::sock;
use crate::host::netns::with_netns;

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    at: SocketAddr,
    /// Bound and never listened on: keeps the port ours while the server is stopped.
    place: Option<OwnedFd>,
    netns: Option<OwnedFd>,
    running: Option<Running>,
}

/// A server that serves.
#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    /// To have it listen no more: a child that was forked and has not come to its exec() holds it too.
    listener: TcpListener,
}

/// What the connections share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts changes, so that watches wake.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    objects: Objects,
    manners: Manners,
    tricks: Vec<(Option<Kind>, Trick)>,
    requests: Vec<String>,
    events: Vec<Value>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ApiServer {
    /// Starts one on a free port of 127.0.0.1, without objects.
    ///
    /// # Errors
    /// There is no port or thread to be had.
    pub fn start() -> Result<ApiServer> {
        ApiServer::begin(None)
    }

    /// The same in a network namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or there is no port or thread to be had.
    pub fn start_in(netns: OwnedFd) -> Result<ApiServer> {
        ApiServer::begin(Some(netns))
    }

    fn begin(netns: Option<OwnedFd>) -> Result<ApiServer> {
        let shared = Arc::new(Shared { state: Mutex::default(), changes: watch::Sender::new(0) });
        let at = ([127, 0, 0, 1], 0).into();
        let mut server = ApiServer { shared, at, place: None, netns, running: None };
        let place = server.inside(|| sock::reserve(Protocol::Tcp, at).context("reserve a port"))?;
        server.at = sock::local(&place).context("a bound socket has an address")?;
        server.place = Some(place);
        server.restart()?;
        Ok(server)
    }

    /// Does something in the server's network namespace.
    fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.netns {
            Some(netns) => with_netns(std::os::fd::AsFd::as_fd(netns), work),
            None => work(),
        }
    }

    /// Its address, over plain HTTP.
    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Ends it: connections break, and new ones are refused. Objects and manners stay.
    pub fn stop(&mut self) {
        if let Some(Running { stop, thread, listener }) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
            let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
        }
    }

    /// Starts it again at the same address.
    ///
    /// # Errors
    /// The address is taken by now.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        let bind = || TcpListener::bind(self.at).with_context(|| format!("listen on {}", self.at));
        let listener = self.inside(bind)?;
        listener.set_nonblocking(true).context("listen without blocking")?;
        let same = listener.try_clone().context("hold the listener")?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let (runtime, shared) = (runtime.context("start a runtime")?, self.shared.clone());
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, shared) => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("api-server".into()).spawn(serve);
        self.running = Some(Running { stop, thread: thread.context("start a thread")?, listener: same });
        Ok(())
    }

    /// Makes or replaces an object, as it is given: it says its kind, name and namespace. Returns its
    /// version.
    ///
    /// # Errors
    /// It does not say what it is.
    pub fn put(&self, object: Value) -> Result<u64> {
        let version = self.shared.state().objects.put(object)?;
        self.shared.changes.send_modify(|changes| *changes += 1);
        Ok(version)
    }

    /// Removes an object. False if there is none.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        let deleted = self.shared.state().objects.delete(kind, namespace, name);
        self.shared.changes.send_modify(|changes| *changes += 1);
        deleted
    }

    /// Sends a bookmark to every watch.
    pub fn bookmark(&self) {
        self.shared.state().objects.bookmark();
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    /// Forgets what happened until now: watches and pages from before are answered 410.
    pub fn compact(&self) {
        self.shared.state().objects.compact();
    }

    /// Becomes what a server restored from an old backup is: the same objects, in versions that begin anew.
    pub fn restore(&self) {
        self.shared.state().objects.restore();
    }

    /// All objects of a kind as they are now, whatever a selector says.
    pub fn objects(&self, kind: Kind) -> Vec<Value> {
        self.shared.state().objects.all(kind)
    }

    /// How it behaves from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.shared.state().manners);
    }

    /// Plays a trick on the next request (for that kind). Tricks wait in line.
    pub fn play(&self, kind: Option<Kind>, trick: Trick) {
        self.shared.state().tricks.push((kind, trick));
    }

    /// How many tricks still wait.
    pub fn tricks_left(&self) -> usize {
        self.shared.state().tricks.len()
    }

    /// Events that were posted until now, in order.
    pub fn events(&self) -> Vec<Value> {
        self.shared.state().events.clone()
    }

    /// Paths and queries asked for until now, in order.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer::answer(shared.clone(), request));
            // It fails when the client goes away, or when a trick breaks the connection.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_again_though_somebody_else_holds_its_listener() {
        let mut server = ApiServer::start().unwrap();
        let held = server.running.as_ref().unwrap().listener.try_clone().unwrap();
        server.stop();
        assert!(std::net::TcpStream::connect(server.at).is_err(), "it listens no more");
        server.restart().unwrap();
        assert!(std::net::TcpStream::connect(server.at).is_ok());
        drop(held);
    }
}
