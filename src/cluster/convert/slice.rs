//! EndpointSlices (EP-1 to EP-9, EP-19).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Converted, Converter, Outcome, Problem, address, has_label, label, port_number, protocol};
use crate::model::addr::Family;
use crate::model::names::ObjectName;
use crate::model::slice::{Endpoint, EndpointSlice, SlicePort, Trigger};

/// Which Service a slice belongs to (EP-1).
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Slices with this label contribute nothing (SVC-4).
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// When the endpoints changed, in RFC 3339 (MET-2).
pub const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

impl Converter {
    /// An EndpointSlice, slimmed; without a value if it belongs to no Service (EP-1) or holds no
    /// addresses of a family (EP-2).
    ///
    /// # Errors
    /// A field that the API server would have refused.
    pub fn slice(&mut self, object: &discovery::EndpointSlice) -> Outcome<EndpointSlice> {
        let name = self.object_name(&object.metadata)?;
        let Some(family) = Family::ALL.into_iter().find(|family| family.to_string() == object.address_type)
        else {
            let message =
                format!("'{}' is neither IPv4 nor IPv6; the slice is ignored (EP-2)", object.address_type);
            return Ok(Converted { value: None, warnings: vec![Problem::new("addressType", message)] });
        };
        let Some(service) = label(&object.metadata, SERVICE_NAME_LABEL).filter(|service| !service.is_empty())
        else {
            let field = format!("metadata.labels['{SERVICE_NAME_LABEL}']");
            let warning =
                Problem::new(field, "is missing: the slice belongs to no Service and is ignored (EP-1)");
            return Ok(Converted { value: None, warnings: vec![warning] });
        };
        let mut warnings = Vec::new();
        let slice = EndpointSlice {
            service: ObjectName { namespace: name.namespace.clone(), name: self.share(service) },
            name,
            family,
            ports: self.slice_ports(object, &mut warnings)?,
            endpoints: self.endpoints(object, family, &mut warnings),
            headless: has_label(&object.metadata, HEADLESS_LABEL),
            triggered: Trigger(triggered(&object.metadata)),
        };
        Ok(Converted { value: Some(slice), warnings })
    }

    /// `ports`: those without a name or a number are ignored (EP-3), as are protocols unknown to us.
    fn slice_ports(
        &mut self,
        object: &discovery::EndpointSlice,
        warnings: &mut Vec<Problem>,
    ) -> Result<Vec<SlicePort>, Problem> {
        let mut ports = Vec::new();
        for (at, port) in object.ports.iter().flatten().enumerate() {
            let number = port_number(port.port.unwrap_or(0), || format!("ports[{at}].port"))?;
            let (Some(name), 1..) = (&port.name, number) else {
                let field = if number == 0 { "port" } else { "name" };
                warnings.push(Problem::new(
                    format!("ports[{at}].{field}"),
                    "is missing; the port is skipped (EP-3)",
                ));
                continue;
            };
            match protocol(port.protocol.as_deref(), || format!("ports[{at}].protocol")) {
                Ok(protocol) => ports.push(SlicePort { name: self.share(name), protocol, port: number }),
                Err(problem) => warnings.push(problem),
            }
        }
        Ok(ports)
    }

    /// `endpoints`: those without a readable first address of the slice's family are left out (EP-6).
    fn endpoints(
        &mut self,
        object: &discovery::EndpointSlice,
        family: Family,
        warnings: &mut Vec<Problem>,
    ) -> Vec<Endpoint> {
        let list = object.endpoints.as_deref().unwrap_or_default();
        let mut endpoints = Vec::with_capacity(list.len());
        for (at, endpoint) in list.iter().enumerate() {
            match self.endpoint(endpoint, family, at) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(problem) => warnings.push(problem),
            }
        }
        endpoints
    }

    fn endpoint(
        &mut self,
        object: &discovery::Endpoint,
        family: Family,
        at: usize,
    ) -> Result<Endpoint, Problem> {
        let field = || format!("endpoints[{at}].addresses[0]");
        let text = object.addresses.first().map(String::as_str).unwrap_or_default();
        if text.is_empty() {
            return Err(skipped(Problem::new(field(), "is missing"), "EP-6"));
        }
        let addr = address(text, field).map_err(|problem| skipped(problem, "EP-6"))?;
        if Family::of(addr) != family {
            return Err(Problem::new(
                field(),
                format!("'{text}' is not {family}, which the slice holds (EP-2)"),
            ));
        }
        let conditions = object.conditions.as_ref();
        let hints = object.hints.as_ref();
        let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
        let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
        Ok(Endpoint {
            addr,
            node: self.share_some(object.node_name.as_deref()),
            zone: self.share_some(object.zone.as_deref()),
            // EP-7: nil is ready, serving, not terminating.
            ready: conditions.and_then(|c| c.ready).unwrap_or(true),
            serving: conditions.and_then(|c| c.serving).unwrap_or(true),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
            zone_hints: self.hints(zones.iter().map(|zone| zone.name.as_str())),
            node_hints: self.hints(nodes.iter().map(|node| node.name.as_str())),
        })
    }

    /// Hints are sets (EP-19): sorted, each once.
    fn hints<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Box<[Arc<str>]> {
        let mut hints: Vec<_> = names.filter(|name| !name.is_empty()).map(|name| self.share(name)).collect();
        hints.sort();
        hints.dedup();
        hints.into()
    }
}

