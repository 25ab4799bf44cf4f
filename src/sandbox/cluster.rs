//! sandbox cluster
