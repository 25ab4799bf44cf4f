//! The wiring of an agent: a source, the [`Reconciler`], the data path, signals and the clock.
//!
//! One thread, no locks: an event of the source is read, planned and written before the next. Between
//! events the process sleeps until something is due.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::care::Care;
use super::config_file::ConfigWatch;
use super::interfaces::Interfaces;
use super::pace::Pace;
use super::privilege;
use super::reconcile::{Identity, Outcome, Reconciler, size_for};
use super::report::Report;
use super::serving::{changes, serving};
use super::setup;
use super::source::Source;
use super::this_node::ThisNode;
use crate::cluster::events;
use crate::config::{self, Config};
use crate::datapath::{Datapath, Options, SMALLEST, kernel};
use crate::host::{cgroup, memory};
use crate::model::event::Event;
use crate::plan::book::Book;
use crate::plan::health::is_eligible;
use crate::plan::table::{Limits, NetnsClass, Settings, Tables};
use crate::plan::world::World;
use crate::serve::Servers;
use crate::serve::board::{Board, Sync};

/// After a growth was refused, the next attempt waits this long.
const GROW_AGAIN: Duration = Duration::from_secs(60);

/// After the source could not be followed, it is read anew after this long.
const REREAD: Duration = Duration::from_secs(2);

/// Runs an agent until SIGTERM or SIGINT, which leave the data path in place (SYNC-9). Calls `ready`
/// once the first complete state is programmed.
///
/// # Errors
/// A privilege is missing ([`privilege::Missing`]), another agent holds the tables, or the kernel
/// refuses the programs or the maps; or the configuration changed, and a new start is needed (SYNC-16).
/// Trouble with objects and rows is reported, never an error.
pub fn run(config: &Config, ready: impl FnOnce()) -> Result<()> {
    privilege::check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(async {
        let mut signals = Signals::new()?;
        // Until the first lists are there, too: nothing has been touched by then.
        let agent = tokio::select! {
            name = signals.next() => return stopping(name),
            agent = Agent::start(config) => agent?,
        };
        agent.serve(signals, ready).await
    })
}

/// The good end.
fn stopping(signal: &str) -> Result<()> {
    tracing::info!("{signal}: stopping; the data path stays in place");
    Ok(())
}

