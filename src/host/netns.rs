//! Network namespaces: made, named, entered, removed. The only `setns` of the project.
//!
//! A named namespace is a bind mount under [`NETNS_DIR`], as `ip netns` makes it, so that a person
//! can look into ours with the tools at hand.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Where named network namespaces live, as `ip netns` has it.
pub const NETNS_DIR: &str = "/run/netns";

/// A named network namespace, held open: it lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    name: String,
    fd: OwnedFd,
}

impl Netns {
    /// Makes a new namespace and names it.
    ///
    /// # Errors
    /// The name is taken, or the caller may not make namespaces (CAP_SYS_ADMIN).
    pub fn create(name: &str) -> Result<Self> {
        let path = path_of(name)?;
        let file = create_name(&path).with_context(|| format!("create {}", path.display()))?;
        drop(file);
        let made = on_own_thread(|| -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare a network namespace")?;
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("bind the network namespace to {}", path.display()))
        });
        if let Err(error) = made {
            delete(name).ok();
            return Err(error);
        }
        Self::open(name)
    }

    /// Opens a namespace that exists by name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn open(name: &str) -> Result<Self> {
        let path = path_of(name)?;
        let file = File::open(&path)
            .with_context(|| format!("open network namespace {name} at {}", path.display()))?;
        Ok(Self { name: name.to_owned(), fd: file.into() })
    }

    /// The name under [`NETNS_DIR`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` inside this namespace; see [`with_netns`].
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` fails.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        with_netns(self.fd.as_fd(), work)
    }
}

impl From<Netns> for OwnedFd {
    fn from(netns: Netns) -> Self {
        netns.fd
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The path of the namespace called `name`.
fn path_of(name: &str) -> Result<PathBuf> {
    let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    ensure!(plain, "{name:?} is no name for a network namespace");
    Ok(Path::new(NETNS_DIR).join(name))
}

/// Makes the file a namespace is mounted on. The directory may vanish under us when another process
/// removes its last namespace, hence the second try.
fn create_name(path: &Path) -> std::io::Result<File> {
    let mut last = None;
    for _ in 0..16 {
        fs::create_dir_all(NETNS_DIR)?;
        match File::create_new(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => last = Some(error),
            other => return other,
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::NotFound.into()))
}

/// Removes the namespace's name; the namespace itself ends with its last process, socket and file
/// descriptor. One that does not exist is no error. [`NETNS_DIR`] goes when it was the last one in a
/// plain directory.
///
/// # Errors
/// The mount or the file cannot be removed.
pub fn delete(name: &str) -> Result<()> {
    let path = path_of(name)?;
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(error) => return Err(error).with_context(|| format!("unmount {}", path.display())),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    // Refused while somebody else's namespace, or a mount of `ip netns`, is there: as it should be.
    fs::remove_dir(NETNS_DIR).ok();
    Ok(())
}

/// The names of all named namespaces, sorted.
///
/// # Errors
/// [`NETNS_DIR`] exists and cannot be read.
pub fn list() -> Result<Vec<String>> {
    let entries = match fs::read_dir(NETNS_DIR) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("read {NETNS_DIR}"))?,
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// The namespace this thread is in.
///
/// # Errors
/// /proc is not mounted.
pub fn current() -> Result<OwnedFd> {
    open_path(Path::new("/proc/thread-self/ns/net"))
}

/// The namespace a process is in.
///
/// # Errors
/// The process is gone, or may not be looked into (CAP_SYS_PTRACE).
pub fn of_process(pid: u32) -> Result<OwnedFd> {
    open_path(Path::new(&format!("/proc/{pid}/ns/net")))
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    Ok(File::open(path).with_context(|| format!("open network namespace {}", path.display()))?.into())
}

/// The inode number that tells namespaces of one boot apart, as `lsns` prints it.
///
/// # Errors
/// `fd` cannot be examined.
pub fn inode(fd: BorrowedFd<'_>) -> Result<u64> {
    let file = File::from(fd.try_clone_to_owned().context("duplicate a namespace descriptor")?);
    Ok(file.metadata().context("stat a network namespace")?.ino())
}

/// Moves the calling thread into a namespace, for good. For a process (or thread) of its own that
/// stays there; everybody else uses [`with_netns`].
///
/// # Errors
/// CAP_SYS_ADMIN is missing, or `fd` is no network namespace.
pub fn enter(fd: BorrowedFd<'_>) -> Result<()> {
    setns(fd, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("enter the network namespace of descriptor {}", fd.as_raw_fd()))
}

/// Runs `work` in a namespace, on a thread made for it and ended after, so that no thread of the
/// caller ever is in a foreign namespace. Sockets opened in `work` stay in the namespace and may be
/// returned. A panic of `work` goes on in the caller.
///
/// # Errors
/// The namespace cannot be entered, or `work` fails.
pub fn with_netns<T: Send>(fd: BorrowedFd<'_>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        enter(fd)?;
        work()
    })
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The cookie of the calling thread's namespace, as BPF programs see it (`bpf_get_netns_cookie`);
/// `None` before Linux 5.14 (e8b9eab99232 "net: retrieve netns cookie via getsocketopt").
///
/// # Errors
/// No socket can be opened.
pub fn cookie() -> Result<Option<u64>> {
    let probe = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context("open a socket to ask for the cookie of the network namespace")?;
    let mut value = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `value` and `length` outlive the call, and `length` says how large `value` is.
    let result = unsafe {
        libc::getsockopt(
            probe.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    match Errno::result(result) {
        Ok(_) => Ok(Some(value)),
        Err(Errno::ENOPROTOOPT) => Ok(None),
        Err(error) => Err(error).context("ask for the cookie of the network namespace (SO_NETNS_COOKIE)"),
    }
}
