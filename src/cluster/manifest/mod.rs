//! Manifest files to objects to events.
//!
//! [`ManifestStore`] is pure: texts in, events out. It remembers of each object only who gives it and
//! a hash of what it said, so that objects are in memory once, in the `World`.
//!
//! * A document or object that is bad keeps the last good version of what it names; the rest of the
//!   file counts.
//! * An object given by several files is taken from the first by path, with a warning at the others.
//! * Only differences become events.

mod load;
mod object;
mod problem;
mod store;
#[cfg(test)]
mod tests;
mod text;

pub use load::{is_manifest, list, load, read_text};
pub use problem::{FileProblem, Severity};
pub use store::{Changes, ManifestStore};
