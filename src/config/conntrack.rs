//! Which settings of the kernel's conntrack a configuration asks for (CT-13, DEC-7). Pure.

use super::duration::GoDuration;
use super::kube_proxy::types::Conntrack;

/// `nf_conntrack_max` is never asked to be more: each entry costs memory.
const MOST: u64 = 1_048_576;

/// A setting as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The sysctl's name, or [`HASH_SIZE`].
    pub key: &'static str,
    /// Its value.
    pub value: u64,
    /// More than that is as good, and never lowered.
    pub is_least: bool,
}

/// The size of conntrack's hash table, which is a parameter of the module and no sysctl.
pub const HASH_SIZE: &str = "nf_conntrack.hashsize";

/// What is to be set on a machine with that many cores. What is 0 or not said is left as it is.
pub fn settings(conntrack: &Conntrack, cores: usize) -> Vec<Setting> {
    let mut wanted = Vec::new();
    if let Some(max) = max(conntrack, cores) {
        wanted.push(Setting { key: "net.netfilter.nf_conntrack_max", value: max, is_least: true });
        wanted.push(Setting { key: HASH_SIZE, value: max / 4, is_least: true });
    }
    for (key, duration) in [
        ("net.netfilter.nf_conntrack_tcp_timeout_established", conntrack.tcp_established_timeout),
        ("net.netfilter.nf_conntrack_tcp_timeout_close_wait", conntrack.tcp_close_wait_timeout),
        ("net.netfilter.nf_conntrack_udp_timeout", Some(conntrack.udp_timeout)),
        ("net.netfilter.nf_conntrack_udp_timeout_stream", Some(conntrack.udp_stream_timeout)),
    ] {
        if let Some(GoDuration { nanos: 1.. }) = duration {
            let value = duration.unwrap_or_default().to_std().as_secs();
            wanted.push(Setting { key, value, is_least: false });
        }
    }
    if conntrack.tcp_be_liberal {
        let key = "net.netfilter.nf_conntrack_tcp_be_liberal";
        wanted.push(Setting { key, value: 1, is_least: false });
    }
    wanted
}

/// `nf_conntrack_max`; `None` leaves it.
fn max(conntrack: &Conntrack, cores: usize) -> Option<u64> {
    let of = |value: Option<i32>| u64::try_from(value.unwrap_or_default()).unwrap_or_default();
    let scaled = of(conntrack.max_per_core).saturating_mul(cores as u64);
    let max = if scaled > MOST { MOST } else { scaled.max(of(conntrack.min)) };
    (scaled > 0).then_some(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(conntrack: &Conntrack, cores: usize, key: &str) -> Option<u64> {
        let found = settings(conntrack, cores).into_iter().find(|setting| setting.key.ends_with(key));
        found.map(|setting| setting.value)
    }

    #[test]
    fn the_limit_is_per_core_at_least_min_and_bounded() {
        // CT-13
        let of = |per_core, min| Conntrack { max_per_core: per_core, min, ..Default::default() };
        for (per_core, min, cores, wanted) in [
            (Some(32768), Some(131_072), 2, Some(131_072)),
            (Some(32768), Some(131_072), 8, Some(262_144)),
            (Some(32768), Some(131_072), 64, Some(1_048_576)),
            (Some(32768), None, 1, Some(32768)),
            (Some(10), Some(2_000_000), 1, Some(2_000_000)),
            (Some(0), Some(131_072), 8, None),
            (None, Some(131_072), 8, None),
        ] {
            let conntrack = of(per_core, min);
            assert_eq!(value(&conntrack, cores, "_max"), wanted, "{per_core:?} {min:?} {cores}");
            assert_eq!(value(&conntrack, cores, "hashsize"), wanted.map(|max| max / 4));
        }
    }

    #[test]
    fn timeouts_are_as_given_and_zero_leaves_them() {
        // CT-13, DEC-7
        let given = Conntrack {
            tcp_established_timeout: Some(GoDuration::from_secs(0)),
            tcp_close_wait_timeout: Some(GoDuration::from_secs(3600)),
            udp_timeout: GoDuration::from_secs(30),
            ..Default::default()
        };
        let wanted: Vec<_> = settings(&given, 2).into_iter().map(|s| (s.key, s.value, s.is_least)).collect();
        assert_eq!(
            wanted,
            [
                ("net.netfilter.nf_conntrack_tcp_timeout_close_wait", 3600, false),
                ("net.netfilter.nf_conntrack_udp_timeout", 30, false),
            ]
        );
        let liberal = Conntrack { tcp_be_liberal: true, ..Default::default() };
        assert_eq!(value(&liberal, 2, "tcp_be_liberal"), Some(1));
    }
}
