//! The way to the API server: address, authority and credentials, and the connections.
//!
//! Which way is taken (CFG-5), the first that there is:
//! 1. `--kubeconfig`; `--apiserver` replaces the address in it.
//! 2. The account of this pod, with the address and authority of, in this order: `--apiserver`; the
//!    kubeconfig that kubeadm gives kube-proxy; that of the kubelet; the environment. The environment
//!    comes last, since it names the ClusterIP of the Service `kubernetes`, which on this node works
//!    only once we do.
//! 3. `--apiserver` without credentials.
//!
//! Names are resolved without NSS, which a static binary must not use: see [`resolve`].
//!
//! A credential plugin (`exec` in a kubeconfig) is run when the first request is to be sent, and again when what
//! it gave expires: see [`plugin`].
//!
//! Tokens in files are read for each request, since the kubelet replaces them; there are few requests.
//! kube reads the authority of this pod's account again each minute. Everything else is read again when the server does not accept us: [`Door::renew`].
//!
//! No proxy is used: one in a kubeconfig is refused, one in the environment is passed by, with a warning.

mod plugin;
mod proxy;
mod resolve;
mod tally;
mod way;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use hyper::header::HeaderValue;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{ClientBuilder, ConfigExt, RustlsTlsError};
use kube::config::AuthInfo;
use tower::{BoxError, ServiceBuilder};

use self::plugin::Plugin;
pub use self::tally::{Counts, Tally, Whole};
pub use self::way::{Roots, Way, parse_url};
use crate::config::Cluster;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// A peer that is silent for this long is asked whether it is there, thrice, before the connection is
/// given up: a watch that nothing happens on is silent for minutes.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Credentials are not read again sooner.
const RENEW: Duration = Duration::from_secs(10);

/// A way to the API server that can be opened anew.
pub struct Door {
    cluster: Cluster,
    roots: Roots,
    place: Arc<str>,
    renew_after: Duration,
    tally: Arc<Tally>,
    open: Mutex<Open>,
}

/// What [`Door::renew`] replaces.
struct Open {
    client: kube::Client,
    /// The host and port of the server, for counters.
    host: Arc<str>,
    token: Option<Token>,
    plugin: Option<Arc<Plugin>>,
    config: kube::Config,
    since: Instant,
    /// What was said last of credentials that cannot be read again.
    complaint: String,
}

/// A bearer token in a file, and what it was when it could be read last.
struct Token {
    file: PathBuf,
    text: String,
}

impl Token {
    fn read(file: PathBuf) -> Result<Token> {
        let text = fs::read_to_string(&file);
        let text = text.with_context(|| format!("read the token {}", file.display()))?;
        Ok(Token { text: text.trim().to_owned(), file })
    }
}

impl Open {
    /// A plugin that is the same as before goes on, with what it gave.
    fn new(mut way: Way, before: Option<&Open>) -> Result<Open> {
        let token = way.token.map(Token::read).transpose()?;
        let host = way.config.cluster_url.authority().map_or("", |authority| authority.as_str()).into();
        let plugin = way.plugin.map(|exec| {
            let kept = before.and_then(|open| open.plugin.clone().zip(Some(&open.config)));
            let Some((plugin, config)) = kept.filter(|(plugin, _)| plugin.is_of(&exec)) else {
                return Arc::new(Plugin::new(exec, plugin::LIMIT));
            };
            way.config.auth_info = config.auth_info.clone();
            plugin
        });
        let client = client(&way.config)?;
        Ok(Open {
            client,
            host,
            token,
            plugin,
            config: way.config,
            since: Instant::now(),
            complaint: String::new(),
        })
    }

