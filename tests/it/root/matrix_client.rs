//! The client of the matrix: this test binary, started again inside a pod, so that io_uring need not be
//! part of the product.

use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use beeline::host::netns::Netns;
use beeline::host::process::{Place, spawn};
use beeline::host::socket::dissolve;
use beeline::sandbox::pod::Pod;
use beeline::sandbox::proto::Protocol;
use beeline::sandbox::sock;
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::sockopt::{SocketError, TcpFastOpenConnect, UdpGsoSegment};
use nix::sys::socket::{
    self, ControlMessage, MsgFlags, MultiHeaders, SockFlag, SockaddrStorage, getsockopt, recvmmsg, recvmsg,
    sendmmsg, sendmsg, setsockopt,
};

use super::matrix::{Call, Cell, Outcome, Seen, Socket};
use super::matrix_raw::Ring;

/// Names the file that holds what the client is to do; the outcomes go beside it.
const ASKED: &str = "BEELINE_TEST_MATRIX";
/// The test that a client is started as.
const TEST: &str = "root::matrix::every_call_of_every_socket_reaches_a_backend_or_the_kernel_says_why_not";
/// The longest to wait for anything.
const PATIENCE: Duration = Duration::from_secs(5);

/// Plays cells in a process that lives where the pod does.
pub(super) fn play(pod: &Pod, dir: &Path, cells: &[Cell]) -> Vec<Outcome> {
    let file = dir.join(format!("matrix-{}.json", pod.name()));
    fs::write(&file, serde_json::to_vec(cells).expect("cells are JSON")).expect("the directory is ours");
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(["--exact", TEST, "--nocapture"]).env(ASKED, &file);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let netns = Netns::open(pod.netns()).expect("the pod has a namespace");
    let place = Place { netns: Some(netns.into()), cgroups: vec![pod.cgroup().to_owned()] };
    let child = spawn(command, place).expect("the client starts");
    let output = child.wait_with_output().expect("the client ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the client in {}: {said}", pod.name());
    let outcomes = fs::read(file.with_extension("out")).unwrap_or_else(|error| panic!("{error}: {said}"));
    serde_json::from_slice(&outcomes).expect("outcomes are JSON")
}

/// Whether this process is such a client.
pub(super) fn is_asked() -> bool {
    std::env::var_os(ASKED).is_some()
}

/// The client.
pub(super) fn run() {
    let file = std::path::PathBuf::from(std::env::var_os(ASKED).expect("asked"));
    let cells: Vec<Cell> = serde_json::from_slice(&fs::read(&file).expect("the cells")).expect("JSON");
    // Those of io_uring come last: where a ring goes, 5.10 interrupts what the thread does next.
    let (rings, others): (Vec<_>, Vec<_>) = (0..cells.len()).partition(|at| cells[*at].call == Call::IoUring);
    let mut outcomes = vec![Outcome::default(); cells.len()];
    for at in others.into_iter().chain(rings) {
        outcomes[at] = outcome(&cells[at]);
    }
    let outcomes = serde_json::to_vec(&outcomes).expect("outcomes are JSON");
    fs::write(file.with_extension("out"), outcomes).expect("the directory is the test's");
}

/// A step that must not fail, and how it did.
type Step<T> = Result<T, String>;

trait At<T> {
    fn at(self, step: &str) -> Step<T>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: &str) -> Step<T> {
        self.map_err(|errno| format!("{step}: {}", sock::name(errno)))
    }
}

fn outcome(cell: &Cell) -> Outcome {
    let mut outcome = Outcome::default();
    let played = match (cell.call, cell.socket) {
        (Call::IoUring, _) => io_uring(cell, &mut outcome),
        (_, Socket::Tcp) => tcp(cell, &mut outcome),
        (_, Socket::Connected) => connected(cell, &mut outcome),
        (_, Socket::Unconnected) => unconnected(cell, &mut outcome),
    };
    outcome.failed = played.err();
    outcome
}

fn tcp(cell: &Cell, out: &mut Outcome) -> Step<()> {
    let fd = open(cell)?;
    match cell.call {
        Call::FastOpen => return fast_open(cell, out),
        Call::Gso => out.errno = refusal(setsockopt(&fd, UdpGsoSegment, &3)),
        Call::Sendto | Call::Sendmsg | Call::Sendmmsg => {
            out.errno = refusal(transmit(&fd, cell.call, Some(cell.to)));
            // A socket that was refused may not be in its first state.
            let fd = open(cell)?;
            connect(cell, &fd)?;
            transmit(&fd, cell.call, Some(cell.other)).at("send")?;
            return receive(cell, &fd, 1, out);
        }
        _ => {}
    }
    connect(cell, &fd)?;
    transmit(&fd, Call::Connect, None).at("send")?;
    receive(cell, &fd, 1, out)
}

