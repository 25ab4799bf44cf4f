//! A ServicePort as rows: `compile(World, service) → rows`.

use std::net::IpAddr;
use std::sync::Arc;

use super::rule::RuleSet;
use super::table::{FrontendKey, FrontendKind, Policy};

/// What the tables should hold for one ServicePort. Compiled from the objects alone: no ids, no
/// ranges, no knowledge of what is in the maps; two equal worlds give equal rows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PortRows {
    /// The frontends that lead here, sorted by key. [`FrontendKey::Active`] may appear with several
    /// ServicePorts (it is kept while any has it); every other key has one owner (SVC-17).
    pub frontends: Vec<(FrontendKey, FrontendKind)>,
    /// Every endpoint of the port, usable or not, sorted by address and port, each pair once (EP-11, EP-13).
    pub backends: Vec<BackendWant>,
    /// Some ready or serving-terminating endpoint exists anywhere (CAT-5).
    pub has_any: bool,
    /// The policies.
    pub policy: Policy,
    /// The rules that made the Cluster set and the Local set.
    pub rules: [RuleSet; 2],
}

/// One endpoint as the tables should hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendWant {
    /// The address.
    pub addr: IpAddr,
    /// The port, host order.
    pub port: u16,
    /// In the Cluster set (CAT-2).
    pub in_cluster: bool,
    /// In the Local set (CAT-3); false where no traffic uses the Local set (CAT-1).
    pub in_local: bool,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// On this node (EP-9).
    pub local: bool,
    /// The node's name, for show.
    pub node: Option<Arc<str>>,
    /// The zone's name, for show.
    pub zone: Option<Arc<str>>,
}
