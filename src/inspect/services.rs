//! `services`: what a client can dial, who answers, and how often it happened.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::view::View;
use crate::model::addr::Protocol;
use crate::plan::table::{EndpointInfo, FrontendKey, FrontendKind, ServiceId};

/// A port of a Service with both its families: one line of `beeline services`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceEntry {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub name: Arc<str>,
    /// `spec.ports[].name`; may be empty.
    pub port_name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// What leads here, sorted by kind and address.
    pub frontends: Vec<FrontendEntry>,
    /// Every endpoint, usable or not, sorted by address.
    pub backends: Vec<BackendEntry>,
    /// Connections (and first datagrams) that were given a backend, since the port got its row.
    pub connections: u64,
    /// Those that were refused for want of a backend (REJ-1).
    pub refused: u64,
    /// Those that are dropped for want of a local backend (REJ-2).
    pub dropped: u64,
}

/// One address and port that leads to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FrontendEntry {
    /// `ClusterIP`, `NodePort`, `ExternalIP` or `LoadBalancer`.
    #[serde(serialize_with = "kind_name")]
    pub kind: FrontendKind,
    /// The address.
    pub addr: IpAddr,
    /// The port.
    pub port: u16,
}

/// One endpoint of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendEntry {
    /// The address.
    pub addr: IpAddr,
    /// The port.
    pub port: u16,
    /// The node's name; `None` if the slice does not say.
    pub node: Option<Arc<str>>,
    /// The zone's name; `None` if the slice does not say.
    pub zone: Option<Arc<str>>,
    /// What the endpoint may be used for.
    pub state: BackendUse,
    /// On this node (EP-9).
    pub local: bool,
}

/// What an endpoint may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendUse {
    /// Ready, also when it terminates (EP-8).
    Ready,
    /// It ends but still serves: taken where no endpoint is ready (CAT-2).
    Terminating,
    /// Neither.
    Unusable,
}

impl BackendUse {
    /// The word shown in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            BackendUse::Ready => "ready",
            BackendUse::Terminating => "terminating",
            BackendUse::Unusable => "unusable",
        }
    }

    fn of(info: &EndpointInfo) -> BackendUse {
        match (info.ready, info.serving && info.terminating) {
            (true, _) => BackendUse::Ready,
            (false, true) => BackendUse::Terminating,
            (false, false) => BackendUse::Unusable,
        }
    }
}

/// Namespace, name, port name and protocol: what both families of a port share.
type PortKey = (Arc<str>, Arc<str>, Arc<str>, Protocol);

/// The ports of all Services, or of one namespace's, sorted by name.
pub fn list(view: &View, namespace: Option<&str>) -> Vec<ServiceEntry> {
    let mut found: BTreeMap<PortKey, ServiceEntry> = BTreeMap::new();
    let mut frontends = frontends_of(view);
    let mut backends = backends_of(view);
    for (id, named) in &view.rows.names {
        let (service, port) = (&named.name.service, &named.name.port);
        let known = view.rows.services.binary_search_by_key(id, |(at, _)| *at).is_ok();
        if !known || namespace.is_some_and(|ns| ns != &*service.namespace) {
            continue;
        }
        let counters = view.counters.get(id).copied().unwrap_or_default();
        let key = (service.namespace.clone(), service.name.clone(), port.clone(), named.name.protocol);
        let entry = found.entry(key).or_insert_with(|| ServiceEntry {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port_name: port.clone(),
            protocol: named.name.protocol,
            frontends: Vec::new(),
            backends: Vec::new(),
            connections: 0,
            refused: 0,
            dropped: 0,
        });
        entry.frontends.append(&mut frontends.remove(id).unwrap_or_default());
        entry.backends.append(&mut backends.remove(id).unwrap_or_default());
        entry.connections += counters.connections;
        entry.refused += counters.refused;
        entry.dropped += counters.dropped;
    }
    let mut list: Vec<ServiceEntry> = found.into_values().collect();
    for entry in &mut list {
        entry.frontends.sort();
        entry.backends.sort_by_key(|b| (b.addr, b.port));
    }
    list
}

fn frontends_of(view: &View) -> HashMap<ServiceId, Vec<FrontendEntry>> {
    let mut of: HashMap<ServiceId, Vec<FrontendEntry>> = HashMap::new();
    for (key, frontend) in &view.rows.frontends {
        if let (FrontendKey::Port { addr, port, .. }, Some(service)) = (*key, frontend.service) {
            of.entry(service).or_default().push(FrontendEntry { kind: frontend.kind, addr, port });
        }
    }
    of
}

fn backends_of(view: &View) -> HashMap<ServiceId, Vec<BackendEntry>> {
    let texts: HashMap<_, _> = view.rows.texts.iter().map(|(id, text)| (*id, text)).collect();
    let infos: HashMap<_, _> = view.rows.endpoints.iter().map(|(id, info)| (*id, info)).collect();
    let mut of: HashMap<ServiceId, Vec<BackendEntry>> = HashMap::new();
    for (id, row) in &view.rows.backends {
        let Some(info) = infos.get(id) else { continue };
        of.entry(row.service).or_default().push(BackendEntry {
            addr: row.addr,
            port: row.port,
            node: texts.get(&info.node).map(|t| Arc::clone(t)),
            zone: texts.get(&info.zone).map(|t| Arc::clone(t)),
            state: BackendUse::of(info),
            local: info.local,
        });
    }
    of
}

fn kind_name<S: serde::Serializer>(kind: &FrontendKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}
