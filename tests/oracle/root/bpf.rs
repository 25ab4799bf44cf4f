//! Loads `tests/bpf/lb_test.bpf.c` and runs its programs; the bytes of the rows are written here,
//! apart from `datapath::wire`, so that the two check each other.

use std::net::{IpAddr, Ipv6Addr};

use beeline::model::addr::Protocol;
use beeline::plan::table::{BackendRow, BackendState, Frontend, FrontendKey, Policy, ServiceRow, SetWord};
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{DataSec, Var, VarSecInfo};
use libbpf_rs::{MapCore, MapFlags, Object, ObjectBuilder, ProgramInput, ProgramType};

/// The maps that `lb.h` touches, and how many rows they get here. No other map is created.
const MAPS: [(&str, u32); 7] = [
    ("bl_frontends", 1024),
    ("bl_services", 64),
    ("bl_slots", 256),
    ("bl_backends", 64),
    ("bl_agent", 1),
    ("bl_netns", 1),
    ("bl_affinity_in", 4096),
];

/// What the key check of a frontend is masked with: fewer rows than the map has.
const HOME_MASK: u32 = 31;

/// Size of `struct bl_case`.
const CASE: usize = 112;
/// Bytes before it in a packet.
const HEAD: usize = 16;

/// The loaded programs with their maps.
pub struct Bpf {
    object: Object,
    syscall: bool,
}

/// The input of a run. What a step does not read may be anything.
#[derive(Clone, Copy, Default)]
pub struct Case {
    /// Bytes of the key that is dialled.
    pub key: [u8; 20],
    /// `enum bl_client`.
    pub client: u32,
    /// The client's namespace cookie.
    pub netns: u64,
    /// Nanoseconds.
    pub now: u64,
    /// Picks the slot.
    pub rnd: u32,
    /// `enum bl_backend_flags`.
    pub need: u32,
    /// A remembered choice.
    pub choice: u64,
    /// The service it has to belong to.
    pub service: u32,
}

/// What a run left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub choice: u64,
    pub service: u32,
    pub action: u32,
    pub kind: u32,
    pub which: u32,
    pub set: u64,
    pub policy: u64,
    /// The backend, if one was found.
    pub backend: Option<(IpAddr, u16)>,
}

impl Bpf {
    /// Loads the programs.
    pub fn load() -> Bpf {
        let syscall = ProgramType::Syscall.is_supported().unwrap_or(false);
        let bytes = include_bytes!(env!("BEELINE_LB_TEST"));
        let home_mask = rodata_offset(bytes, "bl_home_mask");
        let mut open =
            ObjectBuilder::default().name("lb_test").unwrap().open_memory(bytes).expect("open lb_test.bpf.o");
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if name.ends_with(".rodata") {
                let value = map.initial_value_mut().expect("constants have values");
                value[home_mask..][..4].copy_from_slice(&HOME_MASK.to_ne_bytes());
            }
            match MAPS.iter().find(|(known, _)| *known == name) {
                Some((_, rows)) => {
                    map.set_max_entries(*rows).unwrap();
                    // Before 6.1 a sleepable program, such as a syscall program is, takes only preallocated hashes.
                    map.set_map_flags(0).unwrap();
                }
                None => map.set_autocreate(!name.starts_with("bl_")).unwrap(),
            }
        }
        for mut program in open.progs_mut() {
            let classifier = program.name().to_string_lossy().ends_with("_skb");
            program.set_autoload(classifier != syscall);
        }
        Bpf { object: open.load().expect("load lb_test: these tests need root"), syscall }
    }

    /// Runs one step, `decide`, `choose` or `valid`.
    pub fn run(&self, step: &str, case: &Case) -> Outcome {
        let mut bytes = case.bytes();
        if self.syscall {
            self.test_run(
                &format!("bl_test_{step}"),
                ProgramInput { context_in: Some(&mut bytes), ..Default::default() },
            );
        } else {
            let packet: Vec<u8> = [&[0; HEAD], &bytes[..]].concat();
            let mut out = [0; HEAD + CASE];
            let input =
                ProgramInput { data_in: Some(&packet), data_out: Some(&mut out), ..Default::default() };
            self.test_run(&format!("bl_test_{step}_skb"), input);
            bytes.copy_from_slice(&out[HEAD..]);
        }
        Outcome::read(&bytes)
    }

    fn test_run(&self, name: &str, input: ProgramInput<'_>) {
        let program = self.object.progs_mut().find(|program| program.name() == name).expect(name);
        assert_eq!(program.test_run(input).expect(name).return_value, 0, "{name}");
    }

    /// Writes a row; the key of an array is its index.
    pub fn put(&self, map: &str, key: &[u8], value: &[u8]) {
        self.map(map).update(key, value, MapFlags::ANY).unwrap_or_else(|e| panic!("{map}: {e}"));
    }

    /// Removes every row of a hash.
    pub fn clear(&self, map: &str) {
        let map = self.map(map);
        for key in map.keys().collect::<Vec<_>>() {
            map.delete(&key).unwrap();
        }
    }

    fn map(&self, name: &str) -> impl MapCore {
        self.object.maps().find(|map| map.name() == name).expect(name)
    }
}

