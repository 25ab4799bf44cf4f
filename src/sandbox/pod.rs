//! sandbox pod
