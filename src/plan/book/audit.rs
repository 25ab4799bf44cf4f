//! The audit: whether the tables hold what was written to them. Nobody else should write there, and
//! whoever does it all the same, or memory that fails, is found here.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use super::Book;
use super::port::{Bits, Port, Rec};
use crate::model::names::ServicePortName;
use crate::plan::table::{
    BackendId, BackendRow, EndpointInfo, Policy, Rows, ServiceId, ServiceName, ServiceRow, SetWord, Settings,
    TextId, Which,
};

impl Book {
    /// Nothing is under way: no row waits to be written, for a retry or for a grace period. Only then
    /// do the tables hold exactly what the book says.
    pub fn is_at_rest(&self) -> bool {
        self.started
            && self.pending.is_empty()
            && self.node.is_done()
            && self.grace_running.is_none()
            && !self.awaits_grace()
    }

    /// The rows that are not as they were written, in words; empty if all are. To be asked when
    /// [`is_at_rest`](Self::is_at_rest).
    pub fn audit(&self, found: &Rows) -> Vec<String> {
        let expected = self.as_written();
        let mut damage = Vec::new();
        compare("bl_frontends", &expected.frontends, &found.frontends, &mut damage);
        let used: Vec<_> = found.services.iter().copied().filter(|(_, row)| is_used(row)).collect();
        compare("bl_services", &expected.services, &used, &mut damage);
        let lists = |rows: &Rows| -> Vec<_> {
            rows.slots.iter().map(|(id, which, list)| ((*id, *which), list.clone())).collect()
        };
        compare("bl_slots", &lists(&expected), &lists(found), &mut damage);
        compare("bl_backends", &expected.backends, &self.of_interest(found), &mut damage);
        compare("bl_endpoints", &expected.endpoints, &found.endpoints, &mut damage);
        compare("bl_names", &expected.names, &found.names, &mut damage);
        compare("bl_names", &expected.texts, &found.texts, &mut damage);
        let keys = |rows: &Rows| -> Vec<_> { rows.prefixes.iter().map(|prefix| (*prefix, ())).collect() };
        compare("bl_prefixes", &keys(&expected), &keys(found), &mut damage);
        compare("bl_netns", &expected.netns, &found.netns, &mut damage);
        if !is_written(&expected.settings, &found.settings) {
            damage.push(format!("bl_agent: {:?} instead of {:?}", found.settings, expected.settings));
        }
        damage
    }

    /// What the tables hold by the book. Of `bl_backends` only rows in use.
    fn as_written(&self) -> Rows {
        let mut rows = Rows::default();
        self.node.rows(&mut rows);
        rows.frontends = self.frontends.rows();
        rows.texts = self.texts.rows();
        let by_id: BTreeMap<ServiceId, (&ServicePortName, &Port)> =
            self.ports.iter().filter_map(|(name, port)| Some((port.id?, (name, port)))).collect();
        for (id, (name, port)) in by_id {
            if let Some(rules) = port.named {
                rows.names.push((id, ServiceName { name: name.clone(), rules }));
            }
            rows.services.push((id, ServiceRow { sets: port.sets, policy: port.policy }));
            for which in Which::ALL.into_iter().filter(|which| port.sets[*which as usize].count > 0) {
                let members = port.recs.iter().filter(|rec| rec.has(Bits::SLOT[which as usize]));
                rows.slots.push((id, which, members.map(|rec| rec.id).collect()));
            }
            for rec in port.recs.iter().filter(|rec| rec.has(Bits::ROW)) {
                rows.backends.push((rec.id, self.backend_row(id, rec)));
                rows.endpoints.extend(rec.has(Bits::INFO).then(|| (rec.id, endpoint_row(rec))));
            }
        }
        rows.backends.sort_unstable_by_key(|(id, _)| *id);
        rows.endpoints.sort_unstable_by_key(|(id, _)| *id);
        rows
    }

    fn backend_row(&self, service: ServiceId, rec: &Rec) -> BackendRow {
        let state = rec.state().state(self.generation(rec.id));
        BackendRow { addr: rec.addr, port: rec.port, service, state }
    }

    /// Rows of `bl_backends` that are in use, or that say so of themselves.
    fn of_interest(&self, found: &Rows) -> Vec<(BackendId, BackendRow)> {
        let recs = self.ports.values().flat_map(|port| &port.recs).filter(|rec| rec.has(Bits::ROW));
        let mut ours: Vec<BackendId> = recs.map(|rec| rec.id).collect();
        ours.sort_unstable();
        let of_interest = |(id, row): &(BackendId, BackendRow)| {
            Bits::of_state(row.state) != Bits::NONE || ours.binary_search(id).is_ok()
        };
        found.backends.iter().copied().filter(of_interest).collect()
    }
}

/// A row of `bl_services` that means something.
fn is_used(row: &ServiceRow) -> bool {
    row.policy != Policy::UNUSED || row.sets != [SetWord::default(); 2]
}

/// The row of `bl_endpoints` that was written for a record.
fn endpoint_row(rec: &Rec) -> EndpointInfo {
    EndpointInfo {
        node: rec.node,
        zone: TextId(u32::from(rec.zone)),
        ready: rec.has(Bits::INFO_READY),
        serving: rec.has(Bits::INFO_SERVING),
        terminating: rec.has(Bits::INFO_TERMINATING),
        local: rec.has(Bits::INFO_LOCAL),
        used: true,
    }
}

/// Whether a settings row holds these settings; the row cuts long texts.
fn is_written(expected: &Settings, found: &Settings) -> bool {
    let texts = |of: &Settings| {
        [of.version.clone(), of.source_kind.clone(), of.source.clone(), of.node.clone(), of.zone.clone()]
    };
    let cut = |(long, short): (Arc<str>, Arc<str>)| {
        long.starts_with(&*short) && (long.is_empty() || !short.is_empty())
    };
    (expected.synced, expected.masquerade_all, expected.local_detector)
        == (found.synced, found.masquerade_all, found.local_detector)
        && texts(expected).into_iter().zip(texts(found)).all(cut)
}

/// Walks two lists that are sorted by key, and says where they differ.
fn compare<K: Ord + Debug, V: PartialEq + Debug>(
    map: &str,
    expected: &[(K, V)],
    found: &[(K, V)],
    damage: &mut Vec<String>,
) {
    let (mut expected, mut found) = (expected.iter().peekable(), found.iter().peekable());
    loop {
        match (expected.peek(), found.peek()) {
            (None, None) => return,
            (Some((key, _)), there) if there.is_none_or(|(other, _)| key < other) => {
                damage.push(format!("{map}: {key:?} is missing"));
                expected.next();
            }
            (here, Some((key, value))) if here.is_none_or(|(other, _)| key < other) => {
                damage.push(format!("{map}: {key:?} is there, with {value:?}, and nobody wrote it"));
                found.next();
            }
            _ => {
                if let (Some((key, wanted)), Some((_, value))) = (expected.next(), found.next())
                    && wanted != value
                {
                    damage.push(format!("{map}: {key:?} holds {value:?} instead of {wanted:?}"));
                }
            }
        }
    }
}
