//! A pod sends datagrams and waits for their answers.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    self, ControlMessage, MsgFlags, MultiHeaders, SockFlag, SockaddrStorage, recvmsg, sendmmsg, sendmsg,
};

use crate::sandbox::proto::{Answer, Exchange, ExchangeReport, Protocol, SendCall, Step};
use crate::sandbox::sock;

/// Sends one datagram to each target and collects the answers.
pub(super) fn exchange(exchange: &Exchange) -> ExchangeReport {
    let mut report = ExchangeReport { local: None, peer: None, errno: None, answers: Vec::new() };
    match open(exchange) {
        Err(errno) => report.errno = Some(sock::name(errno)),
        Ok(fd) => {
            report.answers = match exchange.call {
                SendCall::Sendmmsg => all_at_once(exchange, &fd),
                _ => one_by_one(exchange, &fd),
            };
            report.local = sock::local(&fd);
            report.peer = sock::peer(&fd).unwrap_or_default();
        }
    }
    report
}

fn open(exchange: &Exchange) -> Result<OwnedFd, Errno> {
    let first = exchange.to.first().ok_or(Errno::EDESTADDRREQ)?;
    let target = sock::wire(*first, exchange.mapped);
    let fd = sock::open(Protocol::Udp, sock::is_v6(&target), SockFlag::empty())?;
    if exchange.connect {
        socket::connect(fd.as_raw_fd(), &target)?;
    }
    Ok(fd)
}

fn one_by_one(exchange: &Exchange, fd: &OwnedFd) -> Vec<Answer> {
    let mut answers = Vec::new();
    for &to in &exchange.to {
        let begun = Instant::now();
        if let Err(errno) = send(exchange, fd, to) {
            answers.push(failed(to, Step::Send, errno, begun));
            continue;
        }
        for _ in 0..datagrams(exchange) {
            answers.push(receive(exchange, fd, to, begun));
        }
    }
    answers
}

/// How many datagrams one call sends: more than one if the kernel cuts the payload up.
fn datagrams(exchange: &Exchange) -> usize {
    match exchange.segment {
        Some(size) if size > 0 => exchange.say.len().div_ceil(usize::from(size)).max(1),
        _ => 1,
    }
}

fn send(exchange: &Exchange, fd: &OwnedFd, to: SocketAddr) -> Result<(), Errno> {
    let target = sock::wire(to, exchange.mapped);
    let payload = exchange.say.as_bytes();
    let segments = exchange.segment.as_ref().map(ControlMessage::UdpGsoSegments);
    let (fd, flags) = (fd.as_raw_fd(), MsgFlags::MSG_NOSIGNAL);
    let sent = match (exchange.call, segments) {
        (SendCall::Send, None) => socket::send(fd, payload, flags),
        (SendCall::Sendto, None) => socket::sendto(fd, payload, &target, flags),
        (call, segments) => {
            let address = (call != SendCall::Send).then_some(&target);
            sendmsg(fd, &[IoSlice::new(payload)], segments.as_slice(), flags, address)
        }
    };
    sent.map(drop)
}

fn all_at_once(exchange: &Exchange, fd: &OwnedFd) -> Vec<Answer> {
    let begun = Instant::now();
    let targets: Vec<Option<SockaddrStorage>> =
        exchange.to.iter().map(|&to| (!exchange.connect).then(|| sock::wire(to, exchange.mapped))).collect();
    let slices: Vec<[IoSlice<'_>; 1]> =
        targets.iter().map(|_| [IoSlice::new(exchange.say.as_bytes())]).collect();
    let segments = exchange.segment.as_ref().map(ControlMessage::UdpGsoSegments);
    let space = segments.is_some().then(|| cmsg_space!(u16));
    let mut headers = MultiHeaders::preallocate(targets.len(), space);
    let sent = sendmmsg(
        fd.as_raw_fd(),
        &mut headers,
        &slices,
        &targets,
        segments.as_slice(),
        MsgFlags::MSG_NOSIGNAL,
    )
    .map(|results| results.count());
    let sent = match sent {
        Ok(sent) => sent,
        Err(errno) => {
            return exchange.to.iter().map(|&to| failed(to, Step::Send, errno, begun)).collect();
        }
    };
    // Answers may come in any order: `from` tells to whom each belongs.
    let each = datagrams(exchange);
    let awaited = exchange.to[..sent].iter().flat_map(|to| std::iter::repeat_n(*to, each));
    awaited.map(|to| receive(exchange, fd, to, begun)).collect()
}

fn receive(exchange: &Exchange, fd: &OwnedFd, to: SocketAddr, begun: Instant) -> Answer {
    let deadline = begun + Duration::from_millis(exchange.timeout_ms);
    match receive_one(exchange, fd, deadline) {
        Err(errno) => failed(to, Step::Receive, errno, begun),
        Ok((data, from, peeked_from)) => Answer {
            to,
            reply: Some(String::from_utf8_lossy(&data).into_owned()),
            from,
            peeked_from,
            errno: None,
            failed: None,
            elapsed_us: micros(begun),
        },
    }
}

type Datagram = (Vec<u8>, Option<SocketAddr>, Option<SocketAddr>);

fn receive_one(exchange: &Exchange, fd: &OwnedFd, deadline: Instant) -> Result<Datagram, Errno> {
    sock::wait_readable(fd, deadline)?;
    let mut peeked_from = None;
    if exchange.peek {
        peeked_from = receive_message(fd, MsgFlags::MSG_PEEK)?.1;
    }
    let (data, from) = match exchange.call {
        SendCall::Sendmsg | SendCall::Sendmmsg => receive_message(fd, MsgFlags::empty())?,
        SendCall::Send | SendCall::Sendto => {
            let mut buffer = vec![0; 65536];
            let (length, from) = socket::recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut buffer)?;
            buffer.truncate(length);
            (buffer, from.as_ref().and_then(sock::std_addr))
        }
    };
    Ok((data, from, peeked_from))
}

/// `recvmsg`: the data and where it came from.
pub(super) fn receive_message(fd: &OwnedFd, flags: MsgFlags) -> Result<(Vec<u8>, Option<SocketAddr>), Errno> {
    let mut buffer = vec![0; 65536];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut slices, None, flags)?;
    let (length, from) = (message.bytes, message.address.as_ref().and_then(sock::std_addr));
    buffer.truncate(length);
    Ok((buffer, from))
}

fn failed(to: SocketAddr, step: Step, errno: Errno, begun: Instant) -> Answer {
    Answer {
        to,
        reply: None,
        from: None,
        peeked_from: None,
        errno: Some(sock::name(errno)),
        failed: Some(step),
        elapsed_us: micros(begun),
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
