//! What is served over HTTP, compared with what was recorded from kube-proxy 1.36. No agent and no root: the
//! board is written by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use beeline::cluster::client::Tally;
use beeline::cluster::events::{Event, Recorder};
use beeline::model::addr::Family;
use beeline::model::names::ObjectName;
use beeline::plan::health::{Check, Effect, Lacking};
use beeline::serve::board::{Board, Sync};
use beeline::serve::{Options, Servers};
use regex_lite::Regex;

use crate::http::{Answer, ask, free_address, get, sample};

/// Servers on free ports, with a board to write on and the events that were recorded.
struct Served {
    servers: Servers,
    board: Arc<Board>,
    metrics: SocketAddr,
    health: SocketAddr,
    events: Arc<Mutex<Vec<Event>>>,
}

fn serve(change: impl FnOnce(&mut Options)) -> Served {
    let (metrics, health) = (free_address(), free_address());
    let mut options = Options {
        metrics: Some(metrics),
        health: Some(health),
        hard_fail: false,
        bpf_root: "/nowhere".into(),
        node: "kc-n1".into(),
        node_port_networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        mode: "nftables".into(),
        configz: None,
        tally: None,
    };
    change(&mut options);
    let board = Arc::new(Board::new(Instant::now() - Duration::from_secs(60), Duration::from_secs(60)));
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let recorder = Recorder::new(Box::new(move |event| seen.lock().unwrap().push(event)));
    let servers = Servers::start(options, board.clone(), Arc::new(recorder)).unwrap();
    Served { servers, board, metrics, health, events }
}

impl Served {
    fn ready(change: impl FnOnce(&mut Options)) -> Served {
        let served = serve(change);
        until("the ports", || {
            [served.metrics, served.health].iter().all(|at| TcpStream::connect(at).is_ok())
        });
        served
    }

