//! plan ids
