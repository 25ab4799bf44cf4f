//! Counters per ServicePort, as the programs keep them.

use std::io;
use std::os::fd::AsFd;

use super::maps::Reader;
use super::{sys, wire};
use crate::plan::table::{Map, ServiceId};

/// The counters in a row of `bl_services`: since the service index got its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Flows that were given a backend.
    pub connections: u64,
    /// Flows that were refused (REJ-1).
    pub refused: u64,
    /// Flows left to the packet path, which drops them (REJ-2).
    pub dropped: u64,
}

impl From<wire::bl_stats> for Stats {
    fn from(row: wire::bl_stats) -> Stats {
        Stats { connections: row.connections, refused: row.refused, dropped: row.dropped }
    }
}

impl Reader {
    /// The counters of every service index that has counted anything, by index.
    ///
    /// # Errors
    /// The map could not be read.
    pub fn stats(&self) -> io::Result<Vec<(ServiceId, Stats)>> {
        let rows = self.array::<wire::bl_service>(Map::Services.name())?;
        let counted = rows.into_iter().map(|(id, row)| (ServiceId(id), Stats::from(row.stats)));
        Ok(counted.filter(|(_, stats)| *stats != Stats::default()).collect())
    }

    /// The counters of one service index; zero if there is no such row.
    pub fn stats_of(&self, id: ServiceId) -> Stats {
        let mut value = [0; size_of::<wire::bl_service>()];
        let map = self.map(Map::Services.name());
        let found = sys::lookup(map.as_fd(), &id.0.to_ne_bytes(), &mut value).unwrap_or(false);
        let row = found.then(|| wire::read::<wire::bl_service>(&value)).flatten();
        row.map(|row| row.stats.into()).unwrap_or_default()
    }
}
