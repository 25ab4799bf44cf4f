//! The clients of a race, and the servers behind all endpoints. Each is one thread.
//!
//! *Dialers* make a socket, connect it and look where it leads; they need no server.
//! *Talkers* keep an unconnected socket and ask two Services on it, by bursts: while one is asked
//! the choice that is remembered of the other grows old. The answer says which endpoint was reached.

use std::collections::BTreeMap;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{IpBindAddressNoPort, Ipv4PacketInfo};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, bind,
    connect, getpeername, recvmsg, sendmsg, setsockopt, socket,
};
use serde::{Deserialize, Serialize};

use super::race_board::{Board, Finding, SERVICES, vip};

/// How long an answer may take. Only a datagram that went nowhere takes longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The kernel may lose a datagram while sockets of others are connected (see [`dial`]), not so many in a row.
const TRIES: u32 = 3;
/// Questions to one Service before the other is asked again.
const BURST: u32 = 150;
/// Questions of a talker's socket, for talkers that take a new one now and then.
const SHORT_LIFE: u32 = 40;
/// An answer: the endpoint that was reached (address, port), and the question.
const ANSWER: usize = 10;

/// What clients met, by kind.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// Connections made.
    pub connects: u64,
    /// Datagrams sent and answered.
    pub asks: u64,
    /// Of those, by a choice that the socket remembered: the endpoint was that of the question before.
    pub remembered: u64,
    /// Answers shown as from the endpoint, because it had been replaced before they came.
    pub late: u64,
    /// Datagrams that no answer came to, and that were sent again.
    pub lost: u64,
    /// Everything that must not be, by what it was.
    pub errors: BTreeMap<String, u64>,
}

impl Seen {
    /// All errors.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The errors of one kind.
    pub fn of(&self, kind: &str) -> u64 {
        self.errors.get(kind).copied().unwrap_or(0)
    }

    fn error(&mut self, board: &Board, what: &str) {
        board.fail();
        *self.errors.entry(what.to_owned()).or_default() += 1;
    }

    fn finding(&mut self, board: &Board, call: &str, finding: Finding) {
        if finding != Finding::Right {
            self.error(board, &format!("{call}: {finding:?}"));
        }
    }

    /// Adds what another client met.
    pub fn add(&mut self, other: &Seen) {
        self.connects += other.connects;
        self.asks += other.asks;
        self.remembered += other.remembered;
        self.late += other.late;
        self.lost += other.lost;
        for (what, count) in &other.errors {
            *self.errors.entry(what.clone()).or_default() += count;
        }
    }
}

/// Answers at one port of all endpoints until all clients are done.
pub fn serve(board: &Board, socket: &UdpSocket) {
    setsockopt(socket, Ipv4PacketInfo, &true).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut question = [0; 4];
    let mut space = cmsg_space!(libc::in_pktinfo);
    while !board.is_over() {
        let mut parts = [IoSliceMut::new(&mut question)];
        let received =
            recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty());
        let Ok(message) = received else { continue };
        let info = message.cmsgs().unwrap().find_map(|part| match part {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
            _ => None,
        });
        let (Some(info), Some(from)) = (info, message.address) else { continue };
        let mut answer = [0; ANSWER];
        answer[..4].copy_from_slice(&info.ipi_addr.s_addr.to_ne_bytes());
        answer[4..6].copy_from_slice(&port.to_be_bytes());
        answer[6..].copy_from_slice(&question);
        let source =
            libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_addr, ipi_addr: info.ipi_addr };
        let control = [ControlMessage::Ipv4PacketInfo(&source)];
        let _ =
            sendmsg(socket.as_raw_fd(), &[IoSlice::new(&answer)], &control, MsgFlags::empty(), Some(&from));
    }
}

/// Connects to all Services by turns until the race ends.
pub fn dialer(board: &Board, number: usize) -> Seen {
    let mut seen = Seen::default();
    for turn in number.. {
        if !board.runs() {
            break;
        }
        let service = turn % SERVICES.len();
        let oldest = board.oldest(service);
        match dial(service) {
            Ok(came_to) => seen.finding(board, "connect", board.judge(service, oldest, came_to)),
            Err(errno) => seen.error(board, &format!("connect: {errno:?}")),
        }
        seen.connects += 1;
    }
    seen
}