    /// Takes a certificate for every connection from now on.
    fn identify(&mut self, identity: AuthInfo) -> Result<()> {
        self.config.auth_info = identity;
        self.client = client(&self.config)?;
        Ok(())
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Door {
    /// Finds the way. Nothing is sent yet. To be called on a runtime.
    ///
    /// # Errors
    /// There is none, or a file of it cannot be read.
    pub fn open(cluster: &Cluster, roots: &Roots) -> Result<Door> {
        let way = Way::find(cluster, roots)?;
        tracing::info!("the API server is {}, with {}", way.config.cluster_url, way.credentials);
        proxy::warn(&way.config.cluster_url);
        let place = way.config.cluster_url.to_string().trim_end_matches('/').into();
        let open = Mutex::new(Open::new(way, None)?);
        Ok(Door {
            cluster: cluster.clone(),
            roots: roots.clone(),
            place,
            renew_after: RENEW,
            tally: Arc::default(),
            open,
        })
    }

    /// The same, with another time until credentials may be read again.
    pub fn renewing_after(self, renew_after: Duration) -> Door {
        Door { renew_after, ..self }
    }

    /// The server's address.
    pub fn place(&self) -> Arc<str> {
        self.place.clone()
    }

    /// The host and port of the server.
    pub fn host(&self) -> Arc<str> {
        self.inner().host.clone()
    }

    /// The requests so far (MET-9).
    pub fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    /// The connections.
    pub fn client(&self) -> kube::Client {
        self.inner().client.clone()
    }

    /// The value of the header Authorization, if a token of a file or of a plugin is to be sent. To be called
    /// before [`client`](Self::client): a plugin may give a certificate.
    ///
    /// # Errors
    /// The token has characters that no header may have, or the plugin gives none.
    pub async fn authorization(&self) -> Result<Option<HeaderValue>> {
        let plugin = self.inner().plugin.clone();
        let Some(plugin) = plugin else { return self.token_of_file() };
        let (credential, is_new) = plugin.credential().await?;
        if let (true, Some(identity)) = (is_new, &credential.identity) {
            self.inner().identify(identity.clone()).context("the certificate of the credential plugin")?;
        }
        let bearer = credential.token.as_deref().map(bearer);
        bearer.transpose().context("the credential plugin gives no token that can be sent")
    }

    fn token_of_file(&self) -> Result<Option<HeaderValue>> {
        let mut open = self.inner();
        let Some(token) = &mut open.token else { return Ok(None) };
        // An empty one is about to be written.
        if let Some(read) = Token::read(token.file.clone()).ok().filter(|read| !read.text.is_empty()) {
            *token = read;
        }
        if token.text.is_empty() {
            bail!("{} holds no token: it is empty", token.file.display());
        }
        bearer(&token.text).map(Some).with_context(|| format!("{} holds no token", token.file.display()))
    }

    fn inner(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads address, authority and credentials anew, unless that was done just now. What was there
    /// stays if they cannot be read; and what a plugin gave, unless the server denied it: an outage is no
    /// reason for every node to have new credentials made each few seconds.
    pub fn renew(&self, is_denied: bool) {
        let mut open = self.inner();
        if open.since.elapsed() < self.renew_after {
            return;
        }
        open.since = Instant::now();
        let before = if is_denied { None } else { Some(&*open) };
        match Way::find(&self.cluster, &self.roots).and_then(|way| Open::new(way, before)) {
            Ok(renewed) => *open = renewed,
            Err(error) => {
                let complaint = format!("the credentials cannot be read again, the old ones stay: {error:#}");
                if open.complaint != complaint {
                    tracing::warn!("{complaint}");
                    open.complaint = complaint;
                }
            }
        }
    }
}

/// A bearer token as a header has it.
fn bearer(token: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A client of that configuration. kube's own would resolve names by NSS, and try again by itself.
fn client(config: &kube::Config) -> Result<kube::Client> {
    let mut connector = HttpConnector::new_with_resolver(tower::service_fn(resolve::resolve));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE / 4));
    connector.set_keepalive_retries(Some(3));
    connector.set_tcp_user_timeout(Some(2 * KEEPALIVE));
    let connector = config.rustls_https_connector_with_connector(connector).map_err(|error| match error {
        // It quotes a line, of which a key may be a part.
        kube::Error::RustlsTls(RustlsTlsError::InvalidIdentityPem(_)) => {
            anyhow!("the client certificate or its key is no PEM: give both anew")
        }
        other => other.into(),
    });
    let connector = connector.context("set up TLS")?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().context("read the credentials")?)
        .layer(config.extra_headers_layer().context("read the headers of the kubeconfig")?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, "default").build())
}
