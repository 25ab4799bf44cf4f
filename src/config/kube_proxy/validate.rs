//! What kube-proxy refuses, with its words and its paths (pkg/proxy/apis/config/validation).

use std::collections::BTreeMap;

use super::decode::FieldError;
use super::defaults::split_host_port;
use super::types::{FlushFrequency, KubeProxyConfiguration, LogRouting};
use crate::config::duration::GoDuration;
use crate::model::addr::{Family, parse_cidr, parse_ip};

/// Everything that is wrong with a configuration whose defaults are set. `lines` are those of the file.
pub fn validate(config: &KubeProxyConfiguration, lines: &BTreeMap<String, u64>) -> Vec<FieldError> {
    let mut check = Check { lines, found: Vec::new() };
    sections(config, &mut check);
    conntrack(config, &mut check);
    addresses(config, &mut check);
    detector(config, &mut check);
    logging(config, &mut check);
    check.found
}

struct Check<'a> {
    lines: &'a BTreeMap<String, u64>,
    found: Vec<FieldError>,
}

impl Check<'_> {
    /// A value that must not be: our field, kube-proxy's path below `KubeProxyConfiguration`, and its words.
    fn invalid(&mut self, field: &str, path: &str, value: impl std::fmt::Debug, why: &str) {
        let message = format!("KubeProxyConfiguration.{path}: Invalid value: {value:?}: {why}");
        self.found.push(FieldError::new(field, self.lines.get(field).copied(), message));
    }

    fn not_negative(&mut self, field: &str, path: &str, duration: Option<GoDuration>) {
        if let Some(duration) = duration.filter(|duration| duration.nanos < 0) {
            self.invalid(field, path, duration.to_string(), "must be greater than or equal to 0");
        }
    }

    fn at_least_zero(&mut self, field: &str, path: &str, value: Option<i32>) {
        if let Some(value) = value.filter(|value| *value < 0) {
            self.invalid(field, path, value, "must be greater than or equal to 0");
        }
    }

    fn bit(&mut self, field: &str, path: &str, bit: Option<i32>) {
        if let Some(bit) = bit.filter(|bit| !(0..=31).contains(bit)) {
            self.invalid(field, path, bit, "must be within the range [0, 31]");
        }
    }
}

fn sections(config: &KubeProxyConfiguration, check: &mut Check<'_>) {
    check.bit(
        "iptables.masqueradeBit",
        "KubeProxyIPTablesConfiguration.MasqueradeBit",
        config.iptables.masquerade_bit,
    );
    let (section, sync, min) = match config.mode.as_str() {
        "nftables" => ("nftables", config.nftables.sync_period, config.nftables.min_sync_period),
        "ipvs" => ("ipvs", config.ipvs.sync_period, config.ipvs.min_sync_period),
        _ => ("iptables", config.iptables.sync_period, config.iptables.min_sync_period),
    };
    match config.mode.as_str() {
        "nftables" => check.bit(
            "nftables.masqueradeBit",
            "KubeProxyNFTablesConfiguration.MasqueradeBit",
            config.nftables.masquerade_bit,
        ),
        "ipvs" => ipvs(config, check),
        "iptables" | "" => {}
        other => check.invalid(
            "mode",
            "Mode.ProxyMode",
            other,
            "must be iptables, ipvs, nftables or blank (blank means the best-available proxy [currently iptables])",
        ),
    }
    if config.client_connection.burst < 0 {
        let burst = config.client_connection.burst;
        check.invalid(
            "clientConnection.burst",
            "ClientConnection.Burst",
            burst,
            "must be greater than or equal to 0",
        );
    }
    if config.config_sync_period.nanos <= 0 {
        let period = config.config_sync_period.to_string();
        check.invalid("configSyncPeriod", "ConfigSyncPeriod", period, "must be greater than 0");
    }
    let (sync_field, min_field) = (format!("{section}.syncPeriod"), format!("{section}.minSyncPeriod"));
    if sync.nanos <= 0 {
        check.invalid(&sync_field, "SyncPeriod", sync.to_string(), "must be greater than 0");
    }
    check.not_negative(&min_field, "MinSyncPeriod", Some(min));
    if min > sync {
        let why = "must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod";
        check.invalid(&sync_field, "SyncPeriod", min.to_string(), why);
    }
}

