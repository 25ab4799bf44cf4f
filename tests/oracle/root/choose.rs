//! Choices: `bl_choose()` and `bl_choice_valid()` against the rows and against `plan::affinity`.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use beeline::model::flow::{ClientKind, Flow};
use beeline::plan::affinity::{Record, keep};
use beeline::plan::resolve::{Action, Verdict, resolve};
use beeline::plan::table::{BackendId, BackendRow, FrontendKey};
use rand::Rng;
use rand::rngs::StdRng;

use super::bpf::{Bpf, Case, Outcome};
use super::rows::{BACKENDS, Rows, SERVICES, any_state};
use super::seeded;

fn choice(id: BackendId, row: &BackendRow) -> u64 {
    u64::from(id.0) | u64::from(row.state.generation) << 32
}

/// A flow of a pod to each frontend that forwards.
fn forwarded(rows: &Rows) -> Vec<(Flow, [u8; 20], Verdict)> {
    let flow = |(key, _): &(FrontendKey, _)| match *key {
        FrontendKey::Port { addr, port, protocol } => {
            Some(Flow { from: ClientKind::Pod, client: None, to: SocketAddr::new(addr, port), protocol })
        }
        FrontendKey::Active { .. } => None,
    };
    rows.frontends
        .iter()
        .filter_map(|(bytes, value)| {
            let flow = flow(value)?;
            let verdict = resolve(rows, &flow);
            (verdict.action == Action::Forward).then_some((flow, *bytes, verdict))
        })
        .collect()
}

fn assert_chosen(rows: &Rows, got: &Outcome, id: BackendId) {
    let row = &rows.backends[&id.0];
    assert_eq!(got.backend, Some((row.addr, row.port)), "backend {id:?}");
    assert_eq!(got.choice, choice(id, row), "choice of {id:?}");
}

/// The slot that a random number stands for.
fn picked(verdict: &Verdict, rnd: u32) -> BackendId {
    verdict.backends[((u64::from(rnd) * verdict.backends.len() as u64) >> 32) as usize]
}

#[test]
fn a_pick_is_a_slot_of_the_set_and_every_slot_has_its_share() {
    let mut rng = seeded("pick");
    let bpf = Bpf::load();
    for _ in 0..20 {
        let mut rows = Rows::random(&mut rng);
        for service in &mut rows.services {
            service.policy.affinity_seconds = 0;
        }
        rows.write(&bpf);
        for (flow, key, verdict) in forwarded(&rows) {
            let mut seen = HashSet::new();
            for rnd in (0..64).map(|n| n << 26).chain([u32::MAX, 1, u32::MAX / 2]) {
                let got = bpf.run("choose", &Case { key, client: 1, rnd, ..Case::default() });
                let id = picked(&verdict, rnd);
                assert_chosen(&rows, &got, id);
                seen.insert(id);
            }
            let all: HashSet<_> = verdict.backends.iter().copied().collect();
            assert_eq!(seen, all, "64 even steps meet every slot of {flow:?}");
        }
    }
}

/// Time, records and rows while connections are made.
struct Story {
    rows: Rows,
    now: Duration,
    records: HashMap<(u64, u32), Record>,
}

impl Story {
    /// One connection both ways; true if the client kept its backend.
    fn connect(&mut self, bpf: &Bpf, key: [u8; 20], verdict: &Verdict, netns: u64, rnd: u32) -> bool {
        let now = self.now.as_nanos() as u64;
        let got = bpf.run("choose", &Case { key, client: 1, netns, now, rnd, ..Case::default() });
        let of = (netns, verdict.service.unwrap().0);
        let kept = keep(&self.rows, verdict, self.records.get(&of), self.now);
        let id = kept.unwrap_or_else(|| picked(verdict, rnd));
        assert_chosen(&self.rows, &got, id);
        if verdict.affinity_seconds.is_some() {
            let generation = self.rows.backends[&id.0].state.generation;
            self.records.insert(of, Record { backend: id, generation, used: self.now });
        }
        kept.is_some()
    }

    /// A backend changes as the agent may change it: what is in a set is eligible there and of its Service.
    fn change(&mut self, bpf: &Bpf, rng: &mut StdRng) {
        let id = rng.random_range(1..=BACKENDS);
        self.rows.backends.get_mut(&id).unwrap().state = any_state(rng);
        self.rows.write_backend(bpf, id);
    }
}

/// Each backend gets the Service that its slots are of; the last Service that asks wins.
fn adopt(rows: &mut Rows) {
    for (_, _, verdict) in forwarded(rows) {
        for id in &verdict.backends {
            rows.backends.get_mut(&id.0).unwrap().service = verdict.service.expect("a frontend was met");
        }
    }
}

