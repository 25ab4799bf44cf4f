//! The tests of the whole crate.

mod book;
mod book_model;
