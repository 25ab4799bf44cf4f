//! plan eligible
