//! cli status
