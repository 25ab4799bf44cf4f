//! cli run
