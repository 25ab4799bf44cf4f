//! inspect dump
