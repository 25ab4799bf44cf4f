//! plan mem