fn ipvs(config: &KubeProxyConfiguration, check: &mut Check<'_>) {
    let ipvs = &config.ipvs;
    check.not_negative("ipvs.tcpTimeout", "KubeProxyIPVSConfiguration.TCPTimeout", Some(ipvs.tcp_timeout));
    check.not_negative(
        "ipvs.tcpFinTimeout",
        "KubeProxyIPVSConfiguration.TCPFinTimeout",
        Some(ipvs.tcp_fin_timeout),
    );
    check.not_negative("ipvs.udpTimeout", "KubeProxyIPVSConfiguration.UDPTimeout", Some(ipvs.udp_timeout));
    for (at, cidr) in ipvs.exclude_cidrs.iter().flatten().enumerate() {
        if parse_cidr(cidr).is_none() {
            let path = format!("KubeProxyIPVSConfiguration.ExcludeCidrs[{at}]");
            check.invalid("ipvs.excludeCIDRs", &path, cidr, "must be a valid CIDR");
        }
    }
}

fn conntrack(config: &KubeProxyConfiguration, check: &mut Check<'_>) {
    let conntrack = &config.conntrack;
    let path = |name: &str| format!("KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration.{name}");
    check.at_least_zero("conntrack.maxPerCore", &path("MaxPerCore"), conntrack.max_per_core);
    check.at_least_zero("conntrack.min", &path("Min"), conntrack.min);
    for (field, name, duration) in [
        ("tcpEstablishedTimeout", "TCPEstablishedTimeout", conntrack.tcp_established_timeout),
        ("tcpCloseWaitTimeout", "TCPCloseWaitTimeout", conntrack.tcp_close_wait_timeout),
        ("udpTimeout", "UDPTimeout", Some(conntrack.udp_timeout)),
        ("udpStreamTimeout", "UDPStreamTimeout", Some(conntrack.udp_stream_timeout)),
    ] {
        check.not_negative(&format!("conntrack.{field}"), &path(name), duration);
    }
    if let Some(score) = config.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
        let path = "KubeProxyLinuxConfiguration.OOMScoreAdj";
        check.invalid("oomScoreAdj", path, score, "must be within the range [-1000, 1000]");
    }
}

fn addresses(config: &KubeProxyConfiguration, check: &mut Check<'_>) {
    if parse_ip(&config.bind_address).is_none() {
        let why = "not a valid textual representation of an IP address";
        check.invalid("bindAddress", "BindAddress", &config.bind_address, why);
    }
    host_port("healthzBindAddress", "HealthzBindAddress", &config.healthz_bind_address, check);
    host_port("metricsBindAddress", "MetricsBindAddress", &config.metrics_bind_address, check);
    let ports = config.node_port_addresses.as_deref().unwrap_or_default();
    for (at, text) in ports.iter().enumerate() {
        let path = format!("NodePortAddresses[{at}]");
        if text == "primary" {
            if ports.len() != 1 {
                check.invalid("nodePortAddresses", &path, text, "can't use both 'primary' and CIDRs");
            }
            break;
        }
        if parse_cidr(text).is_none() {
            check.invalid("nodePortAddresses", &path, text, "must be a valid CIDR");
        }
    }
}

/// An empty address is no server.
fn host_port(field: &str, path: &str, text: &str, check: &mut Check<'_>) {
    if text.is_empty() {
        return;
    }
    let Some((host, port)) = split_host_port(text) else {
        return check.invalid(field, path, text, "must be IP:port");
    };
    if parse_ip(host).is_none() {
        check.invalid(field, path, host, "must be a valid IP");
    }
    if !port.parse().is_ok_and(|port: u16| port > 0) {
        check.invalid(field, path, port, "must be a valid port");
    }
}

