//! Which objects of a kind are there: so that a list can say what is gone, and so that what arrives
//! twice or too late does no harm.

use rustc_hash::FxHashMap;

use crate::model::names::ObjectName;

/// The objects of a kind, by name.
#[derive(Debug, Default)]
pub struct Known {
    objects: FxHashMap<ObjectName, Seen>,
    /// Counts the lists.
    list: u32,
    /// Tombstones among the objects.
    gone: usize,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The list it was last seen in, or in the watch after it.
    list: u32,
    /// Its version, as far as versions are numbers.
    version: Option<u64>,
    /// It was deleted: remembered until no older word of it can arrive.
    is_gone: bool,
}

/// So many tombstones are kept.
const TOMBSTONES: usize = 10_000;

impl Known {
    /// A list begins. What it does not name until [`end_list`](Self::end_list) is gone.
    pub fn begin_list(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// An object is there. False if a later word of it was heard already.
    ///
    /// Versions are compared within what one list and the watch after it say: a server that was
    /// restored from a backup begins anew with lower ones.
    pub fn is_there(&mut self, name: &ObjectName, version: Option<u64>) -> bool {
        self.hear(name, version, false)
    }

    /// An object was deleted. False if it was not there, or a later word of it was heard already.
    pub fn is_gone(&mut self, name: &ObjectName, version: Option<u64>) -> bool {
        let was_there = self.contains(name);
        self.hear(name, version, true) && was_there
    }

    /// Whether an object is there.
    pub fn contains(&self, name: &ObjectName) -> bool {
        self.objects.get(name).is_some_and(|seen| !seen.is_gone)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.len() == self.gone
    }

    fn hear(&mut self, name: &ObjectName, version: Option<u64>, is_gone: bool) -> bool {
        let before = self.objects.get(name).copied();
        let is_late = |seen: &Seen| seen.list == self.list && version.is_some() && version < seen.version;
        if before.as_ref().is_some_and(is_late) {
            return false;
        }
        self.gone += usize::from(is_gone);
        self.gone -= usize::from(before.is_some_and(|seen| seen.is_gone));
        self.objects.insert(name.clone(), Seen { list: self.list, version, is_gone });
        if self.gone > TOMBSTONES {
            self.forget_gone();
        }
        true
    }

    /// The list is complete: the objects it did not name, which are forgotten.
    pub fn end_list(&mut self) -> Vec<ObjectName> {
        let list = self.list;
        let missing = self.objects.extract_if(|_, seen| seen.list != list);
        let missing = missing.filter(|(_, seen)| !seen.is_gone).map(|(name, _)| name).collect();
        self.forget_gone();
        missing
    }

    /// Nothing older than now can arrive any more: a bookmark says so.
    pub fn forget_gone(&mut self) {
        if self.gone > 0 {
            self.objects.retain(|_, seen| !seen.is_gone);
        }
        self.gone = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ObjectName {
        ObjectName::new("ns", text)
    }

    fn listed(names: &[(&str, u64)]) -> Known {
        let mut known = Known::default();
        known.begin_list();
        for (text, version) in names {
            assert!(known.is_there(&name(text), Some(*version)));
        }
        assert!(known.end_list().is_empty());
        known
    }

    #[test]
    fn what_a_list_does_not_name_is_gone() {
        let mut known = listed(&[("a", 1), ("b", 2)]);
        known.begin_list();
        known.is_there(&name("b"), Some(2));
        assert_eq!(known.end_list(), [name("a")]);
        assert!(known.contains(&name("b")) && !known.contains(&name("a")));
    }

    #[test]
    fn a_word_that_arrives_late_is_not_heard() {
        let mut known = listed(&[("a", 5)]);
        assert!(!known.is_there(&name("a"), Some(4)), "late");
        assert!(known.is_there(&name("a"), Some(5)), "twice");
        assert!(known.is_gone(&name("a"), Some(9)));
        assert!(!known.is_there(&name("a"), Some(8)), "before it was deleted");
        assert!(!known.is_gone(&name("a"), Some(9)), "deleted twice");
        assert!(known.is_empty() && known.is_there(&name("a"), Some(10)), "made anew");
        assert!(!known.is_empty());
    }

    #[test]
    fn a_server_that_was_restored_begins_anew() {
        let mut known = listed(&[("a", 500), ("b", 600)]);
        known.begin_list();
        assert!(known.is_there(&name("a"), Some(5)));
        assert_eq!(known.end_list(), [name("b")]);
    }

    #[test]
    fn names_that_come_and_go_do_not_pile_up() {
        let mut known = listed(&[]);
        for n in 0..3 * TOMBSTONES as u64 {
            known.is_there(&name(&n.to_string()), Some(2 * n));
            known.is_gone(&name(&n.to_string()), Some(2 * n + 1));
        }
        assert!(known.objects.len() <= TOMBSTONES);
        known.forget_gone();
        assert!(known.objects.is_empty() && known.is_empty());
    }
}
