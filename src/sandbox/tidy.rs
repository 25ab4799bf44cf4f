//! Nothing is left behind: each sandbox records what it makes *before* it makes it, and undoes the
//! record on drop, on a panic and on a signal. What `kill -9` left is undone by the next one that starts.
//!
//! A record lies in `/run/beeline/sandbox-PID-STARTTIME-NUMBER/`, named after its owner, who holds a
//! lock there. A record is swept only if its owner is gone *and* the lock is free, so that neither a pid
//! used again nor a pid of another pid namespace can mislead.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::host::process::ProcessId;
use crate::host::{cgroup, mount, netns, run};

const PREFIX: &str = "sandbox-";
const RECORD: &str = "made";
const LOCK: &str = "lock";

/// Something on the machine that has to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// A child.
    Process(ProcessId),
    /// A mount of ours.
    Mount(PathBuf),
    /// A named network namespace.
    Netns(String),
    /// A cgroup with all below it, and every process in it.
    Cgroup(PathBuf),
}

/// What one sandbox has made, and the directory that records it.
#[derive(Debug)]
pub struct Estate {
    tag: String,
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    made: Vec<Made>,
    record: File,
    /// Held as long as the estate exists, so that nobody sweeps it.
    _lock: File,
    closed: bool,
}

impl Estate {
    /// Sweeps what others left and founds a new estate.
    ///
    /// # Errors
    /// `/run/beeline` cannot be written.
    pub fn found() -> Result<Arc<Self>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep()?;
        watch_signals()?;
        let own = ProcessId::own()?;
        let tag = format!("{}-{}-{}", own.pid, own.start_time, NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(run::DIR).join(format!("{PREFIX}{tag}"));
        make_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let lock =
            File::create(dir.join(LOCK)).with_context(|| format!("create the lock of {}", dir.display()))?;
        lock.try_lock().map_err(|error| anyhow!("lock {}: {error}", dir.display()))?;
        let record = OpenOptions::new().create(true).append(true).open(dir.join(RECORD));
        let record = record.with_context(|| format!("create the record of {}", dir.display()))?;
        let state = State { made: Vec::new(), record, _lock: lock, closed: false };
        let estate = Arc::new(Self { tag, dir, state: Mutex::new(state) });
        live().push(Arc::downgrade(&estate));
        Ok(estate)
    }

    /// What makes the names of this sandbox its own: pid, start time and number.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The directory, removed at the end with all in it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Records something that is about to be made.
    ///
    /// # Errors
    /// The sandbox is being removed, or the record cannot be written.
    pub fn note(&self, made: Made) -> Result<()> {
        let mut state = self.state();
        if state.closed {
            bail!("the sandbox {} has been removed", self.tag);
        }
        let mut line = serde_json::to_vec(&made)?;
        line.push(b'\n');
        state
            .record
            .write_all(&line)
            .with_context(|| format!("write the record of {}", self.dir.display()))?;
        state.made.push(made);
        Ok(())
    }

    /// Undoes something before the end; it needs not be noted any more.
    ///
    /// # Errors
    /// It cannot be removed; then it is tried again at the end.
    pub fn undo(&self, made: &[Made]) -> Result<()> {
        undo(made)?;
        self.state().made.retain(|known| !made.contains(known));
        Ok(())
    }

    /// Undoes everything. A second call does nothing.
    ///
    /// # Errors
    /// What could not be removed; the rest is.
    pub fn tidy(&self) -> Result<()> {
        let mut state = self.state();
        if state.closed {
            return Ok(());
        }
        state.closed = true;
        let made = std::mem::take(&mut state.made);
        let undone = undo(&made);
        if undone.is_ok() {
            remove_traces(&self.dir, &made)?;
            remove_dir(&self.dir)?;
        }
        undone
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Estate {
    fn drop(&mut self) {
        if let Err(error) = self.tidy() {
            eprintln!("sandbox {}: {error:#}", self.tag);
        }
    }
}

/// Makes a directory in [`run::DIR`], which another process may remove as empty at any moment.
fn make_dir(dir: &Path) -> io::Result<()> {
    let mut last = Ok(());
    for _ in 0..16 {
        fs::create_dir_all(run::DIR)?;
        last = fs::create_dir(dir);
        if !matches!(&last, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return last;
        }
    }
    last
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", dir.display()));
        }
        _ => {}
    }
    // Refused while others have something there.
    fs::remove_dir(run::DIR).ok();
    Ok(())
}

/// Undoes what owners that are gone have left, and says whose that was.
///
/// # Errors
/// [`run::DIR`] cannot be read, or something could not be removed.
pub fn sweep() -> Result<Vec<ProcessId>> {
    let mut swept = Vec::new();
    let entries = match fs::read_dir(run::DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(swept),
        entries => entries.with_context(|| format!("read {}", run::DIR))?,
    };
    for entry in entries.flatten() {
        if let Some(owner) = owner_of(&entry.file_name().to_string_lossy())
            && !owner.alive()
            && sweep_one(&entry.path()).with_context(|| format!("sweep {}", entry.path().display()))?
        {
            swept.push(owner);
        }
    }
    fs::remove_dir(run::DIR).ok();
    Ok(swept)
}

/// Every name on the machine that holds the tag of a sandbox: namespaces, cgroups, mounts, its folder.
///
/// # Errors
/// The machine cannot be asked.
pub fn remains(tag: &str) -> Result<Vec<String>> {
    let mut names = netns::list()?;
    names.extend(cgroup::children(&cgroup::root()?)?);
    names.extend(mount::mounts()?.iter().map(|mount| mount.target.display().to_string()));
    if let Ok(entries) = fs::read_dir(run::DIR) {
        names.extend(entries.flatten().map(|entry| entry.path().display().to_string()));
    }
    names.retain(|name| name.contains(tag));
    Ok(names)
}

