//! Integration tests, one crate so that the library is linked once. What needs root is in modules
//! called `root`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and shows what it measured"
)]

mod api;
mod api_front;
mod api_random;
mod api_recorded;
mod api_requests;
mod api_stage;
mod api_tls;
mod book;
mod book_audit;
mod book_cost;
mod book_failures;
mod book_grace;
mod book_ids;
mod book_model;
#[path = "../api/cases.rs"]
mod cases;
mod config;
mod house;
mod http;
mod inspect;
mod inspect_doctor;
mod manifest;
mod root;
mod serve;
mod simulation;
mod simulation_events;
mod simulation_reader;
mod simulation_world;
#[path = "../api/stage.rs"]
mod stage;
mod workload;
mod yaml;
