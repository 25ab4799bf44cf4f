//! model slice
