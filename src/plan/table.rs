//! The tables as values: rows, the writes that change them, and the two traits through which
//! decisions see them.
//!
//! [`Lookup`] is the read side that [`resolve`](super::resolve) and `explain` work on; [`Tables`] is
//! the write side that [`Book`](super::book) drives. Both are implemented by
//! [`MemTables`](super::mem::MemTables) and by the pinned maps (`datapath::maps`). The byte layout
//! is `bpf/types.h`, and `datapath::wire` alone translates.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::rule::RuleSet;
use crate::model::addr::Protocol;
use crate::model::names::ServicePortName;

/// Index of a ServicePort in `bl_services`. It outlives its row only in names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u32);

/// Index of a backend in `bl_backends`. It belongs to one (ServicePort, family, endpoint).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u32);

/// Index of an interned text (a node's or zone's name) in `bl_names`; 0 is "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TextId(pub u32);

/// A key of `bl_frontends`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKey {
    /// A virtual address and port that lead to one ServicePort.
    Port {
        /// The address (canonical, never v4-mapped).
        addr: IpAddr,
        /// Host order.
        port: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// The address is an active ClusterIP: ports no Service defines are rejected (UND-1).
    Active {
        /// The ClusterIP.
        addr: IpAddr,
    },
}

impl FrontendKey {
    /// The address of the frontend.
    pub fn addr(&self) -> IpAddr {
        match *self {
            FrontendKey::Port { addr, .. } | FrontendKey::Active { addr } => addr,
        }
    }
}

/// What kind of frontend a key is; it decides which policy applies (POL-1, POL-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FrontendKind {
    /// `spec.clusterIPs`: internal traffic.
    ClusterIp = 1,
    /// A node port: external traffic.
    NodePort = 2,
    /// `spec.externalIPs`: external traffic.
    ExternalIp = 3,
    /// `status.loadBalancer.ingress`: external traffic.
    LoadBalancer = 4,
}

impl FrontendKind {
    /// The word shown in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            FrontendKind::ClusterIp => "ClusterIP",
            FrontendKind::NodePort => "NodePort",
            FrontendKind::ExternalIp => "ExternalIP",
            FrontendKind::LoadBalancer => "LoadBalancer",
        }
    }
}

/// A value of `bl_frontends`: one u64 on the wire, read in one load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The ServicePort; `None` for [`FrontendKey::Active`].
    pub service: Option<ServiceId>,
    /// The kind.
    pub kind: FrontendKind,
}

/// Which of a ServicePort's two sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Which {
    /// The Cluster set (CAT-2).
    Cluster = 0,
    /// The Local set (CAT-3).
    Local = 1,
}

impl Which {
    /// Both sets, in the order of `bl_services`.
    pub const ALL: [Which; 2] = [Which::Cluster, Which::Local];
}

/// One set of a ServicePort: a range of `bl_slots`, flipped with one aligned 8-byte store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct SetWord {
    /// First slot.
    pub base: u32,
    /// Number of slots; at most [`SetWord::MAX_COUNT`].
    pub count: u32,
    /// Some endpoint exists somewhere: an empty set drops instead of rejecting (CAT-5, REJ-2).
    pub has_any: bool,
}

impl SetWord {
    /// The largest set: 24 bits hold the count.
    pub const MAX_COUNT: u32 = (1 << 24) - 1;
}

/// What a ServicePort's policies say; one 8-byte store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Policy {
    /// Seconds of ClientIP affinity; 0 without (AFF-3).
    pub affinity_seconds: u32,
    /// Internal traffic takes the Local set (POL-1).
    pub internal_local: bool,
    /// External traffic takes the Local set (POL-2, POL-3).
    pub external_local: bool,
    /// The row is in use.
    pub used: bool,
}

/// A row of `bl_services`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceRow {
    /// The Cluster set and the Local set, indexed by [`Which`].
    pub sets: [SetWord; 2],
    /// The policies.
    pub policy: Policy,
}

/// The part of a backend row that decides whether a stored choice still holds; one u64 on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct BackendState {
    /// Goes up by one whenever the id is given to another endpoint.
    pub generation: u32,
    /// Eligible in the Cluster set: a new choice may take it.
    pub in_cluster: bool,
    /// Eligible in the Local set: a new choice may take it.
    pub in_local: bool,
    /// Serving: a UDP flow that goes on keeps it (CT-4, DEC-2).
    pub serving: bool,
}

/// A row of `bl_backends`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendRow {
    /// The endpoint's address, canonical.
    pub addr: IpAddr,
    /// The endpoint's port, host order.
    pub port: u16,
    /// The ServicePort it belongs to.
    pub service: ServiceId,
    /// Generation and flags.
    pub state: BackendState,
}

/// A row of `bl_endpoints`: what people want to know of a backend and BPF never reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct EndpointInfo {
    /// The node's name.
    pub node: TextId,
    /// The zone's name.
    pub zone: TextId,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// On this node (EP-9).
    pub local: bool,
    /// The row is in use.
    pub used: bool,
}

