//! model flow
