//! datapath kernel
