//! The Kubernetes API as a source: Services, EndpointSlices, this Node and ServiceCIDRs, watched.
//!
//! Each kind has a [`Watcher`](watch): a task on the agent's own thread, which lists (streaming where
//! the server can, else by pages), watches from there, takes the watch up where it ended, and lists
//! anew where that is not possible. What a list does not name any more is gone, but only once the list
//! is complete; nothing is taken away before the first (SYNC-1, SYNC-11).
//!
//! **kube** gives the connection, the credentials and TLS; not its `watcher`. That keeps back whole
//! objects with all their metadata, hides status codes and `Retry-After`, knows no fallback for servers
//! without streaming lists, and throws away a page with one bad object in it.
//!
//! **JSON**, not protobuf, though CFG-7 has it: neither kube nor k8s-openapi can decode protobuf. An agent
//! that takes in 10,000 Services and as many slices of 10 endpoints is ready after 0.6 s and has used 60 MiB
//! at most, of which the decoding keeps one object at a time (two cores of a virtual machine, test
//! `ten_thousand_services_are_taken_in_without_a_heap_of_copies`).
//!
//! **One thread.** A body is decoded piece by piece as it arrives, an object in microseconds; between two
//! pieces the agent does whatever else it has to. A thread of its own would have a heap of its own. From
//! the server's write to the events in hand it takes 45 µs.

mod ask;
mod failure;
mod known;
mod pace;
mod post;
mod resource;
mod split;
mod store;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use self::pace::Pace;
use self::post::OnTheWay;
use self::resource::Resource;
use self::store::{Said, Store};
use self::watch::Watcher;
use super::client::{Door, Tally};
use super::convert::Problem;
use super::events::Recorder;
use super::manifest::{FileProblem, Severity};
use super::object::{Key, Kind};
use crate::model::event::Event;

/// So many pieces of bodies wait for the agent at most; then the server has to wait.
const WAITING: usize = 16;

/// Kinds without which nothing is programmed (SYNC-1).
const NEEDED: [Kind; 2] = [Kind::Service, Kind::EndpointSlice];

/// Kinds that are waited for a while.
const LESSER: [Kind; 2] = [Kind::Node, Kind::ServiceCidr];

/// The API server, followed.
#[derive(Debug)]
pub struct ApiSource {
    door: Arc<Door>,
    place: Arc<str>,
    node: Arc<str>,
    pace: Pace,
    inbox: Receiver<Vec<Said>>,
    watchers: JoinSet<()>,
    listed: BTreeSet<Kind>,
    /// Until when the lesser kinds are waited for.
    deadline: Option<Instant>,
    is_synced: bool,
    has_node: bool,
    troubles: BTreeMap<Kind, String>,
    faulty: BTreeMap<Key, Vec<(Problem, Severity)>>,
    events: Arc<OnTheWay>,
}

impl ApiSource {
    /// Begins to follow what concerns this node. To be called on a runtime. The seed is for the jitter
    /// of pauses.
    pub fn open(door: Door, node: &str, pace: Pace, seed: u64) -> ApiSource {
        let (outbox, inbox) = channel(WAITING);
        let (door, converter) = (Arc::new(door), Arc::new(Mutex::default()));
        let mut watchers = JoinSet::new();
        for (resource, at) in Resource::all(node).into_iter().zip(1..) {
            let store = Store::new(resource.kind, Arc::clone(&converter));
            let seeded = (pace.clone(), seed.wrapping_mul(31).wrapping_add(at));
            watchers.spawn(Watcher::new(resource, door.clone(), store, seeded, outbox.clone()).run());
        }
        ApiSource {
            place: door.place(),
            door,
            node: node.into(),
            pace,
            inbox,
            watchers,
            listed: BTreeSet::new(),
            deadline: None,
            is_synced: false,
            has_node: false,
            troubles: BTreeMap::new(),
            faulty: BTreeMap::new(),
            events: Arc::default(),
        }
    }

