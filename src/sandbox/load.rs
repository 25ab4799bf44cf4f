//! The one load generator, of demo, tests and benches: plain blocking calls, nothing allocated for a
//! connection, every outcome counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::histogram::{Histogram, Latency};
use super::proto::Protocol;

mod pairs;
mod worker;

pub use pairs::{PairReport, PairSpec, Round, Side, Slice, run_pairs};
use worker::Worker;

/// What one operation of the load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// TCP: connect, one byte each way, close. UDP: a socket, connect, one datagram each way, close.
    #[default]
    Connect,
    /// One byte each way on a connection that stays; a new one after an error.
    RequestResponse,
}

/// What the server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// One byte, answered by one byte. For measuring.
    #[default]
    Byte,
    /// Its name, so that [`LoadReport::backends`] is filled. Needs
    /// [`App::Identify`](super::proto::App::Identify).
    Name,
}

/// A load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadSpec {
    /// Where to, by turns.
    pub to: Vec<SocketAddr>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What one operation is.
    pub mode: Mode,
    /// What is asked.
    pub ask: Ask,
    /// Use IPv6 sockets for IPv4 addresses.
    pub mapped: bool,
    /// How many threads do it at the same time.
    pub threads: usize,
    /// Thread *i* stays on the *i*-th of these CPUs, by turns; empty: where the kernel likes.
    pub cpus: Vec<usize>,
    /// Ends after this many operations of all threads together.
    pub count: Option<u64>,
    /// Ends after this long. With neither it goes on until it is stopped.
    pub duration_ms: Option<u64>,
    /// The longest that one call may block. Costs two system calls for each socket.
    pub timeout_ms: Option<u64>,
    /// A pause after each operation, for load that is only to be there.
    pub pause_us: u64,
}

impl LoadSpec {
    /// TCP connections to one address by one thread, without an end.
    pub fn tcp(to: impl Into<SocketAddr>) -> Self {
        Self {
            to: vec![to.into()],
            protocol: Protocol::Tcp,
            mode: Mode::Connect,
            ask: Ask::Byte,
            mapped: false,
            threads: 1,
            cpus: Vec::new(),
            count: None,
            duration_ms: None,
            timeout_ms: None,
            pause_us: 0,
        }
    }

    /// UDP sockets to one address by one thread, without an end.
    pub fn udp(to: impl Into<SocketAddr>) -> Self {
        Self { protocol: Protocol::Udp, timeout_ms: Some(1000), ..Self::tcp(to) }
    }

    /// The same in another mode.
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// The same, asking backends for their names.
    pub fn ask_names(self) -> Self {
        Self { ask: Ask::Name, ..self }
    }

    /// The same by `threads` threads.
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// The same for a time.
    pub fn for_ms(self, duration_ms: u64) -> Self {
        Self { duration_ms: Some(duration_ms), ..self }
    }

    /// The same a number of times.
    pub fn times(self, count: u64) -> Self {
        Self { count: Some(count), ..self }
    }

    /// The same with a limit for each call.
    pub fn timeout_ms(self, limit: u64) -> Self {
        Self { timeout_ms: Some(limit), ..self }
    }
}

/// What a load did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Operations that went well.
    pub done: u64,
    /// Operations that failed, by the name of the error; `EOF`: the server closed without an answer.
    pub errors: BTreeMap<String, u64>,
    /// Operations that went well, by the backend that answered ([`Ask::Name`]).
    pub backends: BTreeMap<String, u64>,
    /// How long operations that went well took.
    pub latency: Latency,
    /// How long it all took, in microseconds.
    pub elapsed_us: u64,
    /// Operations that went well, per second.
    pub per_s: f64,
}

impl LoadReport {
    /// Operations that failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// What a thread has counted.
#[derive(Debug, Clone, Default)]
struct Tally {
    done: u64,
    latency: Histogram,
    /// Few backends answer, so a list is faster than a map, and finds without allocating.
    backends: Vec<(Box<[u8]>, u64)>,
    errors: Vec<(worker::Failure, u64)>,
}

/// Load in progress.
#[derive(Debug)]
pub struct Load {
    started: Instant,
    stop: Arc<AtomicBool>,
    tallies: Vec<Arc<Mutex<Tally>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the threads.
    ///
    /// # Errors
    /// The specification has no target or no thread, or a CPU that is not there.
    pub fn start(spec: &LoadSpec) -> Result<Self> {
        ensure!(!spec.to.is_empty(), "load needs at least one address to go to");
        ensure!(spec.threads > 0, "load needs at least one thread");
        let started = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let left = Arc::new(AtomicU64::new(spec.count.unwrap_or(u64::MAX)));
        let deadline = spec.duration_ms.map(|ms| started + Duration::from_millis(ms));
        let mut load = Self { started, stop: stop.clone(), tallies: Vec::new(), threads: Vec::new() };
        for number in 0..spec.threads {
            let cpu = (!spec.cpus.is_empty()).then(|| spec.cpus[number % spec.cpus.len()]);
            let set = cpu.map(cpu_set).transpose()?;
            let tally = Arc::new(Mutex::new(Tally::default()));
            load.tallies.push(tally.clone());
            let mut worker = Worker::new(spec, number, tally, stop.clone(), left.clone(), deadline);
            load.threads.push(std::thread::spawn(move || {
                if let Some(set) = set {
                    sched_setaffinity(Pid::from_raw(0), &set).ok();
                }
                worker.run();
            }));
        }
        Ok(load)
    }

    /// What was done so far.
    pub fn report(&self) -> LoadReport {
        self.report_after(self.started.elapsed())
    }

    /// Waits for the end the specification has.
    pub fn wait(mut self) -> LoadReport {
        self.join();
        self.report()
    }

    /// Ends it after the operation in progress.
    pub fn stop(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        self.wait()
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }

    fn report_after(&self, elapsed: Duration) -> LoadReport {
        let mut sum = Tally::default();
        let (mut backends, mut errors) = (BTreeMap::new(), BTreeMap::new());
        for tally in &self.tallies {
            let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            sum.done += tally.done;
            sum.latency.merge(&tally.latency);
            for (name, count) in &tally.backends {
                *backends.entry(String::from_utf8_lossy(name).into_owned()).or_default() += count;
            }
            for (failure, count) in &tally.errors {
                *errors.entry(failure.to_string()).or_default() += count;
            }
        }
        LoadReport {
            done: sum.done,
            errors,
            backends,
            latency: sum.latency.latency(),
            elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            per_s: sum.done as f64 / elapsed.as_secs_f64().max(1e-9),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

/// Runs a load to its end.
///
/// # Errors
/// See [`Load::start`]; a load without an end is refused.
pub fn run(spec: &LoadSpec) -> Result<LoadReport> {
    ensure!(
        spec.count.is_some() || spec.duration_ms.is_some(),
        "this load has no end: give it a count or a duration"
    );
    Ok(Load::start(spec)?.wait())
}

fn cpu_set(cpu: usize) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("there is no CPU {cpu}"))?;
    Ok(set)
}
