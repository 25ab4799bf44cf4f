//! A Service, slimmed to what the rules read (SVC-11 says what they never read).

use std::net::IpAddr;
use std::sync::Arc;

use super::addr::{Family, Protocol, parse_ip};
use super::names::ObjectName;

/// A Service object. Strings that hold addresses are kept as written: the rules say how to read them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.creationTimestamp`, seconds since the epoch; the older claim wins (SVC-17).
    pub created: Option<i64>,
    /// `spec.type`.
    pub kind: ServiceKind,
    /// `spec.clusterIP`.
    pub cluster_ip: String,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<String>,
    /// `spec.ipFamilies`.
    pub ip_families: Vec<Family>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<String>,
    /// `status.loadBalancer.ingress`, only entries with an `ip`.
    pub ingress: Vec<Ingress>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<String>,
    /// `spec.internalTrafficPolicy: Local` (anything else is Cluster, SVC-20).
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy: Local` (anything else is Cluster, SVC-20).
    pub external_local: bool,
    /// Seconds of `ClientIP` affinity; `None` without affinity. A missing configuration is 10800 (SVC-19).
    pub affinity_seconds: Option<u32>,
    /// `spec.healthCheckNodePort`, 0 if none.
    pub health_check_node_port: u16,
    /// `service.kubernetes.io/service-proxy-name` is present: another proxy's Service (SVC-1).
    pub other_proxy: bool,
}

impl Default for ObjectName {
    fn default() -> Self {
        ObjectName::new("", "")
    }
}

/// `spec.type`; an unknown value is read as ClusterIP, as the API server's default is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ServiceKind {
    /// ClusterIP.
    #[default]
    ClusterIp,
    /// NodePort.
    NodePort,
    /// LoadBalancer.
    LoadBalancer,
    /// ExternalName: ignored whatever else the object holds (SVC-3).
    ExternalName,
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; may be empty.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`, host order.
    pub port: u16,
    /// `nodePort`, host order, 0 if none (SVC-10).
    pub node_port: u16,
}

/// One entry of `status.loadBalancer.ingress` that has an `ip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// `ip`, as written.
    pub ip: String,
    /// `ipMode: Proxy`: traffic goes out to the real balancer (LB-1).
    pub proxy: bool,
}

impl Service {
    /// Whether this proxy handles the Service at all (SVC-1, SVC-3).
    pub fn is_handled(&self) -> bool {
        !self.other_proxy
            && self.kind != ServiceKind::ExternalName
            && !matches!(self.cluster_ip.as_str(), "" | "None")
    }

    /// The ClusterIP of a family (SVC-6), leniently parsed (SVC-13); `None` if the Service is not
    /// handled in that family.
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        let text = if self.ip_families.is_empty() {
            &self.cluster_ip
        } else {
            let at = self.ip_families.iter().position(|f| *f == family)?;
            match self.cluster_ips.get(at) {
                Some(text) => text,
                // A manifest written by hand gives the first address as `clusterIP` alone.
                None if at == 0 && self.cluster_ips.is_empty() => &self.cluster_ip,
                None => return None,
            }
        };
        parse_ip(text).filter(|ip| Family::of(*ip) == family)
    }
}
