//! The JSON and text that `status`, `services` and `dump` give for known rows.

use std::net::IpAddr;
use std::sync::Arc;

use beeline::inspect::dump::{Dump, Ids, canonical};
use beeline::model::addr::{Family, Protocol};
use beeline::model::names::{ObjectName, ServicePortName};
use beeline::plan::rule::{Rule, RuleSet};
use beeline::plan::table::{
    BackendId, BackendRow, BackendState, EndpointInfo, Frontend, FrontendKey, FrontendKind, NetnsClass,
    Policy, Prefix, PrefixClass, Rows, ServiceId, ServiceName, ServiceRow, SetWord, Settings, TextId, Which,
    port_key,
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn name(service: &str, port: &str) -> ServicePortName {
    ServicePortName {
        service: ObjectName::new("default", service),
        port: port.into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

/// A row of a backend whose generation is 3.
fn backend(addr: &str, service: u32, set: bool, serving: bool) -> BackendRow {
    let state = BackendState { generation: 3, in_cluster: set, in_local: false, serving };
    BackendRow { addr: ip(addr), port: 8080, service: ServiceId(service), state }
}

fn endpoint(node: u32, ready: bool, serving: bool, terminating: bool) -> EndpointInfo {
    EndpointInfo {
        node: TextId(node),
        zone: TextId(0),
        ready,
        serving,
        terminating,
        local: node == 1,
        used: true,
    }
}

/// Two Services, `web` with two usable and one unusable endpoint, `none` without any. Ids start at
/// `shift`, so that two calls give tables that mean the same.
fn rows(shift: u32) -> Rows {
    let (web, none) = (ServiceId(shift + 1), ServiceId(shift));
    let [a, b, c, old] = [shift + 9, shift + 4, shift + 5, shift + 2].map(BackendId);
    let service = |base, count, has_any| ServiceRow {
        sets: [SetWord { base, count, has_any }, SetWord { base: 0, count: 0, has_any }],
        policy: Policy { affinity_seconds: 0, internal_local: false, external_local: false, used: true },
    };
    let kind = |service, kind| Frontend { service, kind };
    let mut rows = Rows {
        frontends: vec![
            (port_key(ip("10.96.0.10"), 80, Protocol::Tcp), kind(Some(web), FrontendKind::ClusterIp)),
            (port_key(ip("192.0.2.1"), 30080, Protocol::Tcp), kind(Some(web), FrontendKind::NodePort)),
            (port_key(ip("10.96.0.11"), 80, Protocol::Tcp), kind(Some(none), FrontendKind::ClusterIp)),
            (FrontendKey::Active { addr: ip("10.96.0.10") }, kind(None, FrontendKind::ClusterIp)),
            (FrontendKey::Active { addr: ip("10.96.0.11") }, kind(None, FrontendKind::ClusterIp)),
        ],
        services: vec![(none, service(0, 0, false)), (web, service(shift * 10, 2, true))],
        slots: vec![(web, Which::Cluster, vec![a, b])],
        backends: vec![
            (old, backend("10.1.0.66", web.0, false, false)),
            (b, backend("10.1.0.1", web.0, true, true)),
            (c, backend("10.1.0.3", web.0, false, false)),
            (a, backend("10.1.0.2", web.0, true, true)),
        ],
        endpoints: vec![
            (b, endpoint(1, true, true, false)),
            (c, endpoint(2, false, false, false)),
            (a, endpoint(2, true, true, true)),
        ],
        names: vec![
            (none, ServiceName { name: name("none", ""), rules: [RuleSet::default().with(Rule::Cat2); 2] }),
            (web, ServiceName { name: name("web", "http"), rules: [RuleSet::default().with(Rule::Cat2); 2] }),
        ],
        texts: vec![(TextId(1), Arc::from("node-a")), (TextId(2), Arc::from("node-b"))],
        prefixes: vec![Prefix {
            class: PrefixClass::ServiceCidr,
            net: "10.96.0.0/16".parse().expect("a net"),
        }],
        netns: vec![(u64::from(shift) + 1, NetnsClass::Host), (u64::from(shift) + 2, NetnsClass::Pod)],
        settings: Settings { node: "node-a".into(), synced: true, ..Settings::default() },
    };
    rows.frontends.sort_by_key(|(key, _)| *key);
    rows.backends.sort_by_key(|(id, _)| *id);
    rows.endpoints.sort_by_key(|(id, _)| *id);
    rows
}

#[test]
fn the_dump_names_what_the_tables_hold_as_ids() {
    let text = canonical(&rows(1));
    let want = "\
settings node=node-a zone=- synced=true masquerade-all=false local-detector=-
service default/none TCP IPv4
  policy internal=cluster external=cluster affinity=0
  frontend ClusterIP 10.96.0.11:80/TCP
  set cluster - rejects [CAT-2]
service default/web:http TCP IPv4
  policy internal=cluster external=cluster affinity=0
  frontend ClusterIP 10.96.0.10:80/TCP
  frontend NodePort 192.0.2.1:30080/TCP
  set cluster 10.1.0.1:8080 10.1.0.2:8080 [CAT-2]
  backend 10.1.0.1:8080 in=cluster,keeps-flows is=ready,serving,local node=node-a zone=-
  backend 10.1.0.2:8080 in=cluster,keeps-flows is=ready,serving,terminating node=node-b zone=-
  backend 10.1.0.3:8080 in=- is=- node=node-b zone=-
active 10.96.0.10
active 10.96.0.11
prefix service-cidr 10.96.0.0/16
netns host 1
netns pod 1
";
    assert_eq!(text, want);
}

#[test]
fn tables_that_mean_the_same_give_the_same_dump_whatever_their_ids() {
    assert_eq!(canonical(&rows(1)), canonical(&rows(77)));
    assert_ne!(
        Dump::of(&rows(1), Ids::Shown).to_string(),
        Dump::of(&rows(77), Ids::Shown).to_string(),
        "the wide form shows ids"
    );
}

#[test]
fn rows_that_contradict_each_other_are_shown_as_strays() {
    let mut broken = rows(1);
    broken.services.retain(|(id, _)| *id != ServiceId(1));
    broken.slots[0].2[0] = BackendId(999);
    let strays = Dump::of(&broken, Ids::Hidden).strays;
    assert_eq!(
        strays,
        [
            "default/web:http: a slot of the cluster set holds another one's backend",
            "frontend 10.96.0.11:80/TCP leads to no ServicePort",
        ]
    );
}
