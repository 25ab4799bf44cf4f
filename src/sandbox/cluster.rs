//! The sandbox as a whole: nodes, outside clients, and what they share.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};

use super::node::{Node, link_name};
use super::pod::{Parts, Plug, Pod};
use super::router::{self, Pair, Role, Router};
use super::tidy::{Estate, Made};
use crate::host::{cgroup, mount};

/// Clients outside the cluster are 172.30.0.200 and up.
const FIRST_OUTSIDE: u8 = 200;
/// The most nodes: their addresses are 172.30.0.11 and up.
const MOST_NODES: u8 = 180;

/// A cluster in a box. All of it is removed on drop.
#[derive(Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
    nodes: Mutex<Vec<Arc<Node>>>,
    next_outside: AtomicU8,
}

/// What the parts of a sandbox share.
#[derive(Debug)]
pub(super) struct Shared {
    pub estate: Arc<Estate>,
    pub binary: PathBuf,
    /// The name of the sandbox, in the names of its namespaces.
    name: String,
    /// The cgroup above those of the nodes.
    pub cgroup: PathBuf,
    /// Where the sandbox's own bpffs is mounted.
    pub bpffs: PathBuf,
    pub router: Router,
}

impl Shared {
    /// `bl-TAG-SANDBOX-PART-…`.
    pub fn netns_name(&self, parts: &[&str]) -> String {
        format!("{}-{}", netns_prefix(&self.estate, &self.name), parts.join("-"))
    }

    /// The group of the v1 memory controller that is above those of the agents; `None` without v1.
    pub fn memory_group(&self) -> Result<Option<PathBuf>> {
        let Some(root) = cgroup::v1_memory_root()? else {
            return Ok(None);
        };
        let path = root.join(format!("beeline-{}", self.estate.tag()));
        self.make_cgroup(&path)?;
        Ok(Some(path))
    }

    pub fn plain_cgroup(&self) -> Result<PathBuf> {
        let path = self.cgroup.with_file_name(format!("beeline-{}-plain", self.estate.tag()));
        self.make_cgroup(&path)?;
        Ok(path)
    }

    fn make_cgroup(&self, path: &Path) -> Result<()> {
        if !path.exists() {
            self.estate.note(Made::Cgroup(path.to_owned()))?;
            cgroup::create(path)?;
        }
        Ok(())
    }
}

fn netns_prefix(estate: &Estate, name: &str) -> String {
    format!("bl-{}-{name}", estate.tag())
}

impl Sandbox {
    /// An empty sandbox whose pods and agents run the binary of [`default_binary`]. First removes what
    /// sandboxes that were killed have left.
    ///
    /// # Errors
    /// Not root, no cgroup2, or no binary.
    pub fn new(name: &str) -> Result<Self> {
        Self::with_binary(name, &default_binary()?)
    }

