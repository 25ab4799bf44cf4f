//! The composition: a source, the Reconciler, the data path.

pub mod ledger;
pub mod reconcile;
pub mod run;
