//! What one ServicePort lacks: want against have, and the ids and slots for the difference.

use super::Book;
use super::frontends::value;
use super::port::{Bits, Port, Rec, info_bits};
use crate::model::names::ServicePortName;
use crate::plan::compile::{BackendWant, PortRows};
use crate::plan::ids::Range;
use crate::plan::table::{
    BackendId, FrontendKey, FrontendKind, Map, Policy, ServiceId, SetWord, TableError, Tables, TextId, Which,
};

/// One set word to store.
#[derive(Clone, Debug)]
pub(super) struct Flip {
    pub(super) word: SetWord,
    /// Freshly taken slots; `None` for an empty set, or where only the flag changes.
    pub(super) range: Option<Range>,
    /// The slots change, not only the flag.
    pub(super) content: bool,
}

/// What is to be done for one ServicePort. While it is worked on, its [`Port`] lives here.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: ServicePortName,
    pub(super) want: PortRows,
    /// It is to go altogether.
    pub(super) removing: bool,
    pub(super) port: Port,
    pub(super) flips: [Option<Flip>; 2],
    /// It is being removed, and readers that came by a frontend may still be at its rows.
    pub(super) draining: bool,
    /// A frontend waits for a grace period.
    pub(super) blocked: bool,
    pub(super) failed: Option<TableError>,
}

impl Plan {
    /// The row. It is taken before anything else is done.
    pub(super) fn id(&self) -> ServiceId {
        self.port.id.unwrap_or(ServiceId(u32::MAX))
    }

    /// State bits an endpoint ends with. What a removed ServicePort leaves is cleared a grace
    /// period after its frontends, all at once.
    pub(super) fn final_state(&self, rec: &Rec) -> Bits {
        if self.draining { rec.state() } else { rec.state_after() }
    }

    /// The wanted endpoint of a record.
    pub(super) fn wanted(&self, rec: &Rec) -> Option<&BackendWant> {
        let found = self.want.backends.binary_search_by_key(&rec.key(), |want| (want.addr, want.port));
        found.ok().map(|at| &self.want.backends[at])
    }
}

/// Why a plan could not be made.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A grace period will help.
    Wait,
    /// The map is full.
    Full(TableError),
}

impl Book {
    /// Plans one ServicePort; `None` if the tables are as wanted. Nothing has been written yet when
    /// it is refused, and nothing is kept.
    pub(super) fn plan(
        &mut self,
        name: &ServicePortName,
        want: &mut Option<PortRows>,
        tables: &dyn Tables,
    ) -> Result<Option<Plan>, Refusal> {
        let removing = want.is_none();
        if let Some(want) = want {
            normalize(want);
            if self.ports.get(name).is_some_and(|port| self.is_settled(port, want)) {
                return Ok(None);
            }
        } else if !self.ports.contains_key(name) {
            return Ok(None);
        }
        let port = self.ports.remove(name).unwrap_or_else(Port::new);
        let mut plan = Plan {
            name: name.clone(),
            want: want.take().unwrap_or_default(),
            removing,
            port,
            flips: [None, None],
            draining: false,
            blocked: false,
            failed: None,
        };
        merge(&mut plan.port.recs, &plan.want.backends);
        if let Err(refusal) = self.allot(&mut plan, tables) {
            self.close(&mut plan);
            *want = (!removing).then(|| std::mem::take(&mut plan.want));
            self.shelve(plan);
            return Err(refusal);
        }
        Ok(Some(plan))
    }

    /// Takes the ids and slots that the plan needs, and notes the set words to store.
    fn allot(&mut self, plan: &mut Plan, tables: &dyn Tables) -> Result<(), Refusal> {
        if plan.port.id.is_none() && !plan.removing {
            plan.port.id = Some(ServiceId(self.take_row(&plan.want, tables)?));
        }
        for rec in plan.port.recs.iter_mut().filter(|rec| rec.id == BackendId(0)) {
            rec.id = BackendId(self.take_backend()?);
        }
        let over = plan.port.unlinked.is_some_and(|since| self.epochs.is_over(since));
        plan.draining = plan.removing && !over;
        // Recovery may find frontends that lead to rows beyond the map: those have no words to store.
        let has_row = plan.id().0 < self.limits.services;
        for which in Which::ALL {
            if has_row && !plan.draining && !plan.port.set_is(which, plan.want.has_any) {
                plan.flips[which as usize] = Some(self.flip(plan, which)?);
            }
        }
        Ok(())
    }

    fn flip(&mut self, plan: &Plan, which: Which) -> Result<Flip, Refusal> {
        let (at, has_any) = (which as usize, plan.want.has_any);
        if plan.port.set_is(which, plan.port.sets[at].has_any) {
            let word = SetWord { has_any, ..plan.port.sets[at] };
            return Ok(Flip { word, range: None, content: false });
        }
        let count = plan.port.recs.iter().filter(|rec| rec.has(Bits::WANT_IN[at])).count() as u32;
        if count == 0 {
            return Ok(Flip { word: SetWord { base: 0, count, has_any }, range: None, content: true });
        }
        let range = if self.gate { None } else { self.slots.take(count) };
        let range = range.ok_or_else(|| self.refusal(Map::Slots))?;
        Ok(Flip { word: SetWord { base: range.base, count, has_any }, range: Some(range), content: true })
    }

