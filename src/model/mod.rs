//! Values: the Kubernetes objects Beeline needs, slimmed to what the rules read.
//! No I/O, no clock, no k8s-openapi types.

pub mod addr;
pub mod event;
pub mod flow;
pub mod histogram;
pub mod names;
pub mod node;
pub mod service;
pub mod slice;