/// When the change happened. A text that is no time is as good as none (MET-2).
fn triggered(meta: &ObjectMeta) -> Option<Duration> {
    let text = meta.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?;
    text.parse::<jiff::Timestamp>().ok()?.duration_since(jiff::Timestamp::UNIX_EPOCH).try_into().ok()
}

/// What a bad address does to its endpoint, and the rule that says so.
fn skipped(problem: Problem, rule: &str) -> Problem {
    Problem { message: format!("{}; the endpoint is skipped ({rule})", problem.message), ..problem }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn convert(mut object: Value) -> Outcome<EndpointSlice> {
        if object.get("metadata").is_none() {
            object["metadata"] =
                json!({"namespace": "ns", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}});
        }
        Converter::new().slice(&serde_json::from_value(object).unwrap())
    }

    fn endpoint(endpoint: Value) -> Endpoint {
        convert(json!({"addressType": "IPv4", "endpoints": [endpoint]}))
            .unwrap()
            .value
            .unwrap()
            .endpoints
            .remove(0)
    }

    #[test]
    fn nil_conditions_are_ready_and_serving() {
        // EP-7
        for conditions in [json!(null), json!({})] {
            let endpoint = endpoint(json!({"addresses": ["10.0.0.1"], "conditions": conditions}));
            assert!(endpoint.ready && endpoint.serving && !endpoint.terminating);
        }
        let given = json!({"addresses": ["10.0.0.1"], "conditions": {"ready": false, "terminating": true}});
        let endpoint = endpoint(given);
        assert!(!endpoint.ready && endpoint.serving && endpoint.terminating);
    }

    #[test]
    fn ports_without_name_or_number_are_skipped_and_nil_protocol_is_tcp() {
        // EP-3
        let ports = json!([{"name": "a", "port": 1}, {"port": 2}, {"name": "c"}, {"name": "", "port": 4, "protocol": "UDP"}]);
        let converted = convert(json!({"addressType": "IPv6", "ports": ports, "endpoints": []})).unwrap();
        let ports: Vec<_> = converted
            .value
            .unwrap()
            .ports
            .iter()
            .map(|p| (p.name.to_string(), p.protocol.name(), p.port))
            .collect();
        assert_eq!(ports, [("a".into(), "TCP", 1), (String::new(), "UDP", 4)]);
        let fields: Vec<_> = converted.warnings.iter().map(|w| w.field.as_str()).collect();
        assert_eq!(fields, ["ports[1].name", "ports[2].port"]);
    }

    #[test]
    fn the_time_of_a_change_is_read_and_makes_no_difference() {
        // MET-2, EP-15
        let slice = |time: &str| {
            let object = json!({"addressType": "IPv4", "endpoints": [],
                "metadata": {"namespace": "ns", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
                    "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": time}}});
            convert(object).unwrap().value.unwrap()
        };
        let known = slice("2026-11-20T19:51:14.250Z");
        assert_eq!(known.triggered.0, Some(Duration::from_millis(1_795_204_274_250)));
        assert_eq!(known, slice("2026-11-20T19:51:15Z"));
        for bad in ["", "yesterday", "1795204274"] {
            assert_eq!(slice(bad).triggered.0, None, "{bad}");
        }
    }

    #[test]
    fn only_a_readable_first_address_counts() {
        // EP-6, SVC-13
        let endpoints = json!([{"addresses": []}, {"addresses": ["10.0.0.07", "10.0.0.8"]}, {"addresses": ["fd00::1"]},
            {"addresses": ["x"]}]);
        let converted = convert(json!({"addressType": "IPv4", "endpoints": endpoints})).unwrap();
        let addresses: Vec<_> =
            converted.value.unwrap().endpoints.iter().map(|e| e.addr.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.7"]);
        let fields: Vec<_> = converted.warnings.iter().map(|w| w.field.as_str()).collect();
        assert_eq!(fields, [0, 2, 3].map(|at| format!("endpoints[{at}].addresses[0]")));
    }

    #[test]
    fn slices_of_no_service_and_of_names_are_nothing_for_us() {
        // EP-1, EP-2
        let fqdn = convert(json!({"addressType": "FQDN", "endpoints": []})).unwrap();
        assert_eq!((fqdn.value, fqdn.warnings[0].field.as_str()), (None, "addressType"));
        let orphan =
            json!({"metadata": {"namespace": "ns", "name": "x"}, "addressType": "IPv4", "endpoints": []});
        assert_eq!(convert(orphan).unwrap().value, None);
        let nowhere = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": []});
        assert_eq!(convert(nowhere).unwrap_err().field, "metadata.namespace");
    }

    #[test]
    fn hints_are_sets() {
        // EP-19
        let hints = json!({"forZones": [{"name": "b"}, {"name": "a"}, {"name": "b"}], "forNodes": []});
        let endpoint = endpoint(json!({"addresses": ["10.0.0.1"], "hints": hints}));
        assert_eq!(endpoint.zone_hints.iter().map(|z| &**z).collect::<Vec<_>>(), ["a", "b"]);
        assert!(endpoint.node_hints.is_empty());
    }

    #[test]
    fn a_slice_marked_headless_says_so() {
        // SVC-4
        let labels = json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""});
        let object = json!({"metadata": {"namespace": "ns", "name": "x", "labels": labels}, "addressType": "IPv4",
            "endpoints": []});
        assert!(convert(object).unwrap().value.unwrap().headless);
    }
}
