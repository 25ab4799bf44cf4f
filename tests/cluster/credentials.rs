//! Who is who before the real API server: an authority, a certificate, a key for accounts' tokens, and
//! users with static tokens.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

/// Users and their groups; the token is `NAME-token`.
const USERS: [(&str, &str); 3] = [("admin", "system:masters"), ("system:kube-proxy", ""), ("nobody", "")];

/// The files, in a folder.
#[derive(Debug)]
pub(crate) struct Credentials {
    dir: PathBuf,
}

impl Credentials {
    /// Makes all of them; the certificate is good for these addresses.
    pub fn new(dir: &Path, addresses: &[String]) -> Result<Credentials> {
        let credentials = Credentials { dir: dir.to_owned() };
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        credentials.write("ca.crt", &params.self_signed(&key)?.pem())?;
        let authority = Issuer::new(params, key);
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(addresses.to_vec())?.signed_by(&key, &authority)?;
        credentials.write("server.crt", &certificate.pem())?;
        credentials.write("server.key", &key.serialize_pem())?;
        let key = KeyPair::generate()?;
        credentials.write("accounts.key", &key.serialize_pem())?;
        credentials.write("accounts.pub", &key.public_key_pem())?;
        let line = |(n, (name, group)): (usize, &(&str, &str))| {
            let groups = if group.is_empty() { String::new() } else { format!(",\"{group}\"") };
            format!("{name}-token,{name},{n}{groups}\n")
        };
        credentials.write("tokens.csv", &USERS.iter().enumerate().map(line).collect::<String>())?;
        Ok(credentials)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path(file);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Where a file is.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// A kubeconfig of a user for a server; the path.
    pub fn kubeconfig(&self, user: &str, server: SocketAddr) -> Result<PathBuf> {
        self.kubeconfig_with(
            &format!("{}-{}", user.replace(':', "-"), server.port()),
            &format!("{user}-token"),
            server,
        )
    }

    /// A kubeconfig called NAME.conf with a token.
    pub fn kubeconfig_with(&self, name: &str, token: &str, server: SocketAddr) -> Result<PathBuf> {
        let file = format!("{name}.conf");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "clusters": [{"name": "it", "cluster": {
                "server": format!("https://{server}"), "certificate-authority": self.path("ca.crt")}}],
            "users": [{"name": "it", "user": {"token": token}}]
        });
        self.write(&file, &config.to_string())?;
        Ok(self.path(&file))
    }
}
