//! `beeline services`: what a client can dial, and who answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::render::{Column, Output};
use crate::inspect::services::{self, BackendUse, ServiceEntry};
use crate::inspect::view::{Depth, View};

/// Arguments of `services`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the Services of this namespace
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// The bpffs that holds the tables
    #[arg(long, value_name = "PATH", default_value = crate::config::BPF_ROOT)]
    bpf_root: PathBuf,
}

/// Prints the Services.
///
/// # Errors
/// There are no tables, a privilege is missing, or they cannot be read.
pub fn run(args: &Args, output: Output) -> Result<ExitCode> {
    let view = View::open(&args.bpf_root, Depth::Rows)?;
    let list = services::list(&view, args.namespace.as_deref());
    let columns = [
        Column::new("service", full_name),
        Column::new("frontends", frontends),
        Column::new("ready", ready),
        Column::wide("backends", backends),
        Column::new("connections", |entry| entry.connections.to_string()),
        Column::new("refused", |entry| entry.refused.to_string()),
        Column::new("dropped", |entry| entry.dropped.to_string()),
    ];
    output.list(&list, &columns, "no Services")?;
    Ok(ExitCode::SUCCESS)
}

fn full_name(entry: &ServiceEntry) -> String {
    let colon = if entry.port_name.is_empty() { "" } else { ":" };
    format!("{}/{}{colon}{}", entry.namespace, entry.name, entry.port_name)
}

fn frontends(entry: &ServiceEntry) -> String {
    let shown = |f: &services::FrontendEntry| {
        format!("{} {}/{}", f.kind.name(), SocketAddr::new(f.addr, f.port), entry.protocol)
    };
    lines(entry.frontends.iter().map(shown))
}

/// How many backends of all are ready.
fn ready(entry: &ServiceEntry) -> String {
    let ready = entry.backends.iter().filter(|b| b.state == BackendUse::Ready).count();
    format!("{ready}/{}", entry.backends.len())
}

fn backends(entry: &ServiceEntry) -> String {
    let shown = |b: &services::BackendEntry| {
        let zone = b.zone.as_deref().map(|zone| format!(" {zone}")).unwrap_or_default();
        let local = if b.local { " local" } else { "" };
        let node = b.node.as_deref().unwrap_or("-");
        format!("{} {} {node}{zone}{local}", SocketAddr::new(b.addr, b.port), b.state.name())
    };
    lines(entry.backends.iter().map(shown))
}

fn lines(each: impl Iterator<Item = String>) -> String {
    each.collect::<Vec<_>>().join("\n")
}
