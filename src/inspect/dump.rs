//! `dump`: all tables in one canonical form that does not depend on ids.
//!
//! Two sets of tables that mean the same give the same dump, whatever happened before: names and
//! addresses stand where the tables have ids, everything is sorted, and what only rests (an id
//! in quarantine, a text nobody refers to) is left out. Golden tests compare it and a bug report
//! attaches it. With [`Ids::Shown`] the same rows are shown with indices, ranges and generations.

mod text;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::model::addr::{Family, Protocol};
use crate::plan::rule::RuleSet;
use crate::plan::table::{
    BackendId, BackendRow, EndpointInfo, FrontendKey, FrontendKind, NetnsClass, PrefixClass, Rows, ServiceId,
    ServiceName, ServiceRow, Settings, TextId, Which,
};

/// Whether a dump shows indices, ranges, generations and who wrote the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// The canonical form: equal tables give equal dumps.
    Hidden,
    /// The wide form, for the person who looks at the maps themselves.
    Shown,
}

/// All tables, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dump {
    /// What a verdict depends on besides the rows.
    pub settings: SettingsDump,
    /// The ServicePorts, sorted by name.
    pub services: Vec<ServiceDump>,
    /// Active ClusterIPs: their other ports are rejected (UND-1).
    pub active: Vec<IpAddr>,
    /// Prefixes by class.
    pub prefixes: BTreeMap<&'static str, Vec<IpNet>>,
    /// Network namespaces counted by class; cookies are ids.
    pub netns: BTreeMap<&'static str, usize>,
    /// Rows that contradict each other. Empty in healthy tables.
    pub strays: Vec<String>,
}

/// The settings row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingsDump {
    /// This node (EP-10).
    pub node: Arc<str>,
    /// Its zone.
    pub zone: Arc<str>,
    /// The first complete state has been programmed (SYNC-1).
    pub synced: bool,
    /// `masqueradeAll` (SNAT-5).
    pub masquerade_all: bool,
    /// The families that have a local detector (POL-10).
    pub local_detector: Vec<Family>,
    /// Who wrote the tables and from what; only with ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_by: Option<WrittenBy>,
}

/// Who wrote the tables, and from what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrittenBy {
    /// The agent's version.
    pub version: Arc<str>,
    /// `manifests` or `kubernetes`.
    pub source_kind: Arc<str>,
    /// The directory, file or URL.
    pub source: Arc<str>,
}

/// One ServicePort of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceDump {
    /// `namespace/name:port`, or `?` if the row has no name.
    pub name: String,
    /// The protocol; `None` if the row has no name.
    pub protocol: Option<Protocol>,
    /// The family; `None` if the row has no name.
    pub family: Option<Family>,
    /// What leads here.
    pub frontends: Vec<FrontendDump>,
    /// Which set internal traffic takes (POL-1).
    #[serde(serialize_with = "which_word")]
    pub internal: Which,
    /// Which set external traffic takes (POL-2).
    #[serde(serialize_with = "which_word")]
    pub external: Which,
    /// Seconds of ClientIP affinity, 0 without (AFF-3).
    pub affinity_seconds: u32,
    /// The Cluster set (CAT-2).
    pub cluster: SetDump,
    /// The Local set (CAT-3).
    pub local: SetDump,
    /// Every endpoint, usable or not.
    pub backends: Vec<BackendDump>,
    /// The index in `bl_services`; only with ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

/// One frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FrontendDump {
    /// Its kind.
    #[serde(serialize_with = "kind_name")]
    pub kind: FrontendKind,
    /// Address and port.
    pub addr: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
}

/// One of the two sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetDump {
    /// The addresses in its slots, sorted; `?` stands for a slot whose backend is not one of this ServicePort.
    pub addrs: Vec<String>,
    /// Some endpoint exists somewhere: if the set is empty it drops instead of rejecting (CAT-5, REJ-2).
    pub has_any: bool,
    /// The rules that made it.
    pub rules: RuleSet,
    /// First slot; only with ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<u32>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendDump {
    /// Address and port.
    pub addr: SocketAddr,
    /// A new choice in the Cluster set may take it.
    pub in_cluster: bool,
    /// A new choice in the Local set may take it.
    pub in_local: bool,
    /// A UDP flow that goes on keeps it (CT-4, DEC-2).
    pub keeps_flows: bool,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// On this node (EP-9).
    pub local: bool,
    /// The node's name; empty if unknown.
    pub node: Arc<str>,
    /// The zone's name; empty if unknown.
    pub zone: Arc<str>,
    /// Id and generation; only with ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<(u32, u32)>,
}

