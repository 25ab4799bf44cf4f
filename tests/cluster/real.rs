//! The real API server: an etcd, and two kube-apiservers before it, as a cluster of high availability
//! has them. Agents follow one of them, which may be stopped; the test changes objects through the other.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use beeline::config::Cluster;
use beeline::sandbox::api_server::Kind;
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::Request;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::assets::Assets;
use crate::credentials::Credentials;
use crate::process::{Process, free_ports, inside};
use crate::stage::Server;

/// How long a server may take to be ready.
const PATIENCE: Duration = Duration::from_secs(120);
/// The namespace of tests.
pub(crate) const NAMESPACE: &str = "ns";
/// So many changes are under way at once.
const AT_ONCE: usize = 32;

/// The servers and what is needed to talk to them.
pub(crate) struct RealServer {
    assets: Assets,
    dir: tempfile::TempDir,
    netns: Option<OwnedFd>,
    pub credentials: Credentials,
    etcd: SocketAddr,
    _etcd: Process,
    /// Followed by agents.
    reader: (SocketAddr, Option<Process>),
    /// Used by tests.
    writer: (SocketAddr, Process),
    streams: bool,
    runtime: Runtime,
    client: Client,
}

impl RealServer {
    /// Starts all of it at an address of a network namespace, or at 127.0.0.1 of ours.
    pub fn start(assets: &Assets, place: Option<(OwnedFd, [u8; 4])>) -> Result<RealServer> {
        let dir = tempfile::tempdir()?;
        let (netns, address) = place.map_or((None, [127, 0, 0, 1]), |(netns, at)| (Some(netns), at));
        let [etcd, peer] = free_ports(netns.as_ref(), [127, 0, 0, 1])?;
        let [reader, writer] = free_ports(netns.as_ref(), address)?;
        let names = ["127.0.0.1".to_owned(), reader.ip().to_string()];
        let credentials = Credentials::new(dir.path(), &names)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let etcd_process = start_etcd(assets, dir.path(), netns.as_ref(), etcd, peer)?;
        let client = client(&runtime, &credentials.kubeconfig("admin", writer)?)?;
        let launch =
            Launch { assets, dir: dir.path(), netns: netns.as_ref(), etcd, credentials: &credentials };
        let writer_process = launch.api_server(writer, true)?;
        let mut server = RealServer {
            assets: assets.clone(),
            netns,
            etcd,
            _etcd: etcd_process,
            reader: (reader, None),
            writer: (writer, writer_process),
            streams: true,
            runtime,
            client,
            credentials,
            dir,
        };
        server.wait(writer)?;
        server.start_reader()?;
        server.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))?;
        server.open_cidr()?;
        Ok(server)
    }

    fn start_reader(&mut self) -> Result<()> {
        let launch = Launch {
            assets: &self.assets,
            dir: self.dir.path(),
            netns: self.netns.as_ref(),
            etcd: self.etcd,
            credentials: &self.credentials,
        };
        self.reader.1 = Some(launch.api_server(self.reader.0, self.streams)?);
        self.wait(self.reader.0)
    }

    /// Has the addresses of tests given out: a new ServiceCIDR counts only after a moment.
    fn open_cidr(&self) -> Result<()> {
        let cidrs = ["10.96.0.0/12", "fd00:10:96::/112"];
        let mut probe = json!({"kind": "Service", "metadata": {"namespace": NAMESPACE, "name": "probe"}});
        probe["spec"] = json!({"ports": [{"port": 1}], "ipFamilyPolicy": "RequireDualStack",
            "clusterIPs": ["10.96.255.1", "fd00:10:96::ff01"], "clusterIP": "10.96.255.1"});
        self.apply(json!({"kind": "ServiceCIDR", "metadata": {"name": "it"}, "spec": {"cidrs": cidrs}}))?;
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.apply(probe.clone()) {
            ensure!(Instant::now() < deadline, "no address of a new ServiceCIDR is given out: {error:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
        self.delete_many(vec![("v1", "Service", NAMESPACE.into(), "probe".into())])
    }

    /// Where agents are sent.
    pub fn address(&self) -> SocketAddr {
        self.reader.0
    }

    /// The kubeconfig of the administrator, for the server that tests use.
    pub fn admin(&self) -> Result<PathBuf> {
        self.credentials.kubeconfig("admin", self.writer.0)
    }

    /// Waits until a server is ready.
    fn wait(&mut self, server: SocketAddr) -> Result<()> {
        let config = self.credentials.kubeconfig("admin", server)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.block_on(async {
                let client = new_client(&config).await?;
                Ok(client.request_text(Request::get("/readyz").body(Vec::new())?).await?)
            });
            let Err(error) = answer else { return Ok(()) };
            let process =
                if server == self.writer.0 { Some(&mut self.writer.1) } else { self.reader.1.as_mut() };
            process.map_or(Ok(()), Process::check)?;
            if Instant::now() > deadline {
                bail!("{server} is not ready after {PATIENCE:?}: {error:#}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn block_on<T: Send>(&self, future: impl Future<Output = Result<T>> + Send) -> Result<T> {
        inside(self.netns.as_ref(), || self.runtime.block_on(future))
    }

    /// Makes or replaces an object.
    pub fn apply(&self, object: Value) -> Result<()> {
        self.block_on(apply(&self.client, object))
    }

    /// Gives a Node its addresses, as its kubelet does.
    pub fn set_addresses(&self, node: &str, addresses: &[IpAddr]) -> Result<()> {
        let addresses: Vec<Value> =
            addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        let status = json!({"apiVersion": "v1", "kind": "Node", "status": {"addresses": addresses}});
        let (api, how) = (api(&self.client, &resource("v1", "Node"), ""), PatchParams::default());
        self.block_on(async {
            api.patch_status(node, &how, &Patch::Merge(&status)).await?;
            Ok(())
        })
    }

    /// The objects of a kind, in all namespaces.
    pub fn list(&self, api_version: &str, kind: &str) -> Result<Vec<Value>> {
        let resource = resource(api_version, kind);
        let list = self.block_on(async {
            Ok(Api::<DynamicObject>::all_with(self.client.clone(), &resource)
                .list(&ListParams::default())
                .await?)
        })?;
        list.items
            .into_iter()
            .map(|item| {
                let mut object = serde_json::to_value(item)?;
                (object["kind"], object["apiVersion"]) = (kind.into(), api_version.into());
                Ok(object)
            })
            .collect()
    }

    fn delete_many(&self, objects: Vec<Named>) -> Result<()> {
        let client = &self.client;
        let all = stream::iter(objects).map(|object| delete(client, object)).buffer_unordered(AT_ONCE);
        self.block_on(all.try_collect::<()>())
    }

    /// Makes it ready for the next test: both servers run, and nothing of others is there.
    pub fn ready(&mut self) -> Result<()> {
        if self.reader.1.is_none() || !self.streams {
            self.streams = true;
            self.start_reader()?;
        }
        self.clear()
    }

    /// Removes what tests have made.
    fn clear(&self) -> Result<()> {
        let mut all = Vec::new();
        for (version, kind) in [("v1", "Service"), ("discovery.k8s.io/v1", "EndpointSlice"), ("v1", "Node")] {
            for object in self.list(version, kind)? {
                let [namespace, name] = ["namespace", "name"]
                    .map(|key| object["metadata"][key].as_str().unwrap_or("").to_owned());
                if kind == "Node" || (namespace != "default" && name != "kubernetes") {
                    all.push((version, kind, namespace, name));
                }
            }
        }
        self.delete_many(all)
    }

    /// Asks etcd itself.
    fn etcd(&self, path: &str, body: &Value) -> Result<Value> {
        let body = body.to_string().into_bytes();
        self.block_on(async {
            let client = Client::try_from(Config::new(format!("http://{}", self.etcd).parse()?))?;
            let request = Request::post(path).header("content-type", "application/json").body(body)?;
            let text = client.request_text(request).await?;
            Ok(serde_json::from_str(&text)?)
        })
    }
}

impl Server for RealServer {
    fn way(&self) -> Cluster {
        // With the rights of kube-proxy, and no more (CFG-6).
        let kubeconfig =
            self.credentials.kubeconfig("system:kube-proxy", self.reader.0).expect("a kubeconfig");
        Cluster { kubeconfig: Some(kubeconfig), apiserver: None }
    }

    fn put(&self, object: Value) {
        self.apply(object).expect("the API server takes it");
    }

    fn put_all(&self, objects: Vec<Value>) {
        let client = &self.client;
        let all = stream::iter(objects).map(|object| apply(client, object)).buffer_unordered(AT_ONCE);
        self.block_on(all.try_collect::<()>()).expect("the API server takes them");
    }

    fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        let (version, kind) = facts(kind);
        self.delete_many(vec![(version, kind, namespace.into(), name.into())]).expect("it is there");
    }

    fn delete_all(&self, names: Vec<(Kind, String)>) {
        let of = |(kind, name)| {
            let (version, kind) = facts(kind);
            (version, kind, NAMESPACE.to_owned(), name)
        };
        self.delete_many(names.into_iter().map(of).collect()).expect("they are there");
    }

    fn objects(&self) -> Vec<Value> {
        let of = |kind| {
            let (version, kind) = facts(kind);
            self.list(version, kind).expect("a list")
        };
        Kind::ALL.into_iter().flat_map(of).collect()
    }

    fn stop(&mut self) {
        self.reader.1 = None;
    }

    fn restart(&mut self) {
        self.stop();
        self.start_reader().expect("it starts again");
    }

    fn compact(&mut self) {
        assert!(self.reader.1.is_none(), "a running one answers from its cache");
        let range = self.etcd("/v3/kv/range", &json!({"key": "AA=="})).expect("etcd answers");
        let revision = &range["header"]["revision"];
        self.etcd("/v3/kv/compaction", &json!({"revision": revision, "physical": true}))
            .expect("etcd compacts");
    }

    fn stream_lists(&mut self, streams: bool) {
        self.streams = streams;
    }
}

/// What it takes to start an API server.
struct Launch<'a> {
    assets: &'a Assets,
    dir: &'a Path,
    netns: Option<&'a OwnedFd>,
    etcd: SocketAddr,
    credentials: &'a Credentials,
}

impl Launch<'_> {
    fn api_server(&self, at: SocketAddr, streams: bool) -> Result<Process> {
        let file = |name: &str| self.credentials.path(name).display().to_string();
        let arguments = [
            format!("--etcd-servers=http://{}", self.etcd),
            format!("--bind-address={}", at.ip()),
            format!("--secure-port={}", at.port()),
            // Not a loopback address, which could be no endpoint of the Service `kubernetes`.
            format!(
                "--advertise-address={}",
                if at.ip().is_loopback() { "192.0.2.1".into() } else { at.ip().to_string() }
            ),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", file("accounts.pub")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            // Beside those of tests, which are at 10.96.0.0/12.
            "--service-cluster-ip-range=10.112.0.0/12,fd00:10:112::/112".into(),
            "--allow-privileged=true".into(),
            format!("--feature-gates=WatchList={streams}"),
        ];
        let log = self.dir.join(format!("kube-apiserver-{}.log", at.port()));
        Process::start(&self.assets.path("kube-apiserver"), &arguments, self.netns, log)
    }
}

