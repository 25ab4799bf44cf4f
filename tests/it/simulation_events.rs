//! Random lives of a few ServicePorts that share addresses, ports of addresses, pods and nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use beeline::model::addr::Protocol;
use beeline::model::names::ServicePortName;
use beeline::plan::compile::{BackendWant, PortRows};
use beeline::plan::rule::{Rule, RuleSet};
use beeline::plan::table::{FrontendKey, FrontendKind, Policy, port_key};
use rand::Rng;
use rand::rngs::StdRng;

use crate::book_model::{name, pod, vip};

pub type Change = (ServicePortName, Option<PortRows>);

#[derive(Clone, Debug)]
struct Life {
    keys: BTreeMap<FrontendKey, FrontendKind>,
    backends: BTreeMap<u32, BackendWant>,
    policy: Policy,
}

/// The objects as they are now.
#[derive(Clone, Debug)]
pub struct Objects {
    lives: BTreeMap<u32, Life>,
    nodes: Vec<Arc<str>>,
    services: u32,
    pods: u32,
}

impl Objects {
    pub fn new(services: u32, pods: u32) -> Objects {
        let nodes = (0..4).map(|n| format!("node-{n}").into()).collect();
        Objects { lives: BTreeMap::new(), nodes, services, pods }
    }

    /// All that is wanted.
    pub fn all(&self) -> Vec<Change> {
        self.lives.iter().map(|(n, life)| (name(*n), Some(life.rows()))).collect()
    }

    /// One to three Services change.
    pub fn change(&mut self, rng: &mut StdRng) -> Vec<Change> {
        let mut touched = BTreeSet::new();
        for _ in 0..rng.random_range(1..=3) {
            let n = rng.random_range(0..self.services);
            touched.insert(n);
            match self.lives.remove(&n) {
                None => self.create(n, rng),
                Some(life) if rng.random_ratio(1, 6) => touched.extend(self.remove_or_rename(life, rng)),
                Some(mut life) => {
                    self.edit(&mut life, rng);
                    self.lives.insert(n, life);
                }
            }
        }
        let rows = |n: u32| self.lives.get(&n).map(Life::rows);
        touched.into_iter().map(|n| (name(n), rows(n))).collect()
    }

    fn create(&mut self, n: u32, rng: &mut StdRng) {
        let mut life = Life { keys: BTreeMap::new(), backends: BTreeMap::new(), policy: Policy::default() };
        self.move_keys(&mut life, rng);
        for _ in 0..rng.random_range(0..5) {
            self.edit_backend(&mut life, rng);
        }
        self.lives.insert(n, life);
    }

    /// The life ends, or goes on under another name and keeps its addresses (SVC-18).
    fn remove_or_rename(&mut self, life: Life, rng: &mut StdRng) -> Option<u32> {
        let other = rng.random_range(0..self.services);
        if rng.random_bool(0.5) || self.lives.contains_key(&other) {
            return None;
        }
        self.lives.insert(other, life);
        Some(other)
    }

    fn edit(&self, life: &mut Life, rng: &mut StdRng) {
        match rng.random_range(0..10) {
            0 => self.move_keys(life, rng),
            1 => life.policy.internal_local ^= true,
            2 => life.policy.external_local ^= true,
            3 => life.policy.affinity_seconds = rng.random_range(0..2) * 10800,
            4 => life.backends.clear(),
            _ => (0..rng.random_range(1..4)).for_each(|_| self.edit_backend(life, rng)),
        }
    }

    /// Other addresses: whatever is free, with the ports of an address shared among Services.
    fn move_keys(&self, life: &mut Life, rng: &mut StdRng) {
        let taken: BTreeSet<FrontendKey> =
            self.lives.values().flat_map(|life| life.keys.keys().copied()).collect();
        life.keys.clear();
        for _ in 0..rng.random_range(1..4) {
            let addr = vip(rng.random_range(0..3));
            let key = port_key(addr, 80 + rng.random_range(0..3), Protocol::Tcp);
            let kind = [FrontendKind::ClusterIp, FrontendKind::LoadBalancer][rng.random_range(0..2)];
            if !taken.contains(&key) {
                life.keys.insert(key, kind);
            }
        }
    }

    fn edit_backend(&self, life: &mut Life, rng: &mut StdRng) {
        let n = rng.random_range(0..self.pods);
        if life.backends.remove(&n).is_some() && rng.random_bool(0.5) {
            return;
        }
        let node = rng.random_range(0..self.nodes.len());
        let serving = rng.random_bool(0.8);
        life.backends.insert(
            n,
            BackendWant {
                addr: pod(n),
                port: 8080,
                in_cluster: rng.random_bool(0.7),
                in_local: rng.random_bool(0.3),
                ready: rng.random_bool(0.8),
                serving,
                terminating: rng.random_bool(0.2),
                local: node == 0,
                node: Some(self.nodes[node].clone()),
                zone: rng.random_bool(0.5).then(|| self.nodes[node / 2].clone()),
            },
        );
    }
}

impl Life {
    fn rows(&self) -> PortRows {
        let mut frontends: BTreeMap<FrontendKey, FrontendKind> = self.keys.clone();
        for key in self.keys.keys() {
            frontends.insert(FrontendKey::Active { addr: key.addr() }, FrontendKind::ClusterIp);
        }
        let backends: Vec<BackendWant> = self.backends.values().cloned().collect();
        let rule = if backends.iter().any(|b| b.ready) { Rule::Cat2 } else { Rule::Cat6 };
        PortRows {
            frontends: frontends.into_iter().collect(),
            has_any: backends.iter().any(|b| b.ready),
            backends,
            policy: Policy { used: true, ..self.policy },
            rules: [RuleSet::default().with(rule), RuleSet::default()],
        }
    }
}
