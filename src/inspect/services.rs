//! inspect services
