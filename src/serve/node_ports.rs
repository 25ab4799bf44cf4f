//! Health check node ports (HC-1 to HC-11): listeners that follow the board, each for one Service and family.

use std::collections::BTreeMap;
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
use crate::model::addr::Family;
use crate::model::names::ObjectName;

/// A port that could not be had is tried again after this long, if nothing changes before (HC-8).
const AGAIN: Duration = Duration::from_secs(5);

/// The Service and family a port answers for.
type Key = (ObjectName, Family);

/// The header that tells a balancer how many endpoints stand behind this node (HC-3).
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Listeners by Service and family.
#[derive(Debug)]
struct Ledger<T> {
    have: BTreeMap<Key, (u16, T)>,
}

impl<T> Ledger<T> {
    /// Closes what is not wanted at its port any more. Returns what is to be opened.
    fn close(&mut self, want: &BTreeMap<Key, u16>) -> Vec<(Key, u16)> {
        self.have.retain(|key, (port, _)| want.get(key) == Some(port));
        let missing = want.iter().filter(|(key, _)| !self.have.contains_key(key));
        missing.map(|(key, port)| (key.clone(), *port)).collect()
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
    /// `nodePortAddresses`: listens on the node's addresses in these networks; on all, if there are none (HC-2).
    pub networks: Vec<IpNet>,
}

/// Keeps the listeners as the board wants them, for ever.
pub async fn follow(ports: Ports) {
    let mut ledger = Ledger { have: BTreeMap::new() };
    let mut failed: BTreeMap<Key, u16> = BTreeMap::new();
    loop {
        let want: BTreeMap<_, _> =
            ports.board.told().checks.iter().map(|(key, check)| (key.clone(), check.port)).collect();
        failed.retain(|key, port| want.get(key) == Some(port));
        for (key, port) in ledger.close(&want) {
            match open(&ports, &key, port) {
                Ok(server) => {
                    failed.remove(&key);
                    ledger.have.insert(key, (port, server));
                }
                Err(error) => {
                    let is_new = failed.insert(key.clone(), port) != Some(port);
                    ports.report(&key.0, port, &error, is_new);
                }
            }
        }
        let again = async {
            if !failed.is_empty() { tokio::time::sleep(AGAIN).await } else { std::future::pending().await }
        };
        tokio::select! {
            () = ports.board.moved() => {}
            () = again => {}
        }
    }
}

impl Ports {
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
fn open(ports: &Ports, key: &Key, port: u16) -> Result<JoinSet<()>> {
    let mut listeners = Vec::new();
    for ip in addresses(&ports.networks, key.1)? {
        let addr = SocketAddr::new(ip, port);
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

/// The addresses to listen on, in one family (HC-2).
fn addresses(networks: &[IpNet], family: Family) -> Result<Vec<IpAddr>> {
    if networks.is_empty() {
        return Ok(vec![match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }]);
    }
    let ours = Netlink::open()?.addresses()?.into_iter().map(|address| address.net.addr());
    Ok(ours.filter(|ip| Family::of(*ip) == family && networks.iter().any(|net| net.contains(ip))).collect())
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

/// HC-3, HC-4
fn page(service: &ObjectName, local: u32, is_healthy: bool) -> Answer {
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

    #[test]
    fn a_port_that_moves_is_closed_and_opened_and_all_others_are_left_alone() {
        // HC-7
        let mut ledger = Ledger { have: BTreeMap::new() };
        let want = |pairs: &[(&str, u16)]| pairs.iter().map(|(name, port)| (key(name), *port)).collect();
        let step = |ledger: &mut Ledger<()>, pairs: &[(&str, u16)]| {
            let open = ledger.close(&want(pairs));
            ledger.have.extend(open.iter().map(|(key, port)| (key.clone(), (*port, ()))));
            open.into_iter().map(|((service, _), port)| (service.name.to_string(), port)).collect::<Vec<_>>()
        };
        let opened = step(&mut ledger, &[("a", 1), ("b", 2)]);
        assert_eq!(opened, [("a".into(), 1), ("b".into(), 2)]);
        assert_eq!(step(&mut ledger, &[("a", 1), ("b", 3)]), [("b".to_owned(), 3)]);
        assert_eq!(step(&mut ledger, &[("b", 3)]), []);
        assert_eq!(ledger.have.len(), 1);
    }
}
