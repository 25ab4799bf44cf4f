//! agent run
