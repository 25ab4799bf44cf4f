//! An EndpointSlice, slimmed to what the rules read.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::addr::{Family, Protocol};
use super::names::ObjectName;

/// An EndpointSlice that belongs to a Service (EP-1). Ports without a name or number (EP-3) and
/// endpoints without a readable address (EP-6) are left out at conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub name: ObjectName,
    /// The Service, from the label `kubernetes.io/service-name` (EP-1).
    pub service: ObjectName,
    /// `addressType` (EP-2; FQDN slices are dropped at conversion).
    pub family: Family,
    /// `ports`.
    pub ports: Vec<SlicePort>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// Has the label `service.kubernetes.io/headless` (SVC-4): contributes nothing.
    pub headless: bool,
    /// When what it shows happened (MET-2).
    pub triggered: Trigger,
}

/// When the change that a slice shows happened, since the Unix epoch; `None` if nobody said. It is no part of
/// what a slice is: slices that differ in it alone are equal (EP-15, SVC-16).
#[derive(Clone, Copy, Debug, Default)]
pub struct Trigger(pub Option<Duration>);

impl PartialEq for Trigger {
    fn eq(&self, _: &Trigger) -> bool {
        true
    }
}

impl Eq for Trigger {}

/// One port of a slice; it matches a Service port by name and protocol (EP-4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// `name`.
    pub name: Arc<str>,
    /// `protocol`; nil is TCP (EP-3).
    pub protocol: Protocol,
    /// `port`, host order, never 0.
    pub port: u16,
}

/// One endpoint, with nil conditions already read as EP-7 says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]` (EP-6).
    pub addr: IpAddr,
    /// `nodeName` (EP-9).
    pub node: Option<Arc<str>>,
    /// `zone`, for show only.
    pub zone: Option<Arc<str>>,
    /// `conditions.ready`, nil is true (EP-7, EP-8).
    pub ready: bool,
    /// `conditions.serving`, nil is true (EP-7).
    pub serving: bool,
    /// `conditions.terminating`, nil is false (EP-7).
    pub terminating: bool,
    /// `hints.forZones[].name` (EP-19).
    pub zone_hints: Box<[Arc<str>]>,
    /// `hints.forNodes[].name` (EP-19).
    pub node_hints: Box<[Arc<str>]>,
}
