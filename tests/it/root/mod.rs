//! What needs root: namespaces, cgroups, BPF. Run with `cargo test --test it root::`.

mod agent;
mod api;
mod api_start;
mod bundle;
mod bundle_spec;
mod config;
mod container;
mod container_api;
mod datapath;
mod datapath_life;
mod datapath_rig;
mod image;
mod inspect;
mod log;
mod matrix;
mod matrix_affinity;
mod matrix_client;
mod matrix_flow;
mod matrix_held;
mod matrix_raw;
mod matrix_refusal;
mod matrix_stage;
mod race;
mod race_board;
mod race_clients;
mod race_full;
mod race_plan;
mod race_writer;
mod repair;
mod sandbox;
mod serve;
mod sock;

mod sandbox_agent;
mod sandbox_tidy;
