//! Beeline: the Service data plane of one Kubernetes node.
//!
//! The rooms, and the one direction of dependency between them, are described in
//! `docs/architecture.md` and guarded by `tests/it/house.rs`:
//! `cli → agent → serve → inspect → {cluster, host, datapath} → {plan, config} → model`.

pub mod agent;
pub mod cli;
pub mod cluster;
pub mod config;
#[allow(unsafe_code, reason = "bpf(2) and mapped tables; each block says why it is sound")]
pub mod datapath;
pub mod host;
pub mod inspect;
pub mod model;
pub mod plan;
pub mod sandbox;
pub mod serve;
