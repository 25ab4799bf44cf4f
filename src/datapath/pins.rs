//! datapath pins
