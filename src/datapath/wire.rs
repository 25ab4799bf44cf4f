//! The one place that knows the layout of the rows: `bpf/types.h` as Rust sees it, and the
//! conversions between its structs and the values of [`plan::table`](crate::plan::table).
//!
//! Addresses are 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`. Ports are network order in
//! structs and host order in values, converted here and nowhere else.

use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use plain::Plain;

pub(crate) use super::skel::types::{
    bl_addr, bl_agent, bl_aid, bl_backend, bl_endpoint, bl_flow, bl_frontend_key, bl_more_key, bl_name,
    bl_name_key, bl_near, bl_prefix_key, bl_service, bl_sieve, bl_slot, bl_stats, bl_target,
};
use crate::model::addr::{Family, Protocol};
use crate::model::names::{ObjectName, ServicePortName};
use crate::plan::rule::RuleSet;
use crate::plan::table::{
    BackendId, BackendRow, BackendState, EndpointInfo, Frontend, FrontendKey, FrontendKind, NetnsClass,
    Policy, Prefix, PrefixClass, ServiceId, ServiceName, ServiceRow, SetWord, Settings, TextId,
};

macro_rules! wire {
    ($($name:ident = $size:literal { $($field:ident @ $offset:literal),+ $(,)? })+) => {$(
        // SAFETY: a `repr(C)` struct of integers without implicit padding (asserted below), generated
        // from BTF: every bit pattern is a value.
        unsafe impl Plain for $name {}
        const _: () = assert!(size_of::<$name>() == $size);
        const _: () = { $(assert!(offset_of!($name, $field) == $offset);)+ };
    )+};
}

wire! {
    bl_addr = 16 { w @ 0 }
    bl_frontend_key = 20 { addr @ 0, port @ 16, proto @ 18, scope @ 19 }
    bl_service = 64 { set @ 0, policy @ 16, home @ 24, stats @ 40 }
    bl_target = 20 { addr @ 0, port @ 16, spare @ 18 }
    bl_slot = 32 { to @ 0, backend @ 20, generation @ 24, spare @ 28 }
    bl_backend = 32 { to @ 0, service @ 20, state @ 24 }
    bl_endpoint = 8 { node @ 0, zone @ 4, flags @ 6 }
    bl_name_key = 8 { kind @ 0, id @ 4 }
    bl_name = 280 { rules @ 0, proto @ 16, family @ 17, spare @ 18, text @ 24 }
    bl_prefix_key = 28 { prefixlen @ 0, class @ 4, service @ 8, addr @ 12 }
    bl_agent = 576 { flags @ 0, version @ 8, source_kind @ 40, source @ 56, node @ 256, zone @ 512 }
    bl_sieve = 64 { word @ 0 }
    bl_flow = 64 {
        choice @ 0, dialled @ 8, backend @ 24, dialled_port @ 40, backend_port @ 42, proto @ 44, kind @ 45, more @ 46,
        service @ 48, netns @ 56,
    }
    bl_near = 80 { spare @ 4, cookie @ 8, flow @ 16 }
    bl_more_key = 16 { cookie @ 0, seq @ 8 }
    bl_aid = 16 { socket @ 0, netns @ 8 }
    bl_stats = 24 { connections @ 0, refused @ 8, dropped @ 16 }
}

/// Byte offsets of the words that are stored one by one.
pub(crate) const SERVICE_SET: usize = offset_of!(bl_service, set);
pub(crate) const SERVICE_POLICY: usize = offset_of!(bl_service, policy);
pub(crate) const SERVICE_HOME: usize = offset_of!(bl_service, home);
pub(crate) const SERVICE_STATS: usize = offset_of!(bl_service, stats);
pub(crate) const BACKEND_STATE: usize = offset_of!(bl_backend, state);

