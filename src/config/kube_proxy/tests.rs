//! Files and flags, and what they come to.

use serde_json::{Value, json};

use super::fields::{Effect, FIELDS, Kind};
use super::*;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
const KUBEADM: &str = include_str!("../../../tests/data/config/kubeadm.conf");
const RECORDED: &str = include_str!("../../../tests/data/recorded/kube-proxy-config.yaml");
const CONFIGZ: &str = include_str!("../../../tests/data/recorded/configz.json");

/// A file of these fields, besides those that say what it is; the first is in line 3.
fn file(fields: &str) -> Result<Effective, FieldError> {
    effective(Some(&format!("{HEAD}{fields}\n")), &[])
}

fn flags(line: &str) -> GivenFlags {
    let one = |flag: &str| {
        let (name, value) = flag.trim_start_matches('-').split_once('=').expect("a flag with a value");
        (name.to_owned(), vec![value.to_owned()])
    };
    line.split_whitespace().map(one).collect()
}

#[test]
fn kubeadms_file_loads_without_a_word() {
    // CFG-1, CFG-8
    let effective = effective(Some(KUBEADM), &[]).unwrap();
    assert_eq!(effective.warnings, [""; 0]);
    let config = &effective.config;
    assert_eq!(config.client_connection.kubeconfig, "/var/lib/kube-proxy/kubeconfig.conf");
    assert_eq!((config.mode.as_str(), config.detect_local_mode.as_str()), ("iptables", "ClusterCIDR"));
    assert_eq!(config.healthz_bind_address, "0.0.0.0:10256");
    assert_eq!(config.metrics_bind_address, "127.0.0.1:10249");
    assert_eq!(effective.detector().unwrap(), Detector::Cidrs(vec!["10.244.0.0/16".parse().unwrap()]));
    assert_eq!(config.node_port_addresses, None, "all local addresses (DEC-3)");
}

#[test]
fn configz_is_what_kube_proxy_showed_for_the_same_file() {
    let effective = effective(Some(RECORDED), &flags("--v=4")).unwrap();
    assert_eq!(effective.warnings, [""; 0]);
    let mut recorded: Value = serde_json::from_str(CONFIGZ).unwrap();
    // The one default that differs (issue 5: no waiting unless somebody asks for it).
    assert_eq!(recorded["kubeproxy.config.k8s.io"]["nftables"]["minSyncPeriod"].take(), "1s");
    recorded["kubeproxy.config.k8s.io"]["nftables"]["minSyncPeriod"] = "0s".into();
    assert_eq!(configz(&effective.config), recorded);
}

#[test]
fn what_is_written_loads_again_equal() {
    // CFG-4
    let nodes = "mode: ipvs\nipvs: {minSyncPeriod: 2s}\niptables: {masqueradeAll: true}\nnodePortAddresses: [10.0.0.0/8]";
    for text in [
        KUBEADM.to_owned(),
        RECORDED.to_owned(),
        format!("{HEAD}{nodes}"),
        format!("{HEAD}bindAddress: '::'"),
    ] {
        let first = effective(Some(&text), &[]).unwrap();
        let again = effective(Some(&first.to_yaml().unwrap()), &[]).unwrap();
        assert_eq!(again.config, first.config);
    }
    let given =
        flags("--masquerade-all=true --proxy-mode=iptables --iptables-min-sync-period=3s --conntrack-min=7");
    let first = effective(None, &given).unwrap();
    let again = effective(Some(&first.to_yaml().unwrap()), &[]).unwrap();
    assert_eq!(again.config, first.config);
    let closed = effective(None, &flags("--metrics-bind-address=")).unwrap();
    assert!(closed.to_yaml().unwrap_err().to_string().contains("--metrics-bind-address"));
}

#[test]
fn strict_decoding_fails_into_a_warning_with_field_and_line() {
    // CFG-1
    let lenient =
        file("unknown: 1\niptables:\n  masqueradeBit: 3\n  noSuch: {a: b}\nmode: ipvs\nmode: nftables")
            .unwrap();
    let first = &lenient.warnings[0];
    for part in [
        "unknown field \"unknown\" (line 3)",
        "unknown field \"iptables.noSuch\" (line 6)",
        "duplicate field \"mode\" (line 8)",
    ] {
        assert!(first.contains(part), "{first}");
    }
    assert_eq!(lenient.config.mode, "nftables", "the last one counts, as in kube-proxy");
    let nested = file("logging: {vmodule: [{filePattern: a, verbosity: 2, more: 1}]}").unwrap();
    assert!(nested.warnings[0].contains("logging.vmodule[0].more"), "{:?}", nested.warnings);
}

