//! What a source says: objects as they come and go.

use std::sync::Arc;

use ipnet::IpNet;

use super::names::ObjectName;
use super::node::{HostFacts, Node};
use super::service::Service;
use super::slice::EndpointSlice;

/// One change of the world. An upsert that equals what is known is a no-op (SVC-15, EP-15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A Service is there, or changed.
    Service(Box<Service>),
    /// A Service is gone.
    ServiceGone(ObjectName),
    /// An EndpointSlice is there, or changed.
    Slice(Box<EndpointSlice>),
    /// An EndpointSlice is gone.
    SliceGone(ObjectName),
    /// A Node is there, or changed. Only this node's is used (TOP-12).
    Node(Box<Node>),
    /// A Node is gone.
    NodeGone(Arc<str>),
    /// A ServiceCIDR object is there, or changed (UND-2).
    ServiceCidr(Arc<str>, Vec<IpNet>),
    /// A ServiceCIDR object is gone.
    ServiceCidrGone(Arc<str>),
    /// What flags and interfaces say of this node.
    Host(Box<HostFacts>),
    /// The source has delivered its whole first list: from now on absence means removal (SYNC-1).
    Synced,
}
