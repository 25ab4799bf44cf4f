//! What happens to one new connection, and by which rules: `resolve(Lookup, Flow) → Verdict`.
//!
//! This function is the specification that `bpf/lb.h` is tested against: the one sanctioned twin in
//! the code. It sees rows only, so offline `explain` (rows in memory) and live `explain` (pinned
//! maps) are one path.

use std::net::IpAddr;

use super::eligible::set_of;
use super::rule::{Rule, RuleSet};
use super::table::{
    BackendId, Frontend, FrontendKey, FrontendKind, Lookup, Policy, PrefixClass, ServiceId, SetWord, Which,
};
use crate::model::addr::{Family, Protocol};
use crate::model::flow::{ClientKind, Flow};
use crate::model::names::ServicePortName;

/// What is done with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It goes to one of the backends.
    Forward,
    /// It is actively refused (REJ-1, UND-1).
    Reject,
    /// It meets silence (REJ-2, UND-2).
    Drop,
    /// Not our business.
    Pass,
}

impl Action {
    /// The word shown in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Action::Forward => "forward",
            Action::Reject => "reject",
            Action::Drop => "drop",
            Action::Pass => "pass",
        }
    }
}

/// Who carries an action out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// The socket hooks: decided before there is a packet.
    Socket,
    /// The packet path: everything the socket hooks do not see, or leave alone.
    Packet,
}

impl Path {
    /// The word shown in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Path::Socket => "socket",
            Path::Packet => "packet",
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The ServicePort's row, if a frontend was met.
    pub service: Option<ServiceId>,
    /// Its name, if the tables know it.
    pub name: Option<ServicePortName>,
    /// The kind of frontend that was dialled; an active ClusterIP whose port is undefined counts (UND-1).
    pub frontend_kind: Option<FrontendKind>,
    /// What happens.
    pub action: Action,
    /// Which of the ServicePort's sets the flow takes.
    pub which: Option<Which>,
    /// That set; empty if there is none.
    pub set: SetWord,
    /// The backends of the set, in slot order: each may be chosen, no other.
    pub backends: Vec<BackendId>,
    /// Who carries the action out; `None` if nothing is done.
    pub path: Option<Path>,
    /// Whether the backend sees the client's own address by the rules of section 7, hairpins aside
    /// (SNAT-6, DEC-8). `None` if the connection is not forwarded, or if it depends on an address
    /// that is not known.
    pub client_ip_preserved: Option<bool>,
    /// Seconds of ClientIP affinity of the ServicePort (AFF-3).
    pub affinity_seconds: Option<u32>,
    /// The rules that led here.
    pub rules: RuleSet,
}

/// Decides one new connection.
pub fn resolve(tables: &dyn Lookup, flow: &Flow) -> Verdict {
    let addr = flow.to.ip().to_canonical(); // SOCK-6
    let key = FrontendKey::Port { addr, port: flow.to.port(), protocol: flow.protocol };
    if let Some(Frontend { service: Some(id), kind }) = tables.frontend(&key)
        && let Some(row) = tables.service(id).filter(|row| row.policy.used)
    {
        return of_service(tables, flow, addr, Met { id, kind, policy: row.policy, sets: row.sets });
    }
    if let Some(active) = tables.frontend(&FrontendKey::Active { addr }) {
        let mut verdict = Verdict::new(flow, Action::Reject, RuleSet::default().with(Rule::Und1));
        verdict.frontend_kind = Some(active.kind);
        return verdict;
    }
    if tables.covers(PrefixClass::Held, addr) {
        return Verdict::new(flow, Action::Pass, RuleSet::default().with(Rule::Dec5));
    }
    if tables.covers(PrefixClass::ServiceCidr, addr) {
        return Verdict::new(flow, Action::Drop, RuleSet::default().with(Rule::Und2));
    }
    Verdict::new(flow, Action::Pass, RuleSet::default())
}

/// A frontend with its ServicePort.
struct Met {
    id: ServiceId,
    kind: FrontendKind,
    policy: Policy,
    sets: [SetWord; 2],
}

fn of_service(tables: &dyn Lookup, flow: &Flow, addr: IpAddr, met: Met) -> Verdict {
    let source = Source::of(tables, flow, Family::of(addr));
    let (which, mut rules) = choose_set(&met, &source);
    let name = tables.name(met.id);
    if let Some(name) = &name {
        rules = rules.union(name.rules[which as usize]);
    }
    let set = met.sets[which as usize];
    let action = match (set.count, set.has_any) {
        (0, true) => Action::Drop,
        (0, false) => Action::Reject,
        _ => Action::Forward,
    };
    rules = rules.union(action_rules(action, &met, which, flow.protocol));
    let mut verdict = Verdict::new(flow, action, rules);
    if action == Action::Forward {
        let (preserved, snat) = preserved(&met, &source);
        verdict.client_ip_preserved = preserved;
        verdict.rules = verdict.rules.union(snat);
        verdict.backends = tables.slots(set);
        if hairpin(tables, &verdict.backends, flow.client) {
            verdict.rules.add(Rule::Snat6);
        }
    }
    if met.policy.affinity_seconds > 0 {
        verdict.affinity_seconds = Some(met.policy.affinity_seconds);
        if action == Action::Forward {
            verdict.rules.add(Rule::Aff1);
        }
    }
    Verdict {
        service: Some(met.id),
        name: name.map(|name| name.name),
        frontend_kind: Some(met.kind),
        which: Some(which),
        set,
        ..verdict
    }
}

