//! This node, and what is configured about it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// A Node object, slimmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Label `topology.kubernetes.io/zone`; an empty one is none (TOP-4).
    pub zone: Option<Arc<str>>,
    /// `status.addresses` of type InternalIP, the first of a family being the primary one.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs` (SNAT-8).
    pub pod_cidrs: Vec<IpNet>,
    /// `metadata.deletionTimestamp` is set (HLT-4).
    pub deleting: bool,
    /// Keys of `spec.taints` (HLT-4).
    pub taints: Vec<Arc<str>>,
}

/// What is known of this node besides its Node object: flags win over the object, interfaces fill
/// what neither says (DEC-6).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// The node's name (EP-10); empty means that no endpoint is local (EP-9).
    pub node_name: Arc<str>,
    /// `--zone`; wins over the Node object's label.
    pub zone: Option<Arc<str>>,
    /// All addresses of the node, the first of a family being the primary one.
    pub addresses: Vec<IpAddr>,
    /// The local detector's CIDRs (SNAT-8); empty without a detector (POL-10).
    pub local_detector: Vec<IpNet>,
    /// `masqueradeAll` (SNAT-5).
    pub masquerade_all: bool,
    /// The addresses that interfaces hold, `kube-ipvs0` aside: a ClusterIP among them is left alone (DEC-5).
    pub held: BTreeSet<IpAddr>,
}
