//! Ways to an API server over TLS: kubeconfigs of all forms, the account of a pod, and what goes wrong.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use beeline::cluster::api::Pace;
use beeline::cluster::client::{Door, Roots};
use beeline::config::Cluster;
use beeline::sandbox::api_server::ApiServer;
use serde_json::{Value, json};

use super::api_front::{Authority, tls};
use super::api_stage::{Stage, server};

/// A kubeconfig with these fields of cluster and user.
fn kubeconfig(authority: &Authority, cluster: &Value, user: &Value) -> Cluster {
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "contexts": [{"name": "other", "context": {"cluster": "none", "user": "none"}},
                     {"name": "it", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}]
    });
    let file = authority.write("config", &text.to_string());
    Cluster { kubeconfig: Some(file.into()), apiserver: None }
}

fn follows(cluster: &Cluster, server: &ApiServer) {
    let mut stage = Stage::with(cluster, Pace::hurried());
    stage.until_equal(server);
    assert!(stage.problems().is_empty(), "{:?}", stage.problems());
}

#[test]
fn tokens_in_text_and_in_files_are_sent() {
    let server = server(3);
    server.behave(|manners| manners.token = Some("secret".into()));
    let authority = Authority::new();
    authority.sign("server", &["127.0.0.1"]);
    let url = format!("https://{}", tls(&authority, &server, false));
    let data = authority.data("ca.crt");
    let in_text = json!({"server": url, "certificate-authority-data": data});
    follows(&kubeconfig(&authority, &in_text, &json!({"token": "secret"})), &server);
    authority.write("token", "secret");
    let relative = json!({"server": url, "certificate-authority": "ca.crt"});
    follows(&kubeconfig(&authority, &relative, &json!({"tokenFile": "token"})), &server);
}

#[test]
fn a_token_that_was_replaced_is_read_again() {
    let server = server(3);
    server.behave(|manners| manners.token = Some("new".into()));
    let authority = Authority::new();
    let file = authority.write("token", "old");
    let cluster = kubeconfig(&authority, &json!({"server": server.url()}), &json!({"tokenFile": file}));
    let mut stage = Stage::with(&cluster, Pace::hurried());
    stage.until("said", |stage| stage.complains("does not accept the credentials (401)"));
    assert_eq!(stage.problems().len(), 1, "one message for all kinds: {:?}", stage.problems());
    authority.write("token", "new");
    stage.until_equal(&server);
    stage.until("resolved", |stage| stage.problems().is_empty());
}

#[test]
fn a_client_certificate_is_shown() {
    let server = server(3);
    let authority = Authority::new();
    authority.sign("server", &["127.0.0.1"]);
    authority.sign("client", &["system:kube-proxy"]);
    let at = tls(&authority, &server, true);
    let reached = json!({"server": format!("https://{at}"), "certificate-authority": "ca.crt"});
    let user = json!({"client-certificate": "client.crt", "client-key": "client.key"});
    follows(&kubeconfig(&authority, &reached, &user), &server);
    let read = |file: &str| authority.data(file);
    let user = json!({"client-certificate-data": read("client.crt"), "client-key-data": read("client.key")});
    follows(&kubeconfig(&authority, &reached, &user), &server);
    let mut stage = Stage::with(&kubeconfig(&authority, &reached, &json!({})), Pace::hurried());
    stage.until("refused", |stage| stage.complains("the API server cannot be reached"));
}

#[test]
fn the_servers_certificate_is_checked_unless_told_otherwise() {
    let server = server(3);
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("server", &["kubernetes"]);
    let url = format!("https://{}", tls(&authority, &server, false));
    let complains = |authority: &Authority, cluster: &Value| {
        let mut stage = Stage::with(&kubeconfig(authority, cluster, &json!({})), Pace::hurried());
        stage.until("refused", |stage| stage.complains("certificate"));
        assert!(stage.heard.is_empty());
    };
    let ours = json!({"server": url, "certificate-authority": "ca.crt"});
    complains(&authority, &ours);
    let named = json!({"server": url, "certificate-authority": "ca.crt", "tls-server-name": "kubernetes"});
    follows(&kubeconfig(&authority, &named, &json!({})), &server);
    complains(&stranger, &named);
    let blind = json!({"server": url, "insecure-skip-tls-verify": true});
    follows(&kubeconfig(&stranger, &blind, &json!({})), &server);
}