const SCOPE_PORT: u8 = 0;
const SCOPE_ACTIVE: u8 = 1;
const NO_SERVICE: u32 = 0x00ff_ffff;
const NAME_SERVICE: u32 = 1;
const NAME_TEXT: u32 = 2;
/// Bits of a prefix key before the address: class and service.
const PREFIX_HEAD: u32 = 64;
/// Bits of `::ffff:` before an IPv4 address.
const V4_MAPPED: u32 = 96;

/// Reads a struct from the bytes of a map; `None` if there are too few.
pub(crate) fn read<T: Plain + Default>(bytes: &[u8]) -> Option<T> {
    let mut value = T::default();
    plain::copy_from_bytes(&mut value, bytes).ok()?;
    Some(value)
}

/// The bytes of a struct, as a map takes them.
pub(crate) fn bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `T: Plain` has no padding (asserted for every type above), so all its bytes are initialized.
    unsafe { plain::as_bytes(value) }
}

/// The first `N` words of a struct, as they are stored one by one.
pub(crate) fn words<T: Plain, const N: usize>(value: &T) -> [u64; N] {
    let all = bytes(value).as_chunks::<8>().0;
    std::array::from_fn(|i| u64::from_ne_bytes(all[i]))
}

/// A struct of the words it was stored by.
pub(crate) fn of_words<T: Plain + Default, const N: usize>(words: &[u64; N]) -> T {
    read(words.map(u64::to_ne_bytes).as_flattened()).unwrap_or_default()
}

pub(crate) fn addr(addr: IpAddr) -> bl_addr {
    let octets = match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut w = [0; 4];
    for (word, chunk) in w.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*chunk);
    }
    bl_addr { w }
}

/// The bit of an address in the row of `bl_sieve`: `bl_sieve_bit()` of `bpf/lb.h`.
fn sieve_bit(addr: &bl_addr) -> usize {
    let prefix = match read_addr(addr) {
        IpAddr::V4(v4) => v4.to_bits() >> 16,
        IpAddr::V6(_) => u32::from_be(addr.w[0]).wrapping_mul(0x85eb_ca6b) ^ u32::from_be(addr.w[1]),
    };
    (prefix.wrapping_mul(0x9e37_79b1) >> 23) as usize
}

/// Whether the sieve holds the frontend.
pub(crate) fn sieve_holds(sieve: &bl_sieve, key: &bl_frontend_key) -> bool {
    let bit = sieve_bit(&key.addr);
    sieve.word[bit / 64] >> (bit % 64) & 1 == 1
}

/// Has the sieve hold the frontend.
pub(crate) fn sieve_add(sieve: &mut bl_sieve, key: &bl_frontend_key) {
    let bit = sieve_bit(&key.addr);
    sieve.word[bit / 64] |= 1 << (bit % 64);
}

