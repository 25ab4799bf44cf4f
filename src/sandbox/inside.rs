//! The inside of a pod: `beeline pod` reads requests from stdin and writes replies to stdout until
//! stdin ends.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use serde_json::Value;

use super::load::{self, Load, LoadReport};
use super::proto::{Call, HelloReport, Protocol, Reply, Request};
use crate::host::netns;

mod dial;
mod exchange;
mod server;
mod sockets;
mod tcp_server;
mod watch;

use server::Server;
use sockets::OpenSocket;

/// What a pod keeps between requests.
struct Pod {
    name: String,
    servers: Mutex<HashMap<(Protocol, u16), Server>>,
    sockets: Mutex<HashMap<String, Arc<OpenSocket>>>,
    loads: Mutex<HashMap<String, Load>>,
}

/// Serves the pod protocol as the pod called `name`, until stdin ends or the pod is told to exit. Each
/// request has a thread of its own, so a slow one holds up no other.
///
/// # Errors
/// stdin cannot be read.
pub fn run(name: &str) -> Result<()> {
    let pod = Arc::new(Pod {
        name: name.to_owned(),
        servers: Mutex::default(),
        sockets: Mutex::default(),
        loads: Mutex::default(),
    });
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read a request from stdin")?;
        let call: Call = match serde_json::from_str(&line) {
            Ok(call) => call,
            Err(error) => {
                eprintln!("pod {name}: not a request: {error}: {line}");
                continue;
            }
        };
        let last = matches!(call.request, Request::Exit(_));
        let pod = pod.clone();
        let worker = std::thread::spawn(move || reply(call.id, handle(&pod, call.request)));
        if last {
            worker.join().ok();
            break;
        }
    }
    Ok(())
}

/// The table of verbs.
fn handle(pod: &Pod, request: Request) -> Result<Value> {
    match request {
        Request::Hello(_) => json(hello(pod)?),
        Request::Serve(serve) => json(server::serve(pod, &serve)?),
        Request::CloseServer(close) => json(server::close(pod, &close)?),
        Request::Dial(dial) => json(dial::dial(&dial)),
        Request::DialUntil(until) => json(dial::dial_until(&until)),
        Request::Watch(watch) => json(watch::watch(&watch)),
        Request::Exchange(exchange) => json(exchange::exchange(&exchange)),
        Request::Open(open) => json(sockets::open(pod, &open)?),
        Request::Reconnect(reconnect) => json(sockets::reconnect(pod, &reconnect)?),
        Request::Send(send) => json(sockets::send(pod, &send)?),
        Request::Receive(receive) => json(sockets::receive(pod, &receive)?),
        Request::PeerName(peer) => json(sockets::peer_name(pod, &peer)?),
        Request::Close(close) => json(sockets::close(pod, &close)?),
        Request::RunLoad(run) => json(load::run(&run.load)?),
        Request::StartLoad(start) => json(start_load(pod, start.name, Load::start(&start.load)?)?),
        Request::Counters(which) => json(counters(pod, &which.name)?),
        Request::StopLoad(stop) => json(stop_load(pod, &stop.name)?),
        Request::RunPairs(run) => json(load::run_pairs(&run.pairs)?),
        Request::Exit(_) => json(()),
    }
}

fn hello(pod: &Pod) -> Result<HelloReport> {
    let netns = netns::inode(std::os::fd::AsFd::as_fd(&netns::current()?))?;
    Ok(HelloReport { name: pod.name.clone(), pid: std::process::id(), netns })
}

fn start_load(pod: &Pod, name: String, load: Load) -> Result<()> {
    match lock(&pod.loads).insert(name.clone(), load) {
        None => Ok(()),
        Some(_) => Err(anyhow!("the load called {name:?} was running and has been replaced")),
    }
}

fn counters(pod: &Pod, name: &str) -> Result<LoadReport> {
    let loads = lock(&pod.loads);
    Ok(loads.get(name).with_context(|| format!("no load is called {name:?}"))?.report())
}

fn stop_load(pod: &Pod, name: &str) -> Result<LoadReport> {
    let load = lock(&pod.loads).remove(name).with_context(|| format!("no load is called {name:?}"))?;
    Ok(load.stop())
}

fn json(answer: impl Serialize) -> Result<Value> {
    serde_json::to_value(answer).context("write an answer as JSON")
}

fn reply(id: u64, outcome: Result<Value>) {
    let reply = match outcome {
        Ok(value) => Reply { id, ok: Some(value), error: None },
        Err(error) => Reply { id, ok: None, error: Some(format!("{error:#}")) },
    };
    let Ok(mut line) = serde_json::to_string(&reply) else {
        return;
    };
    line.push('\n');
    let mut out = std::io::stdout().lock();
    // Whoever asked may be gone; then stdin ends as well.
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).ok();
}

/// Locks, also when another thread panicked: what is inside is a plain collection.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