/// Both ways to send data with the SYN.
fn fast_open(cell: &Cell, out: &mut Outcome) -> Step<()> {
    let fd = open(cell)?;
    let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL);
    socket::sendto(fd.as_raw_fd(), b"?", &sock::wire(cell.to, false), flags).at("sendto, MSG_FASTOPEN")?;
    receive(cell, &fd, 1, out)?;
    let fd = open(cell)?;
    setsockopt(&fd, TcpFastOpenConnect, &true).at("TCP_FASTOPEN_CONNECT")?;
    connect(cell, &fd)?;
    transmit(&fd, Call::Connect, None).at("send")?;
    receive(cell, &fd, 1, out)
}

fn connected(cell: &Cell, out: &mut Outcome) -> Step<()> {
    let fd = open(cell)?;
    if cell.call == Call::FastOpen {
        out.errno = refusal(setsockopt(&fd, TcpFastOpenConnect, &true));
    }
    connect(cell, &fd)?;
    // With the address it is connected to, and without; more than once, since a choice must stay.
    for to in [Some(cell.to), None, Some(cell.to), None] {
        datagrams(cell, &fd, to, out)?;
    }
    one_backend(out)
}

fn unconnected(cell: &Cell, out: &mut Outcome) -> Step<()> {
    let fd = open(cell)?;
    match cell.call {
        Call::Connect | Call::NonBlocking => {
            out.errno = refusal(sock::peer(&fd));
            connect(cell, &fd)?;
            if sock::peer(&fd) != Ok(Some(cell.to)) {
                return Err(format!("connected, the peer is {:?}", sock::peer(&fd)));
            }
            dissolve(fd.as_fd()).at("connect, AF_UNSPEC")?;
            if refusal(sock::peer(&fd)) != out.errno {
                return Err(format!("dissolved, the peer is {:?}", sock::peer(&fd)));
            }
        }
        Call::FastOpen => out.errno = refusal(setsockopt(&fd, TcpFastOpenConnect, &true)),
        _ => {}
    }
    for _ in 0..4 {
        datagrams(cell, &fd, Some(cell.to), out)?;
    }
    one_backend(out)
}

/// All by io_uring; where there is none, its answer.
fn io_uring(cell: &Cell, out: &mut Outcome) -> Step<()> {
    let mut ring = match Ring::new() {
        Ok(ring) => ring,
        Err(errno) => {
            out.errno = Some(format!("{errno:?}"));
            return Ok(());
        }
    };
    let (fd, wire) = (open(cell)?, sock::wire(cell.to, false));
    if cell.socket != Socket::Unconnected {
        ring.connect(&fd, &wire).at("IORING_OP_CONNECT")?;
    }
    let addresses: &[Option<&SockaddrStorage>] = match cell.socket {
        Socket::Tcp => &[None],
        Socket::Connected => &[None, Some(&wire)],
        Socket::Unconnected => &[Some(&wire), Some(&wire)],
    };
    for to in addresses {
        ring.sendmsg(&fd, b"?", *to).at("IORING_OP_SENDMSG")?;
        sock::wait_readable(&fd, Instant::now() + PATIENCE).at("wait for an answer")?;
        let (data, from) = ring.recvmsg(&fd).at("IORING_OP_RECVMSG")?;
        saw(&fd, &data, from, out);
    }
    one_backend(out)
}

fn open(cell: &Cell) -> Step<OwnedFd> {
    let protocol = if cell.socket == Socket::Tcp { Protocol::Tcp } else { Protocol::Udp };
    let flags = if cell.call == Call::NonBlocking { SockFlag::SOCK_NONBLOCK } else { SockFlag::empty() };
    let fd = sock::open(protocol, cell.to.is_ipv6(), flags).at("socket")?;
    sock::set_timeouts(&fd, PATIENCE).at("SO_RCVTIMEO")?;
    Ok(fd)
}

fn connect(cell: &Cell, fd: &OwnedFd) -> Step<()> {
    match socket::connect(fd.as_raw_fd(), &sock::wire(cell.to, false)) {
        Err(Errno::EINPROGRESS) if cell.call == Call::NonBlocking && cell.socket == Socket::Tcp => {}
        other => return other.at("connect"),
    }
    sock::wait(fd.as_fd(), PollFlags::POLLOUT, Instant::now() + PATIENCE).at("wait for the connection")?;
    match getsockopt(fd, SocketError).at("SO_ERROR")? {
        0 => Ok(()),
        error => Err(Errno::from_raw(error)).at("connect"),
    }
}

/// Sends what a call of the matrix sends, and takes the answers.
fn datagrams(cell: &Cell, fd: &OwnedFd, to: Option<SocketAddr>, out: &mut Outcome) -> Step<()> {
    transmit(fd, cell.call, to).at("send")?;
    receive(cell, fd, if cell.call == Call::Gso { 2 } else { 1 }, out)
}

