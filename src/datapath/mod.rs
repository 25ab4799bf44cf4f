//! bpf(2), bpffs and the programs: loading, pins, attachment, and the tables as pinned maps.

pub mod attach;
pub mod feature;
pub mod kernel;
pub mod load;
pub mod maps;
pub mod pins;
pub mod stats;
pub mod wire;
