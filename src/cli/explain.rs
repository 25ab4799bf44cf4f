//! cli explain
