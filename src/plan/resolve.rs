//! plan resolve
