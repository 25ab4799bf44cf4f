//! model names
