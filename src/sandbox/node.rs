//! A node of the sandbox: a network namespace on the nodes' subnet, a cgroup tree, a directory for pins.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result, ensure};

use super::agent::{Agent, AgentSpec};
use super::cluster::{Shared, check_name};
use super::pod::{Parts, Plug, Pod};
use super::router::{self, Pair, Role};
use super::tidy::Made;
use crate::host::netlink::Netlink;
use crate::host::netns::Netns;
use crate::host::{cgroup, links};

/// The first pod of a node has this number: 10.244.1.10.
const FIRST_POD: u8 = 10;
/// And the last one is below this.
const LAST_POD: u8 = 250;

/// A node. It lives as long as the sandbox.
#[derive(Debug)]
pub struct Node {
    shared: std::sync::Arc<Shared>,
    name: String,
    number: u8,
    addresses: Pair,
    netns: Netns,
    cgroup: PathBuf,
    bpf_root: PathBuf,
    next_pod: AtomicU8,
}

/// Where a pod's process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    /// In a namespace of its own, in the node's cgroup tree.
    Pod,
    /// In the node's namespace, in the node's cgroup tree (DEC-4).
    Host,
    /// In a namespace of its own, outside the node's cgroup tree.
    Plain,
}

impl Node {
    pub(super) fn create(shared: &std::sync::Arc<Shared>, name: &str, number: u8) -> Result<Self> {
        let addresses = Pair::on_subnet(10 + number);
        let netns = router::make_netns(&shared.estate, &shared.netns_name(&[name]), Role::Forwards)?;
        shared.router.attach(&netns, &link_name(number, name), addresses)?;
        shared.router.route_pods(number, addresses)?;
        let (cgroup, bpf_root) = (shared.cgroup.join(name), shared.bpffs.join(name));
        cgroup::create(&cgroup)?;
        std::fs::create_dir(&bpf_root).with_context(|| format!("create {}", bpf_root.display()))?;
        let next_pod = AtomicU8::new(FIRST_POD);
        Ok(Self {
            shared: shared.clone(),
            name: name.to_owned(),
            number,
            addresses,
            netns,
            cgroup,
            bpf_root,
            next_pod,
        })
    }

    /// The name, also of the Node object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The IPv4 address.
    pub fn ip4(&self) -> IpAddr {
        IpAddr::V4(self.addresses.v4)
    }

    /// The IPv6 address.
    pub fn ip6(&self) -> IpAddr {
        IpAddr::V6(self.addresses.v6)
    }

    /// Both addresses with a port, IPv4 first.
    pub fn at(&self, port: u16) -> [SocketAddr; 2] {
        [(self.ip4(), port).into(), (self.ip6(), port).into()]
    }

