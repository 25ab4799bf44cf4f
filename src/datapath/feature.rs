//! datapath feature