#[test]
fn another_kind_is_refused_with_the_line() {
    // CFG-1
    let error = |text: &str| effective(Some(text), &[]).unwrap_err().to_string();
    assert_eq!(
        error("apiVersion: v1\nkind: ConfigMap\n"),
        "apiVersion (line 1): is 'v1', and must be 'kubeproxy.config.k8s.io/v1alpha1'"
    );
    let kind = error("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: ConfigMap\ndata: {}\n");
    assert!(kind.starts_with("kind (line 2): is 'ConfigMap'") && kind.contains("its data"), "{kind}");
    assert!(error("mode: x\n").starts_with("apiVersion (line 1): is missing"));
    assert!(error("").starts_with("line 1: holds nothing"));
    assert!(error("- a\n").starts_with("line 1: holds a list"));
    assert!(error("a: [1\nb: 2\n").starts_with("line "));
}

#[test]
fn a_wrong_type_is_refused_with_field_and_line() {
    // CFG-1
    for (fields, wanted) in [
        ("mode: 3", "mode (line 3): is a number, and must be text"),
        ("iptables: []", "iptables (line 3): is a list, and must be a map"),
        ("iptables:\n  masqueradeBit: '14'", "iptables.masqueradeBit (line 4): is text"),
        ("oomScoreAdj: 4294967296", "oomScoreAdj (line 3): 4294967296 is not a whole number of 32 bits"),
        ("oomScoreAdj: 1.5", "oomScoreAdj (line 3): 1.5 is not"),
        ("bindAddressHardFail: 'true'", "bindAddressHardFail (line 3): is text, and must be true or false"),
        ("configSyncPeriod: 30", "configSyncPeriod (line 3): is a number, and must be a duration"),
        ("configSyncPeriod: 1d", "configSyncPeriod (line 3): '1d' is no duration"),
        ("nodePortAddresses: primary", "nodePortAddresses (line 3): is text, and must be a list"),
        ("nodePortAddresses: [1]", "nodePortAddresses[0] (line 3): is a number"),
        ("featureGates: {A: 1}", "featureGates.A (line 3): is a number"),
        ("logging: {verbosity: -1}", "logging.verbosity (line 3): -1 is not"),
        (
            "logging: {options: {text: {infoBufferSize: lots}}}",
            "logging.options.text.infoBufferSize (line 3): 'lots'",
        ),
    ] {
        let error = file(fields).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{fields}: {error}");
    }
}

