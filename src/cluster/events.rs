//! Events as kube-proxy sends them (MET-10, HC-8, HLT-8), as values; who sends them is told at the start.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::model::names::ObjectName;

/// Which controller reports: kube-proxy's name, since what watches for its events goes by it.
const CONTROLLER: &str = "kube-proxy";

/// The reason of HC-8.
const HEALTH_CHECK: &str = "FailedToStartServiceHealthcheck";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// News.
    Normal,
    /// Something is wrong.
    Warning,
}

/// What it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Regarding {
    /// A Node, by name.
    Node(String),
    /// A Service.
    Service(ObjectName),
}

impl fmt::Display for Regarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Regarding::Node(name) => write!(f, "Node {name}"),
            Regarding::Service(name) => write!(f, "Service {name}"),
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// How bad it is.
    pub kind: Kind,
    /// Why, in one word.
    pub reason: &'static str,
    /// What was being done, in one word.
    pub action: &'static str,
    /// What it is about.
    pub regarding: Regarding,
    /// More words; may be empty.
    pub note: String,
}

impl Event {
    /// The proxy starts on a node (MET-10).
    pub fn starting(node: &str) -> Event {
        Event {
            kind: Kind::Normal,
            reason: "Starting",
            action: "StartKubeProxy",
            regarding: Regarding::Node(node.to_owned()),
            note: String::new(),
        }
    }

    /// A server's address cannot be had, and `bindAddressHardFail` says that this is the end (HLT-8).
    pub fn server_failed(node: &str, is_metrics: bool, note: String) -> Event {
        let reason = if is_metrics { "FailedToStartMetricServer" } else { "FailedToStartProxierHealthcheck" };
        Event { kind: Kind::Warning, reason, note, ..Event::starting(node) }
    }

    /// A health check node port cannot be had (HC-8).
    pub fn health_check_failed(service: &ObjectName, note: String) -> Event {
        Event {
            kind: Kind::Warning,
            reason: HEALTH_CHECK,
            action: "Listen",
            regarding: Regarding::Service(service.clone()),
            note,
        }
    }

    /// Another Service has the address and port (SVC-17).
    pub fn conflict(service: &ObjectName, note: String) -> Event {
        Event {
            kind: Kind::Warning,
            reason: "FrontendConflict",
            action: "Program",
            regarding: Regarding::Service(service.clone()),
            note,
        }
    }

    /// The namespace the object lies in: that of what it is about, `default` for a Node.
    pub fn namespace(&self) -> &str {
        match &self.regarding {
            Regarding::Node(_) => "default",
            Regarding::Service(name) => &name.namespace,
        }
    }

    /// The object of `events.k8s.io/v1`, to be posted to [`namespace`](Self::namespace). `host` is what the machine
    /// calls itself, which may be another name than the node's; `now` is since the Unix epoch.
    pub fn object(&self, host: &str, now: Duration) -> Value {
        let (regarding, name) = match &self.regarding {
            Regarding::Node(name) => {
                (json!({"kind": "Node", "name": name, "apiVersion": "v1"}), name.as_str())
            }
            Regarding::Service(service) => {
                let mut about =
                    json!({"kind": "Service", "namespace": service.namespace, "name": service.name});
                match self.reason {
                    // kube-proxy has no object at hand there, and gives the name for the uid.
                    HEALTH_CHECK => about["uid"] = service.to_string().into(),
                    _ => about["apiVersion"] = "v1".into(),
                }
                (about, &*service.name)
            }
        };
        let mut object = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": format!("{name}.{:x}", now.as_nanos()), "namespace": self.namespace()},
            "eventTime": micro_time(now),
            "reportingController": CONTROLLER,
            // The API takes 128 bytes, which is more than a host name of Linux has.
            "reportingInstance": format!("{CONTROLLER}-{host}").chars().take(128).collect::<String>(),
            "action": self.action,
            "reason": self.reason,
            "regarding": regarding,
            "type": match self.kind { Kind::Normal => "Normal", Kind::Warning => "Warning" },
        });
        if !self.note.is_empty() {
            object["note"] = self.note.chars().take(1024).collect::<String>().into();
        }
        object
    }
}

