//! The composition: a source, the Reconciler, the data path.

pub mod privilege;
pub mod reconcile;
pub mod run;
pub mod state;