/// Files that kube-proxy refuses, and a part of what it says.
const REFUSED: &[(&str, &str)] = &[
    (
        "bindAddress: here",
        "bindAddress (line 3): KubeProxyConfiguration.BindAddress: Invalid value: \"here\": not a valid textual representation of an IP address",
    ),
    (
        "healthzBindAddress: '1.2.3.4:0'",
        "KubeProxyConfiguration.HealthzBindAddress: Invalid value: \"0\": must be a valid port",
    ),
    (
        "metricsBindAddress: 'name:80'",
        "KubeProxyConfiguration.MetricsBindAddress: Invalid value: \"name\": must be a valid IP",
    ),
    ("metricsBindAddress: name", "must be IP:port"),
    (
        "mode: userspace",
        "KubeProxyConfiguration.Mode.ProxyMode: Invalid value: \"userspace\": must be iptables, ipvs, nftables",
    ),
    (
        "iptables: {masqueradeBit: 32}",
        "KubeProxyIPTablesConfiguration.MasqueradeBit: Invalid value: 32: must be within the range [0, 31]",
    ),
    (
        "mode: nftables\nnftables: {masqueradeBit: -1}",
        "nftables.masqueradeBit (line 4): KubeProxyConfiguration.KubeProxyNFTablesConfiguration.MasqueradeBit",
    ),
    (
        "iptables: {syncPeriod: 1s, minSyncPeriod: 2s}",
        "must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod",
    ),
    (
        "iptables: {syncPeriod: -1s}",
        "KubeProxyConfiguration.SyncPeriod: Invalid value: \"-1s\": must be greater than 0",
    ),
    ("iptables: {minSyncPeriod: -1s}", "KubeProxyConfiguration.MinSyncPeriod: Invalid value: \"-1s\""),
    ("configSyncPeriod: -1s", "KubeProxyConfiguration.ConfigSyncPeriod"),
    ("clientConnection: {burst: -1}", "KubeProxyConfiguration.ClientConnection.Burst"),
    ("mode: ipvs\nipvs: {tcpTimeout: -1s}", "KubeProxyIPVSConfiguration.TCPTimeout"),
    ("mode: ipvs\nipvs: {excludeCIDRs: [a]}", "KubeProxyIPVSConfiguration.ExcludeCidrs[0]"),
    ("conntrack: {maxPerCore: -1}", "KubeProxyConntrackConfiguration.MaxPerCore: Invalid value: -1"),
    ("conntrack: {tcpCloseWaitTimeout: -1s}", "KubeProxyConntrackConfiguration.TCPCloseWaitTimeout"),
    ("conntrack: {udpTimeout: -1s}", "KubeProxyConntrackConfiguration.UDPTimeout"),
    (
        "oomScoreAdj: 1001",
        "KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: 1001: must be within the range [-1000, 1000]",
    ),
    (
        "nodePortAddresses: [primary, 10.0.0.0/8]",
        "KubeProxyConfiguration.NodePortAddresses[0]: Invalid value: \"primary\": can't use both 'primary' and CIDRs",
    ),
    (
        "nodePortAddresses: [10.0.0.0/8, x]",
        "KubeProxyConfiguration.NodePortAddresses[1]: Invalid value: \"x\": must be a valid CIDR",
    ),
    (
        "detectLocalMode: Guess",
        "KubeProxyConfiguration.DetectLocalMode: Unsupported value: \"Guess\": supported values:",
    ),
    ("detectLocalMode: BridgeInterface", "DetectLocalConfiguration.InterfaceName"),
    ("detectLocalMode: InterfaceNamePrefix", "DetectLocalConfiguration.InterfacePrefix"),
    (
        "clusterCIDR: 10.0.0.0",
        "clusterCIDR (line 3): KubeProxyConfiguration.DetectLocalConfiguration.ClusterCIDRs[0]",
    ),
    ("clusterCIDR: '10.0.0.0/8,10.1.0.0/16'", "must be a either a single CIDR or dual-stack pair"),
    ("clusterCIDR: '10.0.0.0/8,fd00::/64,10.1.0.0/16'", "must be a either a single CIDR or dual-stack pair"),
    (
        "logging: {format: xml}",
        "KubeProxyConfiguration.logging.format: Invalid value: \"xml\": Unsupported log format",
    ),
    ("logging: {flushFrequency: -1}", "Must be greater than zero"),
    ("logging: {verbosity: 2147483648}", "Must be <= 2147483647"),
    ("logging: {vmodule: [{filePattern: '', verbosity: 1}]}", "File pattern must not be empty"),
    ("logging: {vmodule: [{filePattern: 'a=b', verbosity: 1}]}", "must not contain equal sign or comma"),
    ("logging: {options: {json: {splitStream: true}}}", "Feature LoggingAlphaOptions is disabled"),
];

#[test]
fn what_kube_proxy_refuses_is_refused_in_its_words() {
    // CFG-2, NP-3, NP-4
    for (fields, wanted) in REFUSED {
        let error = file(fields).expect_err(fields).to_string();
        assert!(error.contains(wanted), "{fields}: {error}");
    }
}

/// For each field without an effect: a value that is not its default, in a file that kube-proxy would take.
fn odd(path: &str, kind: Kind) -> Value {
    match (path, kind) {
        ("nodePortAddresses" | "ipvs.excludeCIDRs", _) => json!(["10.0.0.0/8"]),
        ("iptables.localhostNodePorts", _) => json!(false),
        (_, Kind::Bool) => json!(true),
        (_, Kind::Int | Kind::Level | Kind::Number) => json!(7),
        (_, Kind::Duration | Kind::Flush) => json!("7s"),
        (_, Kind::Texts) => json!(["x"]),
        (_, Kind::Gates) => json!({"LoggingAlphaOptions": true}),
        (_, Kind::VModule) => json!([{"filePattern": "a", "verbosity": 2}]),
        (_, Kind::Quantity) => json!("4Ki"),
        (_, Kind::Text) => json!("x"),
    }
}

