//! datapath stats