impl Case {
    fn bytes(&self) -> [u8; CASE] {
        let mut bytes = [0; CASE];
        bytes[0..20].copy_from_slice(&self.key);
        bytes[20..24].copy_from_slice(&self.client.to_ne_bytes());
        bytes[24..32].copy_from_slice(&self.netns.to_ne_bytes());
        bytes[32..40].copy_from_slice(&self.now.to_ne_bytes());
        bytes[40..44].copy_from_slice(&self.rnd.to_ne_bytes());
        bytes[44..48].copy_from_slice(&self.need.to_ne_bytes());
        bytes[48..56].copy_from_slice(&self.choice.to_ne_bytes());
        bytes[56..60].copy_from_slice(&self.service.to_ne_bytes());
        bytes
    }
}

impl Outcome {
    fn read(bytes: &[u8; CASE]) -> Outcome {
        let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let addr = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[88..104]).unwrap());
        let port = u16::from_be_bytes(bytes[104..106].try_into().unwrap());
        Outcome {
            choice: u64_at(48),
            service: u32_at(56),
            action: u32_at(60),
            kind: u32_at(64),
            which: u32_at(68),
            set: u64_at(72),
            policy: u64_at(80),
            backend: (u32_at(108) != 0).then(|| (IpAddr::V6(addr).to_canonical(), port)),
        }
    }
}

fn addr(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// `struct bl_frontend_key`. The number stands for the protocol, so that unknown ones can be tried.
pub fn key(ip: IpAddr, port: u16, proto: u8, scope: u8) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(&addr(ip));
    bytes[16..18].copy_from_slice(&port.to_be_bytes());
    bytes[18] = proto;
    bytes[19] = scope;
    bytes
}

/// The key of a frontend.
pub fn frontend_key(of: &FrontendKey) -> [u8; 20] {
    match *of {
        FrontendKey::Port { addr, port, protocol } => key(addr, port, protocol_number(protocol), 0),
        FrontendKey::Active { addr } => key(addr, 0, 0, 1),
    }
}

/// IANA's number.
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The check of a frontend's value, from its definition in `bpf/lb.h`.
pub fn key_check(key: &[u8; 20]) -> u32 {
    let mut h = 0x9e37_79b9_u32;
    for word in key.chunks_exact(4) {
        h ^= u32::from_ne_bytes(word.try_into().unwrap());
        h = h.wrapping_mul(0x85eb_ca6b);
        h ^= h >> 13;
    }
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ h >> 16
}

/// The rows in which a ClusterIP frontend is looked for before all else.
pub fn homes(key: &[u8; 20]) -> [u32; 8] {
    std::array::from_fn(|at| key_check(key).wrapping_add(at as u32) & HOME_MASK)
}

/// Has a row of `bl_services` be the home of a frontend.
pub fn settle(row: &mut [u8; 64], key: &[u8; 20]) {
    row[21] = key[18];
    row[22..24].copy_from_slice(&key[16..18]);
    row[24..40].copy_from_slice(&key[..16]);
}

/// Where a constant lies in the read-only data of the object.
fn rodata_offset(object: &[u8], constant: &str) -> usize {
    let btf = Btf::from_raw("lb_test", object).unwrap().expect("the object has BTF");
    let section: DataSec<'_> = btf.type_by_name(".rodata").expect("the object has constants");
    let is_it = |info: &VarSecInfo| {
        let variable = btf.type_by_id::<Var<'_>>(info.ty);
        variable.is_some_and(|variable| variable.name().is_some_and(|name| name == constant))
    };
    section.iter().find(is_it).unwrap_or_else(|| panic!("no constant {constant}")).offset as usize
}

/// The value of a frontend.
pub fn frontend(key: &[u8; 20], value: &Frontend) -> u64 {
    let index = value.service.map_or(0x00ff_ffff, |id| id.0);
    u64::from(index | (value.kind as u32) << 24) | u64::from(key_check(key)) << 32
}

/// A set word.
pub fn set_word(set: SetWord) -> u64 {
    u64::from(set.base) | u64::from(set.count) << 32 | u64::from(set.has_any) << 56
}

/// The policy word.
pub fn policy(policy: Policy) -> u64 {
    let flags = u64::from(policy.used)
        | u64::from(policy.internal_local) << 1
        | u64::from(policy.external_local) << 2;
    u64::from(policy.affinity_seconds) | flags << 32
}

/// `struct bl_service`.
pub fn service(row: &ServiceRow) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0..8].copy_from_slice(&set_word(row.sets[0]).to_ne_bytes());
    bytes[8..16].copy_from_slice(&set_word(row.sets[1]).to_ne_bytes());
    bytes[16..24].copy_from_slice(&policy(row.policy).to_ne_bytes());
    bytes
}

/// The state word of a backend.
pub fn state(state: BackendState) -> u64 {
    let flags = u64::from(state.in_cluster) | u64::from(state.in_local) << 1 | u64::from(state.serving) << 2;
    u64::from(state.generation) | flags << 32
}

/// `struct bl_backend`.
pub fn backend(row: &BackendRow) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&addr(row.addr));
    bytes[16..18].copy_from_slice(&row.port.to_be_bytes());
    bytes[20..24].copy_from_slice(&row.service.0.to_ne_bytes());
    bytes[24..32].copy_from_slice(&state(row.state).to_ne_bytes());
    bytes
}

/// `struct bl_slot`.
pub fn slot(id: u32, row: &BackendRow) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..20].copy_from_slice(&backend(row)[..20]);
    bytes[20..24].copy_from_slice(&id.to_ne_bytes());
    bytes[24..28].copy_from_slice(&row.state.generation.to_ne_bytes());
    bytes
}