    /// A sync of both families, and what follows it.
    fn follow(&self, effects: Vec<(ObjectName, Effect)>) {
        let took = Duration::from_millis(3);
        let sync = Sync { is_full: true, took, touched: [true; 2], behind: [false; 2] };
        self.board.follow(Some(sync), [false; 2], effects);
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn recorded(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recorded").join(name);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .replace('\r', "")
}

/// What two answers of the same page may differ in: times, and how long they are written.
fn normal(text: &str) -> String {
    let time = Regex::new(r#""\d{4}-\d\d-\d\dT[0-9:.]+Z""#).unwrap();
    time.replace_all(text, r#""TIME""#).into_owned()
}

/// The headers, sorted, without what differs from one answer to the next, and without what our client asks for.
fn headers(head: &str, with_length: bool) -> BTreeSet<String> {
    let skip = |line: &&str| {
        !line.starts_with("Date:")
            && !line.starts_with("Connection:")
            && !line.starts_with("Process-Start-Time-Unix:")
            && (with_length || !line.starts_with("Content-Length:"))
    };
    head.lines().filter(|line| !line.is_empty()).filter(skip).map(str::to_owned).collect()
}

/// Compares an answer with a recorded one; `ext` is that of the recorded body.
fn compare(answer: &Answer, name: &str, ext: &str) {
    let body = recorded(&format!("http/{name}.{ext}"));
    let has_times = normal(&body) != body;
    assert_eq!(normal(&answer.body), normal(&body), "{name}");
    let want = headers(&recorded(&format!("http/{name}.headers")), !has_times);
    assert_eq!(headers(&answer.head, !has_times), want, "{name}");
    assert!(answer.header("Date").is_some(), "{name}");
}

#[test]
fn pages_of_the_metrics_port_are_those_of_kube_proxy() {
    // HLT-9
    let served = Served::ready(|_| ());
    for (path, name) in [
        ("/healthz", "metrics-port-healthz"),
        ("/livez", "metrics-port-livez"),
        ("/", "metrics-port-root"),
        ("/proxyMode", "proxyMode"),
    ] {
        compare(&get(served.metrics, path), name, "txt");
    }
    assert_eq!(get(served.metrics, "/configz").status(), 404, "there is no configuration");
    let head = recorded("http/metrics.headers");
    let answer = get(served.metrics, "/metrics");
    assert_eq!(headers(&answer.head, true), headers(&head, true));
    let started = answer.header("Process-Start-Time-Unix").unwrap().parse::<f64>().unwrap();
    assert_eq!(sample(&answer.body, "process_start_time_seconds").unwrap().floor(), started);

    let iptables = Served::ready(|options| {
        options.mode = "iptables".into();
        options.configz = Some(serde_json::json!({"kubeproxy.config.k8s.io": {}}));
    });
    compare(&get(iptables.metrics, "/proxyMode"), "proxyMode-iptables", "txt");
    assert_eq!(get(iptables.metrics, "/configz").body, r#"{"kubeproxy.config.k8s.io":{}}"#);
}

/// kube-proxy holds that a proxy which starts is healthy (HLT-3): a rollout must not.
#[test]
fn an_agent_is_ready_once_the_tables_hold_its_first_lists() {
    let served = Served::ready(|_| ());
    served.board.told().synced = false;
    let starting = get(served.health, "/beeline/ready");
    assert_eq!((starting.status(), starting.body.starts_with("starting")), (503, true), "{}", starting.body);
    assert_eq!(get(served.health, "/livez").status(), 200);
    served.board.told().synced = true;
    assert_eq!(get(served.health, "/beeline/ready").status(), 200);
}

#[test]
fn health_is_answered_as_kube_proxy_does_and_counted() {
    // HLT-1, HLT-2, HLT-4, HLT-7
    let served = Served::ready(|_| ());
    served.follow(Vec::new());
    served.board.told().is_eligible = true;
    compare(&get(served.health, "/healthz"), "healthz", "json");
    compare(&get(served.health, "/livez"), "livez", "json");
    compare(&get(served.health, "/"), "health-port-root", "txt");
    compare(&get(served.health, "/readyz"), "health-port-readyz", "txt");
    served.board.told().is_eligible = false;
    compare(&get(served.health, "/healthz"), "healthz-node-being-deleted", "json");
    compare(&get(served.health, "/livez"), "livez-node-being-deleted", "json");

    let post = ask(served.health, "POST", "/livez").unwrap();
    assert_eq!(post.status(), 200, "whatever the method, as in Go");
    let head = ask(served.health, "HEAD", "/livez").unwrap();
    assert_eq!((head.status(), &*head.body), (200, ""));
    let metrics = get(served.metrics, "/metrics").body;
    assert_eq!(sample(&metrics, r#"kubeproxy_proxy_healthz_total{code="200"}"#), Some(1.0));
    assert_eq!(sample(&metrics, r#"kubeproxy_proxy_healthz_total{code="503"}"#), Some(1.0));
    assert_eq!(sample(&metrics, r#"kubeproxy_proxy_livez_total{code="200"}"#), Some(4.0));
}

fn service() -> ObjectName {
    ObjectName::new("demo", "s05-etp-local")
}

/// A health check node port, in IPv4 alone or in both families.
fn effect(port: u16, local: [Option<u32>; 2]) -> Vec<(ObjectName, Effect)> {
    let checks = local.map(|local| local.map(|local| Check { port, local }));
    vec![(service(), Effect { checks, ..Effect::default() })]
}

#[test]
fn health_check_node_ports_follow_the_tables() {
    // HC-3, HC-4, HC-7, HC-11
    let served = Served::ready(|_| ());
    let (first, second) = (free_address(), free_address());
    assert!(TcpStream::connect(first).is_err(), "none before the first sync");
    served.follow(effect(first.port(), [Some(2), None]));
    until("the listener", || TcpStream::connect(first).is_ok());
    compare(&get(first, "/"), "healthCheckNodePort", "json");
    compare(&get(first, "/healthz"), "healthCheckNodePort-healthz", "json");
    assert!(TcpStream::connect(("::1", first.port())).is_err(), "the Service has one family");
    served.follow(effect(first.port(), [Some(0), None]));
    compare(&get(first, "/"), "healthCheckNodePort-no-local-endpoints", "json");

    served.follow(effect(second.port(), [Some(1), Some(3)]));
    until("the new port, in both families", || TcpStream::connect(("::1", second.port())).is_ok());
    until("the old port is closed", || TcpStream::connect(first).is_err());
    assert_eq!(get(second, "/").header("X-Load-Balancing-Endpoint-Weight"), Some("1"));
    let six = SocketAddr::new("::1".parse().unwrap(), second.port());
    assert_eq!(get(six, "/").header("X-Load-Balancing-Endpoint-Weight"), Some("3"));
    served.follow(effect(0, [None, None]));
    until("no Service, no port", || TcpStream::connect(second).is_err() && TcpStream::connect(six).is_err());
}

#[test]
fn a_health_check_node_port_that_is_taken_is_an_event_and_had_as_soon_as_it_is_free() {
    // HC-8
    let served = Served::ready(|_| ());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let other =
        (ObjectName::new("demo", "other"), effect(free_address().port(), [Some(1), None]).remove(0).1);
    let fine = SocketAddr::from(([127, 0, 0, 1], other.1.checks[0].unwrap().port));
    let mut effects = effect(addr.port(), [Some(1), None]);
    effects.push(other);
    served.follow(effects);
    until("the other Service", || TcpStream::connect(fine).is_ok());
    until("the event", || !served.events.lock().unwrap().is_empty());
    let event = served.events.lock().unwrap()[0].clone();
    assert_eq!((event.reason, event.action), ("FailedToStartServiceHealthcheck", "Listen"));
    let start = format!(
        "node kc-n1 failed to start healthcheck \"demo/s05-etp-local\" on port {}: listen on 127.0.0.1:{}: ",
        addr.port(),
        addr.port()
    );
    assert!(event.note.starts_with(&start), "{}", event.note);
    drop(taken);
    until("the port", || ask(addr, "GET", "/").is_ok_and(|answer| answer.status() == 200));
    assert_eq!(served.events.lock().unwrap().len(), 1, "said once");
}

#[test]
fn an_address_that_is_taken_is_the_end_where_that_is_configured() {
    // HLT-8
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut served = serve(|options| {
        options.hard_fail = true;
        options.health = taken.local_addr().ok();
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(served.servers.failed());
    assert!(format!("{error:#}").contains("health: listen on 127.0.0.1:"), "{error:#}");
    assert_eq!(served.events.lock().unwrap()[0].reason, "FailedToStartProxierHealthcheck");
}

/// A family of metrics as the text has it.
#[derive(Debug, Default)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeSet<BTreeSet<String>>,
    bounds: BTreeSet<String>,
}

/// The families of a scrape by name.
fn families(text: &str) -> BTreeMap<String, Metric> {
    let mut found: BTreeMap<String, Metric> = BTreeMap::new();
    let label = Regex::new(r#"([a-zA-Z_]+)="((?:[^"\\]|\\.)*)""#).unwrap();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (of, help) = rest.split_once(' ').unwrap();
            of.clone_into(&mut name);
            found.entry(name.clone()).or_default().help = help.into();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            found.get_mut(&name).unwrap().kind = rest.rsplit(' ').next().unwrap().into();
        } else {
            assert!(line.starts_with(&name), "{line} does not belong to {name}");
            let metric = found.get_mut(&name).unwrap();
            let labels: Vec<_> =
                label.captures_iter(line).map(|c| (c[1].to_owned(), c[2].to_owned())).collect();
            metric.bounds.extend(labels.iter().filter(|(name, _)| name == "le").map(|(_, le)| le.clone()));
            let names = labels.into_iter().map(|(name, _)| name).filter(|name| name != "le");
            metric.labels.insert(names.collect());
        }
    }
    found
}

/// The names of docs/metrics.md under "Not served"; a `*` at the end stands for any more.
fn not_served() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("### Not served").nth(1).unwrap().split("\n## ").next().unwrap();
    let names = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let with_reason =
        names.inspect(|(name, reason)| assert!(reason.trim_matches(['|', ' ']).len() > 5, "{name}"));
    with_reason.map(|(name, _)| name.to_owned()).collect()
}

/// A scrape that shows everything there is.
fn scrape() -> String {
    let tally = Arc::new(Tally::default());
    tally.asked(("10.0.0.1:6443".into(), "GET"), Some(200));
    tally.over(("10.0.0.1:6443".into(), "POST"), Duration::from_millis(5), 200, 444);
    let served = Served::ready(|options| options.tally = Some(tally));
    let mut effects = effect(0, [None, None]);
    effects[0].1.triggers = vec![(Family::V4, served.board.now().wall)];
    effects[0].1.lacking = Lacking { internal: [2, 0], external: [0, 1] };
    served.follow(effects);
    get(served.health, "/healthz");
    get(served.health, "/livez");
    get(served.metrics, "/metrics").body
}

#[test]
fn every_metric_of_kube_proxy_is_served_or_listed_with_a_reason() {
    let ours = families(&scrape());
    let listed = not_served();
    let is_listed = |name: &str| {
        let fits = |entry: &&String| match entry.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *entry,
        };
        listed.iter().any(|entry| fits(&entry))
    };
    let mut all: BTreeMap<_, _> = families(&recorded("metrics-kube-proxy-iptables.txt"));
    all.extend(families(&recorded("metrics-kube-proxy.txt")));
    for name in all.keys() {
        assert!(ours.contains_key(name) != is_listed(name), "{name} is not served or listed, or both");
    }
    for entry in &listed {
        let prefix = entry.trim_end_matches('*');
        assert!(all.keys().any(|name| name.starts_with(prefix)), "kube-proxy has no {entry}");
    }
    for name in ours.keys().filter(|name| !name.starts_with("beeline_")) {
        assert!(all.contains_key(name), "{name} is neither kube-proxy's nor named beeline_*");
    }
}

#[test]
fn metrics_of_kube_proxy_have_its_types_labels_and_buckets() {
    // MET-1 to MET-7, MET-9
    let ours = families(&scrape());
    let mut all = families(&recorded("metrics-kube-proxy-iptables.txt"));
    all.extend(families(&recorded("metrics-kube-proxy.txt")));
    let mut compared = 0;
    for (name, metric) in ours.iter().filter(|(name, _)| !name.starts_with("beeline_")) {
        let theirs = &all[name];
        assert_eq!(metric.kind, theirs.kind, "{name}");
        assert_eq!(metric.help, theirs.help, "{name}");
        assert_eq!(metric.labels, theirs.labels, "{name}");
        assert_eq!(metric.bounds, theirs.bounds, "{name}");
        compared += 1;
    }
    assert!(compared >= 20, "{compared}");
}

#[test]
fn requests_to_the_api_server_are_counted_under_client_gos_names() {
    // MET-9
    let (tally, host) = (Arc::new(Tally::default()), "10.0.0.1:6443");
    for code in [Some(200), Some(200), Some(410), None] {
        tally.asked((host.into(), "GET"), code);
    }
    tally.over((host.into(), "POST"), Duration::from_millis(100), 200, 444);
    let served = Served::ready(|options| options.tally = Some(tally));
    let body = get(served.metrics, "/metrics").body;
    let requests = |code: &str| {
        sample(&body, &format!(r#"rest_client_requests_total{{code="{code}",host="{host}",method="GET"}}"#))
    };
    assert_eq!([requests("200"), requests("410"), requests("<error>")], [Some(2.0), Some(1.0), Some(1.0)]);
    let bucket = |name: &str, le: &str| {
        sample(&body, &format!(r#"rest_client_{name}_bucket{{host="{host}",verb="POST",le="{le}"}}"#))
    };
    assert_eq!(
        [bucket("request_duration_seconds", "0.025"), bucket("request_duration_seconds", "0.1")],
        [Some(0.0), Some(1.0)]
    );
    assert_eq!(
        [bucket("request_size_bytes", "64"), bucket("request_size_bytes", "256")],
        [Some(0.0), Some(1.0)]
    );
    assert_eq!(
        [bucket("response_size_bytes", "256"), bucket("response_size_bytes", "512")],
        [Some(0.0), Some(1.0)]
    );
    assert!(!get(Served::ready(|_| ()).metrics, "/metrics").body.contains("rest_client"), "no API server");
}

#[test]
fn health_check_node_ports_move_to_where_the_node_is() {
    // HC-2, SYNC-17
    let served = Served::ready(|_| ());
    let at = free_address();
    served.follow(effect(at.port(), [Some(2), None]));
    until("the listener", || TcpStream::connect(at).is_ok());
    let six = SocketAddr::new("::1".parse().unwrap(), at.port());
    served.follow(effect(at.port(), [Some(2), Some(1)]));
    until("the other family", || TcpStream::connect(six).is_ok());
    let nets = |nets: [&str; 2]| nets.map(|net| net.parse().unwrap()).to_vec();
    served.board.listen_in(nets(["203.0.113.0/24", "::1/128"]));
    until("it is closed where the node is not", || TcpStream::connect(at).is_err());
    until("the other family stays", || TcpStream::connect(six).is_ok());
    served.board.listen_in(nets(["127.0.0.1/32", "2001:db8::/64"]));
    until("it is back", || TcpStream::connect(at).is_ok() && TcpStream::connect(six).is_err());
    assert!(served.events.lock().unwrap().is_empty(), "nobody was in the way");
}

#[test]
fn a_service_that_waits_for_rows_is_drained_and_counts_no_more_than_before() {
    // HC-10, SVC-7
    let served = Served::ready(|_| ());
    let at = free_address();
    served.follow(effect(at.port(), [Some(2), None]));
    until("the listener", || TcpStream::connect(at).is_ok());
    let count = || {
        let answer = get(at, "/");
        (answer.status(), answer.header("X-Load-Balancing-Endpoint-Weight").map(str::to_owned))
    };
    let waiting = |local| {
        let effects = effect(at.port(), local);
        let (service, effect) = &effects[0];
        served.board.waiting([(service, effect, [true, false])].into_iter());
    };
    waiting([Some(5), Some(3)]);
    assert_eq!(count(), (200, Some("2".into())), "more are not programmed yet");
    until("the family that waits for nothing", || TcpStream::connect(("::1", at.port())).is_ok());
    waiting([Some(0), Some(3)]);
    assert_eq!(count(), (503, Some("0".into())), "that they are gone needs no row");
    served.follow(effect(at.port(), [Some(5), Some(3)]));
    assert_eq!(count(), (200, Some("5".into())));
}

#[test]
fn a_health_check_node_port_goes_from_one_service_to_another_at_once() {
    // HC-7: the place is free before it is taken again.
    let served = Served::ready(|_| ());
    let at = free_address();
    let all = |owner: usize| -> Vec<_> {
        let mut effects = effect(at.port(), [Some(2), None]);
        effects.extend(effect(at.port(), [Some(2), None]));
        effects[1].0 = ObjectName::new("demo", "other");
        effects[1 - owner].1.checks = [None, None];
        effects
    };
    for owner in [0, 1, 0, 1, 0] {
        served.follow(all(owner));
        let name =
            if owner == 0 { effect(1, [None, None])[0].0.clone() } else { ObjectName::new("demo", "other") };
        let wanted = format!("\"name\": \"{}\"", name.name);
        let began = Instant::now();
        until("it answers for its new owner", || {
            ask(at, "GET", "/").is_ok_and(|answer| answer.body.contains(&wanted))
        });
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    assert!(served.events.lock().unwrap().is_empty(), "nobody was in the way");
}

#[test]
fn whoever_only_holds_connections_keeps_nobody_from_being_answered() {
    let served = Served::ready(|_| ());
    let idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(served.health).unwrap()).collect();
    let began = Instant::now();
    get(served.health, "/livez");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    drop(idle);
}

#[test]
fn what_happens_shows_in_the_metrics_of_kube_proxy() {
    // MET-1, MET-2, MET-3, MET-4, MET-7
    let served = Served::ready(|_| ());
    let metric = |name: &str| sample(&get(served.metrics, "/metrics").body, name).unwrap();
    let programming = |what: &str| metric(&format!("kubeproxy_network_programming_duration_seconds_{what}"));
    let now = served.board.now();
    served.board.told().kube_proxy.changed(2, 3, true);
    served.board.told().queued(now);
    served.board.told().kube_proxy.changed(0, 4, false);
    assert_eq!(metric("kubeproxy_sync_proxy_rules_endpoint_changes_pending"), 3.0, "what changes nothing");
    assert_eq!(metric("kubeproxy_sync_proxy_rules_endpoint_changes_total"), 7.0);
    assert_eq!(metric(r#"kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}"#), 0.0);
    let mut effects = effect(0, [None, None]);
    let ago = |seconds: u64| (Family::V6, now.wall - Duration::from_secs(seconds));
    effects[0].1.triggers = vec![ago(2), ago(3600)];
    effects[0].1.lacking = Lacking { internal: [2, 0], external: [0, 1] };
    let sync = Sync {
        is_full: false,
        took: Duration::from_millis(3),
        touched: [false, true],
        behind: [true, false],
    };
    served.board.follow(Some(sync), [true, false], effects);
    served.board.told().kube_proxy.none_pending();
    assert_eq!(metric("kubeproxy_sync_proxy_rules_endpoint_changes_pending"), 0.0);
    assert_eq!(programming(r#"count{ip_family="IPv6"}"#), 1.0, "what happened before the start says nothing");
    assert_eq!(metric("kubeproxy_sync_proxy_rules_service_changes_total"), 2.0);
    assert_eq!(programming(r#"bucket{ip_family="IPv6",le="2"}"#), 0.0);
    assert_eq!(programming(r#"bucket{ip_family="IPv6",le="3"}"#), 1.0);
    assert_eq!(programming(r#"count{ip_family="IPv4"}"#), 0.0);
    let synced = |family: &str| {
        metric(&format!("kubeproxy_sync_proxy_rules_last_timestamp_seconds{{ip_family=\"{family}\"}}"))
    };
    assert_eq!(synced("IPv4"), 0.0, "a change of it is not in force");
    assert!(synced("IPv6") >= now.wall.as_secs_f64().floor());
    let partial = "kubeproxy_sync_partial_proxy_rules_duration_seconds_bucket";
    assert_eq!(metric(&format!(r#"{partial}{{ip_family="IPv6",le="0.002"}}"#)), 0.0);
    assert_eq!(metric(&format!(r#"{partial}{{ip_family="IPv6",le="0.004"}}"#)), 1.0);
    assert_eq!(metric(&format!(r#"{partial}{{ip_family="IPv4",le="+Inf"}}"#)), 0.0);
    let lacking = |family: &str, policy: &str| {
        metric(&format!(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{{ip_family=\"{family}\",traffic_policy=\"{policy}\"}}"
        ))
    };
    assert_eq!((lacking("IPv4", "internal"), lacking("IPv6", "external")), (2.0, 1.0));
}
