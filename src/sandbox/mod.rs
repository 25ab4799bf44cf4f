//! A cluster in a box, for the demo, tests and benches: nodes and pods as child processes.

pub mod baseline;
pub mod cluster;
pub mod load;
pub mod node;
pub mod pod;
pub mod proto;
pub mod report;
pub mod router;