/// The canonical text of the tables.
pub fn canonical(rows: &Rows) -> String {
    Dump::of(rows, Ids::Hidden).to_string()
}

impl Dump {
    /// Builds the dump of some rows.
    pub fn of(rows: &Rows, ids: Ids) -> Dump {
        let index = Index::of(rows);
        let mut strays = index.strays(rows);
        let mut services: Vec<ServiceDump> =
            rows.services.iter().map(|(id, row)| index.service(*id, row, ids, &mut strays)).collect();
        services.sort_by(|a, b| (&a.name, a.protocol, a.family).cmp(&(&b.name, b.protocol, b.family)));
        strays.sort();
        let mut prefixes: BTreeMap<&'static str, Vec<IpNet>> = BTreeMap::new();
        for prefix in &rows.prefixes {
            prefixes.entry(class_name(prefix.class)).or_default().push(prefix.net);
        }
        prefixes.values_mut().for_each(|nets| nets.sort());
        let mut netns = BTreeMap::new();
        for (_, class) in &rows.netns {
            *netns.entry(netns_name(*class)).or_insert(0) += 1;
        }
        let mut active: Vec<IpAddr> = rows
            .frontends
            .iter()
            .filter_map(|(key, _)| match key {
                FrontendKey::Active { addr } => Some(*addr),
                FrontendKey::Port { .. } => None,
            })
            .collect();
        active.sort();
        Dump { settings: settings(&rows.settings, ids), services, active, prefixes, netns, strays }
    }
}

/// The rows, findable by the ids that other rows hold.
struct Index<'a> {
    names: HashMap<ServiceId, &'a ServiceName>,
    texts: HashMap<TextId, &'a Arc<str>>,
    backends: HashMap<BackendId, &'a BackendRow>,
    endpoints: HashMap<BackendId, &'a EndpointInfo>,
    sets: HashMap<(ServiceId, Which), &'a [BackendId]>,
    frontends: HashMap<ServiceId, Vec<FrontendDump>>,
    of_service: HashMap<ServiceId, Vec<BackendId>>,
}

