//! The objects of the server, and what happened to them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The kinds it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1 Service
    Service,
    /// discovery.k8s.io/v1 EndpointSlice
    EndpointSlice,
    /// v1 Node
    Node,
    /// networking.k8s.io/v1 ServiceCIDR
    ServiceCidr,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];

    /// Kind, API version, path, and the selectors that a request must carry (SVC-1, SVC-4).
    pub(super) fn facts(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Kind::Service => (
                "Service",
                "v1",
                "/api/v1/services",
                "fieldSelector=spec.clusterIP%21%3DNone&labelSelector=%21service.kubernetes.io%2Fservice-proxy-name",
            ),
            Kind::EndpointSlice => (
                "EndpointSlice",
                "discovery.k8s.io/v1",
                "/apis/discovery.k8s.io/v1/endpointslices",
                "labelSelector=%21service.kubernetes.io%2Fheadless",
            ),
            Kind::Node => ("Node", "v1", "/api/v1/nodes", "fieldSelector=metadata.name%3D"),
            Kind::ServiceCidr => {
                ("ServiceCIDR", "networking.k8s.io/v1", "/apis/networking.k8s.io/v1/servicecidrs", "")
            }
        }
    }

    /// Whether the selectors of that kind let an object through.
    fn selects(self, object: &Value) -> bool {
        let has_label = |label: &str| object["metadata"]["labels"].get(label).is_some();
        match self {
            Kind::Service => {
                !has_label("service.kubernetes.io/service-proxy-name")
                    && object["spec"]["clusterIP"] != "None"
            }
            Kind::EndpointSlice => !has_label("service.kubernetes.io/headless"),
            Kind::Node | Kind::ServiceCidr => true,
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) struct Happening {
    pub version: u64,
    pub kind: Kind,
    pub name: String,
    /// The line of a watch.
    pub line: Arc<str>,
}

/// What a list says.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    pub version: u64,
    /// Names, and objects as JSON.
    pub items: Vec<(String, Arc<str>)>,
}

#[derive(Debug, Default)]
pub(super) struct Objects {
    objects: BTreeMap<(Kind, String, String), (Value, Arc<str>)>,
    version: u64,
    history: Vec<Happening>,
    /// What happened until then is forgotten.
    compacted: u64,
    /// Lists that are handed out in pages, by token.
    pages: HashMap<String, Listing>,
    /// Counts tokens.
    tokens: u64,
}

impl Objects {
    /// Makes or replaces an object; returns its version.
    pub fn put(&mut self, mut object: Value) -> Result<u64> {
        let said = object["kind"].as_str().unwrap_or_default();
        let kind = Kind::ALL.into_iter().find(|kind| kind.facts().0 == said);
        let kind = kind.with_context(|| format!("'{said}' is no kind that this server has"))?;
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        self.version += 1;
        object["apiVersion"] = kind.facts().1.into();
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let key = (kind, namespace, name.clone());
        let was_selected = self.objects.get(&key).is_some_and(|(old, _)| kind.selects(old));
        let event = match (was_selected, kind.selects(&object)) {
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        };
        let json: Arc<str> = object.to_string().into();
        self.happen(kind, &name, event, &json);
        self.objects.insert(key, (object, json));
        Ok(self.version)
    }

    /// Removes an object.
    pub fn delete(&mut self, kind: Kind, namespace: &str, name: &str) -> bool {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let Some((mut object, _)) = self.objects.remove(&key) else { return false };
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let event = kind.selects(&object).then_some("DELETED");
        self.happen(kind, name, event, &object.to_string());
        true
    }

    fn happen(&mut self, kind: Kind, name: &str, event: Option<&str>, json: &str) {
        if let Some(event) = event {
            let line = format!("{{\"type\":\"{event}\",\"object\":{json}}}\n").into();
            self.history.push(Happening { version: self.version, kind, name: name.into(), line });
        }
    }

    /// A bookmark for every kind.
    pub fn bookmark(&mut self) {
        self.version += 1;
        for kind in Kind::ALL {
            let line = self.bookmark_line(kind, false).into();
            self.history.push(Happening { version: self.version, kind, name: String::new(), line });
        }
    }

    /// A bookmark, perhaps the one that ends a streaming list.
    pub fn bookmark_line(&self, kind: Kind, ends_list: bool) -> String {
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if ends_list {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": kind.facts().0, "apiVersion": kind.facts().1, "metadata": metadata});
        format!("{}\n", json!({"type": "BOOKMARK", "object": object}))
    }

    /// Forgets what happened.
    pub fn compact(&mut self) {
        self.compacted = self.version;
        self.history.clear();
        self.pages.clear();
    }

    /// Begins versions anew.
    pub fn restore(&mut self) {
        let before = std::mem::take(self);
        for (object, _) in before.objects.into_values() {
            // They were put before, so they say what they are.
            let _ = self.put(object);
        }
        self.history.clear();
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether what happened after that version is still known.
    pub fn remembers(&self, version: u64) -> bool {
        version >= self.compacted
    }

    /// What happened after the first `seen` happenings to come after `version`.
    pub fn since(&self, version: u64) -> impl Iterator<Item = &Happening> {
        let from = self.history.partition_point(|happening| happening.version <= version);
        self.history[from..].iter()
    }

    /// All objects that the selectors let through; of Nodes, only that one.
    pub fn list(&self, kind: Kind, node: &str) -> Listing {
        let of_kind = self.objects.iter().filter(|((of, _, name), (object, _))| {
            *of == kind && kind.selects(object) && (kind != Kind::Node || name == node)
        });
        let items = of_kind.map(|((_, _, name), (_, json))| (name.clone(), json.clone())).collect();
        Listing { version: self.version, items }
    }

    /// All objects of a kind.
    pub fn all(&self, kind: Kind) -> Vec<Value> {
        let of_kind = self.objects.iter().filter(|((of, ..), _)| *of == kind);
        of_kind.map(|(_, (object, _))| object.clone()).collect()
    }

    /// Keeps the rest of a list until it is asked for; returns the token.
    pub fn keep(&mut self, rest: Listing) -> String {
        self.tokens += 1;
        let token = format!("page/{}={}", rest.version, self.tokens);
        self.pages.insert(token.clone(), rest);
        token
    }

    /// The rest of a list, unless it is forgotten.
    pub fn page(&mut self, token: &str) -> Option<Listing> {
        self.pages.remove(token)
    }
}