/// A time with microseconds, as metav1.MicroTime is written.
fn micro_time(time: Duration) -> String {
    let known = jiff::Timestamp::from_microsecond(i64::try_from(time.as_micros()).unwrap_or_default());
    known.map_or_else(|_| String::new(), |time| format!("{time:.6}"))
}

/// How many different events about anything are let through at once, and how long one takes to be let through
/// after that: client-go's spam filter, for the node as a whole.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);
/// The same event is let through again after this long.
const SAME: Duration = Duration::from_secs(600);
/// So many are remembered.
const REMEMBERED: usize = 256;

/// Lets an event through once, and few at a time.
#[derive(Debug)]
pub struct Gate {
    seen: VecDeque<(Event, Duration)>,
    tokens: u32,
    filled: Duration,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { seen: VecDeque::new(), tokens: BURST, filled: Duration::ZERO }
    }
}

impl Gate {
    /// Whether to let it through now.
    pub fn admits(&mut self, event: &Event, now: Duration) -> bool {
        self.seen.retain(|(_, since)| now.saturating_sub(*since) < SAME);
        if self.seen.iter().any(|(seen, _)| seen == event) {
            return false;
        }
        while self.tokens < BURST && now.saturating_sub(self.filled) >= REFILL {
            (self.tokens, self.filled) = (self.tokens + 1, self.filled + REFILL);
        }
        if self.tokens == BURST {
            self.filled = now;
        }
        let Some(left) = self.tokens.checked_sub(1) else { return false };
        self.tokens = left;
        if self.seen.len() == REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back((event.clone(), now));
        true
    }
}

/// Who is handed what was let through. It must not block.
pub type Sink = Box<dyn Fn(Event) + Send + Sync>;

/// Takes events from any thread, and hands on what is let through.
pub struct Recorder {
    epoch: Instant,
    gate: Mutex<Gate>,
    sink: Sink,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl Recorder {
    /// A recorder before a sink.
    pub fn new(sink: Sink) -> Recorder {
        Recorder { epoch: Instant::now(), gate: Mutex::default(), sink }
    }

    /// A recorder where nobody keeps events, as without an API server. Whoever records logs as well.
    pub fn nobody() -> Recorder {
        Recorder::new(Box::new(drop))
    }

    /// Something happened.
    pub fn record(&self, event: Event) {
        let admits =
            self.gate.lock().unwrap_or_else(PoisonError::into_inner).admits(&event, self.epoch.elapsed());
        if admits {
            (self.sink)(event);
        }
    }
}

/// Now, since the Unix epoch, for [`Event::object`].
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_of_a_start_is_that_of_kube_proxy() {
        // MET-10
        let recorded: Value =
            serde_json::from_str(include_str!("../../tests/data/recorded/api/events.list-kube-proxy.json"))
                .unwrap();
        let recorded = &recorded["items"][0];
        let time = "2026-11-20T19:50:54.560696Z".parse::<jiff::Timestamp>().unwrap().as_nanosecond();
        let ours = Event::starting("kc-n1").object("vm", Duration::from_nanos(time.try_into().unwrap()));
        for field in
            ["eventTime", "reportingController", "reportingInstance", "action", "reason", "regarding", "type"]
        {
            assert_eq!(ours[field], recorded[field], "{field}");
        }
        assert_eq!(ours["metadata"]["namespace"], recorded["metadata"]["namespace"]);
        assert_eq!(ours.get("note"), recorded.get("note"));
    }

    #[test]
    fn an_event_is_let_through_once_and_a_storm_is_cut() {
        let (mut gate, at) = (Gate::default(), Duration::from_secs);
        let event = |n: u32| Event::health_check_failed(&ObjectName::new("ns", &format!("s{n}")), "x".into());
        assert!(gate.admits(&event(0), at(0)));
        assert!(!gate.admits(&event(0), at(599)), "the same");
        assert!(gate.admits(&event(0), at(600)), "the same, later");
        let storm = (1..100).filter(|n| gate.admits(&event(*n), at(601))).count();
        assert!(storm < BURST as usize && storm >= BURST as usize - 2, "{storm}");
        assert!(!gate.admits(&event(200), at(602)));
        assert!(gate.admits(&event(200), at(602 + 300)), "one more after a while");
        assert!(!gate.admits(&event(201), at(602 + 300)));
    }
}
