//! datapath attach
