//! sandbox proto
