//! The generated skeleton: the joined BPF objects, their maps, programs, knobs and types.
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::unwrap_used,
    clippy::semicolon_if_nothing_returned,
    clippy::too_many_lines,
    clippy::cognitive_complexity,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/beeline.skel.rs"));
