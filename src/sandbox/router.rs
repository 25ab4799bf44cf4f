//! sandbox router
