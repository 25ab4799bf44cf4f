//! `bpf/lb.h` against the specification: the same rows and flows through BPF and through
//! [`beeline::plan`]. Seeds are printed; `BEELINE_SEED=N` runs one again.

mod root;
