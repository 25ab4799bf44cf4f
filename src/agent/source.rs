//! Where events come from, as one thing to wait for.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout, timeout_at};

use crate::cluster::api::{ApiSource, Pace};
use crate::cluster::client::{Door, Roots, Tally};
use crate::cluster::dir::DirSource;
use crate::cluster::events::Recorder;
use crate::cluster::manifest::FileProblem;
use crate::config::{self, Config};
use crate::model::event::Event;

/// So long an agent waits for an API server's first lists before it opens the data path: with them it
/// makes the tables in the size they need. Without them it goes on all the same.
const FIRST_LISTS: Duration = Duration::from_secs(5);

/// So long an agent that ends by itself waits for its last event to be posted.
const FAREWELL: Duration = Duration::from_secs(1);

/// A source that is followed.
#[derive(Debug)]
pub enum Source {
    /// A file or directory of manifests.
    Manifests(AsyncFd<DirSource>),
    /// An API server.
    Cluster(ApiSource),
}

impl Source {
    /// Opens the source; what it has to say at once, or very soon, comes with it.
    ///
    /// # Errors
    /// It cannot be followed.
    pub async fn open(config: &Config) -> Result<(Source, Vec<Event>)> {
        match &config.source {
            config::Source::Manifests(path) => {
                let mut source = DirSource::open(path)?;
                let events = source.start()?;
                Ok((Source::Manifests(wait_for(source)?), events))
            }
            config::Source::Cluster(cluster) => {
                let door = Door::open(cluster, &Roots::of_machine())?;
                let seed = RandomState::new().hash_one(&config.node_name);
                let mut source = ApiSource::open(door, &config.node_name, Pace::default(), seed);
                let events = first_lists(&mut source).await;
                Ok((Source::Cluster(source), events))
            }
        }
    }

    /// Where events for people go: to the API server, if there is one.
    pub fn recorder(&self, host: &str) -> Recorder {
        match self {
            Source::Manifests(_) => Recorder::nobody(),
            Source::Cluster(api) => api.recorder(host),
        }
    }

    /// Waits until the events so far have reached the API server, or a second has passed.
    pub async fn posted(&self) {
        if let Source::Cluster(api) = self {
            let _ = timeout(FAREWELL, api.posted()).await;
        }
    }

    /// Requests to the API server, if there is one.
    pub fn tally(&self) -> Option<Arc<Tally>> {
        match self {
            Source::Manifests(_) => None,
            Source::Cluster(api) => Some(api.tally()),
        }
    }

    /// Waits for the next change. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The source cannot be followed; [`rescan`](Self::rescan) reads it anew.
    pub async fn next(&mut self) -> Result<Vec<Event>> {
        match self {
            Source::Manifests(dir) => {
                let mut guard = dir.readable_mut().await.context("wait for a descriptor")?;
                guard.clear_ready();
                guard.get_inner_mut().poll()
            }
            Source::Cluster(api) => Ok(api.next().await),
        }
    }

    /// Reads everything anew, after [`next`](Self::next) failed.
    ///
    /// # Errors
    /// The source still cannot be followed.
    pub fn rescan(&mut self) -> Result<Vec<Event>> {
        match self {
            Source::Manifests(dir) => dir.get_mut().rescan(),
            // It never fails: it lists anew by itself.
            Source::Cluster(_) => Ok(Vec::new()),
        }
    }

    /// Everything that is wrong with the source and its objects now.
    pub fn problems(&self) -> Vec<FileProblem> {
        match self {
            Source::Manifests(dir) => dir.get_ref().problems(),
            Source::Cluster(api) => api.problems(),
        }
    }
}

/// What an API server says until its first lists are complete, or something is wrong with it.
async fn first_lists(source: &mut ApiSource) -> Vec<Event> {
    let (deadline, mut events) = (Instant::now() + FIRST_LISTS, Vec::new());
    while !source.is_synced() && !source.is_troubled() {
        match timeout_at(deadline, source.next()).await {
            Ok(more) => events.extend(more),
            Err(_) => break,
        }
    }
    events
}

/// A source whose descriptor the runtime waits for.
#[expect(
    deprecated,
    reason = "its successor needs a promise only host and datapath may make; ours keep their descriptors"
)]
pub(super) fn wait_for<T: AsRawFd>(source: T) -> Result<AsyncFd<T>> {
    AsyncFd::with_interest(source, Interest::READABLE).context("wait for a descriptor")
}
