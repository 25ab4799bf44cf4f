//! A real program as a child of the test: its words go to a file, and it ends with the test.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use beeline::host::netns::with_netns;
use beeline::host::process::{self, Place};

/// A running program. Killed on drop.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a network namespace, or in ours.
    pub fn start(
        program: &Path,
        arguments: &[String],
        netns: Option<&OwnedFd>,
        log: PathBuf,
    ) -> Result<Process> {
        let file = File::options().create(true).append(true).open(&log).context("make a log")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let netns = netns.map(OwnedFd::try_clone).transpose()?;
        let child = process::spawn(command, Place { netns, cgroups: Vec::new() })?;
        Ok(Process { child, log })
    }

    /// Fails if it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("it ended: {status}\n{}", self.tail()),
        }
    }

    /// The end of what it said.
    pub fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs something in a network namespace, or here.
pub(crate) fn inside<T: Send>(netns: Option<&OwnedFd>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    match netns {
        Some(netns) => with_netns(netns.as_fd(), work),
        None => work(),
    }
}

/// Free ports of an address there.
pub(crate) fn free_ports<const N: usize>(netns: Option<&OwnedFd>, at: [u8; 4]) -> Result<[SocketAddr; N]> {
    inside(netns, || {
        let listeners: Vec<TcpListener> = (0..N)
            .map(|_| TcpListener::bind((std::net::IpAddr::from(at), 0)))
            .collect::<std::io::Result<_>>()?;
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?;
        Ok(addresses.try_into().expect("as many as were asked for"))
    })
}
