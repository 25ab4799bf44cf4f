//! A place to run a data path in: a bpffs and a cgroup of its own, gone on drop.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use beeline::datapath::load::Program;
use beeline::datapath::{Datapath, Options};
use beeline::plan::table::Tables;
use beeline::sandbox::tidy::{Estate, Made};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::mount::{MsFlags, mount};

/// Tells a second process of this test binary that it is a client, and what to dial.
const DIAL: &str = "BEELINE_TEST_DIAL";

/// A bpffs and a cgroup, recorded as those of a sandbox are: what a killed test left, the next one sweeps.
pub struct Rig {
    estate: Arc<Estate>,
    pub cgroup: PathBuf,
}

impl Rig {
    pub fn new() -> Rig {
        let estate = Estate::found().expect("these tests need root");
        let bpf = estate.dir().join("bpf");
        let cgroup = cgroup2().join(format!("beeline-{}", estate.tag()));
        estate.note(Made::Mount(bpf.clone())).unwrap();
        estate.note(Made::Cgroup(cgroup.clone())).unwrap();
        fs::create_dir(&bpf).unwrap();
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>).expect("these tests need root");
        fs::create_dir(&cgroup).unwrap();
        Rig { estate, cgroup }
    }

    pub fn bpf_root(&self) -> PathBuf {
        self.estate.dir().join("bpf")
    }

    pub fn options(&self) -> Options {
        Options::new(&self.cgroup, &self.bpf_root())
    }

    pub fn open(&self) -> Datapath {
        Datapath::open(&self.options()).unwrap()
    }

    /// Takes a TCP frontend out of `bl_frontends` behind the agent's back.
    pub fn lose_frontend(&self, to: SocketAddr) -> (Vec<u8>, Vec<u8>) {
        let IpAddr::V4(v4) = to.ip() else { panic!("{to} is no IPv4 address") };
        let mut key = v4.to_ipv6_mapped().octets().to_vec();
        key.extend(to.port().to_be_bytes());
        key.extend([6, 0]);
        let map = self.frontends();
        let value = map.lookup(&key, MapFlags::ANY).unwrap().expect("the frontend is there");
        map.delete(&key).unwrap();
        (key, value)
    }

    /// Puts it back.
    pub fn put_frontend(&self, (key, value): &(Vec<u8>, Vec<u8>)) {
        self.frontends().update(key, value, MapFlags::ANY).unwrap();
    }

    fn frontends(&self) -> MapHandle {
        let pins = self.pins();
        let pin = pins.iter().find(|pin| pin.ends_with("/bl_frontends")).expect("a pinned map");
        MapHandle::from_pinned_path(self.bpf_root().join(pin)).unwrap()
    }

    /// The files below the bpffs, relative to it.
    pub fn pins(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.bpf_root(), &self.bpf_root(), &mut found);
        found.sort();
        found
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.estate.tidy().ok();
    }
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_name().to_string_lossy().contains('.') {
            continue; // maps.debug and progs.debug come with the bpffs
        }
        found.push(entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned());
        if entry.path().is_dir() {
            walk(root, &entry.path(), found);
        }
    }
}

/// Where the cgroup2 tree is mounted.
pub fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line =
        mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("a cgroup2 mount");
    line.split(' ').nth(1).unwrap().into()
}

/// A process in the rig's cgroup that connects in a loop until told to stop.
pub struct Dialler {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Dialler {
    /// Starts it; it has connected at least once when this returns.
    pub fn start(rig: &Rig, to: SocketAddr) -> Dialler {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "root::datapath_rig::dials_when_it_is_a_second_process", "--nocapture"])
            .env(DIAL, format!("{} {to}", rig.cgroup.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut out, "first: ");
        Dialler { child, out }
    }

    /// Ends it. Returns how many connections it made and the errors.
    pub fn stop(mut self) -> (u64, String) {
        drop(self.child.stdin.take());
        let line = wait_for(&mut self.out, "last: ");
        let (count, errors) = line.split_once(' ').unwrap();
        (count.parse().unwrap(), errors.trim().to_owned())
    }
}

impl Drop for Dialler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(out: &mut impl BufRead, what: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "the dialler ended before it said '{what}'");
        if let Some((_, rest)) = line.split_once(what) {
            return rest.to_owned();
        }
    }
}

/// What a dialler dials at least, however short its life.
pub const ENOUGH: u64 = 50;