    /// Waits for the next change, and takes all that can be taken at once: many changes are one step of
    /// the agent. Empty if only [`problems`](Self::problems) changed. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Vec<Event> {
        let mut pieces = Vec::new();
        tokio::select! {
            _ = self.inbox.recv_many(&mut pieces, WAITING) => {}
            Some(ended) = self.watchers.join_next() => {
                // A watcher never ends. If it fails by a mistake of ours, the agent is to end as
                // well, and its successor to list anew; the data path goes on.
                resume_unwind(ended.map_or_else(|error| error.into_panic(), |()| Box::new("a watcher ended")));
            }
            () = until(self.deadline) => {}
        }
        let mut events = Vec::new();
        pieces.into_iter().flatten().for_each(|said| self.hear(said, &mut events));
        self.sync(&mut events);
        events
    }

    /// Has the server keep events, which this host reports. To be called on a runtime.
    pub fn recorder(&self, host: &str) -> Recorder {
        Recorder::new(post::sink(self.door.clone(), host, self.events.clone()))
    }

    /// Waits until all events that were recorded are posted, or were given up.
    pub async fn posted(&self) {
        // It fails only without a sender, which is ours.
        let _ = self.events.subscribe().wait_for(|count| *count == 0).await;
    }

    /// The requests so far (MET-9).
    pub fn tally(&self) -> Arc<Tally> {
        self.door.tally()
    }

    /// Whether all that is needed has been listed.
    pub fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Whether something is wrong with the server or the way to it.
    pub fn is_troubled(&self) -> bool {
        !self.troubles.is_empty()
    }

    /// Everything that is wrong now: with the server, then by object.
    pub fn problems(&self) -> Vec<FileProblem> {
        let troubles = self.troubles.values().collect::<BTreeSet<_>>();
        let whole = |message: &String| FileProblem::whole(self.place.clone(), message.clone());
        let mut problems: Vec<_> = troubles.into_iter().map(whole).collect();
        if self.listed.contains(&Kind::Node) && !self.has_node {
            problems.push(FileProblem { severity: Severity::Warning, ..whole(&self.no_node()) });
        }
        for (key, found) in &self.faulty {
            problems.extend(found.iter().map(|(problem, severity)| FileProblem {
                object: Some(key.to_string()),
                field: problem.field.clone(),
                severity: *severity,
                ..whole(&problem.message)
            }));
        }
        problems
    }

    fn no_node(&self) -> String {
        format!(
            "the cluster has no Node '{}': no endpoint counts as local, and the zone is unknown; give the name it \
             has there with --node-name (EP-10)",
            self.node
        )
    }

    fn hear(&mut self, said: Said, events: &mut Vec<Event>) {
        match said {
            Said::Event(event) => {
                match event {
                    Event::Node(_) => self.has_node = true,
                    Event::NodeGone(_) => self.has_node = false,
                    _ => {}
                }
                events.push(event);
            }
            Said::Object(key, problems) if problems.is_empty() => drop(self.faulty.remove(&key)),
            Said::Object(key, problems) => drop(self.faulty.insert(key, problems)),
            Said::Trouble(kind, None) => drop(self.troubles.remove(&kind)),
            Said::Trouble(kind, Some(message)) => drop(self.troubles.insert(kind, message)),
            Said::Listed(kind) => drop(self.listed.insert(kind)),
        }
    }

    /// Says that the first lists are complete, once they are.
    fn sync(&mut self, events: &mut Vec<Event>) {
        if self.is_synced || !NEEDED.iter().all(|kind| self.listed.contains(kind)) {
            return;
        }
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + self.pace.lesser_kinds);
        if deadline <= now || LESSER.iter().all(|kind| self.listed.contains(kind)) {
            (self.is_synced, self.deadline) = (true, None);
            events.push(Event::Synced);
        }
    }
}

/// Waits until then; for ever, if there is no then.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
