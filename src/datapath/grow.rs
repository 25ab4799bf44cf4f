//! Growth: larger maps are filled aside, and the links go over to programs that read those. Both sides hold
//! the same rows meanwhile, and flows stay in their maps, so nothing in use notices.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapHandle};

use super::load::{GROUPS, Loaded, Place, SOCKET};
use super::maps::{Mapping, PinnedTables, mapped_len, scan_hash, stride};
use super::pins::Side;
use super::{Datapath, attach, load, pins, size_of, sys, wire};
use crate::plan::table::{Limits, Map, Tables};

/// Larger tables that the links have taken.
struct Filled {
    loaded: Loaded,
    tables: PinnedTables,
    /// The words of `bl_services` as they were copied, counters among them.
    counted: Vec<u64>,
}

impl Datapath {
    /// Gives the tables new sizes. Every row keeps its id and generation. The caller writes nothing meanwhile.
    ///
    /// # Errors
    /// A limit is smaller than what there is, or the kernel refused; then the old tables stay as they are.
    pub fn grow(&mut self, limits: Limits) -> Result<()> {
        let now = self.tables.limits();
        anyhow::ensure!(
            limits.frontends >= now.frontends
                && limits.services >= now.services
                && limits.slots >= now.slots
                && limits.backends >= now.backends
                && limits.names >= now.names,
            "tables only grow: {now:?} to {limits:?}"
        );
        if limits == now {
            return Ok(());
        }
        let filled = self.fill_grown(&limits).inspect_err(|_| {
            for group in grown_groups() {
                let _ = pins::remove_dir(&self.tree.dir(group, Side::Grown));
            }
        });
        let grown = filled.and_then(|filled| self.take_grown(filled));
        grown.with_context(|| format!("grow the tables to {limits:?}"))
    }

    /// Loads the programs against larger maps, copies the rows, and has the links go over. An error means that
    /// the old tables are live.
    fn fill_grown(&mut self, limits: &Limits) -> Result<Filled> {
        for group in grown_groups() {
            let dir = self.tree.dir(group, Side::Grown);
            pins::remove_dir(&dir)?;
            pins::make_dir(&dir)?;
        }
        let places = self.grown_places(limits)?;
        let loaded = load::load(&SOCKET, &places, self.options.knobs, &self.tree.log(SOCKET.name))?;
        let tables = PinnedTables::new(&loaded.maps, self.options.quiesce)?;
        let counted = self.copy_rows(&loaded)?;
        if self.live || self.sides[0] == Side::Place {
            attach::attach(&self.tree, &self.cgroup, &loaded.programs)?;
        }
        Ok(Filled { loaded, tables, counted })
    }

    /// Goes on with the new tables, which are live. An error leaves their folder aside; a start puts it in place.
    fn take_grown(&mut self, Filled { loaded, tables, counted }: Filled) -> Result<()> {
        self.tables = tables;
        self.programs = loaded.programs;
        let old = std::mem::replace(&mut self.maps, loaded.maps);
        self.settle_grown()?;
        // Programs that were running while the links went over counted in the old map.
        if self.tables.quiesce().is_ok() {
            self.add_missed_counts(&old, &counted)?;
        }
        Ok(())
    }

    /// Maps whose size stays are pinned a second time, so that they are shared; the others are new.
    fn grown_places(&self, limits: &Limits) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        for (at, group) in GROUPS.iter().enumerate() {
            for name in group.maps {
                let (_, map) =
                    self.maps.iter().find(|(known, _)| known == name).context("every map is held")?;
                let moves = group.name != "flow";
                let side = if moves { Side::Grown } else { self.sides[at] };
                let pin = self.tree.dir(group, side).join(name);
                let wanted = size_of(name, limits, 0).filter(|_| moves).unwrap_or(map.max_entries());
                if moves && wanted == map.max_entries() {
                    sys::pin(map.as_fd(), &pin)
                        .with_context(|| format!("pin {name} at {}", pin.display()))?;
                }
                places.push(Place { map: name, pin: Some(pin), size: Some(wanted) });
            }
        }
        Ok(places)
    }

    /// Copies every map that is not shared. Returns the counters as they were copied.
    fn copy_rows(&self, loaded: &Loaded) -> Result<Vec<u64>> {
        let mut counted = Vec::new();
        for (name, old) in &self.maps {
            let (_, new) =
                loaded.maps.iter().find(|(known, _)| known == name).context("every map is loaded")?;
            if sys::map_id(old.as_fd())? == sys::map_id(new.as_fd())? {
                continue;
            }
            let copied = if old.map_type() == libbpf_rs::MapType::Array {
                copy_array(old, new).map(|words| {
                    if *name == Map::Services.name() {
                        counted = words;
                    }
                })
            } else {
                copy_hash(old, new)
            };
            copied.with_context(|| format!("copy {name}"))?;
        }
        Ok(counted)
    }

    fn settle_grown(&mut self) -> Result<()> {
        for (group, side) in GROUPS.iter().zip(self.sides).filter(|(group, _)| group.name != "flow") {
            let (from, to) = (self.tree.dir(group, Side::Grown), self.tree.dir(group, side));
            pins::replace_dir(&from, &to, &self.tree.dir(group, Side::Old))?;
        }
        Ok(())
    }

    /// Adds what was counted in the old map after it was copied.
    fn add_missed_counts(&self, old: &[(&'static str, MapHandle)], counted: &[u64]) -> Result<()> {
        let (_, old) =
            old.iter().find(|(name, _)| *name == Map::Services.name()).context("bl_services is a map")?;
        let new = self.map(Map::Services)?;
        if counted.is_empty() {
            return Ok(());
        }
        let (from, to) = (map_whole(old, false)?, map_whole(new, true)?);
        let words = (0..).step_by(8).zip(counted);
        for (at, before) in words.filter(|(at, _)| at % stride(old) >= wire::SERVICE_STATS) {
            let missed = from.word(at).load(Ordering::Relaxed).wrapping_sub(*before);
            if missed != 0 {
                to.word(at).fetch_add(missed, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

fn grown_groups() -> impl Iterator<Item = &'static load::Group> {
    GROUPS.iter().filter(|group| group.name != "flow")
}

fn map_whole(map: &MapHandle, write: bool) -> std::io::Result<Mapping> {
    Mapping::new(map.as_fd(), 0, mapped_len(map), write)
}

/// Copies the words of a mapped array and returns them.
fn copy_array(old: &MapHandle, new: &MapHandle) -> std::io::Result<Vec<u64>> {
    let (from, to) = (map_whole(old, false)?, map_whole(new, true)?);
    let words = stride(old) * old.max_entries() as usize / 8;
    let copy = |at: usize| {
        let word = from.word(8 * at).load(Ordering::Relaxed);
        if word != 0 {
            to.word(8 * at).store(word, Ordering::Relaxed);
        }
        word
    };
    Ok((0..words).map(copy).collect())
}

/// Copies a hash map in batches.
fn copy_hash(old: &MapHandle, new: &MapHandle) -> std::io::Result<()> {
    let (mut keys, mut values, mut count) = (Vec::new(), Vec::new(), 0u32);
    scan_hash(old, |key, value| {
        keys.extend_from_slice(key);
        values.extend_from_slice(value);
        count += 1;
    })?;
    if count == 0 {
        return Ok(());
    }
    sys::update_batch(new.as_fd(), &keys, &values, count)
}
