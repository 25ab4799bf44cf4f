//! Every value survives the wire, and the words are where `bpf/types.h` says.

use super::*;
use crate::plan::rule::Rule;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_frontend_key_is_laid_out_as_the_programs_build_it() {
    let key = frontend_key(&FrontendKey::Port { addr: ip("10.96.0.10"), port: 53, protocol: Protocol::Udp });
    let mut expected = vec![0; 10];
    expected.extend([0xff, 0xff, 10, 96, 0, 10, 0, 53, 17, 0]);
    assert_eq!(bytes(&key), expected);
    let key = frontend_key(&FrontendKey::Active { addr: ip("fd00::1") });
    assert_eq!(bytes(&key)[16..], [0, 0, 0, 1]);
}

#[test]
fn keys_come_back() {
    let all = [
        FrontendKey::Port { addr: ip("10.96.0.10"), port: 53, protocol: Protocol::Udp },
        FrontendKey::Port { addr: ip("fd00::a"), port: 443, protocol: Protocol::Sctp },
        FrontendKey::Active { addr: ip("10.96.0.10") },
    ];
    for key in all {
        assert_eq!(read_frontend_key(&frontend_key(&key)), Some(key));
    }
}

#[test]
fn a_value_that_was_written_for_another_key_is_not_taken() {
    let key =
        |port| frontend_key(&FrontendKey::Port { addr: ip("10.96.0.10"), port, protocol: Protocol::Tcp });
    let value = Frontend { service: Some(ServiceId(0x12_3456)), kind: FrontendKind::LoadBalancer };
    let word = frontend(&key(80), value);
    assert_eq!(read_frontend(&key(80), word), Some(value));
    assert_eq!(read_frontend(&key(81), word), None);
    let active = Frontend { service: None, kind: FrontendKind::ClusterIp };
    assert_eq!(read_frontend(&key(80), frontend(&key(80), active)), Some(active));
}

#[test]
fn neighbouring_keys_have_different_checks() {
    let mut seen = std::collections::HashSet::new();
    for host in 0..=255u8 {
        for port in 8000..8064 {
            let key =
                FrontendKey::Port { addr: IpAddr::from([10, 96, 0, host]), port, protocol: Protocol::Tcp };
            seen.insert(key_check(&frontend_key(&key)));
        }
    }
    assert_eq!(seen.len(), 256 * 64);
}

#[test]
fn words_come_back_and_stand_where_the_header_says() {
    let set = SetWord { base: 0xdead_beef, count: SetWord::MAX_COUNT, has_any: true };
    assert_eq!(set_word(set), 0x01ff_ffff_dead_beef);
    assert_eq!(read_set_word(set_word(set)), set);
    let all = Policy { affinity_seconds: 10_800, internal_local: true, external_local: true, used: true };
    assert_eq!(policy(all), 7 << 32 | 10_800);
    for one in [all, Policy { internal_local: false, ..all }, Policy { external_local: false, ..all }] {
        assert_eq!(read_policy(policy(one)), one);
    }
    let all = BackendState { generation: u32::MAX, in_cluster: true, in_local: true, serving: true };
    assert_eq!(state(all), 0x7_ffff_ffff);
    for one in [all, BackendState { in_cluster: false, ..all }, BackendState { serving: false, ..all }] {
        assert_eq!(read_state(state(one)), one);
    }
}

#[test]
fn rows_come_back() {
    let row = BackendRow {
        addr: ip("fd00::5"),
        port: 8080,
        service: ServiceId(77),
        state: BackendState { generation: 3, in_cluster: true, in_local: false, serving: true },
    };
    let raw = backend(&row);
    assert_eq!(raw.to.port.to_ne_bytes(), 8080u16.to_be_bytes());
    assert_eq!(read_backend(&raw), row);
    assert_eq!(words::<_, 4>(&raw)[3], raw.state);
    let info = EndpointInfo {
        node: TextId(70_000),
        zone: TextId(9),
        ready: true,
        serving: false,
        terminating: true,
        local: false,
        used: true,
    };
    assert_eq!(read_endpoint(&endpoint(&info)), info);
    assert_eq!(read_endpoint(&endpoint(&EndpointInfo { zone: TextId(70_000), ..info })).zone, TextId(0));
}

#[test]
fn names_come_back_with_their_rules() {
    for (port, family) in [("", Family::V4), ("http", Family::V6)] {
        let name = ServicePortName {
            service: ObjectName::new(&"n".repeat(63), &"s".repeat(63)),
            port: port.into(),
            protocol: Protocol::Udp,
            family,
        };
        let rules = [RuleSet::default().with(Rule::Cat2), RuleSet::default().with(Rule::Dec1)];
        let value = ServiceName { name, rules };
        assert_eq!(read_service_name(&service_name(&value)), Some(value));
    }
}

#[test]
fn long_texts_are_cut_between_characters() {
    let zone = "ü".repeat(100);
    let row = agent(&Settings { zone: zone.as_str().into(), ..Settings::default() });
    assert_eq!(*read_agent(&row).zone, *"ü".repeat(31));
}

#[test]
fn settings_come_back() {
    for bit in 0..4 {
        let settings = Settings {
            version: "0.1.0".into(),
            source_kind: "manifests".into(),
            source: "/etc/beeline".into(),
            node: "node-a".into(),
            zone: "z1".into(),
            synced: bit == 0,
            masquerade_all: bit == 1,
            local_detector: [bit == 2, bit == 3],
        };
        assert_eq!(read_agent(&agent(&settings)), settings);
    }
}

#[test]
fn prefixes_come_back_in_both_families() {
    for net in ["10.96.0.0/12", "0.0.0.0/0", "192.0.2.1/32", "fd00:10:96::/112", "::/0", "fd00::1/128"] {
        let value = Prefix { class: PrefixClass::ServiceCidr, net: net.parse().unwrap() };
        let key = prefix(&value);
        assert_eq!(read_prefix(&key), Some(value), "{net}");
        assert!(key.prefixlen <= prefix_probe(PrefixClass::ServiceCidr, ip("::")).prefixlen);
    }
}
