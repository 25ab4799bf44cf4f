//! An agent in a sandbox: `beeline run` as a child process in its node's namespace.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::tidy::{Estate, Made};
use crate::host::process::{self, Place, ProcessId};
use crate::host::{cgroup, memory};

/// How long an agent may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an agent may take to end after SIGTERM.
const FAREWELL: Duration = Duration::from_secs(10);
/// So much of a log is shown when something fails, in lines.
const TAIL: usize = 40;

/// How an agent is started.
#[derive(Debug)]
pub(super) struct AgentSpec {
    pub estate: Arc<Estate>,
    pub binary: PathBuf,
    pub node: String,
    pub node_ips: Vec<IpAddr>,
    pub netns: OwnedFd,
    pub cgroup_root: PathBuf,
    pub bpf_root: PathBuf,
    /// A cgroup of the v1 memory controller, where the machine has that.
    pub memory_group: Option<PathBuf>,
    /// The flag that names its source, and the value.
    pub source: [String; 2],
    pub extra: Vec<String>,
}

/// A running agent. Killed on drop, which leaves its data path in place until the sandbox goes.
#[must_use = "an agent is killed when it is dropped"]
#[derive(Debug)]
pub struct Agent {
    spec: AgentSpec,
    running: Option<Running>,
    log: PathBuf,
}

#[derive(Debug)]
struct Running {
    child: Child,
    id: ProcessId,
}

impl Agent {
    pub(super) fn start(spec: AgentSpec) -> Result<Self> {
        let log = spec.estate.dir().join(format!("agent-{}.log", spec.node));
        let mut agent = Self { spec, running: None, log };
        agent.launch()?;
        Ok(agent)
    }

    /// The process id.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self
            .running
            .as_ref()
            .with_context(|| format!("the agent of {} does not run", self.spec.node))?
            .id
            .pid)
    }

    /// All that it has written to stdout and stderr, restarts included.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))
    }

    /// What the kernel charges the agent with, in bytes: its own memory and that of the BPF maps it made,
    /// also of agents before it on this node.
    ///
    /// # Errors
    /// No memory controller is on for the agent's cgroup.
    pub fn memory_charged(&self) -> Result<u64> {
        let v2 = || self.spec.cgroup_root.join("agent");
        memory::charged(&self.spec.memory_group.clone().unwrap_or_else(v2))
    }

    /// Whether the process is there.
    pub fn runs(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.id.alive())
    }

    /// Ends it with SIGTERM, as Kubernetes does; the data path stays.
    ///
    /// # Errors
    /// It does not end in ten seconds.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let Some(mut running) = self.running.take() else {
            bail!("the agent of {} does not run", self.spec.node);
        };
        running.id.signal(libc::SIGTERM)?;
        let deadline = Instant::now() + FAREWELL;
        loop {
            if let Some(status) = running.child.try_wait().context("wait for the agent")? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.running = Some(running);
                bail!("the agent of {} does not end after SIGTERM\n{}", self.spec.node, self.tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it with SIGKILL; the data path stays.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.child.kill().context("kill the agent")?;
            running.child.wait().context("wait for the agent")?;
        }
        Ok(())
    }

    /// Starts it again, after it was stopped or killed, and waits until it is ready.
    ///
    /// # Errors
    /// It still runs, or does not get ready.
    pub fn restart(&mut self) -> Result<()> {
        if self.runs() {
            bail!("the agent of {} runs already", self.spec.node);
        }
        self.launch()
    }

    /// The same without waiting until it is ready.
    ///
    /// # Errors
    /// It still runs, or cannot be started.
    pub fn restart_without_waiting(&mut self) -> Result<()> {
        if self.runs() {
            bail!("the agent of {} runs already", self.spec.node);
        }
        self.spawn().map(drop)
    }

    fn launch(&mut self) -> Result<()> {
        let said = self.spawn()?;
        self.await_ready(&said)
    }

    /// Starts the process; what is returned hears when it is ready.
    fn spawn(&mut self) -> Result<Receiver<()>> {
        let spec = &self.spec;
        let mut cgroups = vec![spec.cgroup_root.join("agent")];
        cgroups.extend(spec.memory_group.clone());
        cgroups.iter().try_for_each(|path| cgroup::create(path))?;
        let place = Place { netns: Some(spec.netns.try_clone()?), cgroups };
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("create {}", self.log.display()))?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let mut child = process::spawn(command, place)?;
        let id = ProcessId::of(child.id())?;
        let stdout = child.stdout.take().context("the agent has no stdout")?;
        self.running = Some(Running { child, id });
        self.spec.estate.note(Made::Process(id))?;
        let (ready, said) = channel();
        std::thread::spawn(move || follow(stdout, log, &ready));
        Ok(said)
    }

    fn command(&self) -> Command {
        let spec = &self.spec;
        let ips: Vec<String> = spec.node_ips.iter().map(ToString::to_string).collect();
        let mut command = Command::new(&spec.binary);
        command.arg("run").args(&spec.source);
        command.args(["--node-name", &spec.node, "--node-ip", &ips.join(",")]);
        command.arg("--cgroup-root").arg(&spec.cgroup_root).arg("--bpf-root").arg(&spec.bpf_root);
        command.args(&spec.extra);
        command
    }

    fn await_ready(&mut self, ready: &Receiver<()>) -> Result<()> {
        let failed = match ready.recv_timeout(PATIENCE) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                format!("is not ready after {} s", PATIENCE.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.running.as_mut().and_then(|running| running.child.wait().ok());
                format!("ended before it was ready: {}", status.map_or("?".into(), |s| s.to_string()))
            }
        };
        self.kill()?;
        bail!("the agent of {} {failed}; the end of its log:\n{}", self.spec.node, self.tail())
    }

    /// The last lines of the log.
    fn tail(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
        if std::thread::panicking() {
            eprintln!("the end of the log of the agent of {}:\n{}", self.spec.node, self.tail());
        }
    }
}

/// Copies stdout to the log and says when the line `ready` comes.
fn follow(stdout: ChildStdout, mut log: File, ready: &Sender<()>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        writeln!(log, "{line}").ok();
        if line.trim() == "ready" {
            ready.send(()).ok();
        }
    }
}
