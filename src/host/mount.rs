//! host mount
