//! Capabilities of this process.

use std::fs;

use anyhow::{Context, Result};

/// Netfilter and links (`linux/capability.h`, as bits of a set).
pub const NET_ADMIN: u64 = 1 << 12;
/// Mounts, namespaces, and opening BPF objects by id.
pub const SYS_ADMIN: u64 = 1 << 21;
/// Limits may be raised.
pub const SYS_RESOURCE: u64 = 1 << 24;
/// bpf(2), since Linux 5.8 (a17b53c4a4b5).
pub const BPF: u64 = 1 << 39;

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
        assert_eq!(parse("CapPrm:\t0000000000000000\nCapEff:\t0000008000001000\n"), Some(BPF | NET_ADMIN));
        assert_eq!(parse("Name:\tx\n"), None);
    }
}
