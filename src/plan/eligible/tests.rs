//! Modelled on kube-proxy's `pkg/proxy/topology_test.go` (TestCategorizeEndpoints): node `node-a`
//! in `zone-a` looks at endpoints written as `addr: node conditions zones/nodes`.

use super::*;
use crate::model::addr::Protocol;
use crate::model::names::ObjectName;
use crate::model::service::Ingress;

/// An endpoint: name, node, conditions, zone hints, node hints.
type Row = (&'static str, &'static str, Conditions, &'static [&'static str], &'static [&'static str]);

const READY: Conditions = Conditions { ready: true, serving: true, terminating: false };
const DRAINING: Conditions = Conditions { ready: false, serving: true, terminating: true };
const DEAD: Conditions = Conditions { ready: false, serving: false, terminating: true };
const STARTING: Conditions = Conditions { ready: false, serving: true, terminating: false };
const UNREADY: Conditions = Conditions { ready: false, serving: false, terminating: false };
const PUBLISHED: Conditions = Conditions { ready: true, serving: false, terminating: true };

struct Case {
    name: &'static str,
    here: (&'static str, &'static str),
    endpoints: &'static [Row],
    cluster: &'static str,
    local: &'static str,
    has_any: bool,
}

const HERE: (&str, &str) = ("node-a", "zone-a");
const BY_ZONE: &[Row] = &[
    ("1", "node-a", READY, &["zone-a"], &[]),
    ("2", "node-b", READY, &["zone-b"], &[]),
    ("3", "node-c", READY, &["zone-c"], &[]),
    ("4", "node-d", READY, &["zone-a"], &[]),
];
const BY_NODE: &[Row] = &[
    ("1", "node-a", READY, &["zone-a"], &["node-a"]),
    ("2", "node-b", READY, &["zone-b"], &["node-b"]),
    ("3", "node-c", READY, &["zone-a"], &["node-c"]),
];

