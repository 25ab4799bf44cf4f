//! Nothing of a sandbox stays on the machine, however its owner ends.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use beeline::host::cgroup;
use beeline::host::process::{self, ProcessId};
use beeline::sandbox::agent::Agent;
use beeline::sandbox::cluster::Sandbox;
use beeline::sandbox::load::LoadSpec;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::{Serve, StartLoad};
use beeline::sandbox::tidy::remains;
use libbpf_rs::query::{LinkInfo, LinkInfoIter, LinkTypeInfo};

/// Says in a child of these tests how its sandbox shall end.
const ENDING: &str = "BEELINE_TEST_ENDING";
const SELF: &str = "root::sandbox_tidy::a_dropped_sandbox_leaves_nothing";

/// A sandbox with all that it can have, busy.
fn build() -> Result<(Sandbox, Vec<Pod>, Agent)> {
    let sandbox = Sandbox::new("tidy")?;
    let (n1, n2) = (sandbox.add_node("n1")?, sandbox.add_node("n2")?);
    let pods = vec![
        n1.add_pod("web")?,
        n2.add_host_process("host")?,
        n2.add_plain_pod("plain")?,
        sandbox.add_outside_client("out")?,
    ];
    pods[0].call(Serve::tcp(80))?;
    let load = LoadSpec::tcp((pods[0].ip4(), 80)).timeout_ms(1000);
    pods[1].call(StartLoad { name: "busy".into(), load })?;
    let manifests = sandbox.dir().join("manifests");
    std::fs::create_dir(&manifests)?;
    let agent = n1.start_agent(&manifests, &[])?;
    Ok((sandbox, pods, agent))
}

/// The links by which programs are attached to a cgroup.
fn links_at(cgroup: &Path) -> Result<Vec<u32>> {
    let inode = std::fs::metadata(cgroup)?.ino();
    let is_there = |link: &LinkInfo| matches!(&link.info, LinkTypeInfo::Cgroup(at) if at.cgroup_id == inode);
    Ok(LinkInfoIter::default().filter(is_there).map(|link| link.id).collect())
}

