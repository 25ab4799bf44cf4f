//! Health check node ports (HC-1 to HC-11): listeners that follow the board, each for one Service and family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::board::Board;
use super::http::{self, Answer, Answers, accept};
use crate::cluster::events::{Event, Recorder};
use crate::host::netlink::Netlink;
use crate::host::socket;
use crate::model::addr::{Family, is_of_link};
use crate::model::names::ObjectName;

/// A port that could not be had is tried again after this long, if nothing changes before (HC-8).
const AGAIN: Duration = Duration::from_secs(5);

/// The Service and family a port answers for.
type Key = (ObjectName, Family);

/// The header that tells a balancer how many endpoints stand behind this node (HC-3).
pub const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Listeners by Service and family, and ports that could not be had.
#[derive(Debug)]
struct Ledger<T> {
    have: BTreeMap<Key, (u16, T)>,
    failed: BTreeMap<Key, u16>,
    addresses: Addresses,
}

/// What the board asks for.
#[derive(Clone, Debug, Default)]
struct Wanted {
    ports: BTreeMap<Key, u16>,
    addresses: Addresses,
}

/// Where to listen, by family (HC-2).
type Addresses = [Vec<IpAddr>; 2];

/// A port that could not be had.
#[derive(Debug)]
struct Refused {
    key: Key,
    port: u16,
    error: anyhow::Error,
    /// It was not refused just before.
    is_new: bool,
}

impl<T> Ledger<T> {
    fn new() -> Ledger<T> {
        Ledger { have: BTreeMap::new(), failed: BTreeMap::new(), addresses: Addresses::default() }
    }

    /// Takes out what is not wanted at its place any more. It is to be closed before anything is opened,
    /// which may be at the same place.
    fn leave(&mut self, wanted: &Wanted) -> Vec<T> {
        let stays = Family::ALL.map(|at| self.addresses[at.index()] == wanted.addresses[at.index()]);
        self.failed.retain(|key, _| stays[key.1.index()]);
        self.addresses.clone_from(&wanted.addresses);
        let goes = |key: &Key, port: &u16| !stays[key.1.index()] || wanted.ports.get(key) != Some(port);
        self.have.extract_if(.., |key, (port, _)| goes(key, port)).map(|(_, (_, server))| server).collect()
    }

    /// Opens what is missing. Returns what was refused.
    fn open(&mut self, wanted: Wanted, open: impl Fn(&[IpAddr], &Key, u16) -> Result<T>) -> Vec<Refused> {
        let mut failed = BTreeMap::new();
        let mut refused = Vec::new();
        for (key, port) in wanted.ports {
            if self.have.contains_key(&key) {
                continue;
            }
            match open(&self.addresses[key.1.index()], &key, port) {
                Ok(server) => {
                    if !self.addresses[key.1.index()].is_empty() {
                        tracing::info!("health check of Service {}, {}: on port {port}", key.0, key.1);
                    }
                    self.have.insert(key, (port, server));
                }
                Err(error) => {
                    let is_new = self.failed.get(&key) != Some(&port);
                    failed.insert(key.clone(), port);
                    refused.push(Refused { key, port, error, is_new });
                }
            }
        }
        self.failed = failed;
        refused
    }
}

/// What the listeners of health check node ports need to know.
#[derive(Debug)]
pub struct Ports {
    /// What they answer from.
    pub board: Arc<Board>,
    /// Who is told of ports that cannot be had.
    pub recorder: Arc<Recorder>,
    /// The node's name, for people.
    pub node: Arc<str>,
}

/// Keeps the listeners as the board wants them, for ever.
pub async fn follow(ports: Ports) {
    let mut ledger: Ledger<JoinSet<()>> = Ledger::new();
    let mut lost = None;
    loop {
        let interfaces = match interfaces() {
            Ok(interfaces) => {
                lost = None;
                interfaces
            }
            Err(error) => {
                let error = format!("{error:#}");
                if lost.as_ref() != Some(&error) {
                    let seconds = AGAIN.as_secs();
                    tracing::warn!(
                        "health check node ports listen where they did; tried again every {seconds} s: {error}"
                    );
                }
                lost = Some(error);
                ledger.addresses.concat()
            }
        };
        let wanted = ports.wanted(&interfaces);
        for mut server in ledger.leave(&wanted) {
            server.shutdown().await;
        }
        let refused = ledger.open(wanted, |addresses, key, port| open(&ports, addresses, key, port));
        for Refused { key, port, error, is_new } in refused {
            ports.report(&key.0, port, &error, is_new);
        }
        let again = async {
            match ledger.failed.is_empty() && lost.is_none() {
                true => std::future::pending().await,
                false => tokio::time::sleep(AGAIN).await,
            }
        };
        tokio::select! {
            () = ports.board.moved() => {}
            () = again => {}
        }
    }
}

impl Ports {
    /// What the board asks for.
    fn wanted(&self, interfaces: &[IpAddr]) -> Wanted {
        let told = self.board.told();
        let ports = told.checks.iter().map(|(key, check)| (key.clone(), check.port));
        let addresses = Family::ALL.map(|family| addresses(&told.listen_in, interfaces, family));
        Wanted { ports: ports.collect(), addresses }
    }