fn detector(config: &KubeProxyConfiguration, check: &mut Check<'_>) {
    const PAIR: &str = "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]";
    let detect = &config.detect_local;
    match config.detect_local_mode.as_str() {
        "BridgeInterface" if detect.bridge_interface.is_empty() => {
            check.invalid(
                "detectLocal.bridgeInterface",
                "DetectLocalConfiguration.InterfaceName",
                "",
                "must not be empty",
            );
        }
        "InterfaceNamePrefix" if detect.interface_name_prefix.is_empty() => {
            let path = "DetectLocalConfiguration.InterfacePrefix";
            check.invalid("detectLocal.interfaceNamePrefix", path, "", "must not be empty");
        }
        "ClusterCIDR" if !config.cluster_cidr.is_empty() => {
            let path = "DetectLocalConfiguration.ClusterCIDRs";
            let texts: Vec<_> = config.cluster_cidr.split(',').map(str::trim).collect();
            let nets: Vec<_> = texts.iter().map(|text| parse_cidr(text)).collect();
            if texts.len() > 2 {
                return check.invalid("clusterCIDR", path, &texts, PAIR);
            }
            for (at, text) in texts.iter().enumerate().filter(|(at, _)| nets[*at].is_none()) {
                let why = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)";
                check.invalid("clusterCIDR", &format!("{path}[{at}]"), text, why);
            }
            let families: Vec<_> = nets.iter().flatten().map(|net| Family::of(net.addr())).collect();
            if families.len() == 2 && families[0] == families[1] {
                check.invalid("clusterCIDR", path, &texts, PAIR);
            }
        }
        "ClusterCIDR" | "NodeCIDR" | "BridgeInterface" | "InterfaceNamePrefix" => {}
        other => {
            let message = format!(
                "KubeProxyConfiguration.DetectLocalMode: Unsupported value: {other:?}: supported values: \
                 \"ClusterCIDR\", \"NodeCIDR\", \"BridgeInterface\", \"InterfaceNamePrefix\", \"\""
            );
            let line = check.lines.get("detectLocalMode").copied();
            check.found.push(FieldError::new("detectLocalMode", line, message));
        }
    }
}

fn logging(config: &KubeProxyConfiguration, check: &mut Check<'_>) {
    let logging = &config.logging;
    let nanos = match logging.flush_frequency {
        FlushFrequency::Nanos(nanos) | FlushFrequency::Text(GoDuration { nanos }) => nanos,
    };
    if nanos <= 0 {
        check.invalid("logging.flushFrequency", "logging.flushFrequency", nanos, "Must be greater than zero");
    }
    if !matches!(logging.format.as_str(), "text" | "json") {
        check.invalid("logging.format", "logging.format", &logging.format, "Unsupported log format");
    }
    let most = i32::MAX.unsigned_abs();
    let too_much = format!("Must be <= {most}");
    if logging.verbosity > most {
        check.invalid("logging.verbosity", "logging.verbosity", logging.verbosity, &too_much);
    }
    for (at, item) in logging.vmodule.iter().enumerate() {
        let path = format!("logging.vmodule[{at}]");
        if item.file_pattern.is_empty() {
            check.invalid("logging.vmodule", &path, "", "File pattern must not be empty");
        }
        if item.file_pattern.contains(['=', ',']) {
            let why = "File pattern must not contain equal sign or comma";
            check.invalid("logging.vmodule", &path, &item.file_pattern, why);
        }
        if item.verbosity > most {
            check.invalid("logging.vmodule", &path, item.verbosity, &too_much);
        }
    }
    let is_alpha = config.feature_gates.get("LoggingAlphaOptions").is_some_and(|is_on| *is_on);
    for (format, LogRouting { split_stream, info_buffer_size }) in
        [("text", &logging.options.text), ("json", &logging.options.json)]
    {
        let why = "Feature LoggingAlphaOptions is disabled";
        for (name, is_used) in [("splitStream", *split_stream), ("infoBufferSize", info_buffer_size != "0")] {
            if is_used && !is_alpha {
                let path = format!("logging.options.{format}.{name}");
                check.invalid(&path, &path, is_used, why);
            }
        }
    }
}
