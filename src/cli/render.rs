//! cli render
