//! How full the maps are: rows are counted, not read.

use std::io;

use libbpf_rs::MapCore;

use super::reader::Reader;
use super::scan::{scan_array, scan_hash, scan_keys, scan_locked};
use crate::datapath::wire;
use crate::plan::table::Map;

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUse {
    /// The name of the BPF map.
    pub name: &'static str,
    /// Rows in use.
    pub used: u32,
    /// `max_entries`.
    pub max: u32,
}

/// Rows in use of what lies in arrays.
#[derive(Clone, Copy, Debug, Default)]
struct Arrays {
    services: u32,
    slots: u32,
    endpoints: u32,
}

impl Reader {
    /// How full every map is: 10,000 Services with 10 endpoints each in some 50 ms, most of it system calls.
    ///
    /// # Errors
    /// A map could not be read.
    pub fn usage(&self) -> io::Result<Vec<MapUse>> {
        let arrays = self.arrays()?;
        let mut usage = Vec::new();
        for (name, map) in &self.maps {
            let used = match *name {
                "bl_services" => arrays.services,
                "bl_slots" => arrays.slots,
                "bl_backends" | "bl_endpoints" => arrays.endpoints,
                "bl_agent" | "bl_sieve" => 1,
                "bl_flows_near" => self.near_flows()?,
                name => self.count(name)?,
            };
            usage.push(MapUse { name, used, max: map.max_entries() });
        }
        Ok(usage)
    }

    fn arrays(&self) -> io::Result<Arrays> {
        let mut found = Arrays::default();
        scan_array(self.map(Map::Services.name()), 0, u32::MAX, |_, value| {
            let Some(row) = wire::read(value).map(|row| wire::read_service(&row)) else { return };
            if row.policy.used {
                found.services += 1;
                found.slots += row.sets.iter().map(|set| set.count).sum::<u32>();
            }
        })?;
        scan_array(self.map(Map::Endpoints.name()), 0, u32::MAX, |_, value| {
            let info = wire::read(value).map(|row| wire::read_endpoint(&row));
            found.endpoints += u32::from(info.is_some_and(|info| info.used));
        })?;
        Ok(found)
    }

    /// Rows of `bl_flows_near` that are somebody's.
    fn near_flows(&self) -> io::Result<u32> {
        let mut count = 0;
        scan_locked(self.map("bl_flows_near"), |_, value| {
            count += u32::from(wire::read::<wire::bl_near>(value).is_some_and(|near| near.cookie != 0));
        })?;
        Ok(count)
    }

    /// The maps with their `max_entries`.
    pub fn sizes(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.maps.iter().map(|(name, map)| (*name, map.max_entries()))
    }

    /// How many rows a hash or a trie has.
    ///
    /// # Errors
    /// The map could not be read.
    pub fn count(&self, name: &str) -> io::Result<u32> {
        let mut count = 0;
        if name == Map::Prefixes.name() {
            scan_keys(self.map(name), |_| count += 1)?;
        } else {
            scan_hash(self.map(name), |_, _| count += 1)?;
        }
        Ok(count)
    }
}