#[test]
fn affinity_keeps_and_forgets_as_the_specification_does() {
    // AFF-1, AFF-3, AFF-4, AFF-5
    let mut rng = seeded("affinity");
    let bpf = Bpf::load();
    let (mut kept, mut fresh) = (0, 0);
    for _ in 0..20 {
        let mut rows = Rows::random(&mut rng);
        for service in &mut rows.services {
            service.policy.affinity_seconds = if rng.random_bool(0.8) { rng.random_range(1..=30) } else { 0 };
        }
        adopt(&mut rows);
        rows.write(&bpf);
        let mut story = Story { rows, now: Duration::from_secs(1000), records: HashMap::new() };
        let flows = forwarded(&story.rows);
        for _ in 0..500 {
            let (_, key, verdict) = &flows[rng.random_range(0..flows.len())];
            let netns = 0xffff_fff0_u64 + rng.random_range(0..32); // cookies on both sides of 32 bits
            match story.connect(&bpf, *key, verdict, netns, rng.random()) {
                true => kept += 1,
                false => fresh += 1,
            }
            story.now += Duration::from_millis(rng.random_range(0..200));
            if rng.random_bool(0.02) {
                story.change(&bpf, &mut rng);
            }
        }
    }
    assert!(kept > 200 && fresh > 500, "both happened often: kept {kept}, fresh {fresh}");
}

/// A story of Services with 10 s of affinity, and a flow to one that owns all its backends, two or more.
fn story_of_ten_seconds(bpf: &Bpf, rng: &mut StdRng) -> (Story, [u8; 20], Verdict) {
    loop {
        let mut rows = Rows::random(rng);
        for service in &mut rows.services {
            service.policy.affinity_seconds = 10;
        }
        adopt(&mut rows);
        for row in rows.backends.values_mut() {
            (row.state.in_cluster, row.state.in_local) = (true, true);
        }
        let fits = |verdict: &Verdict| {
            verdict.backends.iter().any(|id| *id != verdict.backends[0])
                && verdict.backends.iter().all(|id| Some(rows.backends[&id.0].service) == verdict.service)
        };
        if let Some((_, key, verdict)) = forwarded(&rows).into_iter().find(|(_, _, verdict)| fits(verdict)) {
            rows.write(bpf);
            return (Story { rows, now: Duration::from_secs(1000), records: HashMap::new() }, key, verdict);
        }
    }
}

#[test]
fn affinity_ends_at_its_second_and_is_refreshed_by_each_connection() {
    // AFF-3
    let mut rng = seeded("affinity second");
    let bpf = Bpf::load();
    let (mut story, key, verdict) = story_of_ten_seconds(&bpf, &mut rng);
    for (after, keeps) in [(0, false), (9_999, true), (9_999, true), (10_000, false), (1, true)] {
        story.now += Duration::from_millis(after);
        let last = story.records.values().next().map(|record| record.backend);
        // A random pick would show: it leads elsewhere.
        let rnd = (0..64).map(|n| n << 26).find(|rnd| Some(picked(&verdict, *rnd)) != last).unwrap();
        assert_eq!(story.connect(&bpf, key, &verdict, 7, rnd), keeps, "after {after} ms");
    }
}

#[test]
fn a_remembered_choice_holds_while_generation_owner_and_flag_do() {
    // DEC-2, CT-4
    let mut rng = seeded("valid");
    let bpf = Bpf::load();
    let (mut held, mut ended) = (0, 0);
    for _ in 0..20 {
        let rows = Rows::random(&mut rng);
        rows.write(&bpf);
        for _ in 0..500 {
            let id = rng.random_range(0..=BACKENDS + 1); // 0 is none, the last is not there
            let generation = rng.random_range(0..3);
            let service = match rows.backends.get(&id) {
                Some(row) if rng.random_bool(0.9) => row.service.0,
                _ => rng.random_range(0..SERVICES),
            };
            let bit = rng.random_range(0..3);
            let expected = rows.backends.get(&id).filter(|row| {
                let state = row.state;
                let flags = [state.in_cluster, state.in_local, state.serving];
                state.generation == generation && row.service.0 == service && flags[bit]
            });
            let choice = u64::from(id) | u64::from(generation) << 32;
            let got = bpf.run("valid", &Case { choice, service, need: 1 << bit, ..Case::default() });
            assert_eq!(
                got.backend,
                expected.map(|row| (row.addr, row.port)),
                "{id} {generation} {service} {bit}"
            );
            if got.backend.is_some() { held += 1 } else { ended += 1 }
        }
    }
    assert!(held > 500 && ended > 500, "both happened often: held {held}, ended {ended}");
}
