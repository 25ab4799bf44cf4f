//! A vector's cluster as it changes: objects through the product's own reading, conversion,
//! compilation and book-keeping into tables, and the same objects as files for the binary.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeline::cluster::manifest::ManifestStore;
use beeline::model::addr::{Family, Protocol};
use beeline::model::event::Event;
use beeline::model::flow::{ClientKind, Flow};
use beeline::model::names::{ObjectName, ServicePortName};
use beeline::model::node::HostFacts;
use beeline::model::service::Service;
use beeline::plan::book::{Book, Changes};
use beeline::plan::compile::{NodeRows, PortRows, compile, compile_node};
use beeline::plan::mem::MemTables;
use beeline::plan::table::{Limits, Settings};
use beeline::plan::world::World;
use serde_json::{Value, json};

use crate::file::{Apply, Clients, Config, Defaults, From, Node, Patch, Vector, overlay};

const LIMITS: Limits =
    Limits { frontends: 1024, services: 1024, slots: 1 << 16, backends: 1 << 16, names: 4096 };

/// One vector's cluster and the tables that follow it.
pub struct Stage<'a> {
    defaults: &'a Defaults,
    patches: Vec<&'a Patch>,
    config: Config,
    clients: Clients,
    node: Node,
    objects: BTreeMap<String, Value>,
    store: ManifestStore,
    world: World,
    book: Book,
    /// The tables; each change goes through them, as in the agent.
    pub tables: MemTables,
    changes: u32,
}

