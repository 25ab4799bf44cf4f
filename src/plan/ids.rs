//! Who may use which row: ids, ranges of slots, and the quarantine between two owners.
//!
//! A reader that has begun may hold what was unlinked a moment ago. So what is freed rests until a
//! grace period that *began after* it was freed has ended (architecture, "Re-use waits for a proven
//! grace period"). The lowest free id is handed out first, so that tables stay dense, unless a certain one is
//! wanted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

/// A point in the order of grace periods: "after the n-th one began".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

/// Counts grace periods: how many have begun, and which is the last that is known to have ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epochs {
    begun: u64,
    ended: u64,
}

impl Epochs {
    /// The present, to be noted with what is unlinked now.
    pub fn now(&self) -> Epoch {
        Epoch(self.begun)
    }

    /// A grace period begins; pass the result to [`Epochs::end`] once it is proven to have ended.
    pub fn begin(&mut self) -> Epoch {
        self.begun += 1;
        Epoch(self.begun)
    }

    /// The grace period has ended: every reader that began before it has ended too.
    pub fn end(&mut self, period: Epoch) {
        self.ended = self.ended.max(period.0);
    }

    /// Whether no reader can hold what was unlinked then: a grace period that began later has ended.
    pub fn is_over(&self, unlinked: Epoch) -> bool {
        self.ended > unlinked.0
    }
}

/// Something freed that readers may hold.
#[derive(Clone, Copy, Debug)]
struct Resting<T> {
    what: T,
    since: Epoch,
}

/// What was freed and may not be handed out yet.
#[derive(Clone, Debug)]
struct Quarantine<T>(VecDeque<Resting<T>>);

impl<T: Copy> Quarantine<T> {
    fn push(&mut self, what: T, since: Epoch) {
        self.0.push_back(Resting { what, since });
    }

    /// Takes out what nobody can hold any more.
    fn release(&mut self, epochs: &Epochs) -> Vec<T> {
        let mut free = Vec::new();
        self.0.retain(|resting| {
            let over = epochs.is_over(resting.since);
            if over {
                free.push(resting.what);
            }
            !over
        });
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
        free
    }

    /// Whether a grace period would bring something nearer to release.
    fn awaits_grace(&self, epochs: &Epochs) -> bool {
        self.0.iter().any(|resting| !epochs.is_over(resting.since))
    }
}

/// One bit per id.
#[derive(Clone, Debug, Default)]
struct Bitmap(Vec<u64>);

impl Bitmap {
    fn has(&self, id: u32) -> bool {
        self.0.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 != 0)
    }

    /// Sets or clears a bit; whether that changed it.
    fn set(&mut self, id: u32, on: bool) -> bool {
        let (word, bit) = (id as usize / 64, 1 << (id % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let before = self.0[word];
        self.0[word] = if on { before | bit } else { before & !bit };
        self.0[word] != before
    }
}

/// Ids from `first` up to, not including, a limit.
#[derive(Clone, Debug)]
pub struct IdPool {
    first: u32,
    limit: u32,
    /// Below here every id that is not busy is in `free`; from here on none is.
    fresh: u32,
    /// It may also hold ids that [`IdPool::take_near`] took.
    free: BinaryHeap<Reverse<u32>>,
    /// What `free` holds.
    listed: Bitmap,
    /// In use. It catches what is freed twice.
    taken: Bitmap,
    /// In use or resting, and how many are.
    busy: Bitmap,
    used: u32,
    resting: Quarantine<u32>,
}

impl IdPool {
    /// A pool in which every id of `first..limit` is free.
    pub fn new(first: u32, limit: u32) -> IdPool {
        IdPool::with_used(first, limit, &BTreeSet::new())
    }

    /// A pool in which the ids of `used` are taken; those outside `first..limit` are ignored.
    pub fn with_used(first: u32, limit: u32, used: &BTreeSet<u32>) -> IdPool {
        let mut pool = IdPool {
            first,
            limit,
            fresh: first,
            free: BinaryHeap::new(),
            listed: Bitmap::default(),
            taken: Bitmap::default(),
            busy: Bitmap::default(),
            used: 0,
            resting: Quarantine(VecDeque::new()),
        };
        used.range(first..limit.max(first)).for_each(|id| pool.claim(*id));
        pool
    }

    /// The lowest free id; `None` when all are in use or resting.
    pub fn take(&mut self) -> Option<u32> {
        while let Some(Reverse(id)) = self.free.pop() {
            self.listed.set(id, false);
            if !self.busy.has(id) {
                self.claim(id);
                return Some(id);
            }
        }
        let id = (self.fresh..self.limit).find(|id| !self.busy.has(*id));
        self.fresh = id.map_or(self.limit.max(self.fresh), |id| id + 1);
        self.claim(id?);
        id
    }

    /// The first free id of `wanted`, else any.
    pub fn take_near(&mut self, mut wanted: impl Iterator<Item = u32>) -> Option<u32> {
        let (range, busy) = (self.first..self.limit, &self.busy);
        let near = wanted.find(|id| range.contains(id) && !busy.has(*id));
        let Some(id) = near else { return self.take() };
        self.claim(id);
        Some(id)
    }

    /// Gives back an id that no reader can have seen.
    pub fn put_back(&mut self, id: u32) {
        if self.handed_out(id) {
            self.unclaim(id);
            self.free(id);
        }
    }

    /// Frees an id that readers may hold, unlinked at `since`.
    pub fn retire(&mut self, id: u32, since: Epoch) {
        if self.handed_out(id) {
            self.unclaim(id);
            self.resting.push(id, since);
        }
    }

    /// Makes free what nobody can hold any more.
    pub fn release(&mut self, epochs: &Epochs) {
        for id in self.resting.release(epochs) {
            self.free(id);
        }
    }

    /// Whether something rests that a grace period would help.
    pub fn awaits_grace(&self, epochs: &Epochs) -> bool {
        self.resting.awaits_grace(epochs)
    }

    /// How many ids are in use or resting.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Raises the limit. A lower one than before is ignored: ids above it may be in use.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = self.limit.max(limit);
    }

    /// Whether the pool has to do with the id: recovery may find rows outside of what it hands out.
    fn handed_out(&self, id: u32) -> bool {
        (self.first..self.fresh).contains(&id) || self.busy.has(id)
    }

    fn claim(&mut self, id: u32) {
        let (taken, busy) = (self.taken.set(id, true), self.busy.set(id, true));
        debug_assert!(taken && busy, "id {id} taken twice");
        self.used += 1;
    }

    fn unclaim(&mut self, id: u32) {
        let taken = self.taken.set(id, false);
        debug_assert!(taken, "id {id} freed twice");
    }

    fn free(&mut self, id: u32) {
        if self.busy.set(id, false) {
            self.used -= 1;
        }
        if id < self.fresh && self.listed.set(id, true) {
            self.free.push(Reverse(id));
        }
    }
}

