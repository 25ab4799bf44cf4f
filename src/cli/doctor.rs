//! cli doctor
