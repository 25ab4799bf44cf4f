//! `status`: one page on what this node does and what it cannot do.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::view::{Hook, MapUse, Program, View};
use crate::plan::table::FrontendKey;

/// The answer of `beeline status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The version of this binary.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// The node's name as the tables have it; empty if nobody said.
    pub node: Arc<str>,
    /// An agent holds the tables now. Without one, traffic goes on by the tables as they are.
    pub agent: bool,
    /// Where the objects come from.
    pub source: Source,
    /// What works, by feature.
    pub features: Features,
    /// How much there is.
    pub counts: Counts,
    /// How full the maps are.
    pub maps: Vec<MapUse>,
    /// What could not be done and is tried again, and objects that could not be read.
    pub pending: Vec<Pending>,
    /// How often the running agent found a row changed by others, or a program detached, and put it back.
    pub repaired: u64,
    /// The programs that are attached, and whether they are those of this binary.
    pub programs: Vec<Program>,
}

/// Where the objects come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    /// `manifests` or `kubernetes`; `None` before an agent has written it.
    pub kind: Option<Arc<str>>,
    /// The directory, file or URL.
    pub from: Option<Arc<str>>,
    /// The first complete state has been programmed (SYNC-1).
    pub synced: bool,
}

/// What works, by feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Features {
    /// Services are resolved at `connect()`.
    pub socket_lb: Feature,
    /// Packets of clients outside are translated.
    pub packet_lb: Feature,
    /// Traffic between two pods of this node takes a short cut.
    pub acceleration: Feature,
    /// UDP sockets whose backend is gone are ended.
    pub udp_kill: Feature,
    /// Pods whose traffic a mesh redirects are left alone.
    pub mesh_detect: Feature,
}

/// One feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Whether it works.
    pub state: FeatureState,
    /// Why it does not work in full; empty if it does.
    pub reason: String,
}

/// Whether a feature works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureState {
    /// In full.
    On,
    /// It works, with something lost that the reason names.
    Narrowed,
    /// Nobody switched it on, or this version does not have it.
    Off,
    /// It should work and does not.
    Failed,
}

impl FeatureState {
    /// The word shown in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            FeatureState::On => "on",
            FeatureState::Narrowed => "narrowed",
            FeatureState::Off => "off",
            FeatureState::Failed => "failed",
        }
    }
}

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Services (not their ports).
    pub services: usize,
    /// Addresses and ports that lead to one.
    pub frontends: usize,
    /// Endpoints, once per port and family, usable or not.
    pub backends: usize,
}

/// Something that could not be done yet, or an object that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The row, file or object.
    pub what: String,
    /// Why not, and the next step.
    pub error: String,
}

impl Status {
    /// Reads the page off a view.
    pub fn of(view: &View) -> Status {
        let settings = &view.rows.settings;
        let some = |text: &Arc<str>| (!text.is_empty()).then(|| Arc::clone(text));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: view.kernel.clone(),
            node: Arc::clone(&settings.node),
            agent: view.agent,
            source: Source {
                kind: some(&settings.source_kind),
                from: some(&settings.source),
                synced: settings.synced,
            },
            features: Features::of(view),
            counts: Counts::of(view),
            maps: view.maps.clone(),
            pending: view.pending.clone(),
            repaired: view.repaired,
            programs: view.programs.clone(),
        }
    }

    /// The features by name, in the order they are shown.
    pub fn features(&self) -> [(&'static str, &Feature); 5] {
        let all = &self.features;
        [
            ("socket_lb", &all.socket_lb),
            ("packet_lb", &all.packet_lb),
            ("acceleration", &all.acceleration),
            ("udp_kill", &all.udp_kill),
            ("mesh_detect", &all.mesh_detect),
        ]
    }
}

impl Features {
    fn of(view: &View) -> Features {
        let absent = |what: &str| Feature {
            state: FeatureState::Off,
            reason: format!("this version does not {what}"),
        };
        Features {
            socket_lb: socket_lb(&view.hooks, &view.narrowed),
            packet_lb: absent("translate packets: clients outside the node are not served"),
            acceleration: absent("accelerate connections between pods of a node"),
            udp_kill: absent("end UDP sockets whose backend is gone"),
            mesh_detect: absent("detect meshed pods: their sockets are resolved like all others"),
        }
    }
}

/// Whether `connect()` is resolved: all hooks attached, some, or none.
fn socket_lb(hooks: &[Hook], narrowed: &[String]) -> Feature {
    let missing: Vec<&str> = hooks.iter().filter(|h| !h.attached).map(|h| h.name.as_str()).collect();
    let (state, reason) = match (missing.len(), narrowed.is_empty()) {
        (all, _) if all == hooks.len() => {
            (FeatureState::Off, "no program is attached; start the agent with `beeline run`".to_owned())
        }
        (0, true) => (FeatureState::On, String::new()),
        (0, false) => (FeatureState::Narrowed, narrowed.join("; ")),
        (_, _) => {
            let reason = format!(
                "not attached: {}; restart the agent and read its log, or ask `beeline doctor`",
                missing.join(", ")
            );
            (FeatureState::Failed, reason)
        }
    };
    Feature { state, reason }
}

impl Counts {
    fn of(view: &View) -> Counts {
        let rows = &view.rows;
        let services: BTreeSet<_> = rows
            .names
            .iter()
            .filter(|(id, _)| rows.services.binary_search_by_key(id, |(at, _)| *at).is_ok())
            .map(|(_, named)| &named.name.service)
            .collect();
        Counts {
            services: services.len(),
            frontends: rows
                .frontends
                .iter()
                .filter(|(key, _)| matches!(key, FrontendKey::Port { .. }))
                .count(),
            backends: rows.endpoints.len(),
        }
    }
}