const CASES: &[Case] = &[
    Case {
        name: "no endpoints // CAT-5",
        here: HERE,
        endpoints: &[],
        cluster: "",
        local: "",
        has_any: false,
    },
    Case {
        name: "complete zone hints: this zone only, but never for the Local set // TOP-1 TOP-10",
        here: HERE,
        endpoints: BY_ZONE,
        cluster: "1 4",
        local: "1",
        has_any: true,
    },
    Case {
        name: "a node without a zone uses all // TOP-4",
        here: ("node-a", ""),
        endpoints: BY_ZONE,
        cluster: "1 2 3 4",
        local: "1",
        has_any: true,
    },
    Case {
        name: "no endpoint hinted to this zone: all // TOP-5",
        here: ("node-a", "zone-x"),
        endpoints: BY_ZONE,
        cluster: "1 2 3 4",
        local: "1",
        has_any: true,
    },
    Case {
        name: "one ready endpoint without a zone hint disables the mode // TOP-3",
        here: HERE,
        endpoints: &[("1", "n", READY, &["zone-a"], &[]), ("2", "n", READY, &[], &[])],
        cluster: "1 2",
        local: "",
        has_any: true,
    },
    Case {
        name: "hints of unready endpoints count for nothing // TOP-7",
        here: HERE,
        endpoints: &[
            ("1", "n", READY, &["zone-b"], &[]),
            ("2", "n", UNREADY, &["zone-a"], &[]),
            ("3", "n", UNREADY, &[], &[]),
        ],
        cluster: "1",
        local: "",
        has_any: true,
    },
    Case {
        name: "an unready endpoint without hints does not disable the mode // TOP-7",
        here: HERE,
        endpoints: &[
            ("1", "n", READY, &["zone-a"], &[]),
            ("2", "n", READY, &["zone-b"], &[]),
            ("3", "n", DRAINING, &[], &[]),
        ],
        cluster: "1",
        local: "",
        has_any: true,
    },
    Case {
        name: "several zones in one hint: any matches // TOP-6",
        here: HERE,
        endpoints: &[
            ("1", "n", READY, &["zone-b", "zone-a"], &[]),
            ("2", "n", READY, &["zone-b"], &[]),
            ("3", "n", READY, &["zone-c", "zone-a"], &[]),
        ],
        cluster: "1 3",
        local: "",
        has_any: true,
    },
    Case {
        name: "complete node hints win over zone hints // TOP-1",
        here: HERE,
        endpoints: BY_NODE,
        cluster: "1",
        local: "1",
        has_any: true,
    },
    Case {
        name: "the node hint counts, not nodeName // TOP-9",
        here: HERE,
        endpoints: &[("1", "node-a", READY, &[], &["node-b"]), ("2", "node-b", READY, &[], &["node-a"])],
        cluster: "2",
        local: "1",
        has_any: true,
    },
    Case {
        name: "no node hint for this node: the zone decides // TOP-8",
        here: ("node-x", "zone-a"),
        endpoints: BY_NODE,
        cluster: "1 3",
        local: "",
        has_any: true,
    },
    Case {
        name: "no hint for this node nor zone: all // TOP-5 TOP-8",
        here: ("node-x", "zone-x"),
        endpoints: BY_NODE,
        cluster: "1 2 3",
        local: "",
        has_any: true,
    },
    Case {
        name: "incomplete node hints leave complete zone hints in force // TOP-3",
        here: HERE,
        endpoints: &[("1", "n", READY, &["zone-a"], &["node-a"]), ("2", "n", READY, &["zone-a"], &[])],
        cluster: "1 2",
        local: "",
        has_any: true,
    },
    Case {
        name: "an empty node name has no local endpoints and no node hints // EP-9",
        here: ("", "zone-a"),
        endpoints: &[("1", "", READY, &[], &[]), ("2", "node-a", READY, &[], &[])],
        cluster: "1 2",
        local: "",
        has_any: true,
    },
    Case {
        name: "one ready endpoint anywhere hides all draining ones from the Cluster set // CAT-6",
        here: HERE,
        endpoints: &[("1", "node-a", DRAINING, &[], &[]), ("2", "node-b", READY, &[], &[])],
        cluster: "2",
        local: "1",
        has_any: true,
    },
    Case {
        name: "one ready local endpoint hides the draining local ones // CAT-3 CAT-6",
        here: HERE,
        endpoints: &[
            ("1", "node-a", READY, &[], &[]),
            ("2", "node-a", DRAINING, &[], &[]),
            ("3", "node-b", READY, &[], &[]),
        ],
        cluster: "1 3",
        local: "1",
        has_any: true,
    },
    Case {
        name: "only draining ones: all nodes, no topology // CAT-2 TOP-10",
        here: HERE,
        endpoints: &[
            ("1", "node-b", DRAINING, &["zone-b"], &["node-b"]),
            ("2", "node-a", DRAINING, &["zone-a"], &["node-a"]),
            ("3", "node-b", DEAD, &["zone-a"], &["node-a"]),
        ],
        cluster: "1 2",
        local: "2",
        has_any: true,
    },
    Case {
        name: "remote endpoints only: something exists, the Local set is empty // CAT-5",
        here: HERE,
        endpoints: &[("1", "node-b", READY, &[], &[]), ("2", "node-b", DRAINING, &[], &[])],
        cluster: "1",
        local: "",
        has_any: true,
    },
    Case {
        name: "neither ready nor draining is never used // CAT-4",
        here: HERE,
        endpoints: &[
            ("1", "node-a", STARTING, &[], &[]),
            ("2", "node-a", UNREADY, &[], &[]),
            ("3", "node-a", DEAD, &[], &[]),
        ],
        cluster: "",
        local: "",
        has_any: false,
    },
    Case {
        name: "ready is taken literally, also while terminating // EP-8",
        here: HERE,
        endpoints: &[("1", "node-a", PUBLISHED, &[], &[]), ("2", "node-a", DRAINING, &[], &[])],
        cluster: "1",
        local: "1",
        has_any: true,
    },
];

fn texts(list: &[&str]) -> Box<[Arc<str>]> {
    list.iter().map(|text| Arc::from(*text)).collect()
}

fn places(rows: &[Row]) -> Vec<Place> {
    let place = |(_, node, _, zones, nodes): &Row| Place {
        node: Some((*node).into()),
        zone: None,
        zone_hints: texts(zones),
        node_hints: texts(nodes),
    };
    rows.iter().map(place).collect()
}

fn judge(rows: &[Row], here: (&str, &str)) -> Eligible {
    let places = places(rows);
    let candidates: Vec<_> =
        rows.iter().zip(&places).map(|(row, place)| Candidate { conditions: row.2, place }).collect();
    eligible(&candidates, &Here { node: here.0.into(), zone: here.1.into() })
}

