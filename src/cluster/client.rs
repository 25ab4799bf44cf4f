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
//! Tokens in files are read for each request, since the kubelet replaces them; there are few requests.
//! kube reads the authority of this pod's account again each minute. Everything else is read again when the server does not accept us: [`Door::renew`].

mod resolve;
mod way;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hyper::header::HeaderValue;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{ClientBuilder, ConfigExt};
use tower::{BoxError, ServiceBuilder};

pub use self::way::{Roots, Way};
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
    open: Mutex<Open>,
}

/// What [`Door::renew`] replaces.
struct Open {
    client: kube::Client,
    token: Option<Token>,
    since: Instant,
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
    fn new(way: Way) -> Result<Open> {
        let token = way.token.map(Token::read).transpose()?;
        Ok(Open { client: client(&way.config)?, token, since: Instant::now() })
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
        let place = way.config.cluster_url.to_string().trim_end_matches('/').into();
        let open = Mutex::new(Open::new(way)?);
        Ok(Door { cluster: cluster.clone(), roots: roots.clone(), place, renew_after: RENEW, open })
    }

    /// The same, with another time until credentials may be read again.
    pub fn renewing_after(self, renew_after: Duration) -> Door {
        Door { renew_after, ..self }
    }

    /// The server's address.
    pub fn place(&self) -> Arc<str> {
        self.place.clone()
    }

    /// The connections.
    pub fn client(&self) -> kube::Client {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    /// The value of the header Authorization, if a token in a file is to be sent.
    ///
    /// # Errors
    /// The token has characters that no header may have.
    pub fn authorization(&self) -> Result<Option<HeaderValue>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(token) = &mut open.token else { return Ok(None) };
        if let Ok(read) = Token::read(token.file.clone()) {
            *token = read;
        }
        let value = HeaderValue::try_from(format!("Bearer {}", token.text));
        let mut value = value.with_context(|| format!("{} holds no token", token.file.display()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Reads address, authority and credentials anew, unless that was done just now. What was there
    /// stays if they cannot be read.
    pub fn renew(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.since.elapsed() < self.renew_after {
            return;
        }
        open.since = Instant::now();
        match Way::find(&self.cluster, &self.roots).and_then(Open::new) {
            Ok(renewed) => *open = renewed,
            Err(error) => {
                tracing::warn!("the credentials cannot be read again, the old ones stay: {error:#}");
            }
        }
    }
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
    let connector = config.rustls_https_connector_with_connector(connector).context("set up TLS")?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().context("read the credentials")?)
        .layer(config.extra_headers_layer().context("read the headers of the kubeconfig")?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, "default").build())
}
