//! What an object is called and what it came to, whoever gives it.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::event::Event;
use crate::model::names::ObjectName;
use crate::model::node::Node;
use crate::model::service::Service;
use crate::model::slice::EndpointSlice;

/// The kinds that are read. Namespaces and Pods are checked, and give no event yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1 Service
    Service,
    /// discovery.k8s.io/v1 EndpointSlice
    EndpointSlice,
    /// v1 Node
    Node,
    /// networking.k8s.io/v1 ServiceCIDR
    ServiceCidr,
    /// v1 Namespace
    Namespace,
    /// v1 Pod
    Pod,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr, Kind::Namespace, Kind::Pod];

    /// The kind's name, and the API version that is read.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Kind::Service => ("Service", "v1"),
            Kind::EndpointSlice => ("EndpointSlice", "discovery.k8s.io/v1"),
            Kind::Node => ("Node", "v1"),
            Kind::ServiceCidr => ("ServiceCIDR", "networking.k8s.io/v1"),
            Kind::Namespace => ("Namespace", "v1"),
            Kind::Pod => ("Pod", "v1"),
        }
    }

    /// Whether its objects are in namespaces.
    pub fn is_namespaced(self) -> bool {
        matches!(self, Kind::Service | Kind::EndpointSlice | Kind::Pod)
    }
}

/// Kind, namespace and name: what identifies an object over versions and files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// Namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for Key {
    /// Like `Service default/web`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.names().0, self.name)
    }
}

impl Key {
    /// The event that says the object is gone; none for kinds that give no events.
    pub fn gone(&self) -> Option<Event> {
        match self.kind {
            Kind::Service => Some(Event::ServiceGone(self.name.clone())),
            Kind::EndpointSlice => Some(Event::SliceGone(self.name.clone())),
            Kind::Node => Some(Event::NodeGone(self.name.name.clone())),
            Kind::ServiceCidr => Some(Event::ServiceCidrGone(self.name.name.clone())),
            Kind::Namespace | Kind::Pod => None,
        }
    }
}

/// An object as the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(Box<Service>),
    /// An EndpointSlice.
    Slice(Box<EndpointSlice>),
    /// A Node.
    Node(Box<Node>),
    /// A ServiceCIDR: its name and ranges.
    ServiceCidr(Arc<str>, Vec<IpNet>),
}

impl Object {
    /// The event that says the object is there.
    pub fn event(self) -> Event {
        match self {
            Object::Service(service) => Event::Service(service),
            Object::Slice(slice) => Event::Slice(slice),
            Object::Node(node) => Event::Node(node),
            Object::ServiceCidr(name, cidrs) => Event::ServiceCidr(name, cidrs),
        }
    }
}
