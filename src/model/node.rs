//! model node