    /// Tells of a port that cannot be had: the log once, the events as often as they let through.
    fn report(&self, service: &ObjectName, port: u16, error: &anyhow::Error, is_new: bool) {
        let note =
            format!("node {} failed to start healthcheck \"{service}\" on port {port}: {error:#}", self.node);
        if is_new {
            let seconds = AGAIN.as_secs();
            tracing::warn!("{note}; tried again every {seconds} s; see who has it (ss -ltnp)");
        }
        self.recorder.record(Event::health_check_failed(service, note));
    }
}

/// Listens for one Service in one family, on all its addresses or on none. What it returns serves until it is
/// dropped.
fn open(ports: &Ports, addresses: &[IpAddr], key: &Key, port: u16) -> Result<JoinSet<()>> {
    let mut listeners = Vec::new();
    for ip in addresses {
        let addr = SocketAddr::new(*ip, port);
        let listener = socket::listen_on(addr).map_err(std::io::Error::from).and_then(TcpListener::from_std);
        listeners.push(listener.with_context(|| format!("listen on {addr}"))?);
    }
    let site: http::Site = Arc::new(Site { board: ports.board.clone(), key: key.clone() });
    let mut servers = JoinSet::new();
    for listener in listeners {
        let site = site.clone();
        servers.spawn(async move { accept(&listener, &site).await });
    }
    Ok(servers)
}

/// The addresses to listen on, in one family (HC-2): those of interfaces in its networks; without one, or with
/// one that is everything, all there are and will be (NP-3).
fn addresses(networks: &[IpNet], interfaces: &[IpAddr], family: Family) -> Vec<IpAddr> {
    let of_family: Vec<_> = networks.iter().filter(|net| Family::of(net.addr()) == family).collect();
    if of_family.is_empty() || of_family.iter().any(|net| net.prefix_len() == 0) {
        return vec![match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }];
    }
    interfaces.iter().filter(|ip| of_family.iter().any(|net| net.contains(*ip))).copied().collect()
}

/// The addresses of interfaces, each once. One of a link alone cannot be listened on without naming that link.
fn interfaces() -> Result<Vec<IpAddr>> {
    let addresses = Netlink::open()?.addresses()?.into_iter().map(|address| address.net.addr());
    let addresses: BTreeSet<IpAddr> = addresses.filter(|ip| !is_of_link(*ip)).collect();
    Ok(addresses.into_iter().collect())
}

/// The one page of a port, whatever is asked (HC-3).
struct Site {
    board: Arc<Board>,
    key: Key,
}

impl Answers for Site {
    fn answer(&self, _path: &str) -> Answer {
        let now = self.board.now();
        let told = self.board.told();
        let local = told.checks.get(&self.key).map_or(0, |check| check.local);
        let is_healthy = told.health.report(now).healthy;
        drop(told);
        page(&self.key.0, local, is_healthy)
    }
}

