use std::net::SocketAddr;

use super::*;
use crate::model::event::Event;
use crate::model::service::Service;
use crate::plan::fixture::*;
use crate::plan::table::{BackendRow, ServiceName, ServiceRow, Settings};
use crate::plan::world::World;

fn tables(events: impl IntoIterator<Item = Event>) -> Holder {
    let mut world = World::new();
    world.apply(host_is(host()));
    world.apply(Event::ServiceCidr("c".into(), vec!["172.30.0.0/16".parse().unwrap()]));
    events.into_iter().for_each(|event| world.apply(event));
    Holder::of(&world)
}

fn two_backends() -> Vec<Event> {
    let endpoints = vec![endpoint("10.0.0.1", "node-a"), endpoint("10.0.0.2", "node-b")];
    vec![put(service("a", "172.30.0.1")), put_slice(slice("a", "1", endpoints))]
}

fn flow(from: ClientKind, client: Option<&str>, to: &str) -> Flow {
    let to: SocketAddr = to.parse().unwrap();
    Flow { from, client: client.map(ip), to, protocol: Protocol::Tcp }
}

fn pod(to: &str) -> Flow {
    flow(ClientKind::Pod, Some("10.0.0.9"), to)
}

fn backends(tables: &Holder, verdict: &Verdict) -> Vec<String> {
    let row = |id: &BackendId| tables.backend(*id).map(|b| SocketAddr::new(b.addr, b.port).to_string());
    verdict.backends.iter().filter_map(row).collect()
}

fn ids(verdict: &Verdict) -> Vec<&'static str> {
    verdict.rules.iter().map(Rule::id).collect()
}

