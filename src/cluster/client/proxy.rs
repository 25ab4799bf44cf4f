//! Proxies that the environment names: connections go past them, which is said where it may be no intention.

use std::env;
use std::net::IpAddr;

use hyper::Uri;
use ipnet::IpNet;

/// Says once, at the start, that a proxy of the environment is not used for this server.
pub(super) fn warn(server: &Uri) {
    let named = |names: [&str; 2]| names.into_iter().find_map(|name| env::var(name).ok()).unwrap_or_default();
    let (proxy, past) = (named(["HTTPS_PROXY", "https_proxy"]), named(["NO_PROXY", "no_proxy"]));
    let host = server.host().unwrap_or_default();
    if server.scheme_str() == Some("https") && !proxy.is_empty() && !is_past(&past, host, server.port_u16()) {
        // Not the proxy itself: its address may hold a password.
        tracing::warn!(
            "connections to {host} go directly: the proxy that HTTPS_PROXY names is not used; to have this warning \
             gone, add {host} to NO_PROXY, and if there is no direct way, give the address of one with --apiserver"
        );
    }
}

/// Whether a list like NO_PROXY covers a host, by the rules of Go's programs.
fn is_past(list: &str, host: &str, port: Option<u16>) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let ip: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return true;
    }
    list.split(',').map(|part| part.trim().to_ascii_lowercase()).any(|part| {
        if part == "*" || part == host {
            return true;
        }
        if let (Some(ip), Ok(net)) = (ip, part.parse::<IpNet>()) {
            return net.contains(&ip);
        }
        let (name, only) = match part.rsplit_once(':') {
            Some((name, digits)) if digits.parse::<u16>().is_ok() => (name, digits.parse().ok()),
            _ => (part.as_str(), None),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        if name.is_empty() || (only.is_some() && only != port.or(Some(443))) {
            return false;
        }
        let domain = name.trim_start_matches('*').trim_start_matches('.');
        let is_below = host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        name == host || (ip.is_none() && !domain.is_empty() && is_below)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_covers_hosts_as_in_gos_programs() {
        for (list, host, port, wanted) in [
            ("", "10.0.0.1", None, false),
            ("", "localhost", None, true),
            ("", "127.0.0.2", None, true),
            ("*", "10.0.0.1", None, true),
            ("example.com, 10.0.0.0/8", "10.0.0.1", Some(6443), true),
            ("10.0.0.0/8", "11.0.0.1", None, false),
            ("fd00::/8", "[fd00::1]", None, true),
            ("fd00::1", "[fd00::1]", None, true),
            ("10.0.0.1:6443", "10.0.0.1", Some(6443), true),
            ("10.0.0.1:6443", "10.0.0.1", Some(443), false),
            ("10.0.0.1:443", "10.0.0.1", None, true),
            ("example.com", "api.Example.com", None, true),
            (".example.com", "api.example.com", None, true),
            ("*.example.com", "api.example.com", None, true),
            ("example.com", "example.com", None, true),
            ("ample.com", "example.com", None, false),
            ("0.1", "10.0.0.0.1", None, true),
            ("0.1", "10.0.0.1", None, false),
            (",,:443", "api", None, false),
        ] {
            assert_eq!(is_past(list, host, port), wanted, "{list} {host}");
        }
    }
}
