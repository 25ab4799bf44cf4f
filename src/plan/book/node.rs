//! Rows that belong to no ServicePort: prefixes, network namespaces, settings, and the names of
//! nodes and zones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::settle::backoff;
use super::{Book, Outcome};
use crate::plan::table::{NetnsClass, Op, Prefix, Rows, Settings, TableError, Tables};

/// Want and have of these rows (names are in [`Texts`](super::texts::Texts)).
#[derive(Debug, Default)]
pub(super) struct NodeBook {
    prefixes: BTreeSet<Prefix>,
    netns: BTreeMap<u64, NetnsClass>,
    settings: Settings,
    want_prefixes: Option<BTreeSet<Prefix>>,
    want_netns: Option<BTreeMap<u64, NetnsClass>>,
    want_settings: Option<Settings>,
    /// Something may be missing: nothing else is compared.
    open: bool,
    failed: Vec<(String, TableError)>,
    tries: u32,
    due: Option<Duration>,
}

impl NodeBook {
    pub(super) fn recover(rows: &Rows) -> NodeBook {
        NodeBook {
            prefixes: rows.prefixes.iter().copied().collect(),
            netns: rows.netns.iter().copied().collect(),
            settings: rows.settings.clone(),
            ..NodeBook::default()
        }
    }

    /// Whether all that is wanted has been written.
    pub(super) fn is_done(&self) -> bool {
        !self.open && self.failed.is_empty()
    }

    /// What has been written.
    pub(super) fn rows(&self, rows: &mut Rows) {
        rows.prefixes = self.prefixes.iter().copied().collect();
        rows.netns = self.netns.iter().map(|(cookie, class)| (*cookie, *class)).collect();
        rows.settings = self.settings.clone();
    }

    /// Notes what is wanted from now on.
    pub(super) fn want(
        &mut self,
        prefixes: Option<Vec<Prefix>>,
        netns: Option<Vec<(u64, NetnsClass)>>,
        settings: Option<Settings>,
    ) {
        if prefixes.is_some() || netns.is_some() || settings.is_some() {
            (self.open, self.due) = (true, None);
        }
        self.want_prefixes = prefixes.map(|all| all.into_iter().collect()).or(self.want_prefixes.take());
        self.want_netns = netns.map(|all| all.into_iter().collect()).or(self.want_netns.take());
        self.want_settings = settings.or(self.want_settings.take());
    }

    pub(super) fn pending(&self) -> Vec<(String, TableError)> {
        self.failed.clone()
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// The writes that are missing: first what is put, then what goes, the settings last.
    fn ops(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        if !self.open {
            return ops;
        }
        if let Some(want) = &self.want_prefixes {
            ops.extend(want.difference(&self.prefixes).copied().map(Op::PrefixPut));
            ops.extend(self.prefixes.difference(want).copied().map(Op::PrefixDelete));
        }
        if let Some(want) = &self.want_netns {
            let put = want.iter().filter(|(cookie, class)| self.netns.get(cookie) != Some(class));
            ops.extend(put.map(|(cookie, class)| Op::NetnsPut(*cookie, *class)));
            let gone = self.netns.keys().filter(|cookie| !want.contains_key(cookie));
            ops.extend(gone.map(|cookie| Op::NetnsDelete(*cookie)));
        }
        ops.extend(
            self.want_settings.iter().filter(|want| **want != self.settings).cloned().map(Op::Settings),
        );
        ops
    }

    fn done(&mut self, op: Op) {
        match op {
            Op::PrefixPut(prefix) => drop(self.prefixes.insert(prefix)),
            Op::PrefixDelete(prefix) => drop(self.prefixes.remove(&prefix)),
            Op::NetnsPut(cookie, class) => drop(self.netns.insert(cookie, class)),
            Op::NetnsDelete(cookie) => drop(self.netns.remove(&cookie)),
            Op::Settings(settings) => self.settings = settings,
            _ => {}
        }
    }
}

fn describe(op: &Op) -> String {
    match op {
        Op::PrefixPut(prefix) | Op::PrefixDelete(prefix) => {
            format!("prefix {} ({:?})", prefix.net, prefix.class)
        }
        Op::NetnsPut(cookie, _) | Op::NetnsDelete(cookie) => format!("network namespace {cookie}"),
        Op::TextPut(_, text) => format!("the name {text}"),
        Op::TextDelete(id) => format!("the name with id {}", id.0),
        _ => "settings".to_owned(),
    }
}

impl Book {
    /// Writes these rows, if it is time.
    pub(super) fn write_node(&mut self, tables: &mut dyn Tables, now: Duration, out: &mut Outcome) {
        let node = &mut self.node;
        if node.due.is_some_and(|due| due > now) {
            return;
        }
        let mut ops = self.texts.ops();
        ops.extend(node.ops());
        let mut errors: BTreeMap<usize, TableError> = BTreeMap::new();
        if !ops.is_empty() {
            errors.extend(tables.apply_all(&ops));
        }
        node.failed.clear();
        for (at, op) in ops.into_iter().enumerate() {
            match errors.remove(&at) {
                Some(error) => node.failed.push((describe(&op), error)),
                None => {
                    self.texts.done(&op, self.epochs.now());
                    node.done(op);
                }
            }
        }
        out.failed.extend(node.failed.iter().cloned());
        node.open = !node.failed.is_empty();
        node.tries = if node.failed.is_empty() { 0 } else { node.tries + 1 };
        node.due = (!node.failed.is_empty()).then(|| now + backoff(node.tries - 1));
    }
}
