//! A cluster in a box, for the demo, tests and benches: nodes are network namespaces joined by a
//! router, pods are child processes (`beeline pod`) in a namespace and a cgroup of their own.
//!
//! ```no_run
//! use beeline::sandbox::{cluster::Sandbox, proto::{Dial, Serve}};
//!
//! # fn main() -> anyhow::Result<()> {
//! let sandbox = Sandbox::new("example")?;
//! let node = sandbox.add_node("n1")?;
//! let (web, client) = (node.add_pod("web-1")?, node.add_pod("client")?);
//! web.call(Serve::tcp(8080))?;
//! let dialled = client.call(Dial::tcp((web.ip4(), 8080)))?;
//! assert_eq!(dialled.reply.as_deref(), Some("web-1"));
//! # Ok(()) }
//! ```
//!
//! Everything is removed when the [`Sandbox`](cluster::Sandbox) is dropped, on a panic, on Ctrl-C, and
//! after `kill -9` by the next one that starts ([`tidy`]).

pub mod agent;
pub mod api_server;
pub mod baseline;
pub mod cluster;
pub mod histogram;
pub mod inside;
pub mod load;
pub mod node;
pub mod plot;
pub mod pod;
pub mod proto;
pub mod report;
pub mod router;
pub mod sock;
pub mod tidy;