/// What a port answers (HC-3, HC-4).
pub fn page(service: &ObjectName, local: u32, is_healthy: bool) -> Answer {
    let code = if local > 0 && is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = |text: &str| serde_json::Value::from(text);
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {},\n\t\t\"name\": {}\n\t}},\n\t\"localEndpoints\": {local},\n\t\
         \"serviceProxyHealthy\": {is_healthy}\n}}",
        text(&service.namespace),
        text(&service.name)
    );
    let mut answer = http::plain(code, "application/json", body);
    http::set(&mut answer, WEIGHT, HeaderValue::from(local));
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn key(name: &str) -> Key {
        (ObjectName::new("demo", name), Family::V4)
    }

    fn body(answer: Answer) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = runtime.block_on(answer.into_body().collect()).unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn answers_are_those_of_kube_proxy() {
        // HC-3, HC-4
        let name = ObjectName::new("demo", "s05-etp-local");
        let two = include_str!("../../tests/data/recorded/http/healthCheckNodePort.json");
        let answer = page(&name, 2, true);
        assert_eq!((answer.status().as_u16(), answer.headers()[WEIGHT].to_str().unwrap()), (200, "2"));
        assert_eq!(body(answer), two);
        let none = include_str!("../../tests/data/recorded/http/healthCheckNodePort-no-local-endpoints.json");
        let answer = page(&name, 0, true);
        assert_eq!((answer.status().as_u16(), answer.headers()[WEIGHT].to_str().unwrap()), (503, "0"));
        assert_eq!(body(answer), none);
        let ill = page(&name, 2, false);
        assert_eq!(ill.status().as_u16(), 503);
        assert!(body(ill).contains("\"serviceProxyHealthy\": false"));
    }

    fn wanted(pairs: &[(&str, u16)], addresses: &[&str]) -> Wanted {
        Wanted {
            ports: pairs.iter().map(|(name, port)| (key(name), *port)).collect(),
            addresses: [addresses.iter().map(|ip| ip.parse().unwrap()).collect(), Vec::new()],
        }
    }

    /// Ports up to 9 are taken. Returns what was refused as news, an exclamation mark after it, or again.
    fn refused(ledger: &mut Ledger<()>, wanted: Wanted) -> String {
        let open = |_: &[IpAddr], _: &Key, port: u16| {
            anyhow::ensure!(port > 9, "taken");
            Ok(())
        };
        let shown = |refused: &Refused| {
            format!("{}{}{} ", refused.key.0.name, refused.port, if refused.is_new { "!" } else { "" })
        };
        ledger.leave(&wanted);
        ledger.open(wanted, open).iter().map(shown).collect()
    }

    #[test]
    fn a_port_that_cannot_be_had_is_news_once_while_it_is_wanted() {
        // HC-8
        let mut ledger = Ledger::new();
        let mut refused = |pairs: &[(&str, u16)], net: &str| refused(&mut ledger, wanted(pairs, &[net]));
        let net = "10.0.0.1";
        assert_eq!(refused(&[("a", 1), ("b", 10)], net), "a1! ");
        assert_eq!(refused(&[("a", 1), ("b", 2)], net), "a1 b2! ");
        assert_eq!(refused(&[("b", 2)], net), "b2 ");
        assert_eq!(refused(&[("a", 1), ("b", 2)], net), "a1! b2 ", "it was given up meanwhile");
        assert_eq!(refused(&[("a", 3), ("b", 10)], net), "a3! ");
        assert_eq!(refused(&[("a", 3), ("b", 2)], net), "a3 b2! ", "it was had meanwhile");
        assert_eq!(refused(&[("a", 3)], "11.0.0.1"), "a3! ", "elsewhere");
    }

    #[test]
    fn an_answer_is_what_the_board_says() {
        // HC-3, HC-4
        let board = Arc::new(Board::new(
            std::time::Instant::now() - Duration::from_secs(100),
            Duration::from_secs(60),
        ));
        let answer = |name: &str| {
            let answer = Site { board: board.clone(), key: key(name) }.answer("/");
            (answer.status().as_u16(), answer.headers()[WEIGHT].to_str().unwrap().to_owned())
        };
        assert_eq!(answer("a"), (503, "0".into()), "it is gone");
        board.told().checks.insert(key("a"), crate::plan::health::Check { port: 1, local: 2 });
        assert_eq!(answer("a"), (200, "2".into()));
        let long_ago = crate::plan::health::Moment::default();
        board.told().health.updated(Family::V4, long_ago);
        board.told().queued(long_ago);
        assert_eq!(answer("a"), (503, "2".into()), "a change is not in force for 100 s (HLT-3)");
    }

    #[test]
    fn a_port_is_where_node_ports_are() {
        // HC-2, NP-3
        let interfaces = ["127.0.0.1", "10.0.0.1", "10.0.0.2", "192.168.0.1", "::1", "fd00::1"];
        let interfaces = interfaces.map(|ip| ip.parse().unwrap());
        let at = |networks: &[&str]| {
            let networks: Vec<_> = networks.iter().map(|net| net.parse().unwrap()).collect();
            let shown =
                |family| addresses(&networks, &interfaces, family).iter().map(ToString::to_string).collect();
            Family::ALL.map(shown).map(|texts: Vec<String>| texts.join(" "))
        };
        assert_eq!(at(&[]), ["0.0.0.0", "::"]);
        assert_eq!(at(&["10.0.0.0/8", "fd00::/8"]), ["10.0.0.1 10.0.0.2", "fd00::1"]);
        assert_eq!(at(&["192.168.0.1/32"]), ["192.168.0.1", "::"], "a family without a network has all");
        assert_eq!(at(&["10.0.0.0/8", "0.0.0.0/0", "::/0"]), ["0.0.0.0", "::"], "everything is everything");
        assert_eq!(at(&["203.0.113.0/24", "::1/128"]), ["", "::1"], "nobody has these yet");
    }

    #[test]
    fn a_port_that_moves_is_closed_and_opened_and_all_others_are_left_alone() {
        // HC-7
        let mut ledger = Ledger::new();
        let step = |ledger: &mut Ledger<()>, pairs: &[(&str, u16)], net: &str| {
            let opened = std::cell::RefCell::new(String::new());
            let open = |addresses: &[IpAddr], key: &Key, port: u16| {
                *opened.borrow_mut() += &format!("{}{port} at {} ", key.0.name, addresses[0]);
                Ok(())
            };
            let wanted = wanted(pairs, &[net]);
            ledger.leave(&wanted);
            assert!(ledger.open(wanted, open).is_empty());
            opened.into_inner()
        };
        let net = "10.0.0.1";
        assert_eq!(step(&mut ledger, &[("a", 11), ("b", 12)], net), "a11 at 10.0.0.1 b12 at 10.0.0.1 ");
        assert_eq!(step(&mut ledger, &[("a", 11), ("b", 13)], net), "b13 at 10.0.0.1 ");
        assert_eq!(step(&mut ledger, &[("b", 13)], net), "");
        assert_eq!(ledger.have.len(), 1);
        assert_eq!(step(&mut ledger, &[("b", 13)], "11.0.0.1"), "b13 at 11.0.0.1 ", "the node moved");
    }
}
