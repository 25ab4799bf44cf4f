//! Kubernetes objects from where they are kept, as `model` events.

pub mod api;
pub mod client;
pub mod convert;
pub mod dir;
pub mod events;
pub mod manifest;
pub mod object;
