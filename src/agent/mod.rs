//! The composition: a source, the Reconciler, the data path.

mod care;
mod config_file;
mod families;
mod interfaces;
mod pace;
mod pod_cidrs;
pub mod privilege;
pub mod reconcile;
mod report;
pub mod run;
mod serving;
pub mod setup;
mod source;
pub mod state;
mod this_node;