    /// A row of `bl_services`, where readers look first for its ClusterIP.
    fn take_row(&mut self, want: &PortRows, tables: &dyn Tables) -> Result<u32, Refusal> {
        let is_dialled = |(key, kind): &&(FrontendKey, FrontendKind)| {
            *kind == FrontendKind::ClusterIp && matches!(key, FrontendKey::Port { .. })
        };
        let dialled = want.frontends.iter().find(is_dialled);
        let homes = dialled.map(|(key, _)| tables.homes(key)).unwrap_or_default();
        let id = if self.gate { None } else { self.services.take_near(homes.iter().map(|id| id.0)) };
        id.ok_or_else(|| self.refusal(Map::Services))
    }

    fn take_backend(&mut self) -> Result<u32, Refusal> {
        let id = if self.gate { None } else { self.backends.take() };
        id.ok_or_else(|| self.refusal(Map::Backends))
    }

    fn refusal(&self, map: Map) -> Refusal {
        let (waits, limit) = match map {
            Map::Services => (self.services.awaits_grace(&self.epochs), self.limits.services),
            Map::Backends => (self.backends.awaits_grace(&self.epochs), self.limits.backends),
            _ => (self.slots.awaits_grace(&self.epochs), self.limits.slots),
        };
        if self.gate || waits { Refusal::Wait } else { Refusal::Full(TableError::Full { map, limit }) }
    }

    /// Whether the tables hold exactly what is wanted.
    fn is_settled(&self, port: &Port, want: &PortRows) -> bool {
        let set_fits = |at: usize| !port.broken[at] && port.sets[at].has_any == want.has_any;
        port.named == Some(want.rules)
            && port.policy == want.policy
            && port.frontends == want.frontends
            && want.frontends.iter().all(|(key, kind)| self.leads(port, key, *kind))
            && set_fits(0)
            && set_fits(1)
            && port.recs.len() == want.backends.len()
            && port.recs.iter().zip(&want.backends).all(|(rec, want)| self.rec_is_settled(rec, want))
    }

    fn leads(&self, port: &Port, key: &FrontendKey, kind: FrontendKind) -> bool {
        port.id.is_some_and(|id| self.frontends.is(key, value(key, kind, id)))
    }

    fn rec_is_settled(&self, rec: &Rec, want: &BackendWant) -> bool {
        let goal = Bits::ROW
            .or(Bits::IN[0].or(Bits::SLOT[0]).when(want.in_cluster))
            .or(Bits::IN[1].or(Bits::SLOT[1]).when(want.in_local))
            .or(Bits::SERVING.when(want.serving));
        rec.key() == (want.addr, want.port)
            && rec.bits.and(Bits::ROW.or(Bits::STATE).or(Bits::SLOTS)) == goal
            && self.info_is(rec, want)
    }

    /// Whether the endpoint row says what is wanted.
    pub(super) fn info_is(&self, rec: &Rec, want: &BackendWant) -> bool {
        let text_is = |id: TextId, text: Option<&str>| self.texts.text(id).map(|text| &**text) == text;
        rec.bits.and(Bits::INFOS.or(Bits::INFO_DUE)) == info_bits(want)
            && text_is(rec.node, want.node.as_deref().filter(|text| !text.is_empty()))
            && text_is(TextId(u32::from(rec.zone)), want.zone.as_deref().filter(|text| !text.is_empty()))
    }
}

/// What the planner relies on: sorted, each once, policy in use.
fn normalize(want: &mut PortRows) {
    want.policy.used = true;
    if !want.frontends.is_sorted_by(|a, b| a.0 < b.0) {
        want.frontends.sort_by_key(|(key, _)| *key);
        want.frontends.dedup_by_key(|(key, _)| *key);
    }
    if !want.backends.is_sorted_by(|a, b| (a.addr, a.port) < (b.addr, b.port)) {
        want.backends.sort_by_key(|backend| (backend.addr, backend.port));
        want.backends.dedup_by_key(|backend| (backend.addr, backend.port));
    }
}

/// Adds what is wanted and not there, and notes at each record what is wanted of it.
fn merge(recs: &mut Vec<Rec>, wants: &[BackendWant]) {
    let mut have = std::mem::take(recs).into_iter().peekable();
    recs.reserve_exact(wants.len().max(have.len()));
    for want in wants {
        let key = (want.addr, want.port);
        while let Some(mut rec) = have.next_if(|rec| rec.key() < key) {
            rec.want(None);
            recs.push(rec);
        }
        let mut rec = have.next_if(|rec| rec.key() == key).unwrap_or_else(|| Rec::new(want.addr, want.port));
        rec.want(Some(want));
        recs.push(rec);
    }
    recs.extend(have.map(|mut rec| {
        rec.want(None);
        rec
    }));
}

impl Policy {
    /// The policy of a row that is not in use.
    pub(super) const UNUSED: Policy =
        Policy { affinity_seconds: 0, internal_local: false, external_local: false, used: false };
}
