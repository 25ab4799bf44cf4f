//! Interned texts: the names of nodes and zones, counted by the endpoint rows that mention them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::plan::ids::{Epoch, Epochs, IdPool};
use crate::plan::table::{Op, Rows, TextId};

/// A row of `bl_endpoints` has 16 bits for its zone; the limit holds for every text.
const MAX_TEXTS: u32 = 1 << 16;

#[derive(Clone, Debug)]
struct Entry {
    text: Arc<str>,
    refs: u32,
    written: bool,
}

/// What is interned.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    ids: IdPool,
    by_id: BTreeMap<TextId, Entry>,
    by_text: FxHashMap<Arc<str>, TextId>,
    /// Those to look at after a pass: not written yet, or no longer mentioned.
    open: BTreeSet<TextId>,
}

impl Texts {
    /// Nothing interned.
    pub(super) fn new() -> Texts {
        Texts::recover(&Rows::default())
    }

    /// The texts of the tables, mentioned by nobody yet.
    pub(super) fn recover(rows: &Rows) -> Texts {
        let used: BTreeSet<u32> = rows.texts.iter().map(|(id, _)| id.0).collect();
        let entry = |text: &Arc<str>| Entry { text: text.clone(), refs: 0, written: true };
        Texts {
            ids: IdPool::with_used(1, MAX_TEXTS, &used),
            by_id: rows.texts.iter().map(|(id, text)| (*id, entry(text))).collect(),
            by_text: rows.texts.iter().map(|(id, text)| (text.clone(), *id)).collect(),
            open: rows.texts.iter().map(|(id, _)| *id).collect(),
        }
    }

    /// The text of an id.
    pub(super) fn text(&self, id: TextId) -> Option<&Arc<str>> {
        self.by_id.get(&id).map(|entry| &entry.text)
    }

    /// One more mention of a text. Without a text, or a free id, it is "none".
    pub(super) fn mention(&mut self, text: Option<&Arc<str>>) -> TextId {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return TextId(0);
        };
        if let Some(&id) = self.by_text.get(text) {
            self.mention_id(id);
            return id;
        }
        let Some(id) = self.ids.take().map(TextId) else {
            return TextId(0);
        };
        self.by_id.insert(id, Entry { text: text.clone(), refs: 1, written: false });
        self.by_text.insert(text.clone(), id);
        self.open.insert(id);
        id
    }

    /// One more mention of an interned text.
    pub(super) fn mention_id(&mut self, id: TextId) {
        if let Some(entry) = self.by_id.get_mut(&id) {
            entry.refs += 1;
        }
    }

    /// One mention less.
    pub(super) fn forget(&mut self, id: TextId) {
        if let Some(entry) = self.by_id.get_mut(&id) {
            entry.refs = entry.refs.saturating_sub(1);
            if entry.refs == 0 {
                self.open.insert(id);
            }
        }
    }

    /// The writes that are missing: texts to put, and those that nobody mentions any more.
    pub(super) fn ops(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        self.open.retain(|id| match self.by_id.get(id) {
            Some(entry) if entry.refs == 0 => {
                ops.push(Op::TextDelete(*id));
                true
            }
            Some(entry) if !entry.written => {
                ops.push(Op::TextPut(*id, entry.text.clone()));
                true
            }
            _ => false,
        });
        ops
    }

    /// A write was done.
    pub(super) fn done(&mut self, op: &Op, since: Epoch) {
        match op {
            Op::TextPut(id, _) => {
                if let Some(entry) = self.by_id.get_mut(id) {
                    entry.written = true;
                }
            }
            Op::TextDelete(id) => {
                if let Some(entry) = self.by_id.remove(id) {
                    if self.by_text.get(&entry.text) == Some(id) {
                        self.by_text.remove(&entry.text);
                    }
                    self.ids.retire(id.0, since);
                }
            }
            _ => {}
        }
    }

    /// Makes free the ids that nobody can hold any more.
    pub(super) fn release(&mut self, epochs: &Epochs) {
        self.ids.release(epochs);
    }

    /// Whether an id rests that a grace period would free.
    pub(super) fn awaits_grace(&self, epochs: &Epochs) -> bool {
        self.ids.awaits_grace(epochs)
    }

    /// The texts that are written, sorted by id.
    pub(super) fn rows(&self) -> Vec<(TextId, Arc<str>)> {
        self.by_id.iter().filter(|(_, entry)| entry.written).map(|(id, e)| (*id, e.text.clone())).collect()
    }

    /// How many are interned.
    pub(super) fn len(&self) -> u32 {
        self.by_id.len() as u32
    }
}
