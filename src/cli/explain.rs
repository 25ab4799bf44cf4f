//! `beeline explain`: what happens to one new connection, and by which rules. Offline from
//! manifests, or live from the tables in use, by the one [`resolve`].

mod answer;
mod offline;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result};

use super::render::Output;
pub use answer::Answer;
pub use offline::{Offline, tables_of};

use crate::inspect::view;
use crate::model::addr::{Protocol, parse_ip};
use crate::model::flow::{ClientKind, Flow};
use crate::plan::resolve::resolve;
use crate::plan::table::Lookup;

/// The flags of `explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who dials: pod, host, external, external-blocked or remote-pod, with an address where it matters
    #[arg(long, value_name = "KIND[:IP]")]
    from: Client,
    /// What is dialled, like 10.96.0.10:53/UDP or [fd00::1]:80/TCP
    #[arg(long, value_name = "ADDR:PORT/PROTO")]
    to: Destination,
    /// Answer from these manifests instead of the tables in use
    #[arg(long, value_name = "DIR|FILE")]
    manifests: Option<PathBuf>,
    #[command(flatten)]
    node: offline::NodeArgs,
    /// The bpffs that holds the tables
    #[arg(long, value_name = "PATH", default_value = crate::config::BPF_ROOT, conflicts_with = "manifests")]
    bpf_root: PathBuf,
}

/// Who dials, as `--from` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    kind: ClientKind,
    addr: Option<IpAddr>,
}

impl FromStr for Client {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((kind, addr)) = text.split_once(':') else {
            return Ok(Client { kind: text.parse()?, addr: None });
        };
        let bare = addr.strip_prefix('[').and_then(|addr| addr.strip_suffix(']')).unwrap_or(addr);
        let addr = parse_ip(bare).ok_or_else(|| format!("'{addr}' is no IP address"))?;
        Ok(Client { kind: kind.parse()?, addr: Some(addr) })
    }
}

/// What is dialled, as `--to` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    to: SocketAddr,
    protocol: Protocol,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("'{text}' is not like 10.96.0.10:53/UDP or [fd00::1]:80/TCP");
        let (to, protocol) = text.rsplit_once('/').ok_or_else(wanted)?;
        let (addr, port) = to.rsplit_once(':').ok_or_else(wanted)?;
        let addr = match addr.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').and_then(parse_ip),
            None if addr.contains(':') => None,
            None => parse_ip(addr),
        };
        let to = SocketAddr::new(addr.ok_or_else(wanted)?, port.parse().map_err(|_| wanted())?);
        let protocol =
            Protocol::from_name(protocol).ok_or_else(|| format!("'{protocol}' is none of TCP, UDP, SCTP"))?;
        Ok(Destination { to, protocol })
    }
}

impl Args {
    /// The connection that is asked about.
    pub fn flow(&self) -> Flow {
        Flow { from: self.from.kind, client: self.from.addr, to: self.to.to, protocol: self.to.protocol }
    }

    /// The answer: from the manifests if they are given, else from the tables in use.
    ///
    /// # Errors
    /// The manifests or the configuration cannot be read, or there are no tables to read.
    pub fn answer(&self) -> Result<Answer> {
        let tables: Box<dyn Lookup> = match &self.manifests {
            Some(path) => {
                let offline = Offline::load(path, &self.node)
                    .with_context(|| format!("explain from {}", path.display()))?;
                offline.problems.iter().for_each(|problem| eprintln!("{problem}"));
                Box::new(offline.tables)
            }
            None => view::tables(&self.bpf_root)?,
        };
        let verdict = resolve(&*tables, &self.flow());
        Ok(Answer::of(&*tables, &verdict))
    }
}

/// Prints what happens to a connection.
///
/// # Errors
/// As [`Args::answer`], or stdout cannot be written.
pub fn run(args: &Args, output: Output) -> Result<ExitCode> {
    output.value(&args.answer()?, Answer::text)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_a_kind_with_or_without_an_address() {
        let parse = |text: &str| text.parse::<Client>().map(|client| (client.kind, client.addr));
        let addr = |text: &str| Some(text.parse().unwrap());
        assert_eq!(parse("pod"), Ok((ClientKind::Pod, None)));
        assert_eq!(parse("host:192.168.0.2"), Ok((ClientKind::Host, addr("192.168.0.2"))));
        assert_eq!(parse("remote-pod:fd00::2"), Ok((ClientKind::RemotePod, addr("fd00::2"))));
        assert_eq!(parse("external:[fd00::2]"), Ok((ClientKind::External, addr("fd00::2"))));
        assert!(parse("pods").is_err() && parse("pod:").is_err() && parse("pod:x").is_err());
    }

    #[test]
    fn a_destination_is_an_address_a_port_and_a_protocol() {
        let parse = |text: &str| text.parse::<Destination>().map(|d| (d.to.to_string(), d.protocol));
        assert_eq!(parse("172.30.0.041:80/tcp"), Ok(("172.30.0.41:80".into(), Protocol::Tcp)));
        assert_eq!(parse("[fd00::1]:53/UDP"), Ok(("[fd00::1]:53".into(), Protocol::Udp)));
        for bad in ["172.30.0.1:80", "172.30.0.1/TCP", "fd00::1:80/TCP", "1.2.3.4:x/TCP", "1.2.3.4:1/ICMP"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
