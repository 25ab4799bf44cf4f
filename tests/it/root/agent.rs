//! The agent as a process: from manifests to pinned tables, over ends and starts.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use beeline::datapath::maps::Reader;
use beeline::host::run;
use beeline::inspect::agent::{read_state, state_path};
use beeline::inspect::dump::canonical;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::datapath_rig::Rig;

/// An agent on a rig. Killed on drop, with the file it then leaves.
pub struct Agent {
    child: Child,
    bpf_root: PathBuf,
    log: Arc<Mutex<String>>,
}

impl Agent {
    /// Starts an agent and waits until it is ready.
    pub fn start(rig: &Rig, manifests: &Path) -> Agent {
        Agent::start_with(rig, manifests, &[])
    }

    /// The same with more flags.
    pub fn start_with(rig: &Rig, manifests: &Path, flags: &[&str]) -> Agent {
        let mut command = command(rig, "--manifests", manifests.as_os_str());
        // No port that another agent of this machine has, and none that others reach.
        let servers = ["--metrics-bind-address", "--healthz-bind-address"];
        for flag in servers.iter().filter(|flag| !flags.contains(flag)) {
            command.args([flag, ""]);
        }
        let mut child = command.args(flags).stdout(Stdio::piped()).spawn().expect("beeline starts");
        let log = follow(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "{}", log.lock().unwrap());
        Agent { child, bpf_root: rig.bpf_root(), log }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn end(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("it runs");
        self.child.wait().expect("it ends")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(state_path(&self.bpf_root));
    }
}

/// Collects what a process writes.
pub fn follow(from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let into = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            *into.lock().unwrap() += &(line + "\n");
        }
    });
    log
}

/// An agent of a source, which a flag names.
pub fn command(rig: &Rig, flag: &str, source: &OsStr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_beeline"));
    command.args(["run", "--node-name", "node-a", flag]).arg(source);
    command.arg("--bpf-root").arg(rig.bpf_root()).arg("--cgroup-root").arg(&rig.cgroup);
    command.stderr(Stdio::piped());
    command
}

/// A Service of one port.
pub fn write(dir: &Path, name: &str, port: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 172.30.0.1, ports: [{{port: {port}}}]}}\n"
    );
    let aside = dir.join(".aside");
    fs::write(&aside, text).expect("a file");
    fs::rename(aside, dir.join(format!("{name}.yaml"))).expect("a rename");
}

pub fn dump(rig: &Rig) -> String {
    canonical(&Reader::open(&rig.bpf_root()).expect("tables").rows().expect("rows"))
}

/// Waits until something holds.
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(what, Duration::from_secs(10), holds);
}

