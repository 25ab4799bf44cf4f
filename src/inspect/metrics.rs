//! What a scrape of the metrics shows of the pinned maps, read in the cheapest way there is: rows are counted
//! and not kept, and names are looked up for those alone that have counted something.

use std::path::Path;

use anyhow::{Context, Result};

use super::view::MapUse;
use crate::datapath::attach;
use crate::datapath::load::SOCKET;
use crate::datapath::maps::Reader;
use crate::datapath::stats::Stats;
use crate::model::names::ServicePortName;
use crate::plan::table::Lookup;

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
    /// Looks at what is pinned under a bpffs.
    ///
    /// # Errors
    /// There is nothing to read, or a map cannot be read.
    pub fn read(bpf_root: &Path) -> Result<Scrape> {
        let reader = Reader::open(bpf_root)?;
        let usage = reader.usage().context("count the rows of the maps")?;
        let program = |name: &&'static str| (*name, attach::is_attached(reader.tree(), name));
        Ok(Scrape {
            maps: usage.into_iter().map(MapUse::from).collect(),
            programs: SOCKET.programs.iter().map(program).collect(),
            services: services(&reader)?,
        })
    }
}

/// What was counted, for those ServicePorts that have a name: an index without one has no owner now.
fn services(reader: &Reader) -> Result<Vec<(ServicePortName, Stats)>> {
    let counted = reader.stats().context("read bl_stats")?;
    let named = |(id, stats)| Some((reader.name(id)?.name, stats));
    let mut services: Vec<_> = counted.into_iter().filter_map(named).collect();
    services.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(services)
}
