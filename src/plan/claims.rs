//! plan claims
