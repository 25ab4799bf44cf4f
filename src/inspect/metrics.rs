//! What a scrape of the metrics shows of the pinned maps, read in the cheapest way there is: names are looked up
//! for those ServicePorts alone that have counted something, and rows are counted only where no agent can say
//! how many there are. (The kernel takes 250 ns for a row of an array, whose rows are all there, used or not.)

use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use super::view::MapUse;
use crate::datapath::attach;
use crate::datapath::load::SOCKET;
use crate::datapath::maps::Reader;
use crate::datapath::stats::Stats;
use crate::model::names::ServicePortName;
use crate::plan::table::{Lookup, Map};

/// One look at the pinned maps.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// How full the maps are.
    pub maps: Vec<MapUse>,
    /// The programs of the socket path, and whether each is attached.
    pub programs: Vec<(&'static str, bool)>,
    /// The ServicePorts that have counted anything, by name.
    pub services: Vec<(ServicePortName, Stats)>,
}

impl Scrape {
    /// Looks at what is pinned under a bpffs. How many rows its writer uses of each map that is sized to
    /// need, it tells; all others are counted.
    ///
    /// # Errors
    /// There is nothing to read, or a map cannot be read.
    pub fn read(bpf_root: &Path, told: &[(Map, u32)]) -> Result<Scrape> {
        let reader = Reader::open(bpf_root)?;
        let program = |name: &&'static str| (*name, attach::is_attached(reader.tree(), name));
        Ok(Scrape {
            maps: maps(&reader, told).context("count the rows of the maps")?,
            programs: SOCKET.programs.iter().map(program).collect(),
            services: services(&reader)?,
        })
    }
}

fn maps(reader: &Reader, told: &[(Map, u32)]) -> io::Result<Vec<MapUse>> {
    let of = |name: &str| {
        // It has a row for each row of another.
        let name = if name == Map::Endpoints.name() { Map::Backends.name() } else { name };
        told.iter().find(|(map, _)| map.name() == name).map(|(_, used)| *used)
    };
    let mut maps = Vec::new();
    // The rows of new sockets are not counted: they would cost more than all else, and what has no room there
    // goes to bl_flows.
    for (name, max) in reader.sizes().filter(|(name, _)| *name != "bl_flows_near") {
        let used = match of(name) {
            Some(used) => used,
            None if name == Map::Agent.name() => 1,
            None => reader.count(name)?,
        };
        maps.push(MapUse { name: name.to_owned(), used: used.into(), max: max.into() });
    }
    Ok(maps)
}

/// What was counted, for those ServicePorts that have a name: an index without one has no owner now.
fn services(reader: &Reader) -> Result<Vec<(ServicePortName, Stats)>> {
    let counted = reader.stats().context("read the counters")?;
    let named = |(id, stats)| Some((reader.name(id)?.name, stats));
    let mut services: Vec<_> = counted.into_iter().filter_map(named).collect();
    services.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(services)
}
