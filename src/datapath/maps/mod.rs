//! The tables as pinned maps: [`PinnedTables`] writes, [`Reader`] reads.

mod array;
mod grace;
mod homes;
mod reader;
mod scan;
mod usage;
mod writer;

pub use reader::{OpenError, Reader};
pub use usage::MapUse;
pub use writer::PinnedTables;

pub(crate) use array::{Mapping, mapped_len, stride};
pub(crate) use grace::Grace;
pub(crate) use scan::{scan_hash, scan_locked};