/// A row of `bl_names`: whose row a service index is, and which rules made its sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    /// The ServicePort.
    pub name: ServicePortName,
    /// The rules that made the Cluster set and the Local set.
    pub rules: [RuleSet; 2],
}

/// What a prefix says of the addresses in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PrefixClass {
    /// A ServiceCIDR: what is no active ClusterIP is dropped (UND-2).
    ServiceCidr = 1,
    /// An address of this node.
    NodeAddress = 2,
    /// The local detector: sources in it are pods (SNAT-8).
    LocalDetector = 3,
    /// A ClusterIP, or an address of a ServiceCIDR, that an interface of this node holds (DEC-5).
    Held = 4,
}

/// A key of `bl_prefixes` (longest prefix within one class).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// What it says.
    pub class: PrefixClass,
    /// The addresses.
    pub net: IpNet,
}

/// What `bl_netns` says of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum NetnsClass {
    /// The namespace the agent runs in (DEC-4).
    Host = 1,
    /// A pod's.
    Pod = 2,
    /// The socket path leaves it alone.
    PacketOnly = 3,
}

/// The single row of `bl_agent`: settings that a verdict depends on, and who wrote the tables.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// The version of the agent that wrote last.
    pub version: Arc<str>,
    /// `manifests` or `kubernetes`, and where, for people.
    pub source_kind: Arc<str>,
    /// The directory, file or URL of the source, cut to what the row holds.
    pub source: Arc<str>,
    /// The name of this node (EP-10).
    pub node: Arc<str>,
    /// The zone of this node.
    pub zone: Arc<str>,
    /// The first complete state has been programmed (SYNC-1).
    pub synced: bool,
    /// `masqueradeAll` (SNAT-5).
    pub masquerade_all: bool,
    /// A local detector exists for IPv4, IPv6 (POL-10, SNAT-1).
    pub local_detector: [bool; 2],
}

/// One write to the tables. An op is atomic to every reader, or says in its comment why that does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Slots `base..base + ids.len()`, which no set word points to.
    Slots {
        /// First slot.
        base: u32,
        /// What to write.
        ids: Vec<BackendId>,
    },
    /// A whole backend row whose id no reader can hold: address first, then the state (release).
    Backend(BackendId, BackendRow),
    /// The state word of a backend row that may be in use: one store.
    BackendState(BackendId, BackendState),
    /// One set of a ServicePort: one store. *The* flip.
    Set(ServiceId, Which, SetWord),
    /// The policy word of a ServicePort: one store.
    Policy(ServiceId, Policy),
    /// A frontend is put (its value is one u64 with a key check).
    FrontendPut(FrontendKey, Frontend),
    /// A frontend is removed; removing what is not there is success.
    FrontendDelete(FrontendKey),
    /// What people want to know of a backend; BPF never reads it.
    Endpoint(BackendId, EndpointInfo),
    /// The name of a service index; BPF never reads it.
    NamePut(ServiceId, ServiceName),
    /// The name of a service index goes.
    NameDelete(ServiceId),
    /// An interned text; BPF never reads it.
    TextPut(TextId, Arc<str>),
    /// An interned text goes.
    TextDelete(TextId),
    /// A prefix is put.
    PrefixPut(Prefix),
    /// A prefix is removed.
    PrefixDelete(Prefix),
    /// The class of a network namespace, by cookie.
    NetnsPut(u64, NetnsClass),
    /// A network namespace is forgotten.
    NetnsDelete(u64),
    /// A service index has a new owner: its counters start at zero, and nobody is at home in its row.
    StatsClear(ServiceId),
    /// The settings row. BPF reads the word of flags alone, in one load; the texts are for people.
    Settings(Settings),
}

/// A map the tables live in, as errors and limits name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Map {
    /// `bl_frontends`
    Frontends,
    /// `bl_services`
    Services,
    /// `bl_slots`
    Slots,
    /// `bl_backends` (and `bl_endpoints`)
    Backends,
    /// `bl_names`
    Names,
    /// `bl_prefixes`
    Prefixes,
    /// `bl_netns`
    Netns,
    /// `bl_agent`
    Agent,
    /// `bl_endpoints`
    Endpoints,
}

impl Map {
    /// All of them.
    pub const ALL: [Map; 9] = [
        Map::Frontends,
        Map::Services,
        Map::Slots,
        Map::Backends,
        Map::Names,
        Map::Prefixes,
        Map::Netns,
        Map::Agent,
        Map::Endpoints,
    ];

    /// The name of the BPF map.
    pub fn name(self) -> &'static str {
        match self {
            Map::Frontends => "bl_frontends",
            Map::Services => "bl_services",
            Map::Slots => "bl_slots",
            Map::Backends => "bl_backends",
            Map::Names => "bl_names",
            Map::Prefixes => "bl_prefixes",
            Map::Netns => "bl_netns",
            Map::Agent => "bl_agent",
            Map::Endpoints => "bl_endpoints",
        }
    }
}

