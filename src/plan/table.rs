//! plan table
