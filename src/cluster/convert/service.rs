//! Services (SVC-1 to SVC-20, as far as reading the object goes).

use k8s_openapi::api::core::v1 as core;

use super::{Converted, Converter, Outcome, Problem, address, has_label, label_text, port_number, protocol};
use crate::model::addr::{Family, parse_cidr, parse_ip};
use crate::model::service::{Ingress, Service, ServiceKind, ServicePort};

/// Services with this label are another proxy's (SVC-1).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Seconds of ClientIP affinity when the object does not say (SVC-19).
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// The longest affinity the API admits: a day.
const MAX_AFFINITY_SECONDS: i32 = 86_400;

impl Converter {
    /// A Service, slimmed. Services this proxy does not handle (SVC-1, SVC-3) are converted too:
    /// `Service::is_handled` tells, and gaining a label is then an ordinary change (SVC-2).
    ///
    /// # Errors
    /// A field that the API server would have refused.
    pub fn service(&mut self, object: &core::Service) -> Outcome<Service> {
        let name = self.object_name(&object.metadata)?;
        label_text(&name.name, "metadata.name")?;
        let empty = core::ServiceSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&empty);
        let mut warnings = Vec::new();
        let service = Service {
            name,
            created: object.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
            kind: kind(spec.type_.as_deref()),
            cluster_ip: cluster_ip(spec)?,
            cluster_ips: cluster_ips(spec)?,
            ip_families: families(spec)?,
            ports: self.service_ports(spec, &mut warnings)?,
            external_ips: external_ips(spec, &mut warnings),
            ingress: ingress(object, &mut warnings),
            source_ranges: source_ranges(spec, &mut warnings),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            affinity_seconds: affinity(spec)?,
            health_check_node_port: port_number(spec.health_check_node_port.unwrap_or(0), || {
                "spec.healthCheckNodePort".into()
            })?,
            other_proxy: has_label(&object.metadata, PROXY_NAME_LABEL),
        };
        Ok(Converted { value: Some(service), warnings })
    }

    /// `spec.ports`. A port of an unknown protocol is skipped (SVC-9): it may be newer than we are (SYNC-12).
    fn service_ports(
        &mut self,
        spec: &core::ServiceSpec,
        warnings: &mut Vec<Problem>,
    ) -> Result<Vec<ServicePort>, Problem> {
        let mut ports = Vec::new();
        for (at, port) in spec.ports.iter().flatten().enumerate() {
            let number = port_number(port.port, || format!("spec.ports[{at}].port"))?;
            if number == 0 {
                return Err(Problem::new(format!("spec.ports[{at}].port"), "is missing or 0"));
            }
            let node_port =
                port_number(port.node_port.unwrap_or(0), || format!("spec.ports[{at}].nodePort"))?;
            match protocol(port.protocol.as_deref(), || format!("spec.ports[{at}].protocol")) {
                Ok(protocol) => ports.push(ServicePort {
                    name: self.share(port_name(port.name.as_deref(), at)?),
                    protocol,
                    port: number,
                    node_port,
                }),
                Err(problem) => warnings.push(problem),
            }
        }
        Ok(ports)
    }
}

/// `spec.type`; what we do not know is ClusterIP, the API's default (SVC-20).
fn kind(text: Option<&str>) -> ServiceKind {
    match text {
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some("ExternalName") => ServiceKind::ExternalName,
        _ => ServiceKind::ClusterIp,
    }
}

/// A ClusterIP as written: an address, empty, or `None` (SVC-3).
fn check_cluster_ip(text: &str, field: impl FnOnce() -> String) -> Result<(), Problem> {
    match text {
        "" | "None" => Ok(()),
        _ => address(text, field).map(|_| ()),
    }
}

fn cluster_ip(spec: &core::ServiceSpec) -> Result<String, Problem> {
    let text = spec.cluster_ip.clone().unwrap_or_default();
    check_cluster_ip(&text, || "spec.clusterIP".into())?;
    Ok(text)
}

fn cluster_ips(spec: &core::ServiceSpec) -> Result<Vec<String>, Problem> {
    let texts = spec.cluster_ips.clone().unwrap_or_default();
    for (at, text) in texts.iter().enumerate() {
        check_cluster_ip(text, || format!("spec.clusterIPs[{at}]"))?;
    }
    Ok(texts)
}

