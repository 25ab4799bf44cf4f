//! The configuration file, followed: another text is a reason to end (SYNC-16).

use anyhow::{Context, Result, bail};
use tokio::io::unix::AsyncFd;

use super::source::wait_for;
use crate::cluster::dir::file::FileWatch;
use crate::config::Config;

/// The file that the configuration came from, if it came from one.
pub(super) struct ConfigWatch(Option<AsyncFd<FileWatch>>);

impl ConfigWatch {
    /// Watches the file.
    ///
    /// # Errors
    /// It cannot be followed, or it holds another text already.
    pub(super) fn open(config: &Config) -> Result<ConfigWatch> {
        let Some(file) = &config.file else { return Ok(ConfigWatch(None)) };
        let watch = FileWatch::open(&file.path, &file.text)
            .with_context(|| format!("follow the configuration {}", file.path.display()))?;
        let mut watch = wait_for(watch)?;
        unchanged(watch.get_mut())?;
        Ok(ConfigWatch(Some(watch)))
    }

    /// Waits until something happens to the file; forever without one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// It holds another text now: a new start is needed.
    pub(super) async fn changed(&mut self) -> Result<()> {
        let Some(file) = &mut self.0 else { return std::future::pending().await };
        let mut guard = file.readable_mut().await.context("wait for inotify")?;
        guard.clear_ready();
        unchanged(guard.get_inner_mut())
    }
}

fn unchanged(file: &mut FileWatch) -> Result<()> {
    let path = file.path().display().to_string();
    match file.changed() {
        Ok(false) => Ok(()),
        Ok(true) => bail!(
            "the configuration {path} changed: ending, so that a new start takes it; the data path stays in place"
        ),
        Err(error) => {
            tracing::warn!("changes of the configuration {path} may go unseen: {error:#}");
            Ok(())
        }
    }
}
