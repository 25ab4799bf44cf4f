//! `bpf/lb.h` against the specification: the same rows and flows through BPF and through
//! [`beeline::plan`]. Seeds are printed; `BEELINE_SEED=N` runs one again.

// A test that cannot go on panics, also in its helpers.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod root;