#[test]
fn each_field_without_effect_is_named_and_no_other_is() {
    // CFG-2
    for field in FIELDS {
        let is_silent = match field.effect {
            Effect::Does(_) => continue,
            Effect::OfMode(_) => field.path.starts_with("nftables."),
            Effect::NotYet(_) | Effect::Never(_) => false,
        };
        let mut text = json!({"apiVersion": types::API_VERSION, "kind": types::KIND, "mode": "nftables"});
        text["clusterCIDR"] = "10.0.0.0/8".into();
        let alpha = field.path.starts_with("logging.options");
        let gates = [("featureGates", json!({"LoggingAlphaOptions": true}))];
        let values = vec![(field.path, odd(field.path, field.kind))];
        let values = if alpha { [values, gates.to_vec()].concat() } else { values };
        Patch { values, ..Patch::default() }.apply(&mut text);
        let effective = effective(Some(&text.to_string()), &[]).unwrap();
        let named =
            effective.warnings.iter().filter(|warning| warning.starts_with(&format!("{}: ", field.path)));
        assert_eq!(named.count(), usize::from(!is_silent), "{}: {:?}", field.path, effective.warnings);
        let most = 1 + usize::from(alpha);
        assert!(effective.warnings.len() <= most, "{}: {:?}", field.path, effective.warnings);
    }
}

#[test]
fn each_field_with_an_effect_has_it() {
    // CFG-2, SNAT-5, SNAT-8, HLT-8
    let config = |fields: &str| file(fields).unwrap();
    let shown = |fields: &str, path: &str| {
        let value = serde_json::to_value(config(fields).config).unwrap();
        path.split('.').fold(value, |value, key| value[key].clone())
    };
    for (fields, path, wanted) in [
        ("clientConnection: {kubeconfig: /k}", "clientConnection.kubeconfig", json!("/k")),
        ("logging: {format: json}", "logging.format", json!("json")),
        ("logging: {verbosity: 5}", "logging.verbosity", json!(5)),
        ("hostnameOverride: n", "hostnameOverride", json!("n")),
        ("bindAddress: fd00::1", "healthzBindAddress", json!("[::]:10256")),
        ("bindAddress: 10.0.0.1", "metricsBindAddress", json!("127.0.0.1:10249")),
        ("healthzBindAddress: 10.0.0.1", "healthzBindAddress", json!("10.0.0.1:10256")),
        ("healthzBindAddress: 'fd00::1'", "healthzBindAddress", json!("[fd00::1]:10256")),
        ("metricsBindAddress: 0.0.0.0", "metricsBindAddress", json!("0.0.0.0:10249")),
        ("metricsBindAddress: '[::]:99'", "metricsBindAddress", json!("[::]:99")),
        ("bindAddressHardFail: true", "bindAddressHardFail", json!(true)),
        ("bindAddressHardFail: On", "bindAddressHardFail", json!(true)),
        ("mode: nftables", "nodePortAddresses", json!(["primary"])),
        ("mode: iptables", "nodePortAddresses", Value::Null),
        ("mode: nftables\nnodePortAddresses: []", "nodePortAddresses", json!(["primary"])),
        ("oomScoreAdj: -5", "oomScoreAdj", json!(-5)),
        ("conntrack: {maxPerCore: 5, min: 6}", "conntrack.min", json!(6)),
        ("conntrack: {tcpBeLiberal: true}", "conntrack.tcpBeLiberal", json!(true)),
        ("conntrack: {udpStreamTimeout: 90s}", "conntrack.udpStreamTimeout", json!("1m30s")),
        ("", "conntrack.tcpEstablishedTimeout", json!("24h0m0s")),
    ] {
        assert_eq!(shown(fields, path), wanted, "{fields}");
    }
}