/// What ends an agent.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let catch = |kind| signal(kind).context("catch signals");
        Ok(Signals { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    /// Waits for one, and says which.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

struct Agent {
    /// Metrics and health, on a thread of their own.
    servers: Servers,
    board: Arc<Board>,
    source: Source,
    config_file: ConfigWatch,
    /// A Node object may be missing: the source is a directory (DEC-6).
    may_lack_node: bool,
    /// Dropped before the data path's lock: the state file is then not the next agent's yet.
    report: Report,
    reconciler: Reconciler<Datapath>,
    node: ThisNode,
    interfaces: Interfaces,
    pace: Pace,
    /// The zero of the planner's clock.
    epoch: Instant,
    wake: Option<Duration>,
    /// No growth is tried before.
    grow_after: Duration,
    /// The source could not be followed: it is read anew then.
    reread: Option<Duration>,
    /// When the data path is looked after; not before it is published.
    care: Option<Care>,
    /// Changes wait to be written then (SYNC-4).
    sync_at: Option<Duration>,
}

impl Agent {
    /// Reads the source once, and opens the data path in the size that it needs.
    async fn start(config: &Config) -> Result<Agent> {
        let epoch = Instant::now();
        setup::oom_score(config);
        let config_file = ConfigWatch::open(config)?;
        let mut world = World::new();
        let interfaces = Interfaces::open()?;
        let mut node = ThisNode::new(config, interfaces.addresses().to_vec());
        let (source, mut events) = Source::open(config).await?;
        node.see(&mut events)?;
        world.apply(Event::Host(Box::new(node.host())));
        let board = Arc::new(Board::new(epoch, config.late));
        let (services, slices) = changes(&events);
        board.told().kube_proxy.changed(services, slices, true);
        events.into_iter().for_each(|event| world.apply(event));
        let (datapath, book) = open(config, size_for(&world, SMALLEST))?;
        let reconciler = Reconciler::new(world, book, datapath, identity(config));
        // kube-proxy reports as what the machine calls itself, whatever the node is called.
        let host = nix::unistd::gethostname().context("read the host name")?;
        let recorder = Arc::new(source.recorder(&host.to_string_lossy()));
        tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %config.node_name, "starting");
        recorder.record(events::Event::starting(&config.node_name));
        let options = serving(config, node.listening(), &source);
        Ok(Agent {
            servers: Servers::start(options, board.clone(), recorder.clone())?,
            source,
            config_file,
            may_lack_node: matches!(config.source, config::Source::Manifests(_)),
            report: Report::new(config, setup::sysctls(config), board.clone(), recorder)?,
            reconciler,
            node,
            interfaces,
            board,
            pace: Pace::new(config.min_sync_period),
            epoch,
            wake: None,
            grow_after: Duration::ZERO,
            reread: None,
            care: None,
            sync_at: None,
        })
    }

    async fn serve(mut self, mut signals: Signals, ready: impl FnOnce()) -> Result<()> {
        let mut ready = Some(ready);
        self.step(Vec::new(), &mut ready)?;
        loop {
            let care = self.care.as_ref().map(Care::due);
            let due =
                [self.wake, self.reread, self.sync_at, self.node.due(), care].into_iter().flatten().min();
            let due = due.map(|due| tokio::time::Instant::from_std(self.epoch + due));
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                name = signals.next() => return stopping(name),
                changed = self.config_file.changed() => changed?,
                error = self.servers.failed() => {
                    self.source.posted().await;
                    return Err(error.context("bindAddressHardFail is set"));
                }
                seen = self.source.next() => self.follow(seen, &mut ready)?,
                addresses = self.interfaces.changed() => {
                    let event = self.node.interfaces(addresses);
                    self.board.interfaces_changed();
                    self.follow(Ok(vec![event]), &mut ready)?;
                }
                () = sleep => self.be_on_time(&mut ready)?,
            }
        }
    }

    /// Takes in what the source has seen. One that cannot be followed leaves the tables as they are, and is read
    /// anew after a while.
    fn follow(&mut self, seen: Result<Vec<Event>>, ready: &mut Option<impl FnOnce()>) -> Result<()> {
        match seen {
            Ok(mut events) => {
                self.node.see(&mut events)?;
                self.board.listen_in(self.node.listening().networks());
                self.step(events, ready)
            }
            Err(error) => {
                let seconds = REREAD.as_secs();
                tracing::error!(
                    "the source cannot be followed; the tables stay as they are, and all is read anew in \
                     {seconds} s: {error:#}"
                );
                self.reread = Some(self.now() + REREAD);
                Ok(())
            }
        }
    }

    /// Does what the clock says is due.
    fn be_on_time(&mut self, ready: &mut Option<impl FnOnce()>) -> Result<()> {
        if self.reread.is_some_and(|due| due <= self.now()) {
            self.reread = None;
            let seen = self.source.rescan();
            return self.follow(seen, ready);
        }
        self.node.check(self.now())?;
        if self.sync_at.is_some_and(|due| due <= self.now()) {
            return self.sync(ready);
        }
        let now = self.now();
        if let Some(cared) = self.care.as_mut().and_then(|care| care.look(&mut self.reconciler, now)) {
            self.report.cared(&cared);
            if let Some(outcome) = cared.outcome {
                self.settle(outcome, None);
            }
        }
        let outcome = self.reconciler.maintain(now);
        self.settle(outcome, None);
        Ok(())
    }

    /// Takes events in, and writes what they change as soon as the pace allows it.
    fn step(&mut self, events: Vec<Event>, ready: &mut Option<impl FnOnce()>) -> Result<()> {
        let is_large = events.len() > 1000;
        let (services, slices) = changes(&events);
        let is_changed = self.reconciler.absorb(events);
        let eligible = is_eligible(self.reconciler.world().node(), self.may_lack_node);
        let mut told = self.board.told();
        let was_eligible = std::mem::replace(&mut told.is_eligible, eligible);
        told.kube_proxy.changed(services, slices, is_changed);
        if is_changed {
            told.queued(self.board.now());
        }
        drop(told);
        if eligible != was_eligible {
            self.report.eligible(eligible);
        }
        let due = self.pace.due(self.now());
        if is_changed && due > self.now() {
            self.sync_at = Some(due);
            self.report.source(self.source.problems());
        } else {
            self.sync(ready)?;
        }
        if is_large {
            memory::trim();
        }
        Ok(())
    }

    /// Writes what has changed, and follows up on it.
    fn sync(&mut self, ready: &mut Option<impl FnOnce()>) -> Result<()> {
        self.sync_at = None;
        let started = self.now();
        let mut outcome = self.reconciler.sync(started);
        let (is_first, touched) = (outcome.is_first, outcome.touched);
        let took = self.now().saturating_sub(started);
        self.board.told().kube_proxy.none_pending();
        let behind = self.reconciler.is_behind();
        let sync =
            (is_first || touched != [false; 2]).then_some(Sync { is_full: is_first, took, touched, behind });
        if is_first {
            // First all that fits, then the programs, then everybody is told that this node serves (HC-11).
            self.fit(&mut outcome);
            self.reconciler.tables().publish()?;
        }
        self.settle(outcome, sync);
        if sync.is_some() {
            self.pace.ended(self.now());
        }
        if is_first {
            self.care = Some(Care::new(self.now()));
            self.report.synced(&self.reconciler);
            if let Some(ready) = ready.take() {
                ready();
            }
        }
        if is_first {
            memory::trim();
        }
        Ok(())
    }

    /// Grows the tables where they should, and reports what changed: first metrics and health, then the
    /// answers of health check node ports (SYNC-7).
    fn settle(&mut self, mut outcome: Outcome, sync: Option<Sync>) {
        self.fit(&mut outcome);
        self.wake = outcome.wake;
        let effects = std::mem::take(&mut outcome.effects);
        self.report.effects(&effects);
        self.board.follow(sync, self.reconciler.is_behind(), effects);
        self.board.waiting(self.reconciler.waiting());
        self.report.step(&outcome, self.source.problems(), &self.reconciler);
    }

    /// Grows the tables if they should, and writes what then fits.
    fn fit(&mut self, outcome: &mut Outcome) {
        let Some(limits) = outcome.grow.take().filter(|_| self.now() >= self.grow_after) else { return };
        if !self.grow(limits) {
            self.grow_after = self.now() + GROW_AGAIN;
            return;
        }
        let retried = self.reconciler.maintain(self.now());
        outcome.written.extend(retried.written);
        outcome.failed = retried.failed;
        outcome.effects.extend(retried.effects);
        outcome.wake = retried.wake;
    }

    fn grow(&mut self, limits: Limits) -> bool {
        let before = Tables::limits(self.reconciler.tables());
        let grown = self.reconciler.tables().grow(limits);
        self.report.grown(limits, &grown);
        // What fails after the flip leaves the larger tables in place.
        if Tables::limits(self.reconciler.tables()) != before {
            self.reconciler.resized();
        }
        grown.is_ok()
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}

/// Opens the data path, and finds out what its tables hold.
fn open(config: &Config, limits: Limits) -> Result<(Datapath, Book)> {
    let datapath =
        Datapath::open(&Options { limits, ..Options::new(&cgroup_root(config)?, &config.bpf_root) })?;
    let limits = Tables::limits(&datapath);
    if datapath.is_fresh() {
        return Ok((datapath, Book::new(limits).born(seconds())));
    }
    let rows = datapath.reader()?.rows().context("read the tables that an earlier agent wrote")?;
    tracing::info!(services = rows.names.len(), "took over the tables of an earlier agent");
    Ok((datapath, Book::recover(&rows, limits)))
}

/// Seconds since the epoch, as far as 32 bits hold them.
fn seconds() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() as u32
}

/// The cgroup the programs are attached to: as configured, else the cgroup v2 root.
fn cgroup_root(config: &Config) -> Result<PathBuf> {
    match &config.cgroup_root {
        Some(root) => Ok(root.clone()),
        None => cgroup::root().context("find the cgroup v2 root (or name it with --cgroup-root)"),
    }
}

/// Who writes the tables, and the namespace that counts as the host's (DEC-4).
fn identity(config: &Config) -> Identity {
    let cookie = cgroup_root(config).and_then(|root| kernel::own_netns_cookie(&root));
    if let Err(error) = &cookie {
        tracing::warn!("host processes are taken for pods, which differ only where DEC-4 says so: {error:#}");
    }
    Identity {
        settings: Settings {
            version: env!("CARGO_PKG_VERSION").into(),
            source_kind: config.source.kind().into(),
            source: config.source.place().into(),
            ..Settings::default()
        },
        netns: cookie.map(|cookie| (cookie, NetnsClass::Host)).into_iter().collect(),
    }
}
