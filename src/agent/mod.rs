//! The composition: a source, the Reconciler, the data path.

mod pace;
mod pod_cidrs;
pub mod privilege;
pub mod reconcile;
mod report;
pub mod run;
pub mod setup;
mod source;
pub mod state;