#[test]
fn an_account_reaches_the_server_that_a_neighbour_names() {
    // CFG-5: nobody answers at the address in the environment
    let server = server(3);
    server.behave(|manners| manners.token = Some("ours".into()));
    let authority = Authority::new();
    authority.sign("server", &["localhost"]);
    let port = tls(&authority, &server, false).port();
    std::fs::create_dir(authority.path("account")).unwrap();
    authority.write("account/token", "ours\n");
    std::fs::copy(authority.path("ca.crt"), authority.path("account/ca.crt")).unwrap();
    let theirs = json!({"server": format!("https://localhost:{port}"), "certificate-authority": "/nonexistent/ca.crt"});
    let config = kubeconfig(&authority, &theirs, &json!({"client-certificate": "/nonexistent/pem"}));
    let roots = Roots {
        account: authority.path("account"),
        neighbours: vec!["/nonexistent/kubeconfig.conf".into(), config.kubeconfig.unwrap()],
        service: Some(("127.0.0.1".into(), "1".into())),
    };
    let mut stage = Stage::of(&Cluster::default(), &roots, Pace::hurried());
    stage.until_equal(&server);
    let given = Cluster { apiserver: Some(format!("https://localhost:{port}")), ..Cluster::default() };
    let roots = Roots { neighbours: Vec::new(), service: None, ..roots };
    let mut stage = Stage::of(&given, &roots, Pace::hurried());
    stage.until_equal(&server);
}

#[test]
fn a_credential_plugin_is_run() {
    let server = server(2);
    server.behave(|manners| manners.token = Some("minted".into()));
    let authority = Authority::new();
    let says = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": "minted"}});
    let exec = |command: &str| {
        json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command,
            "args": ["-c", format!("echo '{says}'")], "interactiveMode": "Never"}})
    };
    let reached = json!({"server": server.url()});
    follows(&kubeconfig(&authority, &reached, &exec("/bin/sh")), &server);
    let missing = kubeconfig(&authority, &reached, &exec("/nonexistent/plugin"));
    let mut stage = Stage::with(&missing, Pace::hurried());
    stage.until("said", |stage| stage.complains("no credentials for the API server"));
    assert!(stage.complains("the credential plugin '/nonexistent/plugin'"), "{:?}", stage.problems());
    assert!(!stage.complains("cannot be reached"), "{:?}", stage.problems());
    assert_eq!(stage.problems().len(), 1, "one message for all kinds: {:?}", stage.problems());
}

#[test]
fn what_a_plugin_gave_outlasts_an_outage_but_not_a_401() {
    let mut server = server(2);
    server.behave(|manners| manners.token = Some("minted".into()));
    let authority = Authority::new();
    let runs = authority.path("runs");
    let script = format!("echo run >>{}; echo '{{\"status\":{{\"token\":\"minted\"}}}}'", runs.display());
    let user = json!({"exec": {"command": "sh", "args": ["-c", script]}});
    let cluster = kubeconfig(&authority, &json!({"server": server.url()}), &user);
    let count = || std::fs::read_to_string(&runs).unwrap_or_default().lines().count();
    server.stop();
    let mut stage = Stage::with(&cluster, Pace::hurried());
    stage.until("said", |stage| stage.complains("the API server cannot be reached"));
    // Address and credentials are read again ten times meanwhile.
    stage.pump_for(std::time::Duration::from_secs(1));
    assert_eq!(count(), 1, "the plugin is not run by every node each few seconds");
    server.restart().unwrap();
    stage.until_equal(&server);
    assert_eq!(count(), 1);
    server.stop();
    server.behave(|manners| manners.token = Some("other".into()));
    server.restart().unwrap();
    stage.until("denied, so it is run again", |_| count() > 1);
}

#[test]
fn a_certificate_that_a_plugin_gave_is_shown_after_an_outage() {
    let mut server = server(2);
    let authority = Authority::new();
    authority.sign("server", &["127.0.0.1"]);
    authority.sign("client", &["system:kube-proxy"]);
    let read = |file: &str| std::fs::read_to_string(authority.path(file)).unwrap();
    let says = json!({"kind": "ExecCredential", "status":
        {"clientCertificateData": read("client.crt"), "clientKeyData": read("client.key")}});
    let file = authority.write("says", &says.to_string());
    let at = tls(&authority, &server, true);
    let reached = json!({"server": format!("https://{at}"), "certificate-authority": "ca.crt"});
    let user = json!({"exec": {"command": "cat", "args": [file]}});
    let mut stage = Stage::with(&kubeconfig(&authority, &reached, &user), Pace::hurried());
    stage.until_equal(&server);
    server.stop();
    stage.until("said", |stage| stage.complains("the API server cannot be reached"));
    stage.pump_for(std::time::Duration::from_millis(500));
    server.put(super::api_stage::service(1, 99)).unwrap();
    server.restart().unwrap();
    stage.until_equal(&server);
}

