//! Decisions: `bl_decide_frontend()` and `bl_decide_undefined()` against `resolve`.

use std::net::{IpAddr, SocketAddr};

use beeline::model::flow::{ClientKind, Flow};
use beeline::plan::resolve::{Action, resolve};
use rand::Rng;
use rand::rngs::StdRng;

use super::bpf::{self, Bpf, Case};
use super::rows::{Rows, any_addr, any_port, any_protocol};
use super::seeded;

const CLIENTS: [ClientKind; 5] = [
    ClientKind::Pod,
    ClientKind::Host,
    ClientKind::External,
    ClientKind::ExternalBlocked,
    ClientKind::RemotePod,
];

fn action(action: Action) -> u32 {
    match action {
        Action::Pass => 0,
        Action::Forward => 1,
        Action::Reject => 2,
        Action::Drop => 3,
    }
}

fn client(kind: ClientKind) -> u32 {
    match kind {
        ClientKind::Pod => 1,
        ClientKind::Host => 2,
        ClientKind::External | ClientKind::ExternalBlocked | ClientKind::RemotePod => 0,
    }
}

/// A flow as people write it: IPv4 also v4-mapped (SOCK-6).
fn any_flow(rng: &mut StdRng) -> Flow {
    let addr = match any_addr(rng) {
        IpAddr::V4(v4) if rng.random() => IpAddr::V6(v4.to_ipv6_mapped()),
        addr => addr,
    };
    Flow {
        from: CLIENTS[rng.random_range(0..CLIENTS.len())],
        client: None,
        to: SocketAddr::new(addr, any_port(rng)),
        protocol: any_protocol(rng),
    }
}

fn case_of(flow: &Flow) -> Case {
    let key = bpf::key(flow.to.ip(), flow.to.port(), bpf::protocol_number(flow.protocol), 0);
    Case { key, client: client(flow.from), ..Case::default() }
}

/// One flow both ways; panics where they part.
fn compare(bpf: &Bpf, rows: &Rows, flow: &Flow) -> Action {
    let verdict = resolve(rows, flow);
    let got = bpf.run("decide", &case_of(flow));
    assert_eq!(got.action, action(verdict.action), "action of {flow:?}: {verdict:?}");
    if let Some(id) = verdict.service {
        assert_eq!(got.service, id.0, "service of {flow:?}");
        assert_eq!(got.kind, verdict.frontend_kind.unwrap() as u32, "kind of {flow:?}");
        assert_eq!(got.which, verdict.which.unwrap() as u32, "set of {flow:?}");
        assert_eq!(got.set, bpf::set_word(verdict.set), "set word of {flow:?}");
        assert_eq!(got.policy as u32, verdict.affinity_seconds.unwrap_or(0), "affinity of {flow:?}");
    }
    verdict.action
}

#[test]
fn ten_thousand_flows_are_decided_as_resolve_decides_them() {
    // POL-1 to POL-6, POL-10, REJ-1, REJ-2, UND-1, SOCK-6
    let mut rng = seeded("decide");
    let bpf = Bpf::load();
    let mut seen = [0; 4];
    for _ in 0..50 {
        let rows = Rows::random(&mut rng);
        rows.write(&bpf);
        for _ in 0..200 {
            seen[action(compare(&bpf, &rows, &any_flow(&mut rng))) as usize] += 1;
        }
    }
    assert!(seen.iter().all(|n| *n > 100), "each answer was met often: {seen:?}");
}

#[test]
fn a_value_written_for_another_key_counts_as_missing() {
    let mut rng = seeded("key check");
    let bpf = Bpf::load();
    let mut rows = Rows::random(&mut rng);
    rows.write(&bpf);
    let is_far = |key: &[u8; 20]| key[19] == 0 && !rows.homes.values().any(|home| home == key);
    let stolen: Vec<_> = rows.frontends.keys().copied().filter(is_far).collect();
    // Each frontend's value is given to the next key, as an element of a hash is when it is re-used.
    for (at, key) in stolen.iter().enumerate() {
        let donor = &stolen[(at + 1) % stolen.len()];
        let value = bpf::frontend(donor, &rows.frontends[donor].1);
        bpf.put("bl_frontends", key, &value.to_ne_bytes());
    }
    rows.frontends.retain(|key, _| !stolen.contains(key));
    for key in &stolen {
        let got = bpf.run("decide", &Case { key: *key, client: 1, ..Case::default() });
        let addr = IpAddr::from(<[u8; 16]>::try_from(&key[..16]).unwrap()).to_canonical();
        let flow = Flow {
            from: ClientKind::Pod,
            client: None,
            to: SocketAddr::new(addr, 1),
            protocol: beeline::model::addr::Protocol::Tcp,
        };
        assert_eq!(got.action, action(resolve(&rows, &flow).action), "{key:?}");
    }
}