impl<'a> Index<'a> {
    fn of(rows: &'a Rows) -> Index<'a> {
        let mut index = Index {
            names: rows.names.iter().map(|(id, name)| (*id, name)).collect(),
            texts: rows.texts.iter().map(|(id, text)| (*id, text)).collect(),
            backends: rows.backends.iter().map(|(id, row)| (*id, row)).collect(),
            endpoints: rows.endpoints.iter().map(|(id, info)| (*id, info)).collect(),
            sets: rows.slots.iter().map(|(id, which, slots)| ((*id, *which), slots.as_slice())).collect(),
            frontends: HashMap::new(),
            of_service: HashMap::new(),
        };
        for (key, frontend) in &rows.frontends {
            if let (FrontendKey::Port { addr, port, protocol }, Some(service)) = (key, frontend.service) {
                let shown = FrontendDump {
                    kind: frontend.kind,
                    addr: SocketAddr::new(*addr, *port),
                    protocol: *protocol,
                };
                index.frontends.entry(service).or_default().push(shown);
            }
        }
        for (id, row) in &rows.backends {
            if index.endpoints.contains_key(id) {
                index.of_service.entry(row.service).or_default().push(*id);
            }
        }
        index
    }

    /// Frontends and endpoints that lead to no ServicePort.
    fn strays(&self, rows: &Rows) -> Vec<String> {
        let known: HashMap<ServiceId, ()> = rows.services.iter().map(|(id, _)| (*id, ())).collect();
        let frontends = rows.frontends.iter().filter_map(|(key, frontend)| match (key, frontend.service) {
            (FrontendKey::Port { addr, port, protocol }, service)
                if !service.is_some_and(|s| known.contains_key(&s)) =>
            {
                Some(format!("frontend {}/{protocol} leads to no ServicePort", SocketAddr::new(*addr, *port)))
            }
            _ => None,
        });
        let backends = rows.endpoints.iter().filter_map(|(id, _)| match self.backends.get(id) {
            None => Some(format!("endpoint {} has no backend row", id.0)),
            Some(row) if !known.contains_key(&row.service) => {
                Some(format!("backend {} belongs to no ServicePort", SocketAddr::new(row.addr, row.port)))
            }
            Some(_) => None,
        });
        frontends.chain(backends).collect()
    }

    fn service(&self, id: ServiceId, row: &ServiceRow, ids: Ids, strays: &mut Vec<String>) -> ServiceDump {
        let named = self.names.get(&id);
        let name = named.map_or_else(|| "?".to_owned(), |n| n.name.to_string());
        if named.is_none() {
            strays.push("a ServicePort has no name".to_owned());
        }
        let side = |local| if local { Which::Local } else { Which::Cluster };
        let mut frontends = self.frontends.get(&id).cloned().unwrap_or_default();
        frontends.sort();
        let mut backends: Vec<BackendDump> =
            self.of_service.get(&id).into_iter().flatten().map(|b| self.backend(*b, ids)).collect();
        backends.sort_by_key(|b| b.addr);
        ServiceDump {
            protocol: named.map(|n| n.name.protocol),
            family: named.map(|n| n.name.family),
            frontends,
            internal: side(row.policy.internal_local),
            external: side(row.policy.external_local),
            affinity_seconds: row.policy.affinity_seconds,
            cluster: self.set(id, Which::Cluster, row, ids, &name, strays),
            local: self.set(id, Which::Local, row, ids, &name, strays),
            backends,
            index: shown(ids, id.0),
            name,
        }
    }

    fn set(
        &self,
        id: ServiceId,
        which: Which,
        row: &ServiceRow,
        ids: Ids,
        name: &str,
        strays: &mut Vec<String>,
    ) -> SetDump {
        let word = row.sets[which as usize];
        let slots = self.sets.get(&(id, which)).copied().unwrap_or_default();
        if slots.len() != word.count as usize {
            strays.push(format!(
                "{name}: the {} set has {} slots of {}",
                which_name(which),
                slots.len(),
                word.count
            ));
        }
        let mut members: Vec<Option<SocketAddr>> = slots
            .iter()
            .map(|b| {
                self.backends.get(b).filter(|row| row.service == id).map(|r| SocketAddr::new(r.addr, r.port))
            })
            .collect();
        if members.contains(&None) {
            strays
                .push(format!("{name}: a slot of the {} set holds another one's backend", which_name(which)));
        }
        members.sort();
        SetDump {
            addrs: members.into_iter().map(|m| m.map_or_else(|| "?".to_owned(), |a| a.to_string())).collect(),
            has_any: word.has_any,
            rules: self.names.get(&id).map(|n| n.rules[which as usize]).unwrap_or_default(),
            base: shown(ids, word.base),
        }
    }

    /// A backend that has a row in `bl_endpoints`; the caller found the id in both maps.
    fn backend(&self, id: BackendId, ids: Ids) -> BackendDump {
        let (row, info) = (self.backends[&id], self.endpoints[&id]);
        BackendDump {
            addr: SocketAddr::new(row.addr, row.port),
            in_cluster: row.state.in_cluster,
            in_local: row.state.in_local,
            keeps_flows: row.state.serving,
            ready: info.ready,
            serving: info.serving,
            terminating: info.terminating,
            local: info.local,
            node: self.text(info.node),
            zone: self.text(info.zone),
            id: shown(ids, (id.0, row.state.generation)),
        }
    }

    fn text(&self, id: TextId) -> Arc<str> {
        match self.texts.get(&id) {
            Some(text) => Arc::clone(text),
            None if id == TextId::default() => "".into(),
            None => "?".into(),
        }
    }
}

fn settings(row: &Settings, ids: Ids) -> SettingsDump {
    SettingsDump {
        node: Arc::clone(&row.node),
        zone: Arc::clone(&row.zone),
        synced: row.synced,
        masquerade_all: row.masquerade_all,
        local_detector: Family::ALL.into_iter().filter(|f| row.local_detector[f.index()]).collect(),
        written_by: shown(
            ids,
            WrittenBy {
                version: Arc::clone(&row.version),
                source_kind: Arc::clone(&row.source_kind),
                source: Arc::clone(&row.source),
            },
        ),
    }
}

fn shown<T>(ids: Ids, value: T) -> Option<T> {
    (ids == Ids::Shown).then_some(value)
}

fn kind_name<S: serde::Serializer>(kind: &FrontendKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

fn which_name(which: Which) -> &'static str {
    match which {
        Which::Cluster => "cluster",
        Which::Local => "local",
    }
}

fn class_name(class: PrefixClass) -> &'static str {
    match class {
        PrefixClass::ServiceCidr => "service-cidr",
        PrefixClass::NodeAddress => "node-address",
        PrefixClass::LocalDetector => "local-detector",
        PrefixClass::Held => "held",
    }
}

fn netns_name(class: NetnsClass) -> &'static str {
    match class {
        NetnsClass::Host => "host",
        NetnsClass::Pod => "pod",
        NetnsClass::PacketOnly => "packet-only",
    }
}

fn which_word<S: serde::Serializer>(which: &Which, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(which_name(*which))
}
