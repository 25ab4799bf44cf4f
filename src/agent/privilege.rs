//! What the kernel must allow an agent, asked before anything is touched, so that what is missing is named.

use std::fs;

/// The privileges an agent needs, by their bit in CapEff (include/uapi/linux/capability.h).
const NEEDED: [(&str, u8); 3] = [("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38)];

/// CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON, as it did before Linux 5.8.
const SYS_ADMIN: u8 = 21;

/// Privileges that are missing: exit code 4.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("missing {}: run as root, or grant the container these capabilities", .0.join(", "))]
pub struct Missing(pub Vec<&'static str>);

/// Checks the privileges of this process.
///
/// # Errors
/// Some are missing.
pub fn check() -> Result<(), Missing> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // Where /proc is not mounted the kernel itself will say what it refuses.
    let missing = effective(&status).map(missing).unwrap_or_default();
    if missing.is_empty() { Ok(()) } else { Err(Missing(missing)) }
}

/// The effective capabilities in a `/proc/PID/status`.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<&'static str> {
    let has = |bit: u8| effective & (1 << bit) != 0;
    let stands_in = |name: &str| name != "CAP_NET_ADMIN" && has(SYS_ADMIN);
    NEEDED.into_iter().filter(|(name, bit)| !has(*bit) && !stands_in(name)).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(0), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert_eq!(missing(u64::MAX), [""; 0]);
        assert_eq!(missing(1 << SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert_eq!(Missing(vec!["CAP_BPF"]).to_string().split(':').next(), Some("missing CAP_BPF"));
    }

    #[test]
    fn the_effective_set_is_read_from_proc() {
        assert_eq!(effective("Name:\tx\nCapEff:\t00000000a80425fb\n"), Some(0xa804_25fb));
        assert_eq!(effective(""), None);
    }
}
