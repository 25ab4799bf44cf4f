//! Integration tests, one crate so that the library is linked once. What needs root is in modules
//! called `root`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and shows what it measured"
)]

mod book;
mod book_cost;
mod book_failures;
mod book_grace;
mod book_ids;
mod book_model;
mod config;
mod house;
mod inspect;
mod inspect_doctor;
mod manifest;
mod root;
mod simulation;
mod simulation_events;
mod simulation_reader;
mod simulation_world;
mod workload;
mod yaml;
