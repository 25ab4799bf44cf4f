//! Integration tests, one crate. What needs root is in modules called `root`.

mod house;
mod inspect;
mod inspect_doctor;
mod root;
