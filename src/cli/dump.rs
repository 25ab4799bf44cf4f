//! cli dump