fn transmit(fd: &OwnedFd, call: Call, to: Option<SocketAddr>) -> Result<(), Errno> {
    let (fd, to) = (fd.as_raw_fd(), to.map(|to| sock::wire(to, false)));
    let fast_open = if call == Call::FastOpen { libc::MSG_FASTOPEN } else { 0 };
    let flags = MsgFlags::from_bits_retain(libc::MSG_NOSIGNAL | fast_open);
    match (call, &to) {
        (Call::Sendmsg, to) => sendmsg(fd, &[IoSlice::new(b"?")], &[], flags, to.as_ref()).map(drop),
        (Call::Gso, to) => {
            let segments = [ControlMessage::UdpGsoSegments(&3)];
            sendmsg(fd, &[IoSlice::new(b"?????")], &segments, flags, to.as_ref()).map(drop)
        }
        (Call::Sendmmsg, to) => {
            let mut headers = MultiHeaders::preallocate(1, None);
            sendmmsg(fd, &mut headers, &[[IoSlice::new(b"?")]], [*to], [], flags).map(drop)
        }
        (_, Some(to)) => socket::sendto(fd, b"?", to, flags).map(drop),
        (_, None) => socket::send(fd, b"?", flags).map(drop),
    }
}

/// Takes answers by the call of the matrix, where that is one of receiving, else by `recvmsg`.
fn receive(cell: &Cell, fd: &OwnedFd, count: usize, out: &mut Outcome) -> Step<()> {
    for _ in 0..count {
        sock::wait_readable(fd, Instant::now() + PATIENCE).at("wait for an answer")?;
        let (data, from) = match cell.call {
            Call::Recvfrom => by_recvfrom(fd),
            Call::Recvmmsg => by_recvmmsg(fd),
            Call::Peek => {
                let (data, from) = by_recvmsg(fd, MsgFlags::MSG_PEEK).at("recvmsg, MSG_PEEK")?;
                saw(fd, &data, from.filter(|_| cell.socket != Socket::Tcp), out);
                by_recvmsg(fd, MsgFlags::empty())
            }
            _ => by_recvmsg(fd, MsgFlags::empty()),
        }
        .at("receive")?;
        // TCP gives none, and then what nix makes of an address is not to be looked at.
        saw(fd, &data, from.filter(|_| cell.socket != Socket::Tcp), out);
    }
    Ok(())
}

type Datagram = (Vec<u8>, Option<SocketAddr>);

fn by_recvfrom(fd: &OwnedFd) -> Result<Datagram, Errno> {
    let mut data = vec![0; 4096];
    let (length, from) = socket::recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut data)?;
    data.truncate(length);
    Ok((data, from.as_ref().and_then(sock::std_addr)))
}

fn by_recvmsg(fd: &OwnedFd, flags: MsgFlags) -> Result<Datagram, Errno> {
    let mut data = vec![0; 4096];
    let mut slices = [IoSliceMut::new(&mut data)];
    let message = recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut slices, None, flags)?;
    let (length, from) = (message.bytes, message.address.as_ref().and_then(sock::std_addr));
    data.truncate(length);
    Ok((data, from))
}

fn by_recvmmsg(fd: &OwnedFd) -> Result<Datagram, Errno> {
    let mut data = vec![0; 4096];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(1, None);
    let mut slices = [[IoSliceMut::new(&mut data)]];
    let mut messages = recvmmsg(fd.as_raw_fd(), &mut headers, &mut slices, MsgFlags::empty(), None)?;
    let message = messages.next().ok_or(Errno::ENODATA)?;
    let (length, from) = (message.bytes, message.address.as_ref().and_then(sock::std_addr));
    data.truncate(length);
    Ok((data, from))
}

fn saw(fd: &OwnedFd, data: &[u8], from: Option<SocketAddr>, out: &mut Outcome) {
    let said = String::from_utf8_lossy(data).into_owned();
    out.seen.push(Seen { said, from, peer: sock::peer(fd).unwrap_or_default() });
}

/// A socket's datagrams to one frontend all go to one backend (SOCK-4).
fn one_backend(out: &Outcome) -> Step<()> {
    let name = |seen: &Seen| seen.said.split(':').next().unwrap_or_default().to_owned();
    match out.seen.iter().map(name).collect::<std::collections::BTreeSet<_>>() {
        names if names.len() > 1 => Err(format!("one socket reached {names:?}")),
        _ => Ok(()),
    }
}

/// The name of what the kernel answered.
fn refusal<T>(answer: Result<T, Errno>) -> Option<String> {
    answer.err().map(|errno| format!("{errno:?}"))
}
