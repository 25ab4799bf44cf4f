//! inspect view
