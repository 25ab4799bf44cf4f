//! The matrix of sockets: every kind of socket by every kind of call to a Service reaches a backend and
//! shows what was dialled, or the kernel itself says why there is no such call.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use beeline::sandbox::pod::Pod;
use serde::{Deserialize, Serialize};

use super::matrix_client;
use super::matrix_raw::Ring;
use super::matrix_stage::{Stage, Svc, TARGET};

/// A kind of socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Socket {
    Tcp,
    Connected,
    Unconnected,
}

/// How a socket names the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Form {
    V4,
    V6,
    /// An IPv4 address on an IPv6 socket, `::ffff:a.b.c.d`.
    Mapped,
}

/// A row of the matrix: how the address is named, or how an answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Call {
    Connect,
    /// `connect` on a non-blocking socket.
    NonBlocking,
    Sendto,
    Sendmsg,
    Sendmmsg,
    /// Connecting, sending and receiving by io_uring.
    IoUring,
    /// MSG_FASTOPEN and TCP_FASTOPEN_CONNECT.
    FastOpen,
    Recvfrom,
    Recvmsg,
    Recvmmsg,
    /// MSG_PEEK, then the data.
    Peek,
    /// UDP_SEGMENT: one call, two datagrams.
    Gso,
}

const SOCKETS: [Socket; 3] = [Socket::Tcp, Socket::Connected, Socket::Unconnected];
const FORMS: [Form; 3] = [Form::V4, Form::V6, Form::Mapped];
const CALLS: [(Call, &str); 12] = [
    (Call::Connect, "connect"),
    (Call::NonBlocking, "connect, non-blocking"),
    (Call::Sendto, "sendto"),
    (Call::Sendmsg, "sendmsg"),
    (Call::Sendmmsg, "sendmmsg"),
    (Call::IoUring, "io_uring"),
    (Call::FastOpen, "TCP fast open"),
    (Call::Recvfrom, "recvfrom"),
    (Call::Recvmsg, "recvmsg"),
    (Call::Recvmmsg, "recvmmsg"),
    (Call::Peek, "recvmsg, MSG_PEEK"),
    (Call::Gso, "UDP GSO"),
];

/// What the client is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Cell {
    pub call: Call,
    pub socket: Socket,
    pub form: Form,
    pub to: SocketAddr,
    /// Another Service, with other backends.
    pub other: SocketAddr,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// What the kernel answered to the call that does not exist for this kind of socket.
    pub errno: Option<String>,
    /// Every answer that came.
    pub seen: Vec<Seen>,
    /// The step that failed and how, where nothing may fail.
    pub failed: Option<String>,
}

/// An answer as the client's socket shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Seen {
    pub said: String,
    /// From which address.
    pub from: Option<SocketAddr>,
    /// What `getpeername` says then.
    pub peer: Option<SocketAddr>,
}

/// Why a call does not exist for a kind of socket: the kernel's answer, and what it means.
type Reason = (&'static str, &'static str);

const NO_ADDRESS: Reason = (
    "EPIPE",
    "TCP has no address in a send: EPIPE before connect(); after it another address is not looked at",
);
const NOT_UNCONNECTED: Reason = (
    "ENOTCONN",
    "connect() makes it connected: getpeername() says ENOTCONN before, and again once AF_UNSPEC has dissolved it, when sendto() reaches a backend",
);
const TCPS_OWN: Reason = (
    "ENOPROTOOPT",
    "fast open is TCP's: TCP_FASTOPEN_CONNECT is no option here, and MSG_FASTOPEN is not looked at",
);
const UDPS_OWN: Reason = ("ENOPROTOOPT", "segments are UDP's: UDP_SEGMENT is no option here");

