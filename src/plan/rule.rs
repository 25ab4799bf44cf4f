//! plan rule
