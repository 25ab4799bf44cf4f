//! Which server, and as whom (CFG-5).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hyper::Uri;
use kube::config::{AuthInfo, ExecConfig, Kubeconfig, KubeconfigError};

use crate::config::Cluster;

/// Where the machine keeps what leads to an API server: arguments, so that tests can lay them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The folder of this pod's account: `token` and `ca.crt`.
    pub account: PathBuf,
    /// Kubeconfigs of others on this node, whose server and authority are used, never their
    /// credentials; the first that is there counts.
    pub neighbours: Vec<PathBuf>,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`
    pub service: Option<(String, String)>,
}

impl Roots {
    /// Those of this machine.
    pub fn of_machine() -> Roots {
        let host = env::var("KUBERNETES_SERVICE_HOST").ok();
        let port = env::var("KUBERNETES_SERVICE_PORT").ok();
        Roots {
            account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
            neighbours: vec![
                "/var/lib/kube-proxy/kubeconfig.conf".into(),
                "/etc/kubernetes/kubelet.conf".into(),
            ],
            service: host.zip(port),
        }
    }

    fn token(&self) -> PathBuf {
        self.account.join("token")
    }

    fn authority(&self) -> PathBuf {
        self.account.join("ca.crt")
    }
}

/// A way to an API server.
#[derive(Clone, Debug)]
pub struct Way {
    /// What kube needs to know.
    pub config: kube::Config,
    /// The file of the bearer token, if it is in one.
    pub token: Option<PathBuf>,
    /// What is to be run for credentials.
    pub plugin: Option<ExecConfig>,
    /// Whose credentials are used, in words.
    pub credentials: String,
}

impl Way {
    /// That of a configuration. A token in a file is ours to read: kube would send its newline along,
    /// and nothing with it. A plugin is ours to run: kube would wait for it on the agent's own thread. It comes
    /// before everything else.
    fn new(mut config: kube::Config, credentials: String) -> Way {
        if config.cluster_url.scheme_str() == Some("http") && config.root_cert.is_none() {
            // Nothing is checked on this way: the machine need not have authorities.
            config.root_cert = Some(Vec::new());
        }
        if let Some(exec) = config.auth_info.exec.take() {
            config.auth_info = AuthInfo::default();
            return Way { config, token: None, plugin: Some(exec), credentials };
        }
        let auth = &mut config.auth_info;
        let comes_first = auth.token.is_some() || (auth.username.is_some() && auth.password.is_some());
        let token = auth.token_file.take().filter(|_| !comes_first).map(PathBuf::from);
        Way { config, token, plugin: None, credentials }
    }

    /// Finds it, in the order that the module above gives.
    ///
    /// # Errors
    /// There is none, or a file of it cannot be read.
    pub fn find(cluster: &Cluster, roots: &Roots) -> Result<Way> {
        let url = cluster.apiserver.as_deref().map(parse_url).transpose()?;
        if let Some(file) = &cluster.kubeconfig {
            let mut config = kubeconfig(file)?;
            config.cluster_url = url.unwrap_or(config.cluster_url);
            return Ok(Way::new(config, format!("the credentials of {}", file.display())));
        }
        let has_account = roots.token().exists();
        match (url, has_account) {
            (Some(url), false) => Ok(Way::new(kube::Config::new(url), "no credentials".into())),
            (Some(url), true) => Ok(as_account(kube::Config::new(url), roots)),
            (None, true) => Ok(as_account(server(roots)?, roots)),
            (None, false) => bail!(
                "no way to an API server: there is no account in {}; give --kubeconfig FILE or --apiserver URL",
                roots.account.display()
            ),
        }
    }
}

/// A kubeconfig's current context.
fn kubeconfig(file: &Path) -> Result<kube::Config> {
    let read = read(file).and_then(|read| {
        ensure!(!names_proxy(&read), "it names a proxy-url, which is not supported");
        configuration(read)
    });
    let config = read.with_context(|| format!("read the kubeconfig {}", file.display()))?;
    check(&config.cluster_url).with_context(|| format!("the server in {}", file.display()))?;
    Ok(config)
}

/// A kubeconfig's text, understood. What it says is never quoted: it holds secrets.
fn read(file: &Path) -> Result<Kubeconfig> {
    Kubeconfig::read_from(file).map_err(|error| match error {
        KubeconfigError::Parse(error) => {
            let at = error
                .location()
                .map_or(String::new(), |at| format!(" at line {}, column {}", at.line(), at.column()));
            anyhow!("it is no YAML, or has what no kubeconfig has,{at}: repair it there (or a little above)")
        }
        other => other.into(),
    })
}

/// Whether the cluster of the current context is to be reached by a proxy.
fn names_proxy(read: &Kubeconfig) -> bool {
    let context = read.contexts.iter().find(|named| Some(&named.name) == read.current_context.as_ref());
    let cluster = context.and_then(|named| named.context.as_ref()).map(|context| &context.cluster);
    let cluster = read.clusters.iter().find(|named| Some(&named.name) == cluster);
    let proxy =
        cluster.and_then(|named| named.cluster.as_ref()).and_then(|cluster| cluster.proxy_url.as_ref());
    proxy.is_some_and(|proxy| !proxy.is_empty())
}

/// What kube makes of it. Where no proxy is named, kube would take that of the environment, which is for
/// others: kubeadm gives kube-proxy the variables of the machine that it runs on.
fn configuration(mut read: Kubeconfig) -> Result<kube::Config> {
    for cluster in read.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.proxy_url = Some("http://unused".into());
    }
    let mut config = kube::Config::try_from(read)?;
    config.proxy_url = None;
    Ok(config)
}

/// The server, and its authority where it is known, for an account.
fn server(roots: &Roots) -> Result<kube::Config> {
    for file in roots.neighbours.iter().filter(|file| file.exists()) {
        // Credentials that a neighbour names and we cannot read do not matter: they are not used.
        match neighbour(file) {
            Ok(config) => return Ok(config),
            Err(error) => {
                tracing::warn!("{} does not say where the API server is: {error:#}", file.display());
            }
        }
    }
    let Some((host, port)) = &roots.service else {
        bail!(
            "where is the API server? None of {} is there, nor KUBERNETES_SERVICE_HOST in the environment; give \
             --apiserver URL",
            roots.neighbours.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
        );
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    Ok(kube::Config::new(parse_url(&format!("https://{host}:{port}"))?))
}

/// Server, authority and name of a neighbour's kubeconfig.
fn neighbour(file: &Path) -> Result<kube::Config> {
    let mut read = read(file)?;
    for named in &mut read.auth_infos {
        named.auth_info = Some(AuthInfo::default());
    }
    for cluster in read.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        // An authority that cannot be read is left to the account's.
        if cluster.certificate_authority.as_ref().is_some_and(|file| fs::read(file).is_err()) {
            cluster.certificate_authority = None;
        }
    }
    let config = configuration(read)?;
    check(&config.cluster_url)?;
    Ok(config)
}

/// The same server, dialled with the token of this pod's account. Its authority counts where the
/// server's is not known otherwise.
fn as_account(mut config: kube::Config, roots: &Roots) -> Way {
    config.auth_info =
        AuthInfo { token_file: Some(roots.token().to_string_lossy().into_owned()), ..AuthInfo::default() };
    if config.root_cert.is_none() && roots.authority().exists() {
        config.root_cert_file = Some(roots.authority());
        // kube sets a verifier up for this first, and then replaces it by the file's.
        config.root_cert = Some(Vec::new());
    }
    Way::new(config, format!("the account in {}", roots.account.display()))
}

/// The URL of an API server.
///
/// # Errors
/// It is none that can be dialled.
pub fn parse_url(text: &str) -> Result<Uri> {
    let url: Uri = text.parse().with_context(|| format!("'{text}' is no URL like https://10.0.0.1:6443"))?;
    check(&url)?;
    Ok(url)
}

/// Whether that can be dialled.
fn check(url: &Uri) -> Result<()> {
    let is_http = matches!(url.scheme_str(), Some("https" | "http"));
    ensure!(is_http && url.host().is_some(), "'{url}' is no URL like https://10.0.0.1:6443");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine, its account there or not, and a file of kube-proxy as kubeadm writes it.
    fn machine(has_account: bool, neighbour: Option<&str>) -> (tempfile::TempDir, Roots) {
        let temp = tempfile::tempdir().unwrap();
        let roots = Roots {
            account: temp.path().join("account"),
            neighbours: vec![temp.path().join("kube-proxy.conf"), temp.path().join("kubelet.conf")],
            service: Some(("10.96.0.1".into(), "443".into())),
        };
        if has_account {
            fs::create_dir(&roots.account).unwrap();
            fs::write(roots.account.join("token"), "ours").unwrap();
            fs::write(roots.account.join("ca.crt"), "").unwrap();
        }
        if let Some(text) = neighbour {
            fs::write(&roots.neighbours[0], text).unwrap();
        }
        (temp, roots)
    }

    fn theirs(server: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}],\n \
             clusters: [{{name: c, cluster: {{server: '{server}', tls-server-name: kubernetes, certificate-authority: \
             /nonexistent/ca.crt}}}}],\n users: [{{name: u, user: {{tokenFile: /nonexistent/token}}}}]}}"
        )
    }

    fn find(cluster: &Cluster, roots: &Roots) -> (String, Option<PathBuf>) {
        let way = Way::find(cluster, roots).unwrap();
        (way.config.cluster_url.to_string(), way.token)
    }

    #[test]
    fn what_is_configured_comes_before_what_is_found_and_the_cluster_ip_last() {
        // CFG-5
        let (_temp, roots) = machine(true, Some(&theirs("https://172.30.0.1:6443")));
        let token = Some(roots.token());
        let given = Cluster { apiserver: Some("https://api.example:6443".into()), ..Cluster::default() };
        assert_eq!(find(&given, &roots), ("https://api.example:6443/".into(), token.clone()));
        let found = find(&Cluster::default(), &roots);
        assert_eq!(
            found,
            ("https://172.30.0.1:6443/".into(), token.clone()),
            "the neighbour's server, our token"
        );
        let (_temp, bare) = machine(true, None);
        assert_eq!(find(&Cluster::default(), &bare).0, "https://10.96.0.1:443/");
    }

    #[test]
    fn a_neighbours_server_name_counts_and_its_unreadable_authority_is_ours() {
        let (_temp, roots) = machine(true, Some(&theirs("https://172.30.0.1:6443")));
        let config = Way::find(&Cluster::default(), &roots).unwrap().config;
        assert_eq!(config.tls_server_name.as_deref(), Some("kubernetes"));
        assert_eq!(config.root_cert_file, Some(roots.authority()));
    }

    #[test]
    fn a_kubeconfig_is_used_whole_but_for_a_given_address() {
        let (temp, roots) = machine(true, None);
        let file = temp.path().join("config");
        fs::write(temp.path().join("ca.crt"), "").unwrap();
        fs::write(&file, theirs("https://one:1").replace("/nonexistent/", "")).unwrap();
        let mut cluster = Cluster { kubeconfig: Some(file), apiserver: None };
        let token = Some(temp.path().join("token"));
        assert_eq!(find(&cluster, &roots), ("https://one:1/".into(), token.clone()));
        cluster.apiserver = Some("http://127.0.0.1:8001".into());
        assert_eq!(find(&cluster, &roots), ("http://127.0.0.1:8001/".into(), token));
    }

    #[test]
    fn what_leads_nowhere_says_what_to_give() {
        let (temp, roots) = machine(false, None);
        let error = |cluster: &Cluster| format!("{:#}", Way::find(cluster, &roots).unwrap_err());
        assert!(error(&Cluster::default()).contains("give --kubeconfig FILE or --apiserver URL"));
        for url in ["10.0.0.1:6443", "ftp://x", "https://", ""] {
            let given = Cluster { apiserver: Some(url.into()), ..Cluster::default() };
            assert!(error(&given).contains("is no URL like https://10.0.0.1:6443"), "{url}");
        }
        let missing = Cluster { kubeconfig: Some(temp.path().join("none")), ..Cluster::default() };
        assert!(error(&missing).contains("none"));
    }
}
