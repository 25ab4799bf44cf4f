//! What needs root: namespaces, cgroups, BPF. Run with `cargo test --test it root::`.

mod agent;
mod datapath;
mod datapath_life;
mod datapath_rig;
mod inspect;
mod race;
mod race_board;
mod race_clients;
mod race_full;
mod race_plan;
mod race_writer;
mod sandbox;
mod sock;

mod sandbox_agent;
mod sandbox_tidy;
