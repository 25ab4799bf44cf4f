//! Names of objects, and of the parts of them that rows are made for.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::addr::{Family, Protocol};

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectName {
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// A name from its parts.
    pub fn new(namespace: &str, name: &str) -> ObjectName {
        ObjectName { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A ServicePort of one family: what one row of `bl_services` is for (SVC-7, SVC-8).
///
/// This name, not an address or an index, is what carries identity over changes and restarts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServicePortName {
    /// The Service.
    pub service: ObjectName,
    /// `spec.ports[].name`; may be empty.
    pub port: Arc<str>,
    /// The protocol: the same port name may exist once per protocol (SVC-8).
    pub protocol: Protocol,
    /// The family: a dual-stack Service is two (SVC-7).
    pub family: Family,
}

impl fmt::Display for ServicePortName {
    /// `namespace/name:port`, without the colon when the port has no name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}
