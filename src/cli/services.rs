//! `beeline services`: what a client can dial, and who answers.

use std::process::ExitCode;

use anyhow::Result;

use super::noun::NounArgs;
use super::render::{self, Output};
use crate::inspect::services::{self, BackendUse, ServiceEntry};
use crate::inspect::view::{Depth, View};

/// Arguments of `services`.
#[derive(Debug, clap::Args)]
pub struct ServicesArgs {
    /// Only the Services of this namespace
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    #[command(flatten)]
    noun: NounArgs,
}

/// Prints the Services.
///
/// # Errors
/// There are no tables, a privilege is missing, or they cannot be read.
pub fn run(args: &ServicesArgs) -> Result<ExitCode> {
    let view = View::open(&args.noun.bpf_root, Depth::Rows)?;
    let list = services::list(&view, args.namespace.as_deref());
    render::print(&match args.noun.output {
        Output::Json => render::json(&list)?,
        Output::Table => summary(&list),
        Output::Wide => detail(&list),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn full_name(entry: &ServiceEntry) -> String {
    let colon = if entry.port_name.is_empty() { "" } else { ":" };
    format!("{}/{}{colon}{}", entry.namespace, entry.name, entry.port_name)
}

fn frontends(entry: &ServiceEntry) -> String {
    let shown = |f: &services::FrontendEntry| {
        format!("{} {}/{}", f.kind.name(), std::net::SocketAddr::new(f.addr, f.port), entry.protocol)
    };
    entry.frontends.iter().map(shown).collect::<Vec<_>>().join("\n")
}

/// A line a port: how many backends of all are ready.
fn summary(list: &[ServiceEntry]) -> String {
    let row = |entry: &ServiceEntry| {
        let ready = entry.backends.iter().filter(|b| b.state == BackendUse::Ready).count();
        [
            full_name(entry),
            frontends(entry),
            format!("{ready}/{}", entry.backends.len()),
            entry.connections.to_string(),
            entry.refused.to_string(),
            entry.dropped.to_string(),
        ]
    };
    render::table(
        ["service", "frontends", "ready", "connections", "refused", "dropped"],
        list.iter().map(row),
    )
}

/// The same with every backend.
fn detail(list: &[ServiceEntry]) -> String {
    let row = |entry: &ServiceEntry| {
        let backend = |b: &services::BackendEntry| {
            let at = std::net::SocketAddr::new(b.addr, b.port);
            let zone = b.zone.as_deref().map(|zone| format!(" {zone}")).unwrap_or_default();
            let local = if b.local { " local" } else { "" };
            format!("{at} {} {}{zone}{local}", b.state.name(), b.node.as_deref().unwrap_or("-"))
        };
        [
            full_name(entry),
            frontends(entry),
            entry.backends.iter().map(backend).collect::<Vec<_>>().join("\n"),
            entry.connections.to_string(),
            entry.refused.to_string(),
            entry.dropped.to_string(),
        ]
    };
    render::table(
        ["service", "frontends", "backends", "connections", "refused", "dropped"],
        list.iter().map(row),
    )
}
