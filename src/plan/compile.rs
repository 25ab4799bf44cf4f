//! plan compile
