//! HTTP: metrics. On a thread of its own with a runtime of its own, so that no answer and no scrape ever holds
//! up a change of the tables, nor the other way round.
//!
//! The pinned maps are read through `inspect` when somebody asks; what only the agent knows it pins to the
//! [`board`].

pub mod board;
pub mod http;
pub mod metrics;
pub mod text;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use self::board::Board;
use self::http::{Place, Site, listen};

/// What is served, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The metrics port (HLT-9); `None`: no such server.
    pub metrics: Option<SocketAddr>,
    /// The bpffs whose tables are shown.
    pub bpf_root: PathBuf,
}

/// The servers. They end when it is dropped.
#[derive(Debug)]
pub struct Servers {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Starts them. An address that cannot be had is tried again, and stops nothing (HLT-8).
    ///
    /// # Errors
    /// The machine has no room for a thread.
    pub fn start(options: Options, board: Arc<Board>) -> Result<Servers> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start the runtime of the servers")?;
        let (end, ended) = oneshot::channel();
        let run = move || {
            runtime.block_on(async {
                if let Some(addr) = options.metrics {
                    let place = Place { what: "metrics", flag: "--metrics-bind-address", addr };
                    let site: Site = Arc::new(metrics::Site::new(options.bpf_root, board));
                    tokio::spawn(listen(place, site));
                }
                // Ends also when the other side is gone.
                let _ = ended.await;
            });
        };
        let thread = std::thread::Builder::new().name("serve".into()).spawn(run);
        Ok(Servers { end: Some(end), thread: Some(thread.context("start the thread of the servers")?) })
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