/// The canonical address of a row.
pub(crate) fn read_addr(addr: &bl_addr) -> IpAddr {
    let mut octets = [0; 16];
    for (chunk, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(addr.w) {
        *chunk = word.to_ne_bytes();
    }
    IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
}

pub(crate) fn frontend_key(key: &FrontendKey) -> bl_frontend_key {
    match *key {
        FrontendKey::Port { addr: ip, port, protocol } => {
            bl_frontend_key { addr: addr(ip), port: port.to_be(), proto: protocol as u8, scope: SCOPE_PORT }
        }
        FrontendKey::Active { addr: ip } => {
            bl_frontend_key { addr: addr(ip), port: 0, proto: 0, scope: SCOPE_ACTIVE }
        }
    }
}

/// `None` if the scope or protocol is one that this version does not know.
pub(crate) fn read_frontend_key(key: &bl_frontend_key) -> Option<FrontendKey> {
    let addr = read_addr(&key.addr);
    match key.scope {
        SCOPE_PORT => {
            let protocol = Protocol::from_number(key.proto)?;
            Some(FrontendKey::Port { addr, port: u16::from_be(key.port), protocol })
        }
        SCOPE_ACTIVE => Some(FrontendKey::Active { addr }),
        _ => None,
    }
}

/// The mixing hash that ties a frontend's value to its key: the same function as `bl_key_check()`.
/// Xor alone would collide for neighbouring addresses.
pub(crate) fn key_check(key: &bl_frontend_key) -> u32 {
    let mut hash: u32 = 0x9e37_79b9;
    for word in bytes(key).as_chunks::<4>().0 {
        hash = (hash ^ u32::from_ne_bytes(*word)).wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 13;
    }
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

pub(crate) fn frontend(key: &bl_frontend_key, value: Frontend) -> u64 {
    let index = value.service.map_or(NO_SERVICE, |id| id.0 & NO_SERVICE);
    u64::from(index) | (value.kind as u64) << 24 | u64::from(key_check(key)) << 32
}

/// `None` if the value was not written for that key, or its kind is not known.
pub(crate) fn read_frontend(key: &bl_frontend_key, value: u64) -> Option<Frontend> {
    if (value >> 32) as u32 != key_check(key) {
        return None;
    }
    let kind = match (value >> 24) as u8 {
        1 => FrontendKind::ClusterIp,
        2 => FrontendKind::NodePort,
        3 => FrontendKind::ExternalIp,
        4 => FrontendKind::LoadBalancer,
        _ => return None,
    };
    let index = value as u32 & NO_SERVICE;
    Some(Frontend { service: (index != NO_SERVICE).then_some(ServiceId(index)), kind })
}

pub(crate) fn set_word(set: SetWord) -> u64 {
    u64::from(set.base) | u64::from(set.count & SetWord::MAX_COUNT) << 32 | u64::from(set.has_any) << 56
}

pub(crate) fn read_set_word(word: u64) -> SetWord {
    SetWord {
        base: word as u32,
        count: (word >> 32) as u32 & SetWord::MAX_COUNT,
        has_any: word >> 56 & 1 != 0,
    }
}

/// The bits of a policy word that name the frontend at home in its row.
pub(crate) const POLICY_HOME: u64 = !0 << 40;
/// Rows that a ServicePort may be at home in.
pub(crate) const HOMES: u32 = 8;

/// Those bits for a frontend. Only one of scope PORT can be at home.
pub(crate) fn home(key: &bl_frontend_key) -> u64 {
    (u64::from(key.port) << 8 | u64::from(key.proto)) << 40
}

/// The frontend that is at home in a row.
pub(crate) fn read_home(row: &bl_service) -> Option<bl_frontend_key> {
    let (proto, port) = ((row.policy >> 40) as u8, (row.policy >> 48) as u16);
    (row.policy & POLICY_HOME != 0).then_some(bl_frontend_key {
        addr: row.home,
        port,
        proto,
        scope: SCOPE_PORT,
    })
}

/// Whether a frontend can be at home in the row it leads to: what is dialled most.
pub(crate) fn has_home(key: &bl_frontend_key, value: Frontend) -> bool {
    key.scope == SCOPE_PORT && value.kind == FrontendKind::ClusterIp
}

/// What the programs mask a key check with, for so many rows of `bl_services`.
pub(crate) fn home_mask(rows: u32) -> u32 {
    (1 << rows.max(1).ilog2()) - 1
}

/// The rows in which a frontend may be at home, in the order in which they are looked at.
pub(crate) fn homes(key: &bl_frontend_key, rows: u32) -> [u32; HOMES as usize] {
    let check = key_check(key);
    std::array::from_fn(|at| check.wrapping_add(at as u32) & home_mask(rows))
}

pub(crate) fn policy(policy: Policy) -> u64 {
    let flags = [policy.used, policy.internal_local, policy.external_local];
    u64::from(policy.affinity_seconds) | pack(&flags) << 32
}

pub(crate) fn read_policy(word: u64) -> Policy {
    Policy {
        affinity_seconds: word as u32,
        used: word >> 32 & 1 != 0,
        internal_local: word >> 33 & 1 != 0,
        external_local: word >> 34 & 1 != 0,
    }
}

pub(crate) fn read_service(row: &bl_service) -> ServiceRow {
    ServiceRow { sets: row.set.map(read_set_word), policy: read_policy(row.policy) }
}

pub(crate) fn state(state: BackendState) -> u64 {
    u64::from(state.generation) | pack(&[state.in_cluster, state.in_local, state.serving]) << 32
}

pub(crate) fn read_state(word: u64) -> BackendState {
    BackendState {
        generation: word as u32,
        in_cluster: word >> 32 & 1 != 0,
        in_local: word >> 33 & 1 != 0,
        serving: word >> 34 & 1 != 0,
    }
}

pub(crate) fn backend(row: &BackendRow) -> bl_backend {
    let to = bl_target { addr: addr(row.addr), port: row.port.to_be(), spare: 0 };
    bl_backend { to, service: row.service.0, state: state(row.state) }
}

/// The slot that leads to a backend with this row.
pub(crate) fn slot(id: BackendId, row: &bl_backend) -> bl_slot {
    bl_slot { to: row.to, backend: id.0, generation: read_state(row.state).generation, spare: 0 }
}

pub(crate) fn read_backend(row: &bl_backend) -> BackendRow {
    BackendRow {
        addr: read_addr(&row.to.addr),
        port: u16::from_be(row.to.port),
        service: ServiceId(row.service),
        state: read_state(row.state),
    }
}

/// A zone id above 65535 is shown as none: the row has 16 bits for it.
pub(crate) fn endpoint(info: &EndpointInfo) -> bl_endpoint {
    let flags = pack(&[info.used, info.ready, info.serving, info.terminating, info.local]);
    bl_endpoint { node: info.node.0, zone: u16::try_from(info.zone.0).unwrap_or(0), flags: flags as u16 }
}

pub(crate) fn read_endpoint(row: &bl_endpoint) -> EndpointInfo {
    let flag = |bit: u16| row.flags >> bit & 1 != 0;
    EndpointInfo {
        node: TextId(row.node),
        zone: TextId(u32::from(row.zone)),
        used: flag(0),
        ready: flag(1),
        serving: flag(2),
        terminating: flag(3),
        local: flag(4),
    }
}

pub(crate) fn choice(word: u64) -> (BackendId, u32) {
    (BackendId(word as u32), (word >> 32) as u32)
}

pub(crate) fn service_key(id: ServiceId) -> bl_name_key {
    bl_name_key { kind: NAME_SERVICE, id: id.0 }
}

pub(crate) fn text_key(id: TextId) -> bl_name_key {
    bl_name_key { kind: NAME_TEXT, id: id.0 }
}

/// What a row of `bl_names` names.
pub(crate) enum Named {
    Service(ServiceId, ServiceName),
    Text(TextId, Arc<str>),
}

pub(crate) fn service_name(name: &ServiceName) -> bl_name {
    let ServicePortName { service, port, protocol, family } = &name.name;
    let text = format!("{}\0{}\0{port}", service.namespace, service.name);
    bl_name {
        rules: name.rules.map(|rules| rules.0),
        proto: *protocol as u8,
        family: if *family == Family::V4 { 4 } else { 6 },
        text: chars(&text),
        ..Default::default()
    }
}

pub(crate) fn text(text: &str) -> bl_name {
    bl_name { text: chars(text), ..Default::default() }
}

/// `None` if the kind, protocol or family is not known.
pub(crate) fn read_name(key: &bl_name_key, row: &bl_name) -> Option<Named> {
    match key.kind {
        NAME_SERVICE => read_service_name(row).map(|name| Named::Service(ServiceId(key.id), name)),
        NAME_TEXT => Some(Named::Text(TextId(key.id), read_chars(&row.text))),
        _ => None,
    }
}

pub(crate) fn read_service_name(row: &bl_name) -> Option<ServiceName> {
    let all = row.text.map(|c| c as u8);
    let mut parts = all.split(|b| *b == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    let (namespace, name, port) = (parts.next()?, parts.next()?, parts.next()?);
    let family = match row.family {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    let name = ServicePortName {
        service: ObjectName::new(&namespace, &name),
        port: port.into(),
        protocol: Protocol::from_number(row.proto)?,
        family,
    };
    Some(ServiceName { name, rules: row.rules.map(RuleSet) })
}

pub(crate) fn prefix(prefix: &Prefix) -> bl_prefix_key {
    let head = if prefix.net.addr().is_ipv4() { PREFIX_HEAD + V4_MAPPED } else { PREFIX_HEAD };
    bl_prefix_key {
        prefixlen: head + u32::from(prefix.net.prefix_len()),
        class: prefix.class as u32,
        service: 0,
        addr: addr(prefix.net.network()),
    }
}

/// The key that asks whether any prefix of the class covers the address.
pub(crate) fn prefix_probe(class: PrefixClass, ip: IpAddr) -> bl_prefix_key {
    bl_prefix_key { prefixlen: PREFIX_HEAD + 128, class: class as u32, service: 0, addr: addr(ip) }
}

/// `None` if the class is not known or the key is of one Service.
pub(crate) fn read_prefix(key: &bl_prefix_key) -> Option<Prefix> {
    let class = match key.class {
        1 => PrefixClass::ServiceCidr,
        2 => PrefixClass::NodeAddress,
        3 => PrefixClass::LocalDetector,
        4 => PrefixClass::Held,
        _ => return None,
    };
    let len = key.prefixlen.checked_sub(PREFIX_HEAD)?;
    let net = match read_addr(&key.addr) {
        IpAddr::V4(v4) if len >= V4_MAPPED => IpNet::new(v4.into(), (len - V4_MAPPED) as u8),
        IpAddr::V4(v4) => IpNet::new(v4.to_ipv6_mapped().into(), len as u8),
        v6 @ IpAddr::V6(_) => IpNet::new(v6, len as u8),
    };
    (key.service == 0).then_some(Prefix { class, net: net.ok()? })
}

pub(crate) fn read_netns(class: u32) -> Option<NetnsClass> {
    [NetnsClass::Host, NetnsClass::Pod, NetnsClass::PacketOnly]
        .into_iter()
        .find(|known| *known as u32 == class)
}

pub(crate) fn agent(settings: &Settings) -> bl_agent {
    let [detector_4, detector_6] = settings.local_detector;
    bl_agent {
        flags: pack(&[settings.synced, settings.masquerade_all, detector_4, detector_6]),
        version: chars(&settings.version),
        source_kind: chars(&settings.source_kind),
        source: chars(&settings.source),
        node: chars(&settings.node),
        zone: chars(&settings.zone),
    }
}

pub(crate) fn read_agent(row: &bl_agent) -> Settings {
    let flag = |bit: u64| row.flags >> bit & 1 != 0;
    Settings {
        version: read_chars(&row.version),
        source_kind: read_chars(&row.source_kind),
        source: read_chars(&row.source),
        node: read_chars(&row.node),
        zone: read_chars(&row.zone),
        synced: flag(0),
        masquerade_all: flag(1),
        local_detector: [flag(2), flag(3)],
    }
}

/// Flags as bits, the first one lowest.
fn pack(flags: &[bool]) -> u64 {
    flags.iter().enumerate().fold(0, |bits, (at, flag)| bits | u64::from(*flag) << at)
}

/// A text as a NUL-terminated field, cut at a character boundary if it is too long.
fn chars<const N: usize>(text: &str) -> [i8; N] {
    let mut field = [0; N];
    let end = text.floor_char_boundary(N - 1);
    for (to, from) in field.iter_mut().zip(&text.as_bytes()[..end]) {
        *to = from.cast_signed();
    }
    field
}

/// The text of a NUL-terminated field.
fn read_chars(field: &[i8]) -> Arc<str> {
    let bytes: Vec<u8> = field.iter().take_while(|c| **c != 0).map(|c| c.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into()
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
