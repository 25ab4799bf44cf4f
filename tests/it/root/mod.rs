//! What needs root: namespaces, cgroups, BPF. Run with `cargo test --test it root::`.

mod sandbox;

mod sandbox_agent;
mod sandbox_tidy;