#[test]
fn the_sets_are_those_of_kube_proxy() {
    // CAT-2 to CAT-6, TOP-1 to TOP-10
    for case in CASES {
        let chosen = judge(case.endpoints, case.here);
        let names = |set: &[bool]| {
            let kept = case.endpoints.iter().zip(set).filter(|(_, kept)| **kept);
            kept.map(|(row, _)| row.0).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&chosen.cluster), case.cluster, "Cluster set: {}", case.name);
        assert_eq!(names(&chosen.local), case.local, "Local set: {}", case.name);
        assert_eq!(chosen.has_any, case.has_any, "has any: {}", case.name);
    }
}

#[test]
fn the_order_of_endpoints_does_not_matter() {
    // EP-13
    for case in CASES {
        let mut reversed = case.endpoints.to_vec();
        reversed.reverse();
        let mut there = judge(&reversed, case.here);
        there.cluster.reverse();
        there.local.reverse();
        assert_eq!(judge(case.endpoints, case.here), there, "{}", case.name);
    }
}

#[test]
fn the_rules_of_a_set_say_how_it_came_about() {
    let ids = |here, rows: &[Row]| {
        let chosen = judge(rows, here);
        chosen.rules[0].iter().map(Rule::id).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids(HERE, BY_ZONE), "CAT-2 TOP-1");
    assert_eq!(ids(("node-a", "zone-x"), BY_ZONE), "CAT-2 TOP-5");
    assert_eq!(ids(("node-x", "zone-a"), BY_NODE), "CAT-2 TOP-1 TOP-8");
    assert_eq!(ids(HERE, &[("1", "n", DRAINING, &[], &[])]), "CAT-2 CAT-6");
    assert_eq!(ids(HERE, &[("1", "n", STARTING, &[], &[])]), "CAT-2 CAT-4");
    let mixed: &[Row] = &[("1", "n", READY, &["zone-a"], &[]), ("2", "n", READY, &[], &[])];
    assert_eq!(ids(HERE, mixed), "CAT-2 TOP-3");
}

fn service() -> Service {
    Service {
        name: ObjectName::new("ns", "svc"),
        cluster_ip: "172.30.0.1".into(),
        ports: vec![port(0)],
        ..Service::default()
    }
}

fn port(node_port: u16) -> ServicePort {
    ServicePort { name: "p".into(), protocol: Protocol::Tcp, port: 80, node_port }
}

#[test]
fn the_sets_in_use_follow_the_policies_and_the_ways_in() {
    // CAT-1
    let used = |service: &Service, node_port| uses(service, &port(node_port), Family::V4);
    let plain = service();
    assert_eq!(used(&plain, 0), [true, false]);
    let internal = Service { internal_local: true, ..service() };
    assert_eq!(used(&internal, 0), [false, true]);
    assert_eq!(used(&internal, 30000), [true, true]);
    let external = Service { external_local: true, kind: ServiceKind::NodePort, ..service() };
    assert_eq!(used(&external, 0), [true, false]);
    assert_eq!(used(&external, 30000), [true, true]);
}

#[test]
fn only_addresses_of_the_family_that_make_frontends_give_access_from_outside() {
    // CAT-1, LB-1, SVC-6, SVC-14
    let accessible = |service: &Service, family| externally_accessible(service, &port(0), family);
    let ingress = |ip: &str, proxy| Service { ingress: vec![Ingress { ip: ip.into(), proxy }], ..service() };
    let external_ip = |ip: &str| Service { external_ips: vec![ip.into()], ..service() };
    assert!(!accessible(&service(), Family::V4));
    assert!(accessible(&ingress("1.2.3.4", false), Family::V4));
    assert!(!accessible(&ingress("1.2.3.4", true), Family::V4));
    assert!(!accessible(&ingress("fd00::1", false), Family::V4));
    assert!(accessible(&external_ip("192.0.2.9"), Family::V4));
    assert!(!accessible(&external_ip("nonsense"), Family::V4));
    assert!(!accessible(&external_ip("fd00::1"), Family::V6), "no ClusterIP of that family");
}

#[test]
fn external_traffic_policy_local_counts_only_where_it_may() {
    // POL-3
    let local = |kind, ips: &[&str]| {
        let external_ips = ips.iter().map(|ip| ip.to_string()).collect();
        external_local(&Service { kind, external_ips, external_local: true, ..service() })
    };
    assert!(local(ServiceKind::NodePort, &[]));
    assert!(local(ServiceKind::LoadBalancer, &[]));
    assert!(!local(ServiceKind::ClusterIp, &[]));
    assert!(local(ServiceKind::ClusterIp, &["192.0.2.9"]));
    assert!(!external_local(&service()));
}