/// `spec.ipFamilies`: an unknown one may not be skipped, as its place names a ClusterIP (SVC-6).
fn families(spec: &core::ServiceSpec) -> Result<Vec<Family>, Problem> {
    let known = |(at, text): (usize, &String)| {
        Family::ALL.into_iter().find(|family| family.to_string() == *text).ok_or_else(|| {
            Problem::new(format!("spec.ipFamilies[{at}]"), format!("'{text}' is neither IPv4 nor IPv6"))
        })
    };
    spec.ip_families.iter().flatten().enumerate().map(known).collect()
}

/// `spec.externalIPs`: one bad entry does not disable the rest, blank ones are no news (SVC-14).
fn external_ips(spec: &core::ServiceSpec, warnings: &mut Vec<Problem>) -> Vec<String> {
    keep(spec.external_ips.as_deref(), warnings, "spec.externalIPs", "IP address", |text| {
        parse_ip(text).is_some()
    })
}

/// `spec.loadBalancerSourceRanges`, the same way (SVC-14).
///
/// Bad entries stay in the list: a list of nothing but bad ranges must not read as "no list", which
/// would open the Service to everybody. `compile` skips what it cannot parse.
fn source_ranges(spec: &core::ServiceSpec, warnings: &mut Vec<Problem>) -> Vec<String> {
    let ranges = spec.load_balancer_source_ranges.as_deref();
    keep(ranges, warnings, "spec.loadBalancerSourceRanges", "CIDR", |text| parse_cidr(text).is_some());
    ranges.unwrap_or_default().to_vec()
}

/// The entries that pass a test; a warning for each other one that is not blank.
fn keep(
    entries: Option<&[String]>,
    warnings: &mut Vec<Problem>,
    field: &str,
    what: &str,
    good: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut kept = Vec::new();
    for (at, text) in entries.unwrap_or_default().iter().enumerate() {
        if good(text) {
            kept.push(text.clone());
        } else if !text.trim().is_empty() {
            warnings.push(Problem::new(
                format!("{field}[{at}]"),
                format!("'{text}' is no {what}; skipped (SVC-14)"),
            ));
        }
    }
    kept
}

/// `status.loadBalancer.ingress`: entries that have an `ip`; host names are a matter for DNS.
fn ingress(object: &core::Service, warnings: &mut Vec<Problem>) -> Vec<Ingress> {
    let entries =
        object.status.iter().filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref()).flatten();
    let mut kept = Vec::new();
    for (at, entry) in entries.enumerate() {
        let Some(ip) = entry.ip.as_deref().filter(|ip| !ip.trim().is_empty()) else { continue };
        if parse_ip(ip).is_none() {
            let field = format!("status.loadBalancer.ingress[{at}].ip");
            warnings.push(Problem::new(field, format!("'{ip}' is no IP address; skipped (SVC-14)")));
            continue;
        }
        // nil and unknown ipMode are VIP (SVC-20).
        kept.push(Ingress { ip: ip.into(), proxy: entry.ip_mode.as_deref() == Some("Proxy") });
    }
    kept
}

/// Seconds of affinity; an unknown kind is none (SVC-20), a missing configuration is three hours (SVC-19).
fn affinity(spec: &core::ServiceSpec) -> Result<Option<u32>, Problem> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return Ok(None);
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    match client_ip.and_then(|config| config.timeout_seconds) {
        None => Ok(Some(DEFAULT_AFFINITY_SECONDS)),
        Some(seconds @ 1..=MAX_AFFINITY_SECONDS) => Ok(Some(seconds.unsigned_abs())),
        Some(seconds) => Err(Problem::new(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("{seconds} is not within 1 to {MAX_AFFINITY_SECONDS} seconds"),
        )),
    }
}

