//! model service
