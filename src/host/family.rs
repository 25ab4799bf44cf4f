//! Which IP families the kernel can do, asked as kube-proxy asks (`platformCheckSupported`, CFG-3).

use std::fs;
use std::path::Path;

/// By family, whether this network namespace has it. IPv4 is always there.
pub fn supported() -> [bool; 2] {
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    [true, has_ipv6(Path::new("/proc/net/if_inet6").exists(), disabled.ok().as_deref())]
}

/// IPv6 is there, and the sysctl does not switch it off.
fn has_ipv6(is_there: bool, disabled: Option<&str>) -> bool {
    is_there && disabled.is_none_or(|text| text.trim() != "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_can_be_missing_or_switched_off() {
        // CFG-3
        assert!(has_ipv6(true, Some("0\n")) && has_ipv6(true, None));
        assert!(!has_ipv6(true, Some("1\n")) && !has_ipv6(false, Some("0\n")));
    }
}