#[test]
fn a_change_is_late_after_twice_the_sync_period_of_the_mode() {
    // HLT-3
    let late = |text: &str| effective(Some(&format!("{HEAD}{text}")), &[]).unwrap().sync_period().to_string();
    assert_eq!(late(""), "30s");
    assert_eq!(late("iptables: {syncPeriod: 5m}"), "5m0s");
    assert_eq!(late("mode: nftables\niptables: {syncPeriod: 5m}\nnftables: {syncPeriod: 1m}"), "1m0s");
    assert_eq!(late("mode: ipvs\nipvs: {syncPeriod: 2m}"), "2m0s");
}

#[test]
fn what_the_mode_decides_and_the_detector() {
    // SNAT-5, SNAT-8
    let config = |fields: &str| file(fields).unwrap();
    let all = |mode: &str, section: &str| {
        config(&format!("mode: '{mode}'\n{section}: {{masqueradeAll: true}}")).masquerade_all()
    };
    assert!(
        all("iptables", "iptables")
            && all("", "iptables")
            && all("ipvs", "iptables")
            && all("nftables", "nftables")
    );
    assert!(!all("nftables", "iptables") && !all("iptables", "nftables"));
    let period = |text: &str| config(text).min_sync_period().to_string();
    assert_eq!(period("mode: nftables\nnftables: {minSyncPeriod: 2s}"), "2s");
    assert_eq!(period("mode: ipvs\nipvs: {minSyncPeriod: 3s}"), "3s");
    assert_eq!(period("iptables: {minSyncPeriod: 4s}\nnftables: {minSyncPeriod: 2s}"), "4s");
    assert_eq!(period(""), "0s", "nothing waits unless somebody asks for it");
    let detector = |text: &str| config(text).detector().unwrap();
    let nets = vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()];
    assert_eq!(detector("clusterCIDR: 10.244.0.0/16,fd00:10:244::/48"), Detector::Cidrs(nets));
    assert_eq!(detector("detectLocalMode: NodeCIDR\nclusterCIDR: nonsense"), Detector::NodeCidr);
    let bridge = config("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}");
    assert_eq!(bridge.detector().unwrap(), Detector::Interface);
    assert!(
        bridge.warnings.iter().any(|warning| warning.starts_with("detectLocalMode: ")),
        "{:?}",
        bridge.warnings
    );
    let none = config("");
    assert_eq!(none.detector().unwrap(), Detector::default());
    assert!(none.warnings[0].starts_with("clusterCIDR: "), "SNAT-8: a missing detector is said");
}