/// `spec.ports[at].name`; empty if it has none.
fn port_name(name: Option<&str>, at: usize) -> Result<&str, Problem> {
    label_text(name.unwrap_or_default(), &format!("spec.ports[{at}].name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn convert(spec: serde_json::Value) -> Outcome<Service> {
        let object = json!({"metadata": {"namespace": "ns", "name": "web", "creationTimestamp": "2026-01-02T03:04:05Z"},
                            "spec": spec});
        Converter::new().service(&serde_json::from_value(object).unwrap())
    }

    fn good(spec: serde_json::Value) -> Service {
        convert(spec).unwrap().value.unwrap()
    }

    #[test]
    fn names_that_no_row_could_hold_are_refused_by_field() {
        let long = "x".repeat(64);
        let named =
            |name: &str| convert(json!({"clusterIP": "172.30.0.1", "ports": [{"port": 80, "name": name}]}));
        for bad in [long.as_str(), "a\0b", "a b", "a/b"] {
            assert_eq!(named(bad).unwrap_err().field, "spec.ports[0].name", "{bad:?}");
        }
        assert!(named(&long[1..]).is_ok());
        let object =
            json!({"metadata": {"namespace": "x\0y", "name": "web"}, "spec": {"clusterIP": "172.30.0.1"}});
        let refused = Converter::new().service(&serde_json::from_value(object).unwrap()).unwrap_err();
        assert_eq!(refused.field, "metadata.namespace");
    }

    #[test]
    fn ports_affinity_and_policies_are_read_with_the_api_defaults() {
        // SVC-19, SVC-20, EP-3
        let service =
            good(json!({"clusterIP": "172.30.0.041", "ports": [{"port": 80}], "sessionAffinity": "ClientIP",
            "internalTrafficPolicy": "Elsewhere", "externalTrafficPolicy": "Local", "type": "Strange"}));
        assert_eq!(service.ports[0].protocol.name(), "TCP");
        assert_eq!(service.affinity_seconds, Some(10_800));
        assert!(!service.internal_local && service.external_local);
        assert_eq!(service.kind, ServiceKind::ClusterIp);
        assert_eq!(service.created, Some(1_767_323_045));
        assert_eq!(service.cluster_ip(Family::V4).unwrap().to_string(), "172.30.0.41"); // SVC-13
    }

    #[test]
    fn one_bad_address_does_not_disable_the_rest() {
        // SVC-14
        let converted = convert(json!({"clusterIP": "172.30.0.1", "ports": [{"port": 80}],
            "externalIPs": ["1.2.3.4", " ", "nonsense"], "loadBalancerSourceRanges": ["10.0.0.0/99"]}))
        .unwrap();
        let service = converted.value.unwrap();
        assert_eq!(service.external_ips, ["1.2.3.4"]);
        assert_eq!(service.source_ranges, ["10.0.0.0/99"], "a list of bad ranges is still a list");
        let fields: Vec<_> = converted.warnings.iter().map(|w| w.field.as_str()).collect();
        assert_eq!(fields, ["spec.externalIPs[2]", "spec.loadBalancerSourceRanges[0]"]);
    }

    #[test]
    fn a_port_of_an_unknown_protocol_is_skipped_alone() {
        // SVC-9, SYNC-12
        let converted = convert(
            json!({"ports": [{"name": "q", "port": 1, "protocol": "QUIC"}, {"port": 2, "protocol": "UDP"}]}),
        )
        .unwrap();
        assert_eq!(converted.value.unwrap().ports.len(), 1);
        assert_eq!(converted.warnings[0].field, "spec.ports[0].protocol");
    }

    #[test]
    fn what_the_api_server_would_refuse_is_an_error_with_its_field() {
        let cases = [
            (json!({"ports": [{"port": 80}, {"port": 70000}]}), "spec.ports[1].port"),
            (json!({"ports": [{"port": 0}]}), "spec.ports[0].port"),
            (json!({"ports": [{"port": 80, "nodePort": -1}]}), "spec.ports[0].nodePort"),
            (json!({"clusterIP": "10.0.0"}), "spec.clusterIP"),
            (json!({"clusterIPs": ["10.0.0.1", "x"]}), "spec.clusterIPs[1]"),
            (json!({"ipFamilies": ["IPv5"]}), "spec.ipFamilies[0]"),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            ),
        ];
        for (spec, field) in cases {
            assert_eq!(convert(spec).unwrap_err().field, field);
        }
    }

    #[test]
    fn a_service_of_another_proxy_is_marked_and_not_dropped() {
        // SVC-1, SVC-2
        let object = json!({"metadata": {"namespace": "ns", "name": "web",
            "labels": {"service.kubernetes.io/service-proxy-name": ""}}, "spec": {"clusterIP": "172.30.0.1"}});
        let service =
            Converter::new().service(&serde_json::from_value(object).unwrap()).unwrap().value.unwrap();
        assert!(service.other_proxy && !service.is_handled());
    }
}
