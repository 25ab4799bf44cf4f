//! Text or values to objects. What no rule reads of an object's metadata (`managedFields` above all,
//! often half of the text) is passed over while decoding and never kept.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Converted, Converter, Outcome, Problem};
use crate::cluster::object::{Kind, Object};
use crate::model::names::ObjectName;

/// Something that an object can be read from, as another type if one does not fit.
pub trait Text {
    /// Reads it. Unknown fields are ignored (SYNC-12).
    ///
    /// # Errors
    /// The first field that does not fit, with its path.
    fn read<T: DeserializeOwned>(&self) -> Result<T, Problem>;
}

/// JSON. It is read without keeping track of paths, which costs half as much again; only what does
/// not fit is read a second time for the path.
impl Text for &[u8] {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(self).or_else(|_| traced(&mut serde_json::Deserializer::from_slice(self)))
    }
}

impl Text for &Value {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        traced(*self)
    }
}

/// Reads with the path of what does not fit. Where in the text that is, says nothing: it has one line.
fn traced<'de, T: DeserializeOwned, D: serde::Deserializer<'de>>(source: D) -> Result<T, Problem>
where
    D::Error: std::fmt::Display,
{
    serde_path_to_error::deserialize(source).map_err(|error| {
        let message = error.inner().to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        Problem::new(error.path().to_string(), message)
    })
}

/// An object that says who it is.
#[derive(Debug)]
pub struct Decoded {
    /// Namespace (empty for kinds without) and name.
    pub name: ObjectName,
    /// `metadata.resourceVersion`
    pub version: Option<String>,
    /// What it came to.
    pub outcome: Outcome<Object>,
}

impl Converter {
    /// Reads an object of a kind.
    ///
    /// # Errors
    /// It does not even say its name.
    pub fn decode(&mut self, kind: Kind, text: &impl Text) -> Result<Decoded, Problem> {
        match kind {
            Kind::Service => self.decode_as::<ServiceText>(kind, text),
            Kind::EndpointSlice => self.decode_as::<SliceText>(kind, text),
            Kind::Node => self.decode_as::<NodeText>(kind, text),
            Kind::ServiceCidr => self.decode_as::<CidrText>(kind, text),
            Kind::Namespace => self.decode_as::<Checked<core::Namespace>>(kind, text),
            Kind::Pod => self.decode_as::<Checked<core::Pod>>(kind, text),
        }
    }

    fn decode_as<T: ObjectText>(&mut self, kind: Kind, text: &impl Text) -> Result<Decoded, Problem> {
        let (meta, read) = match text.read::<T>() {
            Ok(mut read) => (read.take_identity(), Ok(read)),
            Err(problem) => (text.read::<Named>()?.metadata.into(), Err(problem)),
        };
        let (namespace, name, version) = meta;
        let name = name.filter(|name| !name.is_empty());
        let Some(name) = name else { return Err(Problem::new("metadata.name", "is missing")) };
        let namespace = namespace.filter(|_| kind.is_namespaced()).unwrap_or_default();
        let outcome = read.and_then(|read| read.convert(self));
        let name = ObjectName { namespace: self.share(&namespace), name: self.share(&name) };
        Ok(Decoded { name, version, outcome })
    }
}

/// Namespace, name and version of an object.
type Identity = (Option<String>, Option<String>, Option<String>);

/// A kind as it is read.
trait ObjectText: DeserializeOwned {
    fn take_identity(&mut self) -> Identity;
    fn convert(self, converter: &mut Converter) -> Outcome<Object>;
}

/// Who an object is, where the rest of it cannot be read.
#[derive(Deserialize)]
struct Named {
    metadata: Meta,
}

/// What is read of an object's metadata.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    namespace: Option<String>,
    name: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    resource_version: Option<String>,
}

impl From<Meta> for Identity {
    fn from(meta: Meta) -> Identity {
        (meta.namespace, meta.name, meta.resource_version)
    }
}

impl From<Meta> for ObjectMeta {
    fn from(meta: Meta) -> ObjectMeta {
        ObjectMeta {
            namespace: meta.namespace,
            name: meta.name,
            labels: meta.labels,
            annotations: meta.annotations,
            creation_timestamp: meta.creation_timestamp,
            deletion_timestamp: meta.deletion_timestamp,
            ..ObjectMeta::default()
        }
    }
}

impl Meta {
    fn identity(&mut self) -> Identity {
        (self.namespace.clone(), self.name.clone(), self.resource_version.take())
    }
}

#[derive(Deserialize)]
struct ServiceText {
    #[serde(default)]
    metadata: Meta,
    spec: Option<core::ServiceSpec>,
    status: Option<core::ServiceStatus>,
}

