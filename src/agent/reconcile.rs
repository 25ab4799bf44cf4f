//! agent reconcile
