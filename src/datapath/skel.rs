//! The generated skeleton: the joined BPF objects, their maps, programs, knobs and types.
#![allow(unreachable_pub, clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]

include!(concat!(env!("OUT_DIR"), "/beeline.skel.rs"));