    /// An empty sandbox whose pods and agents run this `beeline`.
    ///
    /// # Errors
    /// Not root, or no cgroup2.
    pub fn with_binary(name: &str, binary: &Path) -> Result<Self> {
        check_name(name)?;
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a sandbox makes namespaces and cgroups, for which it must be root"
        );
        let root = cgroup::root()?;
        let binary = binary.canonicalize().with_context(|| format!("no binary at {}", binary.display()))?;
        let estate = Estate::found()?;
        let cgroup = root.join(format!("beeline-{}", estate.tag()));
        estate.note(Made::Cgroup(cgroup.clone()))?;
        cgroup::create(&cgroup)?;
        let bpffs = estate.dir().join("bpf");
        estate.note(Made::Mount(bpffs.clone()))?;
        std::fs::create_dir(&bpffs).with_context(|| format!("create {}", bpffs.display()))?;
        mount::mount_bpffs(&bpffs)?;
        let router = Router::create(&estate, &netns_prefix(&estate, name))?;
        let shared = Shared { estate, binary, name: name.to_owned(), cgroup, bpffs, router };
        let (nodes, next_outside) = (Mutex::default(), AtomicU8::new(FIRST_OUTSIDE));
        Ok(Self { shared: Arc::new(shared), nodes, next_outside })
    }

    /// Adds a node: 172.30.0.11 and fd00:172:30::11 for the first, pods 10.244.1.0/24 and
    /// fd00:10:244:1::/64.
    ///
    /// # Errors
    /// The name is taken or no name, or something cannot be made.
    pub fn add_node(&self, name: &str) -> Result<Arc<Node>> {
        check_name(name)?;
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(nodes.iter().all(|node| node.name() != name), "the sandbox has a node {name} already");
        ensure!(
            nodes.len() < usize::from(MOST_NODES),
            "the sandbox is full: it has room for {MOST_NODES} nodes"
        );
        let number = u8::try_from(nodes.len() + 1)?;
        let node = Node::create(&self.shared, name, number).with_context(|| format!("add node {name}"))?;
        let node = Arc::new(node);
        nodes.push(node.clone());
        Ok(node)
    }

    /// Adds a client outside the cluster, on the nodes' subnet (172.30.0.200 and up), in no node's cgroup.
    ///
    /// # Errors
    /// Something cannot be made.
    pub fn add_outside_client(&self, name: &str) -> Result<Pod> {
        check_name(name)?;
        let what = || format!("add outside client {name}");
        let shared = &self.shared;
        let number = self.next_outside.fetch_add(1, Ordering::Relaxed);
        ensure!(number >= FIRST_OUTSIDE, "the sandbox has no room for more outside clients");
        let addresses = Pair::on_subnet(number);
        let cgroup = shared.plain_cgroup()?.join(format!("outside-{name}"));
        shared.estate.note(Made::Cgroup(cgroup.clone()))?;
        cgroup::create(&cgroup)?;
        let netns_name = shared.netns_name(&["outside", name]);
        let netns = router::make_netns(&shared.estate, &netns_name, Role::Ends).with_context(what)?;
        let link = link_name(number, name);
        shared.router.attach(&netns, &link, addresses).with_context(what)?;
        let plug = Plug { netns: shared.router.netns().as_fd().try_clone_to_owned()?, link };
        let parts = Parts {
            name,
            addresses,
            netns: netns_name.clone(),
            netns_fd: netns.into(),
            made: vec![Made::Cgroup(cgroup.clone()), Made::Netns(netns_name)],
            cgroup,
            plug: Some(plug),
            binary: &shared.binary,
        };
        Pod::start(&shared.estate, parts).with_context(what)
    }

    /// The nodes, in the order they were added.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A directory for logs and manifests, removed with the sandbox.
    pub fn dir(&self) -> &Path {
        self.shared.estate.dir()
    }

    /// The binary that pods and agents run.
    pub fn binary(&self) -> &Path {
        &self.shared.binary
    }

    /// Where the nodes' pins lie, a bpffs of the sandbox's own.
    pub fn bpffs(&self) -> &Path {
        &self.shared.bpffs
    }

    /// What all names of this sandbox have in them: `PID-STARTTIME-NUMBER`.
    pub fn tag(&self) -> &str {
        self.shared.estate.tag()
    }

    /// Removes everything, and says what could not be removed; dropping does the same.
    ///
    /// # Errors
    /// Something of it cannot be removed.
    pub fn close(self) -> Result<()> {
        self.shared.estate.tidy()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = self.shared.estate.tidy() {
            eprintln!("sandbox {}: {error:#}", self.shared.estate.tag());
        }
    }
}

pub(super) fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !name.is_empty() && name.len() <= 40 && name.chars().all(plain),
        "{name:?} is no name here: 1 to 40 lower-case letters, digits and dashes"
    );
    Ok(())
}

/// The `beeline` that pods run: `$BEELINE_BIN`, else this program if it is one, else the one beside the
/// directory of a test or bench (`target/…/deps/../beeline`).
///
/// # Errors
/// There is none; the message says how to name one.
pub fn default_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BEELINE_BIN") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("ask where this program lies")?;
    let is_beeline = |path: &Path| path.file_name().is_some_and(|name| name == "beeline");
    if is_beeline(&own) {
        return Ok(own);
    }
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("beeline")).find(|path| path.is_file());
    match beside {
        Some(path) => Ok(path),
        None => bail!("no beeline beside {}: name one with BEELINE_BIN", own.display()),
    }
}
