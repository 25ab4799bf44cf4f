//! agent ledger
