//! How full the maps are, and how large they should be.

use super::Book;
use super::settle::Pending;
use crate::plan::compile::PortRows;
use crate::plan::table::{Limits, Map, TableError};

/// The index that means "no ServicePort" bounds their number.
pub(super) const MAX_SERVICES: u32 = 0xff_ffff;
/// The largest power of two a map is asked to grow to.
const MAX_ROWS: u32 = 1 << 30;

/// Rows that ServicePorts take, one by one.
#[derive(Clone, Copy, Debug, Default)]
struct Rows {
    frontends: u64,
    services: u64,
    slots: u64,
    backends: u64,
    names: u64,
}

impl Rows {
    fn add(&mut self, want: &PortRows) {
        self.frontends += want.frontends.len() as u64;
        self.services += 1;
        self.names += 1;
        self.backends += want.backends.len() as u64;
        let member = |at: bool| u64::from(at);
        self.slots += want.backends.iter().map(|b| member(b.in_cluster) + member(b.in_local)).sum::<u64>();
    }

    /// The smallest sizes, doubled from `least`, that are used to less than 80 %.
    fn sizes(&self, least: Limits) -> Limits {
        let size = |used: u64, mut size: u32, max: u32| {
            while used * 5 >= u64::from(size) * 4 && size < max {
                size = size.max(1).saturating_mul(2).min(max);
            }
            size
        };
        Limits {
            frontends: size(self.frontends, least.frontends, MAX_ROWS),
            services: size(self.services, least.services, MAX_SERVICES),
            slots: size(self.slots, least.slots, MAX_ROWS),
            backends: size(self.backends + 1, least.backends, MAX_ROWS),
            names: size(self.names, least.names, MAX_ROWS),
        }
    }
}

/// Sizes, at least `least`, in which these ServicePorts fit with room to change; `texts` is how many
/// nodes and zones their endpoints name. For the first load, before the maps are made.
pub fn limits_for<'a>(ports: impl Iterator<Item = &'a PortRows>, texts: u32, least: Limits) -> Limits {
    let mut rows = Rows { names: u64::from(texts), ..Rows::default() };
    ports.for_each(|want| rows.add(want));
    rows.sizes(least)
}

impl Book {
    /// Used rows and size of each map that is sized to need; rows at rest count as used.
    pub fn usage(&self) -> Vec<(Map, u32, u32)> {
        let used = self.rows();
        vec![
            (Map::Frontends, used.frontends as u32, self.limits.frontends),
            (Map::Services, used.services as u32, self.limits.services),
            (Map::Slots, used.slots as u32, self.limits.slots),
            (Map::Backends, used.backends as u32, self.limits.backends),
            (Map::Names, used.names as u32, self.limits.names),
        ]
    }

    fn rows(&self) -> Rows {
        Rows {
            frontends: u64::from(self.frontends.len()),
            services: u64::from(self.services.used()),
            slots: u64::from(self.slots.used()),
            backends: u64::from(self.backends.used()),
            names: self.ports.len() as u64 + u64::from(self.texts.len()),
        }
    }

    /// The sizes to grow to, if a map is used to 80 % or refused a row for want of room.
    pub(super) fn growth(&self) -> Option<Limits> {
        let (mut rows, mut least) = (self.rows(), self.limits);
        let full = |pending: &Pending| match pending.error() {
            Some(TableError::Full { map, .. }) => Some(*map),
            _ => None,
        };
        for (map, want) in
            self.pending.values().filter_map(|pending| Some((full(pending)?, pending.want.as_ref()?)))
        {
            rows.add(want);
            let (size, limit) = match map {
                Map::Frontends => (&mut least.frontends, self.limits.frontends),
                Map::Services => (&mut least.services, self.limits.services),
                Map::Slots => (&mut least.slots, self.limits.slots),
                Map::Backends | Map::Endpoints => (&mut least.backends, self.limits.backends),
                _ => (&mut least.names, self.limits.names),
            };
            *size = limit.saturating_mul(2).min(if map == Map::Services { MAX_SERVICES } else { MAX_ROWS });
        }
        let sizes = rows.sizes(least);
        (sizes != self.limits).then_some(sizes)
    }
}