/// A range of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// First slot.
    pub base: u32,
    /// Number of slots, never 0.
    pub len: u32,
}

/// Ranges of slots below a limit: best fit, lowest first among equals, neighbours joined when freed.
#[derive(Clone, Debug)]
pub struct RangePool {
    limit: u32,
    used: u32,
    by_base: BTreeMap<u32, u32>,
    by_len: BTreeSet<(u32, u32)>,
    resting: Quarantine<Range>,
}

impl RangePool {
    /// A pool in which all slots below `limit` are free.
    pub fn new(limit: u32) -> RangePool {
        let mut pool = RangePool {
            limit: 0,
            used: 0,
            by_base: BTreeMap::new(),
            by_len: BTreeSet::new(),
            resting: Quarantine(VecDeque::new()),
        };
        pool.set_limit(limit);
        pool
    }

    /// The smallest free range that holds `len` slots (not 0), cut to size; `None` when there is none.
    pub fn take(&mut self, len: u32) -> Option<Range> {
        let &(free, base) = self.by_len.range((len, 0)..).next()?;
        self.unlink(base, free);
        if free > len {
            self.link(base + len, free - len);
        }
        self.used += len;
        Some(Range { base, len })
    }

    /// Takes exactly this range, at recovery. `false` if part of it is taken already or above the limit.
    pub fn reserve(&mut self, range: Range) -> bool {
        let Some((&base, &free)) = self.by_base.range(..=range.base).next_back() else {
            return false;
        };
        let (end, free_end) =
            (u64::from(range.base) + u64::from(range.len), u64::from(base) + u64::from(free));
        if end > free_end || range.len == 0 {
            return false;
        }
        self.unlink(base, free);
        if range.base > base {
            self.link(base, range.base - base);
        }
        if free_end > end {
            self.link(end as u32, (free_end - end) as u32);
        }
        self.used += range.len;
        true
    }

    /// Gives back a range that no reader can have seen.
    pub fn put_back(&mut self, range: Range) {
        self.used -= range.len;
        self.join(range);
    }

    /// Frees a range that readers may hold, unlinked at `since`.
    pub fn retire(&mut self, range: Range, since: Epoch) {
        self.resting.push(range, since);
    }

    /// Makes free what nobody can hold any more.
    pub fn release(&mut self, epochs: &Epochs) {
        for range in self.resting.release(epochs) {
            self.put_back(range);
        }
    }

    /// Whether something rests that a grace period would help.
    pub fn awaits_grace(&self, epochs: &Epochs) -> bool {
        self.resting.awaits_grace(epochs)
    }

    /// How many slots are in use or resting.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Raises the limit. A lower one than before is ignored.
    pub fn set_limit(&mut self, limit: u32) {
        if limit > self.limit {
            let more = Range { base: self.limit, len: limit - self.limit };
            self.limit = limit;
            self.join(more);
        }
    }

    fn join(&mut self, range: Range) {
        let Range { mut base, mut len } = range;
        if let Some((&before, &before_len)) = self.by_base.range(..base).next_back() {
            debug_assert!(before + before_len <= base, "slots from {base} freed twice");
            if before + before_len == base {
                self.unlink(before, before_len);
                (base, len) = (before, before_len + len);
            }
        }
        if let Some((&after, &after_len)) = self.by_base.range(base..).next() {
            debug_assert!(base + len <= after, "slots from {base} freed twice");
            if base + len == after {
                self.unlink(after, after_len);
                len += after_len;
            }
        }
        self.link(base, len);
    }

    fn link(&mut self, base: u32, len: u32) {
        self.by_base.insert(base, len);
        self.by_len.insert((len, base));
    }

    fn unlink(&mut self, base: u32, len: u32) {
        self.by_base.remove(&base);
        self.by_len.remove(&(len, base));
    }
}
