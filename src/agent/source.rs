//! Where events come from, as one thing to wait for.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cluster::dir::DirSource;
use crate::cluster::manifest::FileProblem;
use crate::config;
use crate::model::event::Event;

/// A source that is followed.
#[derive(Debug)]
pub enum Source {
    /// A file or directory of manifests.
    Manifests(AsyncFd<DirSource>),
}

impl Source {
    /// Opens the source; what it has to say at once comes with it.
    ///
    /// # Errors
    /// It cannot be followed.
    pub fn open(config: &config::Source) -> Result<(Source, Vec<Event>)> {
        match config {
            config::Source::Manifests(path) => {
                let mut source = DirSource::open(path)?;
                let events = source.start()?;
                Ok((Source::Manifests(wait_for(source)?), events))
            }
            config::Source::Cluster(_) => bail!("this build cannot follow an API server"),
        }
    }

    /// Waits for the next change. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The source cannot be followed; [`rescan`](Self::rescan) reads it anew.
    pub async fn next(&mut self) -> Result<Vec<Event>> {
        match self {
            Source::Manifests(dir) => {
                let mut guard = dir.readable_mut().await.context("wait for inotify")?;
                guard.clear_ready();
                guard.get_inner_mut().poll()
            }
        }
    }

    /// Reads everything anew, after [`next`](Self::next) failed.
    ///
    /// # Errors
    /// The source still cannot be followed.
    pub fn rescan(&mut self) -> Result<Vec<Event>> {
        match self {
            Source::Manifests(dir) => dir.get_mut().rescan(),
        }
    }

    /// Everything that is wrong with the source and its objects now.
    pub fn problems(&self) -> Vec<FileProblem> {
        match self {
            Source::Manifests(dir) => dir.get_ref().problems(),
        }
    }
}

/// A source whose descriptor the runtime waits for.
#[expect(
    deprecated,
    reason = "its successor needs a promise only host and datapath may make; ours keep their descriptors"
)]
pub(super) fn wait_for<T: AsRawFd>(source: T) -> Result<AsyncFd<T>> {
    AsyncFd::with_interest(source, Interest::READABLE).context("wait for inotify")
}
