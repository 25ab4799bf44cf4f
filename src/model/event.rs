//! model event
