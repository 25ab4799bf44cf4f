//! The read side of everything: pinned maps as serde structs. No lock, no writes.

pub mod agent;
pub mod doctor;
pub mod dump;
pub mod metrics;
pub mod services;
pub mod status;
pub mod view;