fn reason(socket: Socket, call: Call) -> Option<Reason> {
    match (socket, call) {
        (Socket::Tcp, Call::Sendto | Call::Sendmsg | Call::Sendmmsg) => Some(NO_ADDRESS),
        (Socket::Tcp, Call::Gso) => Some(UDPS_OWN),
        (Socket::Unconnected, Call::Connect | Call::NonBlocking) => Some(NOT_UNCONNECTED),
        (Socket::Connected | Socket::Unconnected, Call::FastOpen) => Some(TCPS_OWN),
        _ => None,
    }
}

impl Cell {
    /// The whole matrix for targets that are given as IPv4 and IPv6.
    fn all(to: [SocketAddr; 2], other: [SocketAddr; 2]) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (call, _) in CALLS {
            for socket in SOCKETS {
                let cell = |form: Form| Cell { call, socket, form, to: form.of(to), other: form.of(other) };
                cells.extend(FORMS.map(cell));
            }
        }
        cells
    }

    /// What is wrong with an outcome, if anything is.
    fn wrong(&self, outcome: &Outcome, backends: &[&str], ring: Option<&str>) -> Option<String> {
        if let (Call::IoUring, Some(errno)) = (self.call, ring) {
            return (outcome.errno.as_deref() != Some(errno))
                .then(|| format!("no io_uring, but {outcome:?}"));
        }
        if let Some(failed) = &outcome.failed {
            return Some(failed.clone());
        }
        let expected = reason(self.socket, self.call).map(|(errno, _)| errno);
        if outcome.errno.as_deref() != expected {
            return Some(format!("the kernel says {:?}, not {expected:?}", outcome.errno));
        }
        if outcome.seen.is_empty() {
            return Some("no answer".into());
        }
        let bad = outcome.seen.iter().find(|seen| !self.is_good(seen, backends))?;
        Some(format!("dialled {}, {bad:?}", self.to))
    }

    fn is_good(&self, seen: &Seen, backends: &[&str]) -> bool {
        let name = seen.said.split([':', '\n']).next().unwrap_or_default();
        let (from, peer) = match self.socket {
            Socket::Tcp => (None, Some(self.to)),
            Socket::Connected => (Some(self.to), Some(self.to)),
            Socket::Unconnected => (Some(self.to), None),
        };
        backends.contains(&name) && seen.from == from && seen.peer == peer
    }
}

impl Form {
    pub fn of(self, [v4, v6]: [SocketAddr; 2]) -> SocketAddr {
        match (self, v4.ip()) {
            (Form::V6, _) => v6,
            (Form::Mapped, IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), v4.port()),
            _ => v4,
        }
    }
}

/// The outcomes of one client.
struct Table {
    title: String,
    cells: BTreeMap<(Call, Socket, Form), Result<Option<String>, String>>,
    ring: Option<String>,
}

impl Table {
    fn of(client: &Pod, stage: &Stage, title: &str, cells: &[Cell], backends: &[&str]) -> Table {
        let outcomes = matrix_client::play(client, stage.sandbox.dir(), cells);
        let ring = Ring::new().err().map(|errno| format!("{errno:?}"));
        let judged = cells.iter().zip(&outcomes).map(|(cell, outcome)| {
            let verdict = match cell.wrong(outcome, backends, ring.as_deref()) {
                Some(wrong) => Err(wrong),
                None => Ok(outcome.errno.clone()),
            };
            ((cell.call, cell.socket, cell.form), verdict)
        });
        Table { title: title.to_owned(), cells: judged.collect(), ring }
    }

    /// The wrong cells, a line each.
    fn wrong(&self) -> Vec<String> {
        let wrong = |(key, verdict): (&(Call, Socket, Form), &Result<_, String>)| {
            Some(format!("{}: {key:?}: {}", self.title, verdict.as_ref().err()?))
        };
        self.cells.iter().filter_map(wrong).collect()
    }