impl Map {
    /// The next step of somebody who reads that it is full.
    fn when_full(self) -> &'static str {
        match self {
            Map::Prefixes => "it does not grow: list fewer, larger ServiceCIDRs and node addresses",
            Map::Netns => "it does not grow: look for network namespaces that nobody needs",
            _ => "it grows by itself at the next change, or look for Services that nobody needs",
        }
    }
}

/// Why a write failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The map is full: this row alone fails, the next step is to grow (architecture: growth at 80 %).
    #[error("{} is full: all {limit} rows are in use; {}", .map.name(), .map.when_full())]
    Full {
        /// The map.
        map: Map,
        /// Its `max_entries`.
        limit: u32,
    },
    /// The kernel refused.
    #[error("{}: {message}", .map.name())]
    Kernel {
        /// The map.
        map: Map,
        /// What the kernel said, with what was asked.
        message: String,
    },
}

impl TableError {
    /// The map that was to be written.
    pub fn map(&self) -> Map {
        match self {
            TableError::Full { map, .. } | TableError::Kernel { map, .. } => *map,
        }
    }
}

/// `max_entries` of the maps that are sized to need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `bl_frontends`
    pub frontends: u32,
    /// `bl_services`
    pub services: u32,
    /// `bl_slots`
    pub slots: u32,
    /// `bl_backends`
    pub backends: u32,
    /// `bl_names`
    pub names: u32,
}

/// The write side.
pub trait Tables {
    /// Applies one write.
    ///
    /// # Errors
    /// The map is full or the kernel refused; then nothing was changed.
    fn apply(&mut self, op: &Op) -> Result<(), TableError>;

    /// Applies many writes in order and returns the failures by position; the others are applied.
    /// Implementations may hand neighbours of one kind to the kernel in one call.
    fn apply_all(&mut self, ops: &[Op]) -> Vec<(usize, TableError)> {
        ops.iter().enumerate().filter_map(|(at, op)| self.apply(op).err().map(|e| (at, e))).collect()
    }

    /// Returns once every reader that began before the call has ended: a proven grace period.
    ///
    /// # Errors
    /// The kernel did not wait; ids then stay in quarantine.
    fn quiesce(&mut self) -> Result<(), TableError>;

    /// Begins a grace period that goes on aside, for callers that have other things to do; then
    /// [`Tables::ended`] tells of its end. `false`: there is only [`Tables::quiesce`].
    fn begin_quiesce(&mut self) -> bool {
        false
    }

    /// Whether the grace period that was begun aside has ended: `None` while it goes on.
    fn ended(&mut self) -> Option<Result<(), TableError>> {
        None
    }

    /// Rows of `bl_services` in which readers find a frontend at once, the best first: a ServicePort whose
    /// ClusterIP that is takes one of them where it can. None: all rows are alike.
    fn homes(&self, _: &FrontendKey) -> Vec<ServiceId> {
        Vec::new()
    }

    /// The sizes of the maps.
    fn limits(&self) -> Limits;
}

/// The read side, for one verdict. `None` is "no such row".
pub trait Lookup {
    /// A frontend by key.
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend>;
    /// A ServicePort's row.
    fn service(&self, id: ServiceId) -> Option<ServiceRow>;
    /// The backend ids of a set, in slot order.
    fn slots(&self, set: SetWord) -> Vec<BackendId>;
    /// A backend's row.
    fn backend(&self, id: BackendId) -> Option<BackendRow>;
    /// The name of a service index, and the rules that made its sets.
    fn name(&self, id: ServiceId) -> Option<ServiceName>;
    /// Whether a prefix of that class covers the address.
    fn covers(&self, class: PrefixClass, addr: IpAddr) -> bool;
    /// The settings row.
    fn settings(&self) -> Settings;
}

/// Every row of the tables, for recovery, `dump` and audits. Sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// `bl_frontends`
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// `bl_services`, used rows only
    pub services: Vec<(ServiceId, ServiceRow)>,
    /// `bl_slots` of the sets of `services`, by service and set
    pub slots: Vec<(ServiceId, Which, Vec<BackendId>)>,
    /// `bl_backends`, every row that ever had a generation (also unused ones: the generation must not be lost)
    pub backends: Vec<(BackendId, BackendRow)>,
    /// `bl_endpoints`, used rows only
    pub endpoints: Vec<(BackendId, EndpointInfo)>,
    /// `bl_names`, services
    pub names: Vec<(ServiceId, ServiceName)>,
    /// `bl_names`, texts
    pub texts: Vec<(TextId, Arc<str>)>,
    /// `bl_prefixes`
    pub prefixes: Vec<Prefix>,
    /// `bl_netns`
    pub netns: Vec<(u64, NetnsClass)>,
    /// `bl_agent`
    pub settings: Settings,
}

/// The frontend keys of one family's address and ports; convenience for tests and views.
pub fn port_key(addr: IpAddr, port: u16, protocol: Protocol) -> FrontendKey {
    FrontendKey::Port { addr: addr.to_canonical(), port, protocol }
}
