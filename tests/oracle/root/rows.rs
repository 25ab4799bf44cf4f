//! Random rows: small pools of addresses, ports and ids, so that flows hit what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use beeline::model::addr::Protocol;
use beeline::plan::table::{
    BackendId, BackendRow, BackendState, Frontend, FrontendKey, FrontendKind, Lookup, Policy, PrefixClass,
    ServiceId, ServiceName, ServiceRow, SetWord, Settings,
};
use rand::Rng;
use rand::rngs::StdRng;

use super::bpf::{self, Bpf};

pub const SERVICES: u32 = 24;
pub const BACKENDS: u32 = 40;
const SLOTS: u32 = 128;
const KINDS: [FrontendKind; 4] =
    [FrontendKind::ClusterIp, FrontendKind::NodePort, FrontendKind::ExternalIp, FrontendKind::LoadBalancer];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The rows, readable by `resolve`.
pub struct Rows {
    pub frontends: BTreeMap<[u8; 20], (FrontendKey, Frontend)>,
    pub services: Vec<ServiceRow>,
    /// By service index, the frontend that is at home there.
    pub homes: BTreeMap<u32, [u8; 20]>,
    /// Frontends that are at home and nowhere else.
    pub not_far: BTreeSet<[u8; 20]>,
    pub slots: Vec<BackendId>,
    pub backends: BTreeMap<u32, BackendRow>,
    pub settings: Settings,
}

impl Lookup for Rows {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(&bpf::frontend_key(key)).map(|(_, value)| *value)
    }

    fn service(&self, id: ServiceId) -> Option<ServiceRow> {
        self.services.get(id.0 as usize).copied()
    }

    fn slots(&self, set: SetWord) -> Vec<BackendId> {
        self.slots[set.base as usize..][..set.count as usize].to_vec()
    }

    fn backend(&self, id: BackendId) -> Option<BackendRow> {
        self.backends.get(&id.0).copied()
    }

    fn name(&self, _id: ServiceId) -> Option<ServiceName> {
        None
    }

    /// No prefixes: what is in a ServiceCIDR and no ClusterIP is dropped by the packet path alone (UND-2).
    fn covers(&self, _class: PrefixClass, _addr: IpAddr) -> bool {
        false
    }

    fn settings(&self) -> Settings {
        self.settings.clone()
    }
}

/// An address of a pool of neighbours in both families.
pub fn any_addr(rng: &mut StdRng) -> IpAddr {
    let host = rng.random_range(1..=6);
    if rng.random() { IpAddr::from([10, 96, 0, host]) } else { format!("fd00:96::{host}").parse().unwrap() }
}

/// A port of a small pool.
pub fn any_port(rng: &mut StdRng) -> u16 {
    [53, 80, 81, 443][rng.random_range(0..4)]
}

/// A protocol.
pub fn any_protocol(rng: &mut StdRng) -> Protocol {
    PROTOCOLS[rng.random_range(0..3)]
}

fn any_set(rng: &mut StdRng) -> SetWord {
    let count = if rng.random_bool(0.3) { 0 } else { rng.random_range(1..9) };
    SetWord { base: rng.random_range(0..SLOTS - 8), count, has_any: rng.random() }
}

fn any_service(rng: &mut StdRng) -> ServiceRow {
    let policy = Policy {
        affinity_seconds: if rng.random() { 0 } else { rng.random_range(1..=86_400) },
        internal_local: rng.random(),
        external_local: rng.random(),
        used: rng.random_bool(0.9),
    };
    ServiceRow { sets: [any_set(rng), any_set(rng)], policy }
}

/// The state of a backend.
pub fn any_state(rng: &mut StdRng) -> BackendState {
    let generation = rng.random_range(0..3);
    BackendState { generation, in_cluster: rng.random(), in_local: rng.random(), serving: rng.random() }
}

fn any_backend(rng: &mut StdRng, id: u32) -> BackendRow {
    let addr = IpAddr::from([10, 0, rng.random(), id as u8]);
    let service = ServiceId(rng.random_range(0..SERVICES));
    BackendRow { addr, port: rng.random(), service, state: any_state(rng) }
}

impl Rows {
    /// Rows that have nothing to do with each other but their ids.
    pub fn random(rng: &mut StdRng) -> Rows {
        let mut frontends = BTreeMap::new();
        for _ in 0..40 {
            let (addr, port, protocol) = (any_addr(rng), any_port(rng), any_protocol(rng));
            let key = FrontendKey::Port { addr, port, protocol };
            // One more than there are services: a frontend may be ahead of its row.
            let service = Some(ServiceId(rng.random_range(0..=SERVICES)));
            let value = Frontend { service, kind: KINDS[rng.random_range(0..4)] };
            frontends.insert(bpf::frontend_key(&key), (key, value));
        }
        for _ in 0..4 {
            let key = FrontendKey::Active { addr: any_addr(rng) };
            let value = Frontend { service: None, kind: FrontendKind::ClusterIp };
            frontends.insert(bpf::frontend_key(&key), (key, value));
        }
        let (mut homes, mut not_far) = (BTreeMap::new(), BTreeSet::new());
        for (bytes, (key, value)) in &mut frontends {
            let row = bpf::homes(bytes)[rng.random_range(0..8)];
            let is_dialled = matches!(key, FrontendKey::Port { .. }) && value.kind == FrontendKind::ClusterIp;
            if is_dialled && row < SERVICES && !homes.contains_key(&row) {
                value.service = Some(ServiceId(row));
                homes.insert(row, *bytes);
                not_far.extend(rng.random::<bool>().then_some(*bytes));
            }
        }
        Rows {
            frontends,
            homes,
            not_far,
            services: (0..SERVICES).map(|_| any_service(rng)).collect(),
            slots: (0..SLOTS).map(|_| BackendId(rng.random_range(1..=BACKENDS))).collect(),
            backends: (1..=BACKENDS).map(|id| (id, any_backend(rng, id))).collect(),
            settings: Settings { local_detector: [rng.random(), rng.random()], ..Settings::default() },
        }
    }

    /// Writes all rows, in place of what the maps held.
    pub fn write(&self, bpf: &Bpf) {
        for map in ["bl_frontends", "bl_affinity_in"] {
            bpf.clear(map);
        }
        for (bytes, (_, value)) in self.frontends.iter().filter(|(bytes, _)| !self.not_far.contains(*bytes)) {
            bpf.put("bl_frontends", bytes, &bpf::frontend(bytes, value).to_ne_bytes());
        }
        for (id, row) in self.services.iter().enumerate() {
            let mut bytes = bpf::service(row);
            self.homes.get(&(id as u32)).inspect(|key| bpf::settle(&mut bytes, key));
            bpf.put("bl_services", &(id as u32).to_ne_bytes(), &bytes);
        }
        for id in self.backends.keys() {
            self.write_backend(bpf, *id);
        }
        let [v4, v6] = self.settings.local_detector;
        let mut agent = [0; 576];
        agent[0] = u8::from(v4) << 2 | u8::from(v6) << 3;
        bpf.put("bl_agent", &[0; 4], &agent);
    }

    /// Writes one backend's row, and the slots that lead to it.
    pub fn write_backend(&self, bpf: &Bpf, id: u32) {
        let row = &self.backends[&id];
        bpf.put("bl_backends", &id.to_ne_bytes(), &bpf::backend(row));
        for (slot, _) in self.slots.iter().enumerate().filter(|(_, backend)| backend.0 == id) {
            bpf.put("bl_slots", &(slot as u32).to_ne_bytes(), &bpf::slot(id, row));
        }
    }
}