    fn render(&self) -> String {
        let mut notes: Vec<&str> = Vec::new();
        let mut text =
            format!("\n{:24}{:48}{:48}{}\n", self.title, "TCP", "UDP, connected", "UDP, not connected");
        let forms = format!("{:16}{:16}{:16}", "IPv4", "IPv6", "v4-mapped").repeat(SOCKETS.len());
        writeln!(text, "{:24}{}", "", forms.trim_end()).expect("a String takes all");
        for (call, name) in CALLS {
            let mut line = format!("{name:24}");
            for (socket, form) in SOCKETS.into_iter().flat_map(|socket| FORMS.map(|form| (socket, form))) {
                let shown = match &self.cells[&(call, socket, form)] {
                    Err(_) => "WRONG".to_owned(),
                    Ok(None) => "ok".to_owned(),
                    Ok(Some(errno)) => {
                        let why = reason(socket, call).map_or("this kernel has no io_uring", |(_, why)| why);
                        let at = notes.iter().position(|note| *note == why).unwrap_or_else(|| {
                            notes.push(why);
                            notes.len() - 1
                        });
                        format!("{errno}({})", at + 1)
                    }
                };
                write!(line, "{shown:16.15}").expect("a String takes all");
            }
            writeln!(text, "{}", line.trim_end()).expect("a String takes all");
        }
        for (number, note) in (1..).zip(notes) {
            writeln!(text, "({number}) {note}").expect("a String takes all");
        }
        text
    }
}

/// Shows the matrix, also where the test harness keeps what tests print, and leaves it in
/// `target/tmp/socket-matrix.txt`.
fn show(text: &str) {
    std::io::stdout().lock().write_all(text.as_bytes()).expect("stdout takes it");
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(dir).expect("the target directory is ours");
    std::fs::write(dir.join("socket-matrix.txt"), text).expect("the target directory is ours");
}

/// How often the kernel sent data with a SYN for a pod that was acknowledged (TCPFastOpenActive).
fn fast_opens(pod: &Pod) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/net/netstat", pod.pid())).expect("proc is mounted");
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = lines.next().zip(lines.next()).expect("the kernel counts");
    let mut counters = names.zip(values);
    let found = counters.find(|(name, _)| *name == "TCPFastOpenActive");
    found.and_then(|(_, value)| value.parse().ok()).expect("the kernel counts this")
}

#[test]
fn every_call_of_every_socket_reaches_a_backend_or_the_kernel_says_why_not() {
    // SOCK-1, SOCK-2, SOCK-4, SOCK-6, SOCK-7, SOCK-12, DEC-4
    if matrix_client::is_asked() {
        return matrix_client::run();
    }
    let stage = Stage::build("matrix");
    let (web, other) = (Svc::new("web", 10, &[0, 1]), Svc::new("other", 20, &[2]));
    stage.publish(&[&web, &other]);
    let host = stage.n1.add_host_process("host").expect("a host process");
    let plain = stage.n1.add_plain_pod("plain").expect("a pod");

    let service = Cell::all(web.at(80), other.at(80));
    let direct = Cell::all(stage.web[0].at(TARGET), stage.web[2].at(TARGET));
    let tables = [
        Table::of(&stage.client, &stage, "a pod to a Service", &service, &["web-1", "web-2"]),
        Table::of(&host, &stage, "a host process", &service, &["web-1", "web-2"]),
        Table::of(&stage.client, &stage, "a pod to a pod", &direct, &["web-1"]),
        // Where no program of ours runs: the reasons are the kernel's own.
        Table::of(&plain, &stage, "without Beeline", &direct, &["web-1"]),
    ];
    let uname = nix::sys::utsname::uname().expect("the kernel has a name");
    let ring = tables[0].ring.as_ref().map(|errno| format!("io_uring_setup() answers {errno}\n"));
    let text = format!("\nLinux {}{}", uname.release().to_string_lossy(), tables[0].render());
    show(&(text + &ring.unwrap_or_default()));
    let wrong: Vec<String> = tables.iter().flat_map(Table::wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(fast_opens(&stage.client) > 0, "the kernel sent data with a SYN");
}