/// Where a new socket leads that is connected to a Service. `getpeername` must not be hooked.
pub fn dial(service: usize) -> Result<SocketAddrV4, Errno> {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // Connecting would move a socket without an address from one chain of the kernel's hash to another, and
    // whoever looks for another socket of that chain then may miss it: answers of talkers would be lost.
    setsockopt(&fd, IpBindAddressNoPort, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(vip(service)))?;
    Ok(getpeername::<SockaddrIn>(fd.as_raw_fd())?.into())
}

/// Asks the first two Services until the race ends; odd talkers take a new socket now and then.
pub fn talker(board: &Board, number: usize) -> Seen {
    let mut talker = Talker {
        board,
        socket: new_socket(),
        question: (number as u32) << 24,
        last: [None; 2],
        seen: Seen::default(),
    };
    let short = number % 2 == 1;
    let mut service = 0;
    while board.runs() {
        // The one that is only asked once is the first that a new socket asks.
        talker.ask(service);
        service ^= 1;
        for _ in 0..if short { SHORT_LIFE } else { BURST } {
            if board.runs() {
                talker.ask(service);
            }
        }
        if short {
            talker.socket = new_socket();
            talker.last = [None; 2];
        }
    }
    talker.seen
}

fn new_socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

struct Talker<'a> {
    board: &'a Board,
    socket: UdpSocket,
    question: u32,
    /// The endpoints reached last.
    last: [Option<SocketAddrV4>; 2],
    seen: Seen,
}

impl Talker<'_> {
    fn ask(&mut self, service: usize) {
        for _ in 0..TRIES {
            self.question = self.question.wrapping_add(1);
            let oldest = self.board.oldest(service);
            if let Err(error) = self.socket.send_to(&self.question.to_be_bytes(), vip(service)) {
                return self.seen.error(self.board, &format!("sendto: {}", error.kind()));
            }
            // The choice was made by now; the answer is waited for without a hurry.
            let newest = self.board.newest(service);
            match self.answer() {
                Ok((reached, shown)) => return self.judge(service, (oldest, newest), reached, shown),
                Err(ErrorKind::WouldBlock) => self.seen.lost += 1,
                Err(other) => return self.seen.error(self.board, &format!("recvfrom: {other}")),
            }
        }
        self.seen.error(self.board, "sendto: no answer");
    }

    /// The endpoint that was reached, and who `recvfrom` says it is.
    fn answer(&self) -> Result<(SocketAddrV4, SocketAddrV4), ErrorKind> {
        let end = Instant::now() + PATIENCE;
        let mut answer = [0; ANSWER];
        while Instant::now() < end {
            let (length, from) = self.socket.recv_from(&mut answer).map_err(|error| error.kind())?;
            let [a, b, c, d, high, low, question @ ..] = answer;
            match from {
                SocketAddr::V4(from) if length == ANSWER && question == self.question.to_be_bytes() => {
                    let port = u16::from_be_bytes([high, low]);
                    return Ok((SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port), from));
                }
                _ => {} // of a question before
            }
        }
        Err(ErrorKind::WouldBlock)
    }

    fn judge(&mut self, service: usize, seen: (u64, u64), reached: SocketAddrV4, shown: SocketAddrV4) {
        let stays = self.last[service] == Some(reached);
        self.last[service] = Some(reached);
        self.seen.asks += 1;
        self.seen.remembered += u64::from(stays);
        self.seen.finding(self.board, "sendto", self.board.judge_between(service, seen, reached));
        if shown == vip(service ^ 1) {
            self.seen.error(self.board, SHOWN_AS_OTHER);
        } else if shown == reached {
            self.seen.late += 1;
        } else if shown != vip(service) {
            self.seen.error(self.board, "recvfrom: shown as nobody's");
        }
    }
}

/// An answer was shown as from a Service that was not asked.
pub const SHOWN_AS_OTHER: &str = "recvfrom: shown as another Service's";
