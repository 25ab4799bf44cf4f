//! sandbox baseline
