//! Decisions: objects to rows (`compile`), rows to a verdict (`resolve`), rows to writes (`Book`).
//! Pure: no I/O, no clock (now is an argument), no randomness.

pub mod affinity;
pub mod book;
pub mod claims;
pub mod compile;
pub mod eligible;
#[cfg(test)]
mod fixture;
pub mod health;
pub mod ids;
pub mod mem;
pub mod pack;
pub mod resolve;
pub mod rule;
pub mod table;
pub mod world;
