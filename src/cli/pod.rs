//! cli pod
