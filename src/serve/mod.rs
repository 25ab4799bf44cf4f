//! HTTP: metrics, health, health check node ports. On a thread of its own with a runtime of its own, so that no
//! answer and no scrape ever holds up a change of the tables, nor the other way round.
//!
//! The pinned maps are read through `inspect` when somebody asks; what only the agent knows it pins to the
//! [`board`].

pub mod board;
pub mod health;
pub mod http;
pub mod kube_proxy;
pub mod metrics;
pub mod node_ports;
mod rest_client;
pub mod text;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use self::board::Board;
use self::http::{Place, Site, listen};
use self::node_ports::Ports;
use crate::cluster::client::Tally;
use crate::cluster::events::{Event, Recorder};

/// What is served, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The metrics port (HLT-9); `None`: no such server.
    pub metrics: Option<SocketAddr>,
    /// The health port (HLT-1); `None`: no such server.
    pub health: Option<SocketAddr>,
    /// An address that cannot be had is the end (HLT-8).
    pub hard_fail: bool,
    /// The bpffs whose tables are shown.
    pub bpf_root: PathBuf,
    /// The node's name.
    pub node: Arc<str>,
    /// Where health check node ports listen until [`Board::listen_in`] says otherwise; everywhere, if there are
    /// none (HC-2).
    pub node_port_networks: Vec<IpNet>,
    /// The body of `/proxyMode`.
    pub mode: String,
    /// The body of `/configz`; `None`: no such page.
    pub configz: Option<Value>,
    /// Requests to the API server; `None`: there is none.
    pub tally: Option<Arc<Tally>>,
}

/// The servers. They end when it is dropped.
#[derive(Debug)]
pub struct Servers {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    failed: mpsc::Receiver<anyhow::Error>,
}

impl Servers {
    /// Starts them. An address that cannot be had is tried again, and stops nothing (HLT-8), unless
    /// [`Options::hard_fail`] says otherwise.
    ///
    /// # Errors
    /// The machine has no room for a thread.
    pub fn start(options: Options, board: Arc<Board>, recorder: Arc<Recorder>) -> Result<Servers> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start the runtime of the servers")?;
        let (end, ended) = oneshot::channel();
        let (fail, failed) = mpsc::channel(1);
        let run = move || {
            runtime.block_on(async {
                spawn(options, board, recorder, &fail);
                // Ends also when the other side is gone.
                let _ = ended.await;
            });
        };
        let thread = std::thread::Builder::new().name("serve".into()).spawn(run);
        let thread = Some(thread.context("start the thread of the servers")?);
        Ok(Servers { end: Some(end), thread, failed })
    }

    /// Waits until a server fails for good, which none does without [`Options::hard_fail`].
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.failed.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It panics only where a handler did, which its own message has told of.
            let _ = thread.join();
        }
    }
}

/// Starts every server as a task of this runtime.
fn spawn(options: Options, board: Arc<Board>, recorder: Arc<Recorder>, fail: &mpsc::Sender<anyhow::Error>) {
    let Options { metrics, health, hard_fail, bpf_root, node, node_port_networks, mode, configz, tally } =
        options;
    let serve = |addr: Option<SocketAddr>, what, flag, site: Site, failure: fn(&str, String) -> Event| {
        let Some(addr) = addr else { return };
        let (fail, recorder, node) = (fail.clone(), recorder.clone(), node.clone());
        tokio::spawn(async move {
            let error = listen(Place { what, flag, addr, hard_fail }, site).await;
            recorder.record(failure(&node, format!("{error:#}")));
            // If nobody waits for it, the agent is ending anyway.
            let _ = fail.send(error).await;
        });
    };
    let site = Arc::new(metrics::Site { bpf_root, board: board.clone(), mode, configz, tally });
    serve(metrics, "metrics", "--metrics-bind-address", site, |node, note| {
        Event::server_failed(node, true, note)
    });
    let site = Arc::new(health::Site::new(board.clone()));
    serve(health, "health", "--healthz-bind-address", site, |node, note| {
        Event::server_failed(node, false, note)
    });
    board.listen_in(node_port_networks);
    tokio::spawn(node_ports::follow(Ports { board, recorder, node }));
}
