//! sandbox report