    /// The node's network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// What the agent gets as `--cgroup-root`: all pods and host processes are below.
    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup
    }

    /// What the agent gets as `--bpf-root`: a directory on the sandbox's own bpffs.
    pub fn bpf_root(&self) -> &Path {
        &self.bpf_root
    }

    /// A cgroup outside all nodes, where no agent attaches anything: for *direct* sides of benchmarks.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn plain_cgroup(&self) -> Result<PathBuf> {
        self.shared.plain_cgroup()
    }

    /// Adds a pod with the next free addresses: 10.244.NODE.10, 11, …
    ///
    /// # Errors
    /// The node is full, or something cannot be made.
    pub fn add_pod(&self, name: &str) -> Result<Pod> {
        self.add(name, Home::Pod, self.next_number()?)
    }

    /// Adds a pod with chosen addresses: 10.244.NODE.`number` and fd00:10:244:NODE::`number`.
    ///
    /// # Errors
    /// They are taken, or something cannot be made.
    pub fn add_pod_at(&self, name: &str, number: u8) -> Result<Pod> {
        self.add(name, Home::Pod, number)
    }

    /// Adds a host process: in the node's own network namespace, with its addresses (DEC-4).
    ///
    /// # Errors
    /// Something cannot be made.
    pub fn add_host_process(&self, name: &str) -> Result<Pod> {
        self.add(name, Home::Host, 0)
    }

    /// Adds a pod whose process is in [`plain_cgroup`](Self::plain_cgroup), where the agent's programs
    /// do not run.
    ///
    /// # Errors
    /// The node is full, or something cannot be made.
    pub fn add_plain_pod(&self, name: &str) -> Result<Pod> {
        self.add(name, Home::Plain, self.next_number()?)
    }

    /// The next number nobody has.
    fn next_number(&self) -> Result<u8> {
        loop {
            let number = self.next_pod.fetch_add(1, Ordering::Relaxed);
            ensure!(
                number < LAST_POD,
                "node {} is full: it has room for {} pods",
                self.name,
                LAST_POD - FIRST_POD
            );
            if self.is_free(number)? {
                return Ok(number);
            }
        }
    }

    fn is_free(&self, number: u8) -> Result<bool> {
        let links = Netlink::open_in(self.netns.as_fd())?.links()?;
        let prefix = link_name(number, "");
        Ok(!links.iter().any(|link| link.name.starts_with(&prefix)))
    }

    fn add(&self, name: &str, home: Home, number: u8) -> Result<Pod> {
        check_name(name)?;
        self.build(name, home, number).with_context(|| format!("add pod {name} to node {}", self.name))
    }

    fn build(&self, name: &str, home: Home, number: u8) -> Result<Pod> {
        let shared = &self.shared;
        let cgroup = match home {
            Home::Plain => shared.plain_cgroup()?.join(format!("{}-{name}", self.name)),
            Home::Pod | Home::Host => self.cgroup.join(name),
        };
        ensure!(!cgroup.exists(), "the node has a pod of that name already");
        shared.estate.note(Made::Cgroup(cgroup.clone()))?;
        cgroup::create(&cgroup)?;
        let made = vec![Made::Cgroup(cgroup.clone())];
        let parts = Parts {
            name,
            addresses: self.addresses,
            netns: self.netns.name().to_owned(),
            netns_fd: self.netns.as_fd().try_clone_to_owned()?,
            cgroup,
            made,
            plug: None,
            binary: &shared.binary,
        };
        let parts = if home == Home::Host { parts } else { self.plug_in(parts, number)? };
        Pod::start(&shared.estate, parts)
    }

    /// Gives a pod a namespace of its own, tied to the node's.
    fn plug_in<'a>(&self, mut parts: Parts<'a>, number: u8) -> Result<Parts<'a>> {
        ensure!(self.is_free(number)?, "the node has a pod with number {number} already");
        let link = link_name(number, parts.name);
        parts.netns = self.shared.netns_name(&[&self.name, parts.name]);
        parts.addresses = Pair::of_pod(self.number, number);
        let netns = router::make_netns(&self.shared.estate, &parts.netns, Role::Ends)?;
        parts.made.push(Made::Netns(parts.netns.clone()));
        router::attach_pod(&self.netns, &netns, &link, parts.addresses)?;
        parts.plug = Some(Plug { netns: std::mem::replace(&mut parts.netns_fd, netns.into()), link });
        Ok(parts)
    }

    /// Starts an agent in the node's namespace and waits until it is ready.
    ///
    /// # Errors
    /// It ends or is not ready in time; the message has the end of its log.
    pub fn start_agent(&self, manifests: &Path, extra: &[&str]) -> Result<Agent> {
        let manifests = manifests.to_str().context("the path of the manifests is no UTF-8")?;
        self.start_agent_of(["--manifests", manifests], extra)
    }

    /// The same with another source: its flag and value, like `--apiserver` and a URL.
    ///
    /// # Errors
    /// It ends or is not ready in time; the message has the end of its log.
    pub fn start_agent_of(&self, source: [&str; 2], extra: &[&str]) -> Result<Agent> {
        Agent::start(AgentSpec {
            estate: self.shared.estate.clone(),
            binary: self.shared.binary.clone(),
            node: self.name.clone(),
            node_ips: vec![self.ip4(), self.ip6()],
            netns: self.netns.as_fd().try_clone_to_owned()?,
            cgroup_root: self.cgroup.clone(),
            bpf_root: self.bpf_root.clone(),
            memory_group: self.shared.memory_group()?.map(|group| group.join(&self.name)),
            source: source.map(str::to_owned),
            extra: extra.iter().map(|&argument| argument.to_owned()).collect(),
        })
    }
}

/// The name of the link that leads to something, at most as long as the kernel allows.
pub(super) fn link_name(number: u8, name: &str) -> String {
    let mut link = format!("bl-{number}-{name}");
    while link.len() > links::NAME_MAX {
        link.pop();
    }
    link
}
