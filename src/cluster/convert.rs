//! cluster convert