#[test]
fn a_cluster_ip_leads_to_its_backends() {
    // POL-1, SNAT-9
    let tables = tables(two_backends());
    let verdict = resolve(&tables, &pod("172.30.0.1:80"));
    assert_eq!(verdict.action, Action::Forward);
    assert_eq!(backends(&tables, &verdict), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(verdict.name.as_ref().map(ToString::to_string).as_deref(), Some("ns/a:p"));
    assert_eq!(verdict.frontend_kind, Some(FrontendKind::ClusterIp));
    assert_eq!((verdict.path, verdict.client_ip_preserved), (Some(Path::Socket), Some(true)));
    assert_eq!(ids(&verdict), ["CAT-1", "CAT-2", "CAT-7", "POL-1", "SNAT-1", "SNAT-9"]);
}

#[test]
fn a_v4_mapped_address_is_the_ipv4_one() {
    // SOCK-6
    let tables = tables(two_backends());
    let (mapped, plain) = (pod("[::ffff:172.30.0.1]:80"), pod("172.30.0.1:80"));
    assert_eq!(resolve(&tables, &mapped), resolve(&tables, &plain));
}

#[test]
fn no_endpoint_anywhere_is_refused_and_udp_by_packets() {
    // REJ-1, DEC-1
    let tables = tables([put(service("a", "172.30.0.1"))]);
    let verdict = resolve(&tables, &pod("172.30.0.1:80"));
    assert_eq!((verdict.action, verdict.path), (Action::Reject, Some(Path::Socket)));
    assert!(ids(&verdict).contains(&"REJ-1"));
    let outside = resolve(&tables, &flow(ClientKind::External, None, "172.30.0.1:80"));
    assert_eq!((outside.action, outside.path), (Action::Reject, Some(Path::Packet)));
}

#[test]
fn udp_and_sctp_without_endpoints_are_left_to_packets() {
    // DEC-1, SOCK-12
    for protocol in [Protocol::Udp, Protocol::Sctp] {
        let ports = vec![service_port("p", protocol, 80)];
        let tables = tables([put(Service { ports, ..service("a", "172.30.0.1") })]);
        let verdict = resolve(&tables, &Flow { protocol, ..pod("172.30.0.1:80") });
        assert_eq!((verdict.action, verdict.path), (Action::Reject, Some(Path::Packet)));
        assert_eq!(ids(&verdict).contains(&"DEC-1"), protocol == Protocol::Udp);
    }
}

#[test]
fn endpoints_only_elsewhere_meet_silence_under_a_local_policy() {
    // REJ-2, POL-8, SOCK-13
    let local = Service { internal_local: true, ..service("a", "172.30.0.1") };
    let tables = tables([put(local), put_slice(slice("a", "1", vec![endpoint("10.0.0.1", "node-b")]))]);
    for from in [ClientKind::Pod, ClientKind::Host, ClientKind::External] {
        let verdict = resolve(&tables, &flow(from, None, "172.30.0.1:80"));
        assert_eq!((verdict.action, verdict.path), (Action::Drop, Some(Path::Packet)));
        assert!(["REJ-2", "POL-8"].iter().all(|rule| ids(&verdict).contains(rule)));
    }
}

#[test]
fn what_no_service_defines_is_refused_dropped_or_passed() {
    // UND-1, UND-2
    let tables = tables(two_backends());
    let port = resolve(&tables, &pod("172.30.0.1:81"));
    assert_eq!((port.action, ids(&port)), (Action::Reject, vec!["UND-1"]));
    let protocol = resolve(&tables, &Flow { protocol: Protocol::Udp, ..pod("172.30.0.1:80") });
    assert_eq!((protocol.action, protocol.path), (Action::Reject, Some(Path::Packet)));
    let address = resolve(&tables, &pod("172.30.9.9:80"));
    assert_eq!((address.action, ids(&address)), (Action::Drop, vec!["UND-2"]));
    let elsewhere = resolve(&tables, &pod("198.51.100.1:80"));
    assert_eq!((elsewhere.action, elsewhere.path), (Action::Pass, None));
}

#[test]
fn the_detector_decides_who_is_masqueraded() {
    // SNAT-1, SNAT-5, SNAT-9
    let preserved = |events: Vec<Event>, from, client| {
        resolve(&tables(events), &flow(from, client, "172.30.0.1:80")).client_ip_preserved
    };
    use ClientKind::*;
    let plain = two_backends;
    assert_eq!(preserved(plain(), Pod, Some("10.0.0.9")), Some(true));
    assert_eq!(preserved(plain(), Pod, None), Some(true));
    assert_eq!(preserved(plain(), Host, Some("192.168.0.2")), Some(false));
    assert_eq!(preserved(plain(), Host, None), Some(false));
    assert_eq!(preserved(plain(), External, Some("203.0.113.2")), Some(false));
    assert_eq!(preserved(plain(), External, None), None);
    assert_eq!(preserved(plain(), RemotePod, Some("10.0.99.9")), Some(true));
    let mut facts = host();
    facts.local_detector.clear();
    let none = || [plain(), vec![host_is(facts.clone())]].concat();
    assert_eq!(preserved(none(), External, None), Some(true));
    facts.masquerade_all = true;
    let all = [plain(), vec![host_is(facts)]].concat();
    assert_eq!(preserved(all, Pod, Some("10.0.0.9")), Some(false));
}

#[test]
fn a_client_that_is_a_backend_is_told_of_the_hairpin() {
    // SNAT-6, POL-11
    let tables = tables(two_backends());
    let verdict = resolve(&tables, &flow(ClientKind::Pod, Some("10.0.0.1"), "172.30.0.1:80"));
    assert_eq!(verdict.client_ip_preserved, Some(true));
    assert!(ids(&verdict).contains(&"SNAT-6"));
}

#[test]
fn affinity_is_told() {
    // AFF-1, AFF-3
    let sticky = Service { affinity_seconds: Some(10800), ..service("a", "172.30.0.1") };
    let tables = tables([two_backends(), vec![put(sticky)]].concat());
    let verdict = resolve(&tables, &pod("172.30.0.1:80"));
    assert_eq!(verdict.affinity_seconds, Some(10800));
    assert!(ids(&verdict).contains(&"AFF-1"));
}

/// One frontend of an external kind, with a backend in each set.
struct OneNodePort(bool);

impl Lookup for OneNodePort {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        let kind = FrontendKind::NodePort;
        matches!(key, FrontendKey::Port { .. }).then_some(Frontend { service: Some(ServiceId(0)), kind })
    }
    fn service(&self, _: ServiceId) -> Option<ServiceRow> {
        let set = |base| SetWord { base, count: 1, has_any: true };
        let policy = Policy { used: true, external_local: self.0, internal_local: true, affinity_seconds: 0 };
        Some(ServiceRow { sets: [set(0), set(1)], policy })
    }
    fn slots(&self, set: SetWord) -> Vec<BackendId> {
        vec![BackendId(set.base)]
    }
    fn backend(&self, _: BackendId) -> Option<BackendRow> {
        None
    }
    fn name(&self, _: ServiceId) -> Option<ServiceName> {
        None
    }
    fn covers(&self, class: PrefixClass, addr: IpAddr) -> bool {
        class == PrefixClass::LocalDetector && addr == ip("10.0.0.9")
    }
    fn settings(&self) -> Settings {
        Settings { local_detector: [true, false], ..Default::default() }
    }
}

#[test]
fn external_frontends_follow_their_policy_and_short_circuits() {
    // POL-2, POL-4, POL-5, POL-6, SNAT-2, SNAT-3
    use ClientKind::*;
    let judge = |local, from, client: &str| {
        let verdict = resolve(&OneNodePort(local), &flow(from, Some(client), "192.168.0.2:3001"));
        (verdict.backends[0].0, verdict.client_ip_preserved)
    };
    let cases = [
        (false, Pod, "10.0.0.9", (0, Some(false))),
        (false, External, "203.0.113.2", (0, Some(false))),
        (true, Pod, "10.0.0.9", (0, Some(true))),
        (true, Host, "192.168.0.2", (0, Some(false))),
        (true, External, "203.0.113.2", (1, Some(true))),
        (true, RemotePod, "10.0.0.9", (1, Some(true))),
    ];
    for (local, from, client, wanted) in cases {
        assert_eq!(judge(local, from, client), wanted, "eTP Local {local}, {from}");
    }
}
