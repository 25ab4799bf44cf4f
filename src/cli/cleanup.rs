//! cli cleanup
