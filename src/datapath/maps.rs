//! datapath maps
