//! What a configuration means where it says nothing: kube-proxy's defaults, but for one (see [`set`]).

use std::net::IpAddr;

use serde_json::json;

use super::types::{FlushFrequency, KubeProxyConfiguration, LogRouting};
use crate::config::duration::GoDuration;
use crate::model::addr::parse_ip;

/// The port of the health check server.
pub const HEALTHZ_PORT: u16 = 10256;
/// The port of the metrics server.
pub const METRICS_PORT: u16 = 10249;

/// Fills in what is empty. `minSyncPeriod` stays 0 where kube-proxy has 1s: a change is written at once.
pub fn set(config: &mut KubeProxyConfiguration) {
    let text = |at: &mut String, value: &str| {
        if at.is_empty() {
            value.clone_into(at);
        }
    };
    let period = |at: &mut GoDuration, seconds| {
        if at.nanos == 0 {
            *at = GoDuration::from_secs(seconds);
        }
    };
    text(&mut config.bind_address, "0.0.0.0");
    let is_v4 = parse_ip(&config.bind_address).is_some_and(|ip| ip.to_canonical().is_ipv4());
    let (healthz, metrics) = if is_v4 { ("0.0.0.0", "127.0.0.1") } else { ("::", "::1") };
    address(&mut config.healthz_bind_address, healthz, HEALTHZ_PORT);
    address(&mut config.metrics_bind_address, metrics, METRICS_PORT);
    config.oom_score_adj.get_or_insert(-999);
    period(&mut config.iptables.sync_period, 30);
    period(&mut config.ipvs.sync_period, 30);
    period(&mut config.nftables.sync_period, 30);
    config.iptables.localhost_node_ports.get_or_insert(true);
    config.iptables.masquerade_bit.get_or_insert(14);
    config.nftables.masquerade_bit.get_or_insert(14);
    let conntrack = &mut config.conntrack;
    conntrack.max_per_core.get_or_insert(32 * 1024);
    conntrack.min.get_or_insert(128 * 1024);
    conntrack.tcp_established_timeout.get_or_insert(GoDuration::from_secs(24 * 3600));
    conntrack.tcp_close_wait_timeout.get_or_insert(GoDuration::from_secs(3600));
    period(&mut config.config_sync_period, 15 * 60);
    let client = &mut config.client_connection;
    text(&mut client.content_type, "application/vnd.kubernetes.protobuf");
    if client.qps.as_f64().unwrap_or_default() == 0.0 {
        client.qps = json!(5);
    }
    if client.burst == 0 {
        client.burst = 10;
    }
    let logging = &mut config.logging;
    text(&mut logging.format, "text");
    if matches!(
        logging.flush_frequency,
        FlushFrequency::Nanos(0) | FlushFrequency::Text(GoDuration { nanos: 0 })
    ) {
        logging.flush_frequency = FlushFrequency::Text(GoDuration::from_secs(5));
    }
    for LogRouting { info_buffer_size, .. } in [&mut logging.options.text, &mut logging.options.json] {
        text(info_buffer_size, "0");
    }
}

/// What follows from the machine being Linux: it is done after the defaults, and `None` is the answer to
/// what nobody said.
pub fn set_for_linux(config: &mut KubeProxyConfiguration) {
    if config.mode.is_empty() {
        "iptables".clone_into(&mut config.mode);
    }
    if config.mode == "nftables" && config.node_port_addresses.as_ref().is_none_or(Vec::is_empty) {
        config.node_port_addresses = Some(vec!["primary".into()]);
    }
    if config.detect_local_mode.is_empty() {
        "ClusterCIDR".clone_into(&mut config.detect_local_mode);
    }
    keep_section_of_mode(config);
}

/// kube-proxy has these once, taken from the section of the mode, and shows them there alone.
fn keep_section_of_mode(config: &mut KubeProxyConfiguration) {
    let zero = GoDuration::default();
    let mode = config.mode.clone();
    if mode == "nftables" {
        config.iptables.masquerade_all = false;
    } else {
        config.nftables.masquerade_all = false;
        (config.nftables.sync_period, config.nftables.min_sync_period) = (zero, zero);
    }
    if mode != "ipvs" {
        (config.ipvs.sync_period, config.ipvs.min_sync_period) = (zero, zero);
    }
    if mode == "ipvs" || mode == "nftables" {
        (config.iptables.sync_period, config.iptables.min_sync_period) = (zero, zero);
    }
}

/// An address where a server listens: the default if it is empty, with a port if it has none.
fn address(at: &mut String, default: &str, port: u16) {
    if at.is_empty() {
        default.clone_into(at);
    }
    with_port(at, port);
}

/// Adds a port to an address without one; leaves what is no address to validation.
pub fn with_port(at: &mut String, port: u16) {
    if split_host_port(at).is_some() {
        return;
    }
    match parse_ip(at) {
        Some(IpAddr::V4(_)) => *at = format!("{at}:{port}"),
        Some(IpAddr::V6(_)) => *at = format!("[{at}]:{port}"),
        None => {}
    }
}

/// `HOST:PORT` or `[HOST]:PORT`, as Go's `SplitHostPort` sees it.
pub fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains([':', '[', ']']) => return None,
        None => host,
    };
    (!host.contains(['[', ']']) && !port.contains(['[', ']'])).then_some((host, port))
}
