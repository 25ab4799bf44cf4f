//! One thread of a load.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockFlag, SockaddrStorage, connect, recv, send};

use super::{Ask, LoadSpec, Mode, Tally};
use crate::sandbox::proto::Protocol;
use crate::sandbox::sock;

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Errno(Errno),
    /// The server closed without an answer.
    Eof,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => f.write_str(&sock::name(*errno)),
            Self::Eof => f.write_str("EOF"),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// The longest answer: the name of a pod and what was sent.
const ANSWER: usize = 320;

pub(super) struct Worker {
    targets: Vec<SockaddrStorage>,
    next: usize,
    protocol: Protocol,
    mode: Mode,
    ask: Ask,
    timeout: Option<Duration>,
    pause: Duration,
    kept: Option<OwnedFd>,
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    left: Arc<AtomicU64>,
    deadline: Option<Instant>,
}

impl Worker {
    pub fn new(
        spec: &LoadSpec,
        number: usize,
        tally: Arc<Mutex<Tally>>,
        stop: Arc<AtomicBool>,
        left: Arc<AtomicU64>,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            targets: spec.to.iter().map(|&to| sock::wire(to, spec.mapped)).collect(),
            next: number,
            protocol: spec.protocol,
            mode: spec.mode,
            ask: spec.ask,
            timeout: spec.timeout_ms.map(Duration::from_millis),
            pause: Duration::from_micros(spec.pause_us),
            kept: None,
            tally,
            stop,
            left,
            deadline,
        }
    }

    pub fn run(&mut self) {
        let mut answer = [0; ANSWER];
        while self.goes_on() {
            let begun = Instant::now();
            let outcome = self.operate(&mut answer);
            self.count(outcome, begun.elapsed(), &answer);
            if !self.pause.is_zero() {
                std::thread::sleep(self.pause);
            }
        }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
            && self.deadline.is_none_or(|deadline| Instant::now() < deadline)
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
    }

    /// One operation; answers how many bytes of `answer` are the backend's name.
    fn operate(&mut self, answer: &mut [u8; ANSWER]) -> Result<usize, Failure> {
        if self.mode == Mode::Connect {
            let fd = self.connect()?;
            return self.ask(&fd, answer);
        }
        let fd = match self.kept.take() {
            Some(fd) => fd,
            None => self.connect()?,
        };
        let length = self.ask(&fd, answer)?;
        self.kept = Some(fd);
        Ok(length)
    }

    fn connect(&mut self) -> Result<OwnedFd, Failure> {
        let target = &self.targets[self.next % self.targets.len()];
        self.next = self.next.wrapping_add(1);
        let fd = sock::open(self.protocol, sock::is_v6(target), SockFlag::empty())?;
        if let Some(limit) = self.timeout {
            sock::set_timeouts(&fd, limit)?;
        }
        connect(fd.as_raw_fd(), target)?;
        Ok(fd)
    }

    fn ask(&self, fd: &OwnedFd, answer: &mut [u8; ANSWER]) -> Result<usize, Failure> {
        let question = match self.ask {
            Ask::Byte => b".",
            Ask::Name => b"?",
        };
        send(fd.as_raw_fd(), question, MsgFlags::MSG_NOSIGNAL)?;
        let mut have = 0;
        loop {
            let got = recv(fd.as_raw_fd(), &mut answer[have..], MsgFlags::empty())?;
            if got == 0 {
                return Err(Failure::Eof);
            }
            have += got;
            let name = match (self.ask, self.protocol) {
                (Ask::Byte, _) => Some(0),
                (Ask::Name, Protocol::Tcp) => answer[..have].iter().position(|&b| b == b'\n'),
                (Ask::Name, Protocol::Udp) => answer[..have].iter().position(|&b| b == b':').or(Some(have)),
            };
            match name {
                Some(length) => return Ok(length),
                None if have == ANSWER => return Err(Errno::EMSGSIZE.into()),
                None => {}
            }
        }
    }

    fn count(&self, outcome: Result<usize, Failure>, took: Duration, answer: &[u8; ANSWER]) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(length) => {
                tally.done += 1;
                tally.latency.record(took);
                if length > 0 {
                    count_name(&mut tally.backends, &answer[..length]);
                }
            }
            Err(failure) => match tally.errors.iter_mut().find(|(known, _)| *known == failure) {
                Some((_, count)) => *count += 1,
                None => tally.errors.push((failure, 1)),
            },
        }
    }
}

/// Counts a name in a short list; only a new one is allocated.
fn count_name(list: &mut Vec<(Box<[u8]>, u64)>, name: &[u8]) {
    match list.iter_mut().find(|(known, _)| **known == *name) {
        Some((_, count)) => *count += 1,
        None => list.push((name.into(), 1)),
    }
}