#[test]
fn flags_set_what_their_fields_mean() {
    let of = |line: &str| effective(None, &flags(line)).unwrap();
    let config =
        of("--cluster-cidr=10.0.0.0/8 --nodeport-addresses=10.0.0.0/8,fd00::/8 --conntrack-udp-timeout=30s")
            .config;
    assert_eq!(config.cluster_cidr, "10.0.0.0/8");
    assert_eq!(config.node_port_addresses, Some(vec!["10.0.0.0/8".into(), "fd00::/8".into()]));
    assert_eq!(config.conntrack.udp_timeout, GoDuration::from_secs(30));
    assert_eq!(of("").config.mode, "nftables", "DEC-3: without a file, nftables");
    assert!(
        of("--masquerade-all=1").masquerade_all()
            && of("--masquerade-all=T --proxy-mode=ipvs").masquerade_all()
    );
    assert_eq!(of("--iptables-min-sync-period=2s").min_sync_period(), GoDuration::from_secs(2));
    assert_eq!(of("--proxy-mode=ipvs --ipvs-min-sync-period=2s").min_sync_period(), GoDuration::from_secs(2));
    let other = of("--ipvs-min-sync-period=2s");
    assert_eq!((other.min_sync_period(), other.warnings.len()), (GoDuration::default(), 1));
    let port = |line: &str| of(line).config.metrics_bind_address;
    assert_eq!(port("--metrics-bind-address=0.0.0.0 --metrics-port=9100"), "0.0.0.0:9100");
    assert_eq!(port("--metrics-port=9100 --metrics-bind-address=::"), "[::]:9100");
    assert_eq!(port("--metrics-bind-address=0.0.0.0:9101 --metrics-port=9100"), "0.0.0.0:9101");
    assert_eq!(
        (port("--metrics-port=9100"), of("--metrics-port=9100").warnings.len()),
        ("127.0.0.1:10249".into(), 1)
    );
    for (line, closed) in
        [("--healthz-bind-address=", true), ("--healthz-port=0", true), ("--healthz-port=80", false)]
    {
        assert_eq!(of(line).config.healthz_bind_address.is_empty(), closed, "{line}");
    }
    assert!(
        of("--iptables-masquerade-bit=3").warnings[0]
            .starts_with("--iptables-masquerade-bit (iptables.masqueradeBit): ")
    );
    assert!(of("--machine-id-file=/x").warnings[0].starts_with("--machine-id-file: has no effect"));
    for (line, wanted) in [
        ("--masquerade-all=maybe", "--masquerade-all: 'maybe' is not true or false"),
        ("--conntrack-min=many", "--conntrack-min: 'many' is not a whole number"),
        ("--config-sync-period=5", "--config-sync-period: '5' is not a duration"),
        ("--vmodule=a", "--vmodule: 'a' is not like pattern=4"),
        ("--feature-gates=A", "--feature-gates: 'A' is not like Gate=true"),
        ("--proxy-mode=userspace", "mode: KubeProxyConfiguration.Mode.ProxyMode"),
    ] {
        let error = effective(None, &flags(line)).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
}

#[test]
fn every_flag_is_honoured_or_named() {
    for flag in FLAGS {
        let value = match (flag.name, flag.kind()) {
            ("bind-address", _) => "10.0.0.1",
            ("healthz-bind-address" | "metrics-bind-address", _) => "10.0.0.1:77",
            ("cluster-cidr" | "nodeport-addresses" | "ipvs-exclude-cidrs", _) => "10.0.0.0/8",
            ("detect-local-mode", _) => "NodeCIDR",
            ("proxy-mode", _) => "ipvs",
            ("logging-format", _) => "json",
            ("iptables-localhost-nodeports", _) => "false",
            (_, Kind::Bool) => "true",
            (_, Kind::Duration | Kind::Flush) => "7s",
            (_, Kind::Gates) => "A=true",
            (_, Kind::VModule) => "a=1",
            (_, Kind::Int | Kind::Level | Kind::Number | Kind::Quantity) => "7",
            _ => "x",
        };
        let mut given = flags(&format!("--{}={value}", flag.name));
        if flag.name.starts_with("log-text") || flag.name.starts_with("log-json") {
            given.extend(flags("--feature-gates=LoggingAlphaOptions=true"));
        }
        if flag.name.starts_with("ipvs-") && flag.name.contains("sync-period") {
            given.extend(flags("--proxy-mode=ipvs"));
        }
        let effective = effective(None, &given).unwrap();
        let is_named =
            effective.warnings.iter().any(|warning| warning.starts_with(&format!("--{}", flag.name)));
        let is_honoured = match flag.target {
            flags::Target::Field(path) => matches!(fields::field(path).unwrap().effect, Effect::Does(_)),
            flags::Target::MasqueradeAll | flags::Target::Period { .. } => true,
            _ => false,
        };
        assert_ne!(is_named, is_honoured, "--{}: {:?}", flag.name, effective.warnings);
        if is_honoured {
            assert_ne!(effective.config, super::effective(None, &[]).unwrap().config, "--{}", flag.name);
        }
    }
}

#[test]
fn beside_a_file_only_flags_about_logging_count() {
    // CFG-1
    let given =
        flags("--masquerade-all=true --v=6 --cluster-cidr=10.0.0.0/8 --logging-format=json --vmodule=b=2");
    let text = format!(
        "{HEAD}clusterCIDR: 10.1.0.0/16\nlogging: {{verbosity: 1, vmodule: [{{filePattern: a, verbosity: 1}}]}}\n"
    );
    let effective = effective(Some(&text), &given).unwrap();
    let ignored: Vec<_> =
        effective.warnings.iter().filter(|warning| warning.starts_with("ignored")).collect();
    assert_eq!(ignored, ["ignored, for a configuration file is given: --masquerade-all, --cluster-cidr"]);
    assert!(!effective.masquerade_all() && effective.config.cluster_cidr == "10.1.0.0/16");
    let logging = &effective.config.logging;
    assert_eq!((logging.verbosity, logging.format.as_str()), (6, "json"));
    let patterns: Vec<_> = logging.vmodule.iter().map(|item| item.file_pattern.as_str()).collect();
    assert_eq!(patterns, ["b", "a"], "flags first");
}