/// The kernel takes links away a moment after what held them.
fn await_end_of_links(links: &[u32]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while LinkInfoIter::default().any(|link| links.contains(&link.id)) {
        ensure!(Instant::now() < deadline, "programs outlive their sandbox");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Also the body of the children that other tests start: they say what they built and end as told.
#[test]
fn a_dropped_sandbox_leaves_nothing() -> Result<()> {
    let (sandbox, pods, agent) = build()?;
    let tag = sandbox.tag().to_owned();
    let mut processes = pods.iter().map(|pod| ProcessId::of(pod.pid())).collect::<Result<Vec<_>>>()?;
    processes.push(ProcessId::of(agent.pid()?)?);
    let links = links_at(&cgroup::root()?.join(format!("beeline-{tag}/n1")))?;
    assert_eq!(links.len(), 9);
    if let Ok(ending) = std::env::var(ENDING) {
        // Unlike a pod it does not notice that its stdin ends.
        let mut sleeper = Command::new("sleep");
        sleeper.arg("1000");
        let sleeper = process::spawn(sleeper, process::Place::default())?;
        processes.push(ProcessId::of(sleeper.id())?);
        println!("\nbuilt {}", serde_json::to_string(&(&tag, &processes, &links))?);
        assert_eq!(ending, "killed", "told to panic");
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    // Two namespaces of nodes, one of the router, three of pods, each with a mount; a bpffs; two
    // cgroups; a directory; the state of an agent.
    assert_eq!(remains(&tag)?.len(), 17, "{:?}", remains(&tag)?);
    drop(sandbox);
    assert_eq!(remains(&tag)?, [""; 0]);
    assert!(processes.iter().all(|process| !process.alive()));
    await_end_of_links(&links)
}

/// A child with a sandbox of its own.
struct Owner {
    child: Child,
    tag: String,
    processes: Vec<ProcessId>,
    links: Vec<u32>,
}

impl Owner {
    fn start(ending: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([SELF, "--exact", "--nocapture"]).env(ENDING, ending).env("RUST_BACKTRACE", "0");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        for line in lines {
            if let Some(json) = line?.strip_prefix("built ") {
                let (tag, processes, links) = serde_json::from_str(json)?;
                return Ok(Self { child, tag, processes, links });
            }
        }
        child.wait()?;
        bail!("the child built no sandbox")
    }

    fn signal(&mut self, signal: i32) -> Result<Option<i32>> {
        beeline::host::process::kill(self.child.id(), signal)?;
        Ok(self.child.wait()?.code())
    }

    /// Children die with their owner, a moment later.
    fn await_end_of_processes(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.processes.iter().any(|process| process.alive()) {
            ensure!(Instant::now() < deadline, "a process outlives its owner");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Not SIGKILL: it shall tidy up behind itself.
        if let Ok(None) = self.child.try_wait() {
            self.signal(libc::SIGTERM).ok();
        }
    }
}

#[test]
fn a_panic_leaves_nothing() -> Result<()> {
    let mut owner = Owner::start("panic")?;
    assert_eq!(owner.child.wait()?.code(), Some(101), "the test in the child failed, as it was told to");
    assert_eq!(remains(&owner.tag)?, [""; 0]);
    owner.await_end_of_processes()?;
    await_end_of_links(&owner.links)
}

#[test]
fn ctrl_c_and_sigterm_leave_nothing() -> Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let mut owner = Owner::start("killed")?;
        assert_eq!(owner.signal(signal)?, Some(128 + signal));
        assert_eq!(remains(&owner.tag)?, [""; 0]);
        owner.await_end_of_processes()?;
        await_end_of_links(&owner.links)?;
    }
    Ok(())
}

#[test]
fn the_next_start_sweeps_what_kill_9_left_and_nothing_of_the_living() -> Result<()> {
    let living = Owner::start("killed")?;
    let mut killed = Owner::start("killed")?;
    let before = remains(&living.tag)?;
    assert_eq!(killed.signal(libc::SIGKILL)?, None);
    killed.await_end_of_processes()?;
    let next = Sandbox::new("next")?;
    assert_eq!(remains(&killed.tag)?, [""; 0]);
    await_end_of_links(&killed.links)?;
    assert_eq!(remains(&living.tag)?, before, "another owner lives, and keeps what it has");
    assert!(living.processes.iter().all(|process| process.alive()));
    let tag = next.tag().to_owned();
    next.close()?;
    assert_eq!(remains(&tag)?, [""; 0]);
    Ok(())
}

/// What `scripts/test` does before its first look at the machine.
#[test]
fn demo_tidy_sweeps_what_kill_9_left_and_nothing_of_the_living() -> Result<()> {
    let living = Owner::start("killed")?;
    let mut killed = Owner::start("killed")?;
    let before = remains(&living.tag)?;
    let pid = killed.child.id();
    assert_eq!(killed.signal(libc::SIGKILL)?, None);
    killed.await_end_of_processes()?;
    assert!(!remains(&killed.tag)?.is_empty());
    let output = Command::new(env!("CARGO_BIN_EXE_beeline")).args(["demo", "--tidy"]).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A test beside this one may have been quicker, and be at it still.
    let told = said.contains(&format!("removed what process {pid} had left"));
    let deadline = Instant::now() + Duration::from_secs(5);
    while !told && !remains(&killed.tag)?.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(remains(&killed.tag)?, [""; 0], "{said}");
    await_end_of_links(&killed.links)?;
    assert_eq!(remains(&living.tag)?, before, "another owner lives, and keeps what it has");
    Ok(())
}

#[test]
fn a_pod_that_cannot_start_says_why_and_leaves_nothing() -> Result<()> {
    let sandbox = Sandbox::with_binary("fails", Path::new("/bin/false"))?;
    let node = sandbox.add_node("n1")?;
    let error = node.add_pod("web").expect_err("/bin/false is no beeline");
    assert!(format!("{error:#}").contains("pod web"), "{error:#}");
    let missing = Sandbox::with_binary("fails", Path::new("/nonexistent")).expect_err("no such binary");
    assert!(format!("{missing:#}").contains("/nonexistent"), "{missing:#}");
    let tag = sandbox.tag().to_owned();
    drop(sandbox);
    // The node is held here, and keeps no name alive.
    drop(node);
    assert_eq!(remains(&tag)?, [""; 0]);
    Ok(())
}