/// The same with another patience.
pub fn until_within(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < end, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn tables_follow_the_manifests_and_outlive_the_agent() {
    // SYNC-9, SYNC-11
    let (rig, dir) = (Rig::new(), tempfile::tempdir().unwrap());
    write(dir.path(), "web", "80");
    let agent = Agent::start(&rig, dir.path());
    assert!(dump(&rig).contains("frontend ClusterIP 172.30.0.1:80/TCP"), "complete when it says ready");
    write(dir.path(), "web", "81");
    until("the new port", || dump(&rig).contains("172.30.0.1:81/TCP") && !dump(&rig).contains(":80/TCP"));
    assert_eq!(agent.end(Signal::SIGTERM).code(), Some(0));
    assert!(!state_path(&rig.bpf_root()).exists(), "it leaves no file behind");

    let left = dump(&rig);
    let agent = Agent::start(&rig, dir.path());
    assert_eq!(dump(&rig), left, "a start on the same objects changes nothing");
    agent.end(Signal::SIGKILL);
    assert_eq!(dump(&rig), left);

    fs::remove_file(dir.path().join("web.yaml")).unwrap();
    let _agent = Agent::start(&rig, dir.path());
    until("what went while no agent ran is gone", || !dump(&rig).contains("172.30.0.1"));
}

#[test]
fn a_bad_object_shows_in_the_state_and_its_last_good_version_serves() {
    let (rig, dir) = (Rig::new(), tempfile::tempdir().unwrap());
    write(dir.path(), "web", "80");
    let _agent = Agent::start(&rig, dir.path());
    let pending = || read_state(&rig.bpf_root()).map(|state| state.pending).unwrap_or_default();
    assert_eq!(pending().len(), 0);
    write(dir.path(), "web", "eighty");
    until("the problem", || !pending().is_empty());
    let place = &pending()[0].what;
    assert!(place.contains("web.yaml: document 1") && place.ends_with("spec.ports[0].port"), "{place}");
    assert!(dump(&rig).contains("172.30.0.1:80/TCP"));
    write(dir.path(), "web", "82");
    until("no problem", || pending().is_empty());
    assert!(dump(&rig).contains("172.30.0.1:82/TCP"));
}

#[test]
fn what_a_killed_agent_left_goes_at_the_next_start() {
    let (rig, dir) = (Rig::new(), tempfile::tempdir().unwrap());
    write(dir.path(), "web", "80");
    let stale = Path::new(run::DIR).join(format!("test-{}.json", std::process::id()));
    fs::create_dir_all(run::DIR).unwrap();
    fs::write(&stale, r#"{"pid": 1, "started": 1, "pending": []}"#).unwrap();
    let _agent = Agent::start(&rig, dir.path());
    assert!(!stale.exists());
    assert!(read_state(&rig.bpf_root()).is_some());
}

#[test]
fn a_second_agent_on_the_same_tables_is_refused() {
    let (rig, dir) = (Rig::new(), tempfile::tempdir().unwrap());
    write(dir.path(), "web", "80");
    let _agent = Agent::start(&rig, dir.path());
    let second = command(&rig, "--manifests", dir.path().as_os_str()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("one agent per --bpf-root"), "{said}");
}

#[test]
fn tables_grow_for_what_comes_later() {
    let (rig, dir) = (Rig::new(), tempfile::tempdir().unwrap());
    write(dir.path(), "web", "80");
    let _agent = Agent::start(&rig, dir.path());
    let before = Reader::open(&rig.bpf_root()).unwrap().limits();
    let service = |n: u32| {
        let ip = format!("172.31.{}.{}", n / 256, n % 256);
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: m{n}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
        )
    };
    let many: String = (0..before.services * 2).map(service).collect();
    fs::write(dir.path().join("many.yaml"), many).unwrap();
    until("every Service is there", || {
        let rows = Reader::open(&rig.bpf_root()).ok().and_then(|reader| reader.rows().ok());
        rows.is_some_and(|rows| rows.services.len() == before.services as usize * 2 + 1)
    });
    assert!(Reader::open(&rig.bpf_root()).unwrap().limits().services > before.services * 2);
    until("nothing is pending", || read_state(&rig.bpf_root()).is_some_and(|state| state.pending.is_empty()));
}

/// `$0` is beeline, `$1` the cgroup, `$2` a directory: an agent where no bpffs is mounted, then cleanup twice.
const WITHOUT_BPFFS: &str = r#"
    while umount -l /sys/fs/bpf 2>/dev/null; do :; done
    "$0" run --node-name n --manifests "$2" --cgroup-root "$1" >"$2/out" & agent=$!
    until grep -q ready "$2/out" || ! kill -0 $agent; do sleep 0.05; done
    kill $agent; wait $agent
    grep -q ' /sys/fs/bpf bpf' /proc/self/mounts || exit 10
    "$0" cleanup --cgroup-root "$1" && "$0" cleanup --cgroup-root "$1" || exit 11
    ! grep ' /sys/fs/bpf bpf' /proc/self/mounts
"#;

#[test]
fn a_bpffs_that_the_agent_mounted_goes_with_cleanup() {
    let (rig, dir) = (Rig::new(), tempfile::tempdir().expect("a directory"));
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", WITHOUT_BPFFS, env!("CARGO_BIN_EXE_beeline")]);
    let output = command.args([&rig.cgroup, dir.path()]).output().expect("unshare is there");
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}{error}");
    assert!(said.contains("unmounted /sys/fs/bpf") && said.contains("nothing of Beeline"), "{said}");
}
