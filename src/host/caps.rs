//! Capabilities of this process.

use std::fs;

use anyhow::{Context, Result};

/// Netfilter and links (`linux/capability.h`, as bits of a set).
pub const NET_ADMIN: u64 = 1 << 12;
/// Mounts, namespaces, and opening BPF objects by id.
pub const SYS_ADMIN: u64 = 1 << 21;
/// Limits may be raised.
pub const SYS_RESOURCE: u64 = 1 << 24;
/// What an agent cannot do without: it loads and attaches programs, and opens those that an agent before it
/// left, by their id. That takes CAP_SYS_ADMIN on every kernel (`bpf_prog_get_fd_by_id`), which includes
/// CAP_BPF and CAP_PERFMON of Linux 5.8 (a17b53c4a4b5); these alone would do for a first start and for no second.
pub const NEEDED: [(&str, u64); 2] = [("CAP_SYS_ADMIN", SYS_ADMIN), ("CAP_NET_ADMIN", NET_ADMIN)];

/// Those an agent needs that `held` lacks, by name.
pub fn missing(held: u64) -> Vec<&'static str> {
    NEEDED.into_iter().filter(|(_, bit)| held & bit == 0).map(|(name, _)| name).collect()
}

/// The effective capabilities of this process, as bits. In a user namespace of its own a process may have
/// all of them and still be refused: these say what to ask for, not what is granted.
///
/// # Errors
/// /proc is not mounted.
pub fn effective() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    parse(&status).context("/proc/self/status has no line CapEff")
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read() {
        assert_eq!(
            parse("CapPrm:\t0000000000000000\nCapEff:\t0000008000001000\n"),
            Some(1 << 39 | NET_ADMIN)
        );
        assert_eq!(parse("Name:\tx\n"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(0), ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
        assert_eq!(missing(!0), [""; 0]);
        assert_eq!(missing(SYS_ADMIN), ["CAP_NET_ADMIN"]);
        // CAP_BPF and CAP_PERFMON, which open no program by its id.
        assert_eq!(missing(1 << 39 | 1 << 38 | NET_ADMIN), ["CAP_SYS_ADMIN"]);
    }
}
