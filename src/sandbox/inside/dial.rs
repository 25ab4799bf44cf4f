//! A pod makes TCP connections.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::sockopt::{SocketError, TcpFastOpenConnect};
use nix::sys::socket::{self, MsgFlags, SockFlag, SockaddrStorage, bind, getsockopt, setsockopt};
use nix::time::{ClockId, clock_gettime};

use crate::sandbox::proto::{ConnectCall, Dial, DialReport, DialUntil, DialUntilReport, Protocol, Step};
use crate::sandbox::sock;

/// An error with the step it came at.
type Outcome<T> = Result<T, (Step, Errno)>;

trait At<T> {
    fn at(self, step: Step) -> Outcome<T>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: Step) -> Outcome<T> {
        self.map_err(|errno| (step, errno))
    }
}

/// Connects, asks, closes.
pub(super) fn dial(dial: &Dial) -> DialReport {
    let mut report = DialReport {
        local: None,
        peer: None,
        reply: None,
        errno: None,
        failed: None,
        connect_us: 0,
        elapsed_us: 0,
    };
    let begun = Instant::now();
    if let Err((step, errno)) = converse(dial, begun, &mut report) {
        report.errno = Some(sock::name(errno));
        report.failed = Some(step);
    }
    report.elapsed_us = micros(begun);
    report
}

fn converse(dial: &Dial, begun: Instant, report: &mut DialReport) -> Outcome<()> {
    let limit = Duration::from_millis(dial.timeout_ms);
    let target = sock::wire(dial.to, dial.mapped);
    let fd = open(dial, &target).at(Step::Open)?;
    let sent = connect(dial, &fd, &target, begun + limit)?;
    report.connect_us = micros(begun);
    report.local = sock::local(&fd);
    report.peer = sock::peer(&fd).unwrap_or_default();
    if dial.say.is_empty() {
        return Ok(());
    }
    let rest = &dial.say.as_bytes()[sent..];
    if !rest.is_empty() {
        socket::send(fd.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL).at(Step::Send)?;
    }
    // Fast open connects only with the first data; only now is there a peer.
    let reply = receive_line(&fd, Instant::now() + limit).at(Step::Receive)?;
    report.local = sock::local(&fd);
    report.peer = sock::peer(&fd).unwrap_or_default();
    report.reply = Some(reply);
    Ok(())
}

fn open(dial: &Dial, target: &SockaddrStorage) -> Result<OwnedFd, Errno> {
    let flags = match dial.call {
        ConnectCall::NonBlocking => SockFlag::SOCK_NONBLOCK,
        _ => SockFlag::empty(),
    };
    let fd = sock::open(Protocol::Tcp, sock::is_v6(target), flags)?;
    sock::set_timeouts(&fd, Duration::from_millis(dial.timeout_ms))?;
    if let Some(from) = dial.from {
        bind(fd.as_raw_fd(), &sock::wire(from, dial.mapped))?;
    }
    if dial.call == ConnectCall::FastOpenConnect {
        setsockopt(&fd, TcpFastOpenConnect, &true)?;
    }
    Ok(fd)
}

/// Connects; answers how many bytes of what is to be said went along.
fn connect(dial: &Dial, fd: &OwnedFd, target: &SockaddrStorage, deadline: Instant) -> Outcome<usize> {
    match dial.call {
        ConnectCall::Blocking | ConnectCall::FastOpenConnect => {
            socket::connect(fd.as_raw_fd(), target).at(Step::Connect)?;
            Ok(0)
        }
        ConnectCall::NonBlocking => {
            match socket::connect(fd.as_raw_fd(), target) {
                Err(Errno::EINPROGRESS) => {}
                other => return other.map(|()| 0).at(Step::Connect),
            }
            sock::wait(fd.as_fd(), PollFlags::POLLOUT, deadline).at(Step::Connect)?;
            match getsockopt(fd, SocketError).at(Step::Connect)? {
                0 => Ok(0),
                error => Err((Step::Connect, Errno::from_raw(error))),
            }
        }
        ConnectCall::FastOpenSend => {
            let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL);
            socket::sendto(fd.as_raw_fd(), dial.say.as_bytes(), target, flags).at(Step::Connect)
        }
    }
}

/// Reads until a newline or the end of the stream.
pub(super) fn receive_line(fd: &OwnedFd, deadline: Instant) -> Result<String, Errno> {
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        sock::wait_readable(fd, deadline)?;
        let length = socket::recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        line.extend_from_slice(&buffer[..length]);
        if length == 0 || line.last() == Some(&b'\n') {
            return Ok(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned());
        }
    }
}

/// Connects in a tight loop until the wanted backend answers.
pub(super) fn dial_until(until: &DialUntil) -> DialUntilReport {
    let deadline = Instant::now() + Duration::from_millis(until.timeout_ms);
    let target = sock::wire(until.to, false);
    let (mut attempts, mut errors) = (0, BTreeSet::new());
    while Instant::now() < deadline {
        attempts += 1;
        match attempt(&target, deadline) {
            Ok((before, after, name)) if name == until.name => {
                let errors = errors.into_iter().collect();
                return DialUntilReport {
                    connect_at_ns: Some(before),
                    connected_at_ns: Some(after),
                    attempts,
                    errors,
                };
            }
            Ok(_) => {}
            Err(errno) => {
                errors.insert(sock::name(errno));
            }
        }
    }
    let errors = errors.into_iter().collect();
    DialUntilReport { connect_at_ns: None, connected_at_ns: None, attempts, errors }
}

/// One connection: the clock before and after `connect`, and who answered.
pub(super) fn attempt(target: &SockaddrStorage, deadline: Instant) -> Result<(u64, u64, String), Errno> {
    let fd = sock::open(Protocol::Tcp, sock::is_v6(target), SockFlag::empty())?;
    sock::set_timeouts(
        &fd,
        deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)),
    )?;
    let before = monotonic_ns()?;
    socket::connect(fd.as_raw_fd(), target)?;
    let after = monotonic_ns()?;
    socket::send(fd.as_raw_fd(), b"?", MsgFlags::MSG_NOSIGNAL)?;
    Ok((before, after, receive_line(&fd, deadline)?))
}

/// CLOCK_MONOTONIC in nanoseconds.
fn monotonic_ns() -> Result<u64, Errno> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
