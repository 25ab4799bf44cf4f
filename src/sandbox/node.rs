//! sandbox node