#[test]
fn an_empty_token_file_is_no_server_that_cannot_be_reached() {
    let server = server(2);
    server.behave(|manners| manners.token = Some("ours".into()));
    let authority = Authority::new();
    let file = authority.write("token", "\n");
    let cluster = kubeconfig(&authority, &json!({"server": server.url()}), &json!({"tokenFile": file}));
    let mut stage = Stage::with(&cluster, Pace::hurried());
    stage.until("said", |stage| stage.complains("no credentials for the API server"));
    assert!(stage.complains("holds no token"), "{:?}", stage.problems());
    authority.write("token", "ours\n");
    stage.until_equal(&server);
    stage.until("resolved", |stage| stage.problems().is_empty());
    // In the middle of being replaced: what was read before still counts.
    authority.write("token", "");
    server.compact();
    server.put(super::api_stage::service(1, 99)).unwrap();
    stage.until_equal(&server);
    assert!(stage.problems().is_empty(), "{:?}", stage.problems());
}

#[test]
fn a_proxy_that_the_environment_names_is_not_the_kubeconfigs() {
    // kubeadm puts the variables of the machine it runs on into kube-proxy's container.
    for proxy in ["http://proxy.example:3128", "no url at all"] {
        let again = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "api_tls::tokens_in_text_and_in_files_are_sent"])
            .envs([("HTTPS_PROXY", proxy), ("https_proxy", proxy)])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&again.stdout);
        assert!(again.status.success() && said.contains("1 passed"), "{said}");
    }
}

#[test]
fn no_error_quotes_a_secret() {
    let authority = Authority::new();
    let user = |secret: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:1'}}}}]\nusers:\n- name: u\n  user:\n    {secret}\n"
        )
    };
    let no_break = BASE64_STANDARD.encode("-----BEGIN PRIVATE KEY-----SECRET\n");
    for secret in [
        "token: SECRET\n   bad: [",
        "token: [SECRET]",
        "token: \"SECRET",
        "exec: SECRET",
        "exec: {command: sh, env: SECRET}",
        "token: SECRET\n    token: SECRET",
        &format!("client-certificate-data: {no_break}\n    client-key-data: {no_break}"),
    ] {
        let file = authority.write("config", &user(secret));
        let said = error(&Cluster { kubeconfig: Some(file.into()), apiserver: None });
        assert!(!said.contains("SECRET"), "{said}");
        assert!(said.contains("config") || said.contains("PEM"), "{said}");
    }
    let said = error(&Cluster {
        kubeconfig: Some(authority.write("config", &user("token: [SECRET]")).into()),
        apiserver: None,
    });
    assert!(said.contains("line 9"), "{said}");
}

#[test]
fn a_certificate_of_a_credential_plugin_is_shown() {
    let server = server(2);
    let authority = Authority::new();
    authority.sign("server", &["127.0.0.1"]);
    authority.sign("client", &["system:kube-proxy"]);
    let at = tls(&authority, &server, true);
    let read = |file: &str| std::fs::read_to_string(authority.path(file)).unwrap();
    let says = json!({"kind": "ExecCredential", "status":
        {"clientCertificateData": read("client.crt"), "clientKeyData": read("client.key")}});
    let file = authority.write("says", &says.to_string());
    let user = json!({"exec": {"command": "cat", "args": [file]}});
    let reached = json!({"server": format!("https://{at}"), "certificate-authority": "ca.crt"});
    follows(&kubeconfig(&authority, &reached, &user), &server);
}

#[test]
fn a_kubeconfig_that_cannot_be_used_is_named_with_the_reason() {
    let authority = Authority::new();
    let reached = json!({"server": "https://127.0.0.1:1", "certificate-authority": "none.crt"});
    for (fields, reason) in [
        (reached, "none.crt"),
        (json!({}), "cluster"),
        (json!({"server": "127.0.0.1"}), "no URL"),
        (json!({"server": "http://127.0.0.1:1", "proxy-url": "http://x:1"}), "proxy-url"),
    ] {
        let said = error(&kubeconfig(&authority, &fields, &json!({})));
        assert!(said.contains(reason) && said.contains("config"), "{said}");
    }
    let garbage = authority.write("config", "a: [");
    assert!(
        error(&Cluster { kubeconfig: Some(garbage.into()), apiserver: None }).contains("read the kubeconfig")
    );
}

fn error(cluster: &Cluster) -> String {
    let roots = Roots { account: Path::new("/nonexistent").into(), neighbours: Vec::new(), service: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    format!("{:#}", Door::open(cluster, &roots).unwrap_err())
}
