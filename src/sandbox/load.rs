//! sandbox load
