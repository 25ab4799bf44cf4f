//! The life of the pins: adoption, growth, locks, repair, cleanup.
