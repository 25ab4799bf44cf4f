//! cli services
