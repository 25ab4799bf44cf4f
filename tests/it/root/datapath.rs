//! The tables as pinned maps, against the running kernel.

use std::net::{IpAddr, SocketAddr};

use beeline::model::addr::{Family, Protocol};
use beeline::model::names::{ObjectName, ServicePortName};
use beeline::plan::rule::{Rule, RuleSet};
use beeline::plan::table::*;

use super::datapath_rig::{Dialler, Rig, Server};

/// A ServicePort at 192.0.2.1:80 with the given backends, ids from 1.
pub fn service(backends: &[SocketAddr]) -> Vec<Op> {
    let id = ServiceId(3);
    let state = BackendState { generation: 1, in_cluster: true, in_local: false, serving: true };
    let ids: Vec<BackendId> = (1..=backends.len() as u32).map(BackendId).collect();
    let mut ops: Vec<Op> = ids
        .iter()
        .zip(backends)
        .map(|(id, to)| {
            Op::Backend(*id, BackendRow { addr: to.ip(), port: to.port(), service: ServiceId(3), state })
        })
        .collect();
    let set = SetWord { base: 8, count: ids.len() as u32, has_any: true };
    ops.extend([
        Op::Slots { base: 8, ids },
        Op::Set(id, Which::Cluster, set),
        Op::Policy(id, Policy { used: true, ..Policy::default() }),
        Op::FrontendPut(vip(), Frontend { service: Some(id), kind: FrontendKind::ClusterIp }),
    ]);
    ops
}

pub fn vip() -> FrontendKey {
    port_key(VIP.ip(), VIP.port(), Protocol::Tcp)
}

pub const VIP: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 80);

#[test]
fn a_client_in_the_cgroup_reaches_the_backend_of_the_address_it_dialled() {
    let rig = Rig::new();
    let server = Server::start();
    let mut datapath = rig.open();
    assert!(datapath.is_fresh());
    assert_eq!(datapath.apply_all(&service(&[server.addr])), vec![]);
    datapath.publish().unwrap();
    assert!(datapath.is_published());
    let dialler = Dialler::start(&rig, VIP);
    std::thread::sleep(std::time::Duration::from_millis(50));
    let (count, errors) = dialler.stop();
    assert_eq!(errors, "");
    assert!(count > 10, "{count} connections");
}