fn start_etcd(
    assets: &Assets,
    dir: &Path,
    netns: Option<&OwnedFd>,
    client: SocketAddr,
    peer: SocketAddr,
) -> Result<Process> {
    let arguments = [
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls=http://{client}"),
        format!("--advertise-client-urls=http://{client}"),
        format!("--listen-peer-urls=http://{peer}"),
        format!("--initial-advertise-peer-urls=http://{peer}"),
        format!("--initial-cluster=default=http://{peer}"),
        "--unsafe-no-fsync".into(),
    ];
    Process::start(&assets.path("etcd"), &arguments, netns, dir.join("etcd.log"))
}

async fn new_client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn client(runtime: &Runtime, kubeconfig: &Path) -> Result<Client> {
    runtime.block_on(new_client(kubeconfig))
}

/// An object by API version, kind, namespace and name.
type Named = (&'static str, &'static str, String, String);

async fn delete(client: &Client, (version, kind, namespace, name): Named) -> Result<()> {
    let api = api(client, &resource(version, kind), &namespace);
    api.delete(&name, &DeleteParams::default())
        .await
        .with_context(|| format!("delete {kind} {namespace}/{name}"))?;
    Ok(())
}

async fn apply(client: &Client, mut object: Value) -> Result<()> {
    let kind = object["kind"].as_str().context("an object says its kind")?.to_owned();
    let version = match object["apiVersion"].as_str() {
        Some(version) => version.to_owned(),
        None => Kind::ALL
            .into_iter()
            .map(facts)
            .find(|(_, of)| *of == kind)
            .context("a kind we know")?
            .0
            .to_owned(),
    };
    object["apiVersion"] = version.clone().into();
    let metadata = object["metadata"].as_object_mut().context("an object has metadata")?;
    metadata.remove("managedFields");
    let [namespace, name] =
        ["namespace", "name"].map(|key| metadata.get(key).and_then(Value::as_str).unwrap_or("").to_owned());
    let (api, how) =
        (api(client, &resource(&version, &kind), &namespace), PatchParams::apply("tests").force());
    api.patch(&name, &how, &Patch::Apply(&object))
        .await
        .with_context(|| format!("apply {kind} {namespace}/{name}"))?;
    Ok(())
}

fn api(client: &Client, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
    match namespace {
        "" => Api::all_with(client.clone(), resource),
        _ => Api::namespaced_with(client.clone(), namespace, resource),
    }
}

fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// API version and kind.
fn facts(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Service => ("v1", "Service"),
        Kind::EndpointSlice => ("discovery.k8s.io/v1", "EndpointSlice"),
        Kind::Node => ("v1", "Node"),
        Kind::ServiceCidr => ("networking.k8s.io/v1", "ServiceCIDR"),
    }
}