impl<'a> Stage<'a> {
    /// The cluster as the vector describes it, before any step.
    pub fn new(defaults: &'a Defaults, vector: &'a Vector) -> Result<Stage<'a>> {
        let config: Config = overlay(&defaults.config, &[&vector.config])?;
        let mut stage = Stage {
            defaults,
            patches: vec![&vector.node],
            clients: overlay(&defaults.clients, &[&vector.clients])?,
            node: overlay(&defaults.node, &[&vector.node])?,
            objects: BTreeMap::new(),
            store: ManifestStore::new(),
            world: World::new(),
            book: Book::new(LIMITS),
            tables: MemTables::new(LIMITS),
            changes: 0,
            config,
        };
        if !stage.config.service_cidrs.is_empty() {
            let cidrs = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
                "spec": {"cidrs": stage.config.service_cidrs},
            });
            stage.objects.insert("ServiceCIDR//kubernetes".into(), cidrs);
        }
        stage.put(&vector.services, "Service", "v1")?;
        stage.put(&vector.slices, "EndpointSlice", "discovery.k8s.io/v1")?;
        stage.settle()?;
        Ok(stage)
    }

    /// Applies one step: deletions, then what is there or changed.
    pub fn apply(&mut self, apply: &'a Apply) -> Result<()> {
        for key in &apply.delete {
            if self.objects.remove(key).is_none() {
                bail!("delete {key}: there is no such object");
            }
        }
        self.put(&apply.services, "Service", "v1")?;
        self.put(&apply.slices, "EndpointSlice", "discovery.k8s.io/v1")?;
        self.patches.push(&apply.node);
        self.node = overlay(&self.defaults.node, &self.patches)?;
        self.settle()
    }

    fn put(&mut self, objects: &[Value], kind: &str, version: &str) -> Result<()> {
        for object in objects {
            let mut object = object.clone();
            let name = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
            let (Some(namespace), Some(name)) = (name("namespace"), name("name")) else {
                bail!("a {kind} has no namespace or name: {object}");
            };
            let Some(map) = object.as_object_mut() else { bail!("a {kind} is no mapping") };
            map.insert("apiVersion".into(), version.into());
            map.insert("kind".into(), kind.into());
            self.objects.insert(format!("{kind}/{namespace}/{name}"), object);
        }
        Ok(())
    }

    fn list(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "List", "items": self.objects.values().collect::<Vec<_>>()})
    }

    /// Brings the tables up to date, as the agent does: only what changed is compiled.
    fn settle(&mut self) -> Result<()> {
        let host = HostFacts {
            node_name: self.node.name.as_str().into(),
            zone: self.node.zone.as_deref().map(Arc::from),
            addresses: self.node.ips.clone(),
            local_detector: self.config.local_detector_cidrs.clone(),
            masquerade_all: self.config.masquerade_all,
            ..HostFacts::default()
        };
        self.world.apply(Event::Host(Box::new(host)));
        let text = self.list().to_string();
        for event in self.store.update("vector.json", &text).events {
            self.world.apply(event);
        }
        self.world.apply(Event::Synced);
        let dirty = self.world.take_dirty();
        let mut ports = Vec::new();
        for service in &dirty.services {
            let gone = self.book.known().filter(|name| name.service == *service);
            ports.extend(gone.cloned().map(|name| (name, None)));
            ports.extend(compile(&self.world, service).into_iter().map(|(name, rows)| (name, Some(rows))));
        }
        let NodeRows { prefixes, node, zone, masquerade_all, local_detector } = compile_node(&self.world);
        let settings = Settings { node, zone, masquerade_all, local_detector, ..Settings::default() };
        let changes = Changes { ports, prefixes: Some(prefixes), netns: None, settings: Some(settings) };
        // A minute between changes: whatever had to wait has waited.
        let now = Duration::from_secs(60) * self.changes;
        self.changes += 1;
        self.book.maintain(&mut self.tables, now);
        let settled = self.book.sync(changes, &mut self.tables, now);
        if !settled.failed.is_empty() {
            bail!("not written: {:?}", settled.failed);
        }
        Ok(())
    }

    /// A Service as it is handled, with its rows; `None` if there is none.
    pub fn service(&self, name: &ObjectName) -> Option<(&Service, Vec<(ServicePortName, PortRows)>)> {
        Some((self.world.service(name)?, compile(&self.world, name)))
    }

    /// Every Service that is handled.
    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.world.service_ports()
    }

    /// A flow of the vectors, with the address its kind of client has in the family it dials.
    pub fn flow(&self, from: &From, to: &str) -> Result<Flow> {
        let (to, protocol) = to.rsplit_once('/').with_context(|| format!("'{to}' has no protocol"))?;
        let to: std::net::SocketAddr =
            to.parse().with_context(|| format!("'{to}' is no address and port"))?;
        let protocol = Protocol::from_name(protocol).with_context(|| format!("protocol '{protocol}'"))?;
        let (kind, client) = match from {
            From::Client { kind, ip } => (kind, *ip),
            From::Kind(kind) => (kind, self.client(kind, Family::of(to.ip()))?),
        };
        let from: ClientKind = kind.parse().map_err(anyhow::Error::msg)?;
        Ok(Flow { from, client: Some(client), to, protocol })
    }

    fn client(&self, kind: &str, family: Family) -> Result<IpAddr> {
        let of_family = |ips: &Vec<IpAddr>| ips.iter().copied().find(|ip| Family::of(*ip) == family);
        let client = self.clients.get(kind).and_then(of_family);
        client.with_context(|| format!("no {family} address of a client of kind '{kind}'"))
    }

    /// The Service whose ClusterIP, port and protocol a flow dials, read from the objects as written:
    /// what `service` of the answer should be. `None` if that is not plain to see.
    pub fn plain_service(&self, flow: &Flow) -> Option<String> {
        let mut found = Vec::new();
        for object in self.objects.values().filter(|object| object["kind"] == "Service") {
            let spec = &object["spec"];
            let many = spec["clusterIPs"].as_array().into_iter().flatten();
            let texts = many.chain([&spec["clusterIP"]]).filter_map(Value::as_str);
            if !texts.filter_map(beeline::model::addr::parse_ip).any(|ip| ip == flow.to.ip()) {
                continue;
            }
            for port in spec["ports"].as_array().into_iter().flatten() {
                if port["port"] == flow.to.port() && port["protocol"] == flow.protocol.name() {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let meta = &object["metadata"];
                    let colon = if text(&port["name"]).is_empty() { "" } else { ":" };
                    let (namespace, name) = (text(&meta["namespace"]), text(&meta["name"]));
                    found.push(format!("{namespace}/{name}{colon}{}", text(&port["name"])));
                }
            }
        }
        if found.len() == 1 { found.pop() } else { None }
    }

    /// Writes what `explain` reads, and gives the flags that say the rest.
    pub fn write(&self, dir: &Path) -> Result<Vec<String>> {
        let (manifests, config) = (dir.join("manifests"), dir.join("config.json"));
        fs::create_dir_all(&manifests)?;
        fs::write(manifests.join("vector.json"), self.list().to_string())?;
        fs::write(&config, self.kube_proxy_config().to_string())?;
        let ips: Vec<_> = self.node.ips.iter().map(ToString::to_string).collect();
        let mut flags = vec![
            format!("--manifests={}", manifests.display()),
            format!("--config={}", config.display()),
            format!("--node-name={}", self.node.name),
            format!("--node-ip={}", ips.join(",")),
        ];
        flags.extend(self.node.zone.iter().map(|zone| format!("--zone={zone}")));
        Ok(flags)
    }

    fn kube_proxy_config(&self) -> Value {
        let config = &self.config;
        let by_mode = config.node_port_addresses_by_mode.as_ref().and_then(|by| by.get(&config.mode));
        let detector: Vec<_> = config.local_detector_cidrs.iter().map(ToString::to_string).collect();
        let primary: Vec<_> = self.node.primary_ips.iter().map(ToString::to_string).collect();
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "mode": config.mode,
            "bindAddress": primary.first(),
            "clusterCIDR": detector.join(","),
            "nodePortAddresses": by_mode.unwrap_or(&config.node_port_addresses),
            "nftables": {"masqueradeAll": config.masquerade_all},
            "iptables": {
                "masqueradeAll": config.masquerade_all, "localhostNodePorts": config.localhost_node_ports,
            },
            "featureGates": {"AllowServiceExternalIPs": config.allow_service_external_ips},
        })
    }
}
