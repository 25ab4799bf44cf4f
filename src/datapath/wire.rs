//! datapath wire
