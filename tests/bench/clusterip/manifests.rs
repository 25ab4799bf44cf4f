//! Directories of manifests of a given size.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// So many Services are in one file where a file each is not asked for.
const PER_FILE: u32 = 500;

/// The ClusterIP of the `number`th Service: 10.96.16.1 and up (10.96.0.0/12 holds a million).
pub(crate) fn vip(number: u32) -> SocketAddr {
    (Ipv4Addr::from(0x0a60_1001 + number), 80).into()
}

/// A Service with its EndpointSlice: one port, TCP 80, and these backends.
pub(crate) fn service(name: &str, vip: SocketAddr, backends: &[SocketAddr]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: bench, name: {name}}}\nspec: {{clusterIP: {}, \
         ports: [{{name: tcp, protocol: TCP, port: {}}}]}}\n---\n",
        vip.ip(),
        vip.port()
    );
    let port = backends.first().map_or(80, SocketAddr::port);
    let _ = write!(
        text,
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: bench, name: {name}-1, labels: \
         {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: tcp, protocol: TCP, port: {port}}}]\n\
         endpoints:\n"
    );
    for (at, backend) in backends.iter().enumerate() {
        let _ = writeln!(
            text,
            "- {{addresses: [\"{}\"], nodeName: node-{}, zone: zone-{}}}",
            backend.ip(),
            at % 50,
            at % 3
        );
    }
    text
}

/// `count` addresses that nobody has, different for each Service.
pub(crate) fn nowhere(number: u32, count: u32, port: u16) -> Vec<SocketAddr> {
    (0..count)
        .map(|at| (IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + number * count + at)), port).into())
        .collect()
}

/// An empty directory below the sandbox's, so that it goes with it.
pub(crate) fn directory(parent: &Path, name: &str) -> Result<PathBuf> {
    let path = parent.join(name);
    if path.exists() {
        fs::remove_dir_all(&path).with_context(|| format!("clear {}", path.display()))?;
    }
    fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}

/// Writes `count` Services, many to a file, each with the backends that `of` gives it.
pub(crate) fn many(directory: &Path, count: u32, of: impl Fn(u32) -> Vec<SocketAddr>) -> Result<()> {
    for first in (0..count).step_by(PER_FILE as usize) {
        let last = count.min(first + PER_FILE);
        let texts: Vec<String> =
            (first..last).map(|at| service(&format!("svc-{at:05}"), vip(at), &of(at))).collect();
        fs::write(directory.join(format!("services-{first:05}.yaml")), texts.join("---\n"))?;
    }
    Ok(())
}

/// Writes `count` Services, each in a file of its own.
pub(crate) fn each(directory: &Path, count: u32, of: impl Fn(u32) -> Vec<SocketAddr>) -> Result<()> {
    for at in 0..count {
        let text = service(&format!("svc-{at:05}"), vip(at), &of(at));
        fs::write(directory.join(format!("svc-{at:05}.yaml")), text)?;
    }
    Ok(())
}