/// Where a connection comes from, as the local detector and the rules see it.
struct Source {
    kind: ClientKind,
    /// A local detector exists for the family (SNAT-8).
    detector: bool,
    /// The detector calls it a pod of this node; `None` if that needs an address that is not known.
    detected: Option<bool>,
    masquerade_all: bool,
}

impl Source {
    fn of(tables: &dyn Lookup, flow: &Flow, family: Family) -> Source {
        let settings = tables.settings();
        let detector = settings.local_detector[family.index()];
        let covered = |client: IpAddr| tables.covers(PrefixClass::LocalDetector, client.to_canonical());
        let detected = match (detector, flow.client, flow.from) {
            (false, _, _) => Some(false),
            (true, Some(client), _) => Some(covered(client)),
            (true, None, ClientKind::Pod) => Some(true),
            (true, None, ClientKind::Host) => Some(false),
            (true, None, _) => None,
        };
        Source { kind: flow.from, detector, detected, masquerade_all: settings.masquerade_all }
    }
}

/// The set that the traffic takes (section 5): by the frontend's kind, its policy, and for
/// `externalTrafficPolicy: Local` by who dials.
fn choose_set(met: &Met, source: &Source) -> (Which, RuleSet) {
    let Policy { internal_local, external_local, .. } = met.policy;
    let which = set_of(met.kind, internal_local, external_local);
    let rules = RuleSet::default();
    if met.kind == FrontendKind::ClusterIp {
        return (which, rules.with(Rule::Pol1));
    }
    let rules = rules.with(Rule::Pol2);
    if which == Which::Cluster {
        return (which, rules);
    }
    // POL-7: only the client's own node short-circuits, whatever the detector says of an address.
    match source.kind {
        ClientKind::Host => (Which::Cluster, rules.with(Rule::Pol5)),
        ClientKind::Pod if source.detector => (Which::Cluster, rules.with(Rule::Pol4)),
        ClientKind::Pod => (Which::Local, rules.with(Rule::Pol10)),
        ClientKind::RemotePod => (Which::Local, rules.with(Rule::Pol6).with(Rule::Pol7)),
        ClientKind::External | ClientKind::ExternalBlocked => (Which::Local, rules.with(Rule::Pol6)),
    }
}

fn action_rules(action: Action, met: &Met, which: Which, protocol: Protocol) -> RuleSet {
    let rules = RuleSet::default();
    match action {
        Action::Forward => rules.with(Rule::Cat7),
        Action::Drop => {
            let rules = rules.with(Rule::Cat5).with(Rule::Rej2);
            match (which, met.kind) {
                (Which::Cluster, _) => rules,
                (Which::Local, FrontendKind::ClusterIp) => rules.with(Rule::Pol8),
                (Which::Local, _) => rules.with(Rule::Pol9),
            }
        }
        Action::Reject => {
            let rules = rules.with(Rule::Cat5).with(Rule::Rej1);
            if protocol == Protocol::Udp { rules.with(Rule::Dec1) } else { rules }
        }
        Action::Pass => rules,
    }
}

/// Whether the client's address stays (section 7), hairpins aside.
fn preserved(met: &Met, source: &Source) -> (Option<bool>, RuleSet) {
    let rules = RuleSet::default();
    if met.kind != FrontendKind::ClusterIp {
        return match met.policy.external_local {
            false => (Some(false), rules.with(Rule::Snat2)),
            true => (Some(source.kind != ClientKind::Host), rules.with(Rule::Snat3)),
        };
    }
    if source.masquerade_all {
        return (Some(false), rules.with(Rule::Snat5));
    }
    let rules = rules.with(Rule::Snat1);
    if !source.detector {
        return (Some(true), rules);
    }
    match source.detected {
        Some(true) => (Some(true), rules.with(Rule::Snat9)),
        detected => (detected, rules),
    }
}

/// Whether the client is one of the backends: that choice is masqueraded whatever else holds.
fn hairpin(tables: &dyn Lookup, backends: &[BackendId], client: Option<IpAddr>) -> bool {
    let Some(client) = client.map(|ip| ip.to_canonical()) else {
        return false;
    };
    backends.iter().filter_map(|id| tables.backend(*id)).any(|backend| backend.addr == client)
}

impl Verdict {
    fn new(flow: &Flow, action: Action, rules: RuleSet) -> Verdict {
        Verdict {
            service: None,
            name: None,
            frontend_kind: None,
            action,
            which: None,
            set: SetWord::default(),
            backends: Vec::new(),
            path: path(flow, action),
            client_ip_preserved: None,
            affinity_seconds: None,
            rules,
        }
    }
}

/// The socket path serves clients of this node, TCP and UDP, and refuses TCP. It leaves to packets
/// what has to look as if nobody answered, or to be refused later: drops (SOCK-13) and UDP without
/// endpoints (SOCK-12, DEC-1); and SCTP, whose sockets its hooks do not translate (multi-homing).
fn path(flow: &Flow, action: Action) -> Option<Path> {
    let by_socket = match action {
        Action::Pass => return None,
        Action::Drop => false,
        Action::Forward => flow.protocol != Protocol::Sctp,
        Action::Reject => flow.protocol == Protocol::Tcp,
    };
    Some(if by_socket && flow.from.is_local() { Path::Socket } else { Path::Packet })
}

#[cfg(test)]
mod tests;
