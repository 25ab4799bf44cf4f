//! cli demo
