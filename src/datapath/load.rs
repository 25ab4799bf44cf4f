//! datapath load
