//! plan book