impl ObjectText for ServiceText {
    fn take_identity(&mut self) -> Identity {
        self.metadata.identity()
    }

    fn convert(self, converter: &mut Converter) -> Outcome<Object> {
        let object = core::Service { metadata: self.metadata.into(), spec: self.spec, status: self.status };
        Ok(map(converter.service(&object)?, |service| Object::Service(Box::new(service))))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceText {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    address_type: String,
    endpoints: Option<Vec<discovery::Endpoint>>,
    ports: Option<Vec<discovery::EndpointPort>>,
}

impl ObjectText for SliceText {
    fn take_identity(&mut self) -> Identity {
        self.metadata.identity()
    }

    fn convert(self, converter: &mut Converter) -> Outcome<Object> {
        let object = discovery::EndpointSlice {
            metadata: self.metadata.into(),
            address_type: self.address_type,
            endpoints: self.endpoints,
            ports: self.ports,
        };
        Ok(map(converter.slice(&object)?, |slice| Object::Slice(Box::new(slice))))
    }
}

#[derive(Deserialize)]
struct NodeText {
    #[serde(default)]
    metadata: Meta,
    spec: Option<core::NodeSpec>,
    status: Option<core::NodeStatus>,
}

impl ObjectText for NodeText {
    fn take_identity(&mut self) -> Identity {
        self.metadata.identity()
    }

    fn convert(self, converter: &mut Converter) -> Outcome<Object> {
        let object = core::Node { metadata: self.metadata.into(), spec: self.spec, status: self.status };
        Ok(map(converter.node(&object)?, |node| Object::Node(Box::new(node))))
    }
}

#[derive(Deserialize)]
struct CidrText {
    #[serde(default)]
    metadata: Meta,
    spec: Option<networking::ServiceCIDRSpec>,
}

impl ObjectText for CidrText {
    fn take_identity(&mut self) -> Identity {
        self.metadata.identity()
    }

    fn convert(self, converter: &mut Converter) -> Outcome<Object> {
        let object =
            networking::ServiceCIDR { metadata: self.metadata.into(), spec: self.spec, status: None };
        Ok(map(converter.service_cidr(&object)?, |(name, cidrs)| Object::ServiceCidr(name, cidrs)))
    }
}

/// A kind that is only checked.
#[derive(Deserialize)]
#[serde(transparent)]
struct Checked<T>(T);

impl<T> ObjectText for Checked<T>
where
    T: DeserializeOwned + k8s_openapi::Metadata<Ty = ObjectMeta>,
{
    fn take_identity(&mut self) -> Identity {
        let meta = self.0.metadata_mut();
        (meta.namespace.clone(), meta.name.clone(), meta.resource_version.take())
    }

    fn convert(self, _: &mut Converter) -> Outcome<Object> {
        Ok(Converted { value: None, warnings: Vec::new() })
    }
}

fn map<T>(converted: Converted<T>, object: impl FnOnce(T) -> Object) -> Converted<Object> {
    Converted { value: converted.value.map(object), warnings: converted.warnings }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decode(kind: Kind, object: &Value) -> Result<Decoded, Problem> {
        let text = object.to_string();
        let from_text = Converter::new().decode(kind, &text.as_bytes());
        let from_value = Converter::new().decode(kind, &object);
        assert_eq!(format!("{from_text:?}"), format!("{from_value:?}"), "text and value are read alike");
        from_text
    }

    #[test]
    fn an_object_says_who_it_is_and_what_it_came_to() {
        let spec = json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}]});
        let meta = json!({"namespace": "a", "name": "b", "resourceVersion": "7", "managedFields": 3});
        let decoded = decode(Kind::Service, &json!({"metadata": meta, "spec": spec})).unwrap();
        assert_eq!((decoded.name, decoded.version.as_deref()), (ObjectName::new("a", "b"), Some("7")));
        assert!(matches!(decoded.outcome.unwrap().value, Some(Object::Service(_))));
    }

    #[test]
    fn a_field_of_a_wrong_type_is_named_with_its_object() {
        let object = json!({"metadata": {"namespace": "a", "name": "b"}, "spec": {"ports": [{"port": "x"}]}});
        let decoded = decode(Kind::Service, &object).unwrap();
        assert_eq!(decoded.name, ObjectName::new("a", "b"));
        assert_eq!(decoded.outcome.unwrap_err().field, "spec.ports[0].port");
    }

    #[test]
    fn what_has_no_name_is_no_object() {
        for object in [json!(null), json!([]), json!({}), json!({"metadata": {"name": ""}})] {
            decode(Kind::EndpointSlice, &object).unwrap_err();
        }
        assert!(Converter::new().decode(Kind::Node, &b"{\"metadata\": {\"na".as_slice()).is_err());
    }
}
