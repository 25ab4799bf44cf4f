//! Processes: started in a namespace and a cgroup, known by pid and start time, ended for certain.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpid, getppid, write};
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
}

impl ProcessId {
    /// This process.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn own() -> Result<Self> {
        Self::of(std::process::id())
    }

    /// The process that has this pid now.
    ///
    /// # Errors
    /// There is none.
    pub fn of(pid: u32) -> Result<Self> {
        let (start_time, _) = stat(pid).with_context(|| format!("no process has pid {pid}"))?;
        Ok(Self { pid, start_time })
    }

    /// Whether the process still runs; one that has ended and waits to be reaped does not.
    pub fn alive(self) -> bool {
        stat(self.pid)
            .is_some_and(|(start_time, state)| start_time == self.start_time && !matches!(state, 'Z' | 'X'))
    }

    /// Sends a signal, to this process and never to a later one with its pid. Returns false if it has
    /// ended.
    ///
    /// # Errors
    /// The signal may not be sent.
    pub fn signal(self, signal: i32) -> Result<bool> {
        // SAFETY: pidfd_open (Linux 5.3) takes two numbers; what it returns is a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) } as RawFd;
        if fd < 0 {
            return Ok(false);
        }
        // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
        let fd = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        // The descriptor now holds the process, so that looking at its start time first is no race.
        if !self.alive() {
            return Ok(false);
        }
        // SAFETY: a valid pidfd, a number, no siginfo, no flags.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                fd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(sent) {
            Ok(_) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("send signal {signal} to process {}", self.pid)),
        }
    }
}

/// Start time and state of a process, `None` if there is none.
fn stat(pid: u32) -> Option<(u64, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks and parentheses itself.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

/// Sends a signal to a pid.
///
/// # Errors
/// There is no such process, or it may not be signalled.
pub fn kill(pid: u32, signal: i32) -> Result<()> {
    let target =
        i32::try_from(pid).ok().filter(|&pid| pid > 0).with_context(|| format!("{pid} is no pid"))?;
    let what = || format!("send signal {signal} to process {pid}");
    let signal = Signal::try_from(signal).with_context(what)?;
    nix::sys::signal::kill(Pid::from_raw(target), signal).with_context(what)
}

/// Where a child shall run.
#[derive(Debug, Default)]
pub struct Place {
    /// The network namespace; `None`: that of the caller's process.
    pub netns: Option<OwnedFd>,
    /// The cgroups, one per hierarchy, entered before the program starts, so that every socket it opens
    /// belongs to them.
    pub cgroups: Vec<PathBuf>,
}

/// Starts `command` in `place`, in a process group of its own (Ctrl-C reaches only the parent, which
/// then ends its children in order), killed by the kernel when this process ends however it ends.
///
/// # Errors
/// The program, a cgroup or the namespace cannot be had.
pub fn spawn(mut command: Command, place: Place) -> Result<Child> {
    let program = command.get_program().to_owned();
    prepare(&mut command, place)?;
    let (reply, answer) = channel();
    let job: Job = Box::new(move || {
        reply.send(command.spawn()).ok();
    });
    spawner().send(job).map_err(|_| anyhow!("the thread that starts processes is gone"))?;
    let started = answer.recv().context("the thread that starts processes is gone")?;
    started.with_context(|| format!("start {}", Path::new(&program).display()))
}

type Job = Box<dyn FnOnce() + Send>;

/// The thread all children come from. PR_SET_PDEATHSIG is bound to the parent *thread*, so this one
/// lives as long as the process.
fn spawner() -> &'static Sender<Job> {
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (jobs, inbox) = channel::<Job>();
        std::thread::spawn(move || inbox.into_iter().for_each(|job| job()));
        jobs
    })
}

fn prepare(command: &mut Command, place: Place) -> Result<()> {
    let parent = getpid();
    let mut files = Vec::new();
    for cgroup in &place.cgroups {
        let path = cgroup.join("cgroup.procs");
        if !path.exists() {
            bail!("{} is no cgroup", cgroup.display());
        }
        files.push(CString::new(path.as_os_str().as_bytes()).context("a cgroup's path holds a zero byte")?);
    }
    command.process_group(0);
    // SAFETY: runs between fork and exec and makes system calls only: nothing is allocated, no lock is
    // taken, and what it uses was prepared above.
    unsafe {
        command.pre_exec(move || {
            die_with(parent)?;
            files.iter().try_for_each(|file| join(file))?;
            match &place.netns {
                Some(fd) => Ok(setns(fd, CloneFlags::CLONE_NEWNET)?),
                None => Ok(()),
            }
        });
    }
    Ok(())
}

/// Asks the kernel to kill this process when its parent ends, also if that has happened already.
fn die_with(parent: Pid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
}

/// Moves the calling process into the cgroup whose `cgroup.procs` this is.
fn join(file: &CStr) -> io::Result<()> {
    let fd = open(file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(fd, b"0")?;
    Ok(())
}
