//! model addr
