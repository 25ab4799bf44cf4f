//! cluster manifest
