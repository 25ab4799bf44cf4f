//! The composition: a source, the Reconciler, the data path.

mod pace;
pub mod privilege;
pub mod reconcile;
mod report;
pub mod run;
mod source;
pub mod state;
