//! Names to addresses, from `/etc/hosts` and the servers of `/etc/resolv.conf`: read anew for each
//! connection, of which there are few. Addresses in digits never come here.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Hosts, Resolver, system_conf};
use hyper_util::client::legacy::connect::dns::Name;
use tower::BoxError;

/// The addresses of a name, as hyper asks for them.
///
/// # Errors
/// Nobody knows it.
pub(super) async fn resolve(name: Name) -> Result<std::vec::IntoIter<SocketAddr>, BoxError> {
    let addresses = lookup(name.as_str(), Path::new("/etc/hosts"), Path::new("/etc/resolv.conf"));
    let addresses = addresses.await.map_err(|error| unknown(name.as_str(), &error))?;
    Ok(addresses.into_iter().map(|ip| (ip, 0).into()).collect::<Vec<_>>().into_iter())
}

/// A look-up that failed, in words alone: what a server of names refuses is not what the API server refuses.
fn unknown(name: &str, error: &anyhow::Error) -> BoxError {
    format!("look up {name}: {error:#}").into()
}

/// The addresses of a name. `localhost` is this machine whatever the files say (RFC 6761).
async fn lookup(host: &str, hosts: &Path, resolv_conf: &Path) -> Result<Vec<IpAddr>> {
    if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let mut known = Hosts::default();
    if let Ok(file) = fs::File::open(hosts) {
        known.read_hosts_conf(file).with_context(|| format!("read {}", hosts.display()))?;
    }
    // Without servers, what the hosts file knows is still found.
    let read = fs::read(resolv_conf).ok().and_then(|text| system_conf::parse_resolv_conf(text).ok());
    let (config, options) = read.unwrap_or_else(|| (ResolverConfig::default(), ResolverOpts::default()));
    let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let mut resolver = builder.with_options(options).build().context("set up DNS")?;
    resolver.set_hosts(Arc::new(known));
    let found: Vec<_> = resolver.lookup_ip(host).await?.iter().collect();
    ensure!(!found.is_empty(), "the name has no address");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_hosts_file_counts_without_any_server() {
        let temp = tempfile::tempdir().unwrap();
        let hosts = temp.path().join("hosts");
        fs::write(&hosts, "172.30.0.1 api.example api\nfd00::1 api.example\n").unwrap();
        let nowhere = temp.path().join("resolv.conf");
        let mut found = lookup("api.example", &hosts, &nowhere).await.unwrap();
        found.sort();
        let wanted: Vec<IpAddr> = ["172.30.0.1", "fd00::1"].iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(found, wanted);
        assert!(lookup("other.example", &hosts, &nowhere).await.is_err());
    }

    #[test]
    fn a_look_up_that_is_refused_is_no_server_that_refuses() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = unknown("api.example", &anyhow::Error::from(refused).context("ask"));
        assert!(error.source().is_none() && !error.is::<std::io::Error>());
        assert_eq!(error.to_string(), "look up api.example: ask: connection refused");
    }

    #[tokio::test]
    async fn localhost_is_this_machine() {
        let nowhere = Path::new("/nonexistent");
        let found = lookup("LocalHost.", nowhere, nowhere).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && found.len() == 2);
    }
}
