//! A pod as its owner sees it: a child process that is asked for things.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};

use super::proto::{Call, Hello, Reply, Verb};
use super::router::Pair;
use super::tidy::{Estate, Made};
use crate::host::netlink::{self, Netlink};
use crate::host::process::{self, Place, ProcessId};

/// A process in a network namespace and a cgroup of its own, with one IPv4 and one IPv6 address. Removed
/// on drop.
#[must_use = "a pod is removed when it is dropped"]
#[derive(Debug)]
pub struct Pod {
    name: String,
    addresses: Pair,
    netns: String,
    cgroup: PathBuf,
    estate: Arc<Estate>,
    made: Vec<Made>,
    plug: Option<Plug>,
    child: Child,
    line: Mutex<ChildStdin>,
    waiting: Arc<Waiting>,
    next: AtomicU64,
}

/// Who waits for which reply.
#[derive(Debug, Default)]
struct Waiting {
    /// `None` once the pod has ended.
    callers: Mutex<Option<HashMap<u64, Sender<Reply>>>>,
}

impl Waiting {
    fn callers(&self) -> MutexGuard<'_, Option<HashMap<u64, Sender<Reply>>>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The other end of a pod's uplink: deleted before anything else, so that the pod's addresses are free at
/// once (a namespace is taken down later, in the background).
#[derive(Debug)]
pub(super) struct Plug {
    pub netns: OwnedFd,
    pub link: String,
}

impl Plug {
    fn pull(&self) -> Result<()> {
        match Netlink::open_in(self.netns.as_fd())?.delete_link(&self.link) {
            Err(error) if netlink::is_missing(&error) => Ok(()),
            other => other,
        }
    }
}

/// What a pod is made of.
pub(super) struct Parts<'a> {
    pub name: &'a str,
    pub addresses: Pair,
    /// The name of its network namespace.
    pub netns: String,
    pub netns_fd: OwnedFd,
    /// The cgroup its process starts in.
    pub cgroup: PathBuf,
    /// What goes with the pod; the process is added.
    pub made: Vec<Made>,
    pub plug: Option<Plug>,
    pub binary: &'a Path,
}

/// A reply that is on its way.
#[must_use = "a request is carried out, but nobody looks at the answer"]
#[derive(Debug)]
pub struct Pending<V: Verb> {
    pod: String,
    verb: String,
    reply: Receiver<Reply>,
    answer: PhantomData<fn() -> V::Answer>,
}

impl<V: Verb> Pending<V> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// The pod could not do it, or has ended.
    pub fn wait(self) -> Result<V::Answer> {
        let what = || format!("pod {}: {}", self.pod, self.verb);
        let reply = self.reply.recv().context("the pod ended before it answered").with_context(what)?;
        match (reply.error, reply.ok) {
            (Some(error), _) => Err(anyhow!(error)).with_context(what),
            (None, ok) => serde_json::from_value(ok.unwrap_or_default())
                .context("the answer is of another kind")
                .with_context(what),
        }
    }
}

impl Pod {
    /// Starts the process and waits until it answers.
    pub(super) fn start(estate: &Arc<Estate>, parts: Parts<'_>) -> Result<Self> {
        let log = estate.dir().join(format!("pod-{}-{}.log", parts.addresses.v4, parts.name));
        let errors = std::fs::OpenOptions::new().create(true).append(true).open(&log);
        let errors = errors.with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(parts.binary);
        command.args(["pod", "--name", parts.name]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let place = Place { netns: Some(parts.netns_fd), cgroups: vec![parts.cgroup.clone()] };
        let mut child =
            process::spawn(command, place).with_context(|| format!("start pod {}", parts.name))?;
        let id = ProcessId::of(child.id())?;
        let mut made = parts.made;
        made.push(Made::Process(id));
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.context("a pod has no stdin or stdout")?;
        let waiting = Arc::new(Waiting { callers: Mutex::new(Some(HashMap::new())) });
        let deliver = waiting.clone();
        std::thread::spawn(move || read_replies(stdout, &deliver));
        let pod = Self {
            name: parts.name.to_owned(),
            addresses: parts.addresses,
            netns: parts.netns,
            cgroup: parts.cgroup,
            estate: estate.clone(),
            made,
            plug: parts.plug,
            child,
            line: Mutex::new(stdin),
            waiting,
            next: AtomicU64::new(1),
        };
        estate.note(Made::Process(id))?;
        let hello = pod.call(Hello {}).with_context(|| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            format!("pod {} does not start: {}", pod.name, said.trim())
        })?;
        if hello.name != pod.name {
            bail!("{} is no pod of this sandbox: it says it is {}", parts.binary.display(), hello.name);
        }
        Ok(pod)
    }

    /// Asks for something without waiting. Requests of one pod run at the same time.
    ///
    /// # Errors
    /// The pod has ended.
    pub fn begin<V: Verb>(&self, verb: V) -> Result<Pending<V>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let call = Call { id, request: verb.into() };
        let mut text = serde_json::to_string(&call).context("write a request as JSON")?;
        text.push('\n');
        let (sender, reply) = channel();
        self.waiting
            .callers()
            .as_mut()
            .with_context(|| format!("pod {} has ended", self.name))?
            .insert(id, sender);
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.write_all(text.as_bytes()).with_context(|| format!("pod {} has ended", self.name))?;
        Ok(Pending { pod: self.name.clone(), verb: text.trim_end().to_owned(), reply, answer: PhantomData })
    }

    /// Asks for something and waits for the answer.
    ///
    /// # Errors
    /// The pod could not do it, or has ended.
    pub fn call<V: Verb>(&self, verb: V) -> Result<V::Answer> {
        self.begin(verb)?.wait()
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The IPv4 address; of a host process, its node's.
    pub fn ip4(&self) -> IpAddr {
        IpAddr::V4(self.v4())
    }

    /// The IPv6 address; of a host process, its node's.
    pub fn ip6(&self) -> IpAddr {
        IpAddr::V6(self.v6())
    }

    /// The IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.addresses.v4
    }

    /// The IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.addresses.v6
    }

    /// Both addresses with a port, IPv4 first.
    pub fn at(&self, port: u16) -> [SocketAddr; 2] {
        [(self.ip4(), port).into(), (self.ip6(), port).into()]
    }

    /// The name of the network namespace, for `ip netns exec`.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// The cgroup the process was started in.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process; the addresses stay until the pod is dropped.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill pod {}", self.name))?;
        self.child.wait().with_context(|| format!("wait for pod {}", self.name))?;
        Ok(())
    }

    /// Removes the pod.
    ///
    /// # Errors
    /// Something of it cannot be removed.
    pub fn delete(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        let made = std::mem::take(&mut self.made);
        if made.is_empty() {
            return Ok(());
        }
        let pulled = self.plug.take().map_or(Ok(()), |plug| plug.pull());
        let undone = pulled.and(self.estate.undo(&made)).with_context(|| format!("remove pod {}", self.name));
        self.child.wait().with_context(|| format!("wait for pod {}", self.name))?;
        undone
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("{error:#}");
        }
    }
}

fn read_replies(stdout: ChildStdout, waiting: &Waiting) {
    for line in BufReader::new(stdout).lines() {
        let Ok(reply) =
            line.map_err(anyhow::Error::from).and_then(|l| Ok(serde_json::from_str::<Reply>(&l)?))
        else {
            break;
        };
        let caller = waiting.callers().as_mut().and_then(|callers| callers.remove(&reply.id));
        if let Some(caller) = caller {
            caller.send(reply).ok();
        }
    }
    // Whoever still waits learns that no answer will come.
    waiting.callers().take();
}