fn owner_of(name: &str) -> Option<ProcessId> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let (pid, start_time) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(ProcessId { pid, start_time })
}

/// Returns false if somebody holds it, or has swept it in the meantime.
fn sweep_one(dir: &Path) -> Result<bool> {
    let lock = match OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        lock => lock?,
    };
    if lock.try_lock().is_err() {
        return Ok(false);
    }
    let record = match fs::read_to_string(dir.join(RECORD)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        record => record?,
    };
    // A last line cut short stands for something that was never made.
    let made: Vec<Made> = record.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    undo(&made)?;
    remove_traces(dir, &made)?;
    remove_dir(dir)?;
    Ok(true)
}

/// Removes what agents of a sandbox have left in [`run::DIR`]: the state file of one that was killed,
/// known by the process it names, and logs of the verifier, known by the pins' path in their names.
fn remove_traces(dir: &Path, made: &[Made]) -> Result<()> {
    let tree = run::name_of(dir) + "_";
    for entry in fs::read_dir(run::DIR).with_context(|| format!("read {}", run::DIR))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let of_ours = |thing: &Made| match thing {
            Made::Process(id) => name.ends_with(&format!(".{}.new", id.pid)) || describes(&entry.path(), *id),
            _ => false,
        };
        if name.starts_with(&tree) || made.iter().any(of_ours) {
            // Gone already is as good.
            fs::remove_file(entry.path()).ok();
        }
    }
    Ok(())
}

/// Whether this is the state file of that process.
fn describes(file: &Path, process: ProcessId) -> bool {
    #[derive(Deserialize)]
    struct Owner {
        pid: u32,
        started: u64,
    }
    if file.extension().is_none_or(|extension| extension != "json") {
        return false;
    }
    let owner = fs::read(file).ok().and_then(|text| serde_json::from_slice::<Owner>(&text).ok());
    owner.is_some_and(|owner| owner.pid == process.pid && owner.started == process.start_time)
}

/// Removes things, in the order they depend on each other. What is not there is no error.
fn undo(made: &[Made]) -> Result<()> {
    let mut failures = Vec::new();
    let mut step = |outcome: Result<()>| failures.extend(outcome.err());
    step(end_processes(made));
    for thing in made {
        if let Made::Cgroup(path) = thing {
            step(cgroup::kill_all(path));
        }
    }
    for thing in made.iter().rev() {
        step(match thing {
            Made::Mount(path) => mount::unmount(path),
            Made::Netns(name) => netns::delete(name),
            Made::Cgroup(_) | Made::Process(_) => Ok(()),
        });
    }
    for thing in made.iter().rev() {
        if let Made::Cgroup(path) = thing {
            step(cgroup::remove(path));
        }
    }
    match failures.len() {
        0 => Ok(()),
        _ => bail!("{}", failures.iter().map(|e| format!("{e:#}")).collect::<Vec<_>>().join("; ")),
    }
}

fn end_processes(made: &[Made]) -> Result<()> {
    let of_ours = |thing: &Made| match thing {
        Made::Process(id) => Some(*id),
        _ => None,
    };
    let processes: Vec<ProcessId> = made.iter().filter_map(of_ours).collect();
    for process in &processes {
        process.signal(libc::SIGKILL)?;
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Some(process) = processes.iter().find(|process| process.alive()) {
        if Instant::now() > deadline {
            bail!("process {} does not end", process.pid);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The estates of this process that exist.
fn live() -> MutexGuard<'static, Vec<Weak<Estate>>> {
    static LIVE: Mutex<Vec<Weak<Estate>>> = Mutex::new(Vec::new());
    let mut list = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    list.retain(|estate| estate.strong_count() > 0);
    list
}

/// From the first sandbox on, Ctrl-C, SIGTERM and SIGHUP tidy up before they end the process.
fn watch_signals() -> Result<()> {
    static WATCH: OnceLock<Result<(), String>> = OnceLock::new();
    let watch = WATCH.get_or_init(|| {
        let (ready, started) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if let Err(error) = wait_for_signal(&ready) {
                ready.send(Err(error.to_string())).ok();
            }
        });
        started.recv().unwrap_or_else(|_| Err("the thread that waits for signals ended".to_owned()))
    });
    watch.clone().map_err(|error| anyhow!("watch for signals: {error}"))
}

fn wait_for_signal(ready: &std::sync::mpsc::Sender<Result<(), String>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let number = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        ready.send(Ok(())).ok();
        io::Result::Ok(tokio::select! {
            _ = interrupt.recv() => libc::SIGINT,
            _ = terminate.recv() => libc::SIGTERM,
            _ = hangup.recv() => libc::SIGHUP,
        })
    })?;
    let estates: Vec<_> = live().iter().filter_map(Weak::upgrade).collect();
    for estate in estates {
        if let Err(error) = estate.tidy() {
            eprintln!("sandbox {}: {error:#}", estate.tag);
        }
    }
    std::process::exit(128 + number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_its_owner() {
        let owner = owner_of("sandbox-4711-99887-3");
        assert_eq!(owner, Some(ProcessId { pid: 4711, start_time: 99887 }));
        assert_eq!(owner_of("agent.lock"), None);
        assert_eq!(owner_of("sandbox-x-1-0"), None);
    }

    #[test]
    fn a_pid_that_is_used_again_is_not_the_owner() {
        let own = ProcessId::own().expect("own process");
        assert!(own.alive());
        assert!(!ProcessId { start_time: own.start_time + 1, ..own }.alive());
    }
}