/// The body of the second process; nothing in the first one.
#[test]
fn dials_when_it_is_a_second_process() {
    let Ok(what) = std::env::var(DIAL) else { return };
    let (cgroup, to) = what.split_once(' ').unwrap();
    fs::write(Path::new(cgroup).join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let stop = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let (mut count, mut errors) = (0u64, Vec::new());
    while !stop.is_finished() || count + (errors.len() as u64) < ENOUGH {
        match dial(to) {
            Ok(()) => count += 1,
            Err(e) => errors.push(e.to_string()),
        }
        if count + errors.len() as u64 == 1 {
            println!("first: {errors:?}");
        }
    }
    errors.dedup();
    println!("last: {count} {}", errors.join("; "));
}

/// Tells a second process to learn the cookie of its namespace, and its cgroup.
const LEARN: &str = "BEELINE_TEST_LEARN";

/// The cookie of this namespace, as a process in the rig's cgroup learns it by the program.
pub fn learn_in(rig: &Rig) -> u64 {
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "root::datapath_rig::learns_when_it_is_a_second_process", "--nocapture"])
        .env(LEARN, &rig.cgroup)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let cookie = text.lines().find_map(|line| line.split_once("cookie: ")?.1.trim().parse().ok());
    cookie.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&done.stderr)))
}

/// The body of the second process; nothing in the first one.
#[test]
fn learns_when_it_is_a_second_process() {
    let Some(cgroup) = std::env::var_os(LEARN) else { return };
    fs::write(Path::new(&cgroup).join("cgroup.procs"), std::process::id().to_string()).unwrap();
    println!("cookie: {}", beeline::datapath::kernel::learn_netns_cookie(Path::new(&cgroup)).unwrap());
}

/// Tells a second process to grow the tables until it is killed, and where.
const GROW: &str = "BEELINE_TEST_GROW";

/// An agent in another process that starts, publishes and grows its tables, again and again.
pub struct Grower {
    child: Child,
}

impl Grower {
    /// Starts it; it has grown the tables at least once when this returns.
    pub fn start(rig: &Rig) -> Grower {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "root::datapath_rig::grows_when_it_is_a_second_process", "--nocapture"])
            .env(GROW, format!("{} {}", rig.cgroup.display(), rig.bpf_root().display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut out, "grown");
        std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
        Grower { child }
    }

    /// Kills it in the middle of whatever it does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Grower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of the second process; nothing in the first one.
#[test]
fn grows_when_it_is_a_second_process() {
    let Ok(what) = std::env::var(GROW) else { return };
    let (cgroup, bpf_root) = what.split_once(' ').unwrap();
    loop {
        let mut datapath = Datapath::open(&Options::new(Path::new(cgroup), Path::new(bpf_root))).unwrap();
        datapath.publish().unwrap();
        let mut limits = datapath.limits();
        (limits.backends, limits.services) = (limits.backends + 128, limits.services + 128);
        datapath.grow(limits).unwrap();
        println!("grown");
    }
}

/// A program at a hook of a cgroup, attached the way that allows no other.
pub struct Exclusive {
    cgroup: String,
    hook: &'static str,
    object: String,
}

impl Exclusive {
    /// Any program will do: it is one of the data path's own, `bl_HOOK`.
    pub fn attach(datapath: &Datapath, bpf_root: &Path, cgroup: &Path, hook: &'static str) -> Exclusive {
        let named = |program: &&Program| program.name.strip_prefix("bl_") == Some(hook);
        let program = datapath.programs().iter().find(named).unwrap();
        let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.fd.as_raw_fd())).unwrap();
        let id = facts.lines().find_map(|line| Some(line.strip_prefix("prog_id:")?.trim())).unwrap();
        let object = bpf_root.join("foreign").display().to_string();
        bpftool(&["prog", "pin", "id", id, &object]);
        let cgroup = cgroup.display().to_string();
        bpftool(&["cgroup", "attach", &cgroup, hook, "pinned", &object]);
        Exclusive { cgroup, hook, object }
    }

    /// Takes it away again.
    pub fn detach(self) {
        bpftool(&["cgroup", "detach", &self.cgroup, self.hook, "pinned", &self.object]);
    }
}

/// Runs bpftool, which must succeed.
pub fn bpftool(args: &[&str]) {
    let done = Command::new("bpftool").args(args).output().expect("bpftool is installed");
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Connects, reads the one byte a [`Server`] sends, and closes without leaving TIME_WAIT behind.
fn dial(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.read_exact(&mut [0])
}

/// A backend on loopback.
pub struct Server {
    pub addr: SocketAddr,
}

impl Server {
    /// Listens until the process ends; each client gets one byte.
    pub fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                use std::io::Write;
                let _ = (&stream).write_all(b"x");
            }
        });
        Server { addr }
    }
}
