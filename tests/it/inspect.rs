//! The JSON and text that `status`, `services` and `dump` give for known rows.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use beeline::datapath::stats::Stats;
use beeline::inspect::dump::{Dump, Ids, canonical};
use beeline::inspect::services;
use beeline::inspect::status::{Pending, Status};
use beeline::inspect::view::{Hook, MapUse, Program, View};
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

/// A view of [`rows`], all hooks attached.
fn view() -> View {
    let hook = |name: &str| Hook { name: name.to_owned(), attached: true };
    View {
        rows: rows(1),
        counters: [(ServiceId(2), Stats { connections: 7, refused: 1, dropped: 2 })].into(),
        maps: vec![MapUse { name: "bl_frontends".to_owned(), used: 5, max: 1024 }],
        hooks: vec![hook("bl_connect4"), hook("bl_connect6")],
        programs: vec![Program {
            name: "bl_connect4".to_owned(),
            loaded_tag: Some("0011223344556677".to_owned()),
            shipped_tag: None,
        }],
        agent: true,
        pending: vec![Pending { what: "default/web:http".to_owned(), error: "bl_slots is full".to_owned() }],
        kernel: "6.12.0".to_owned(),
        ..View::default()
    }
}

#[test]
fn the_status_has_the_fields_of_the_contract() {
    let status = serde_json::to_value(Status::of(&view())).expect("it is JSON");
    let off = |reason: &str| json!({"state": "off", "reason": reason});
    assert_eq!(
        status,
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": "6.12.0",
            "node": "node-a",
            "agent": true,
            "repaired": 0,
            "source": {"kind": null, "from": null, "synced": true},
            "features": {
                "socket_lb": {"state": "on", "reason": ""},
                "packet_lb": off("this version does not translate packets: clients outside the node are not served"),
                "acceleration": off("this version does not accelerate connections between pods of a node"),
                "udp_kill": off("this version does not end UDP sockets whose backend is gone"),
                "mesh_detect": off("this version does not detect meshed pods: their sockets are resolved like all others"),
            },
            "counts": {"services": 2, "frontends": 3, "backends": 3},
            "maps": [{"name": "bl_frontends", "used": 5, "max": 1024}],
            "pending": [{"what": "default/web:http", "error": "bl_slots is full"}],
            "programs": [{"name": "bl_connect4", "loaded_tag": "0011223344556677", "shipped_tag": null}],
        })
    );
}

/// State and reason of `socket_lb` after a change of a view where all is well.
fn socket_lb(change: impl FnOnce(&mut View)) -> (String, String) {
    let mut view = view();
    change(&mut view);
    let feature = Status::of(&view).features.socket_lb;
    (feature.state.name().to_owned(), feature.reason)
}

#[test]
fn the_socket_path_is_on_only_if_every_program_is_attached() {
    let (state, reason) = socket_lb(|v| v.hooks[1].attached = false);
    assert_eq!(state, "failed");
    assert!(reason.contains("bl_connect6") && !reason.contains("bl_connect4"), "{reason}");
    assert_eq!(socket_lb(|v| v.hooks.iter_mut().for_each(|h| h.attached = false)).0, "off");
    let (state, reason) = socket_lb(|v| v.narrowed.push("no bpf_set_retval".to_owned()));
    assert_eq!((state.as_str(), reason.as_str()), ("narrowed", "no bpf_set_retval"));
}

#[test]
fn services_have_the_fields_of_the_contract() {
    let list = serde_json::to_value(services::list(&view(), None)).expect("it is JSON");
    let backend = |addr: &str, node: &str, state: &str, local: bool| json!({"addr": addr, "port": 8080, "node": node, "zone": null, "state": state, "local": local});
    let web = json!({
        "namespace": "default",
        "name": "web",
        "port_name": "http",
        "protocol": "TCP",
        "frontends": [
            {"kind": "ClusterIP", "addr": "10.96.0.10", "port": 80},
            {"kind": "NodePort", "addr": "192.0.2.1", "port": 30080},
        ],
        "backends": [
            backend("10.1.0.1", "node-a", "ready", true),
            backend("10.1.0.2", "node-b", "ready", false),
            backend("10.1.0.3", "node-b", "unusable", false),
        ],
        "connections": 7,
        "refused": 1,
        "dropped": 2,
    });
    assert_eq!(list.as_array().map(Vec::len), Some(2));
    assert_eq!(list[1], web);
    assert_eq!(list[0]["backends"], Value::Array(Vec::new()));
}

#[test]
fn both_families_of_a_port_are_one_entry() {
    // SVC-7: two rows of the tables, one line for a person.
    let mut view = view();
    for (_, named) in &mut view.rows.names {
        if &*named.name.service.name == "none" {
            named.name.service = ObjectName::new("default", "web");
            named.name.port = "http".into();
            named.name.family = Family::V6;
        }
    }
    let list = services::list(&view, None);
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].frontends.len(), 3);
    assert_eq!(Status::of(&view).counts.services, 1);
}

#[test]
fn services_can_be_asked_of_one_namespace() {
    assert_eq!(services::list(&view(), Some("default")).len(), 2);
    assert_eq!(services::list(&view(), Some("other")).len(), 0);
}

#[test]
fn an_endpoint_that_is_ready_while_it_terminates_is_ready() {
    // EP-8; one that only serves is taken where nothing is ready (CAT-2).
    let state = |ready, serving, terminating| {
        let mut view = view();
        view.rows.endpoints[0].1 = endpoint(1, ready, serving, terminating);
        services::list(&view, None)[1].backends[0].state.name()
    };
    assert_eq!(state(true, true, true), "ready");
    assert_eq!(state(false, true, true), "terminating");
    assert_eq!(state(false, false, true), "unusable");
    assert_eq!(state(false, true, false), "unusable");
}
