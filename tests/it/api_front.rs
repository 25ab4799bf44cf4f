//! TLS before the scripted API server, and an authority for it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use beeline::host::netns::{enter, with_netns};
use beeline::sandbox::api_server::ApiServer;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// An authority and what it signed, as files.
pub(crate) struct Authority {
    pub dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), dir }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub fn write(&self, file: &str, text: &str) -> String {
        std::fs::write(self.path(file), text).unwrap();
        self.path(file).to_string_lossy().into_owned()
    }

    /// A file as kubeconfigs carry it.
    pub fn data(&self, file: &str) -> String {
        BASE64_STANDARD.encode(std::fs::read(self.path(file)).unwrap())
    }

    /// Signs a certificate for names; NAME.crt and NAME.key.
    pub fn sign(&self, file: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        self.write(&format!("{file}.crt"), &certificate.pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }
}

/// TLS before a server, on a thread of its own that ends with the test's process.
pub(crate) fn tls(authority: &Authority, to: &ApiServer, wants_certificate: bool) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    serve(config(authority, wants_certificate), listener, to, None);
    at
}

/// The same at an address of a network namespace, where the server is as well.
pub(crate) fn tls_in(netns: OwnedFd, at: &str, authority: &Authority, to: &ApiServer) {
    let bind = || Ok(std::net::TcpListener::bind(at)?);
    let listener = with_netns(netns.as_fd(), bind).unwrap();
    serve(config(authority, false), listener, to, Some(netns));
}

fn config(authority: &Authority, wants_certificate: bool) -> ServerConfig {
    let load = |file: &str| CertificateDer::from_pem_file(authority.path(file)).unwrap();
    let key = PrivateKeyDer::from_pem_file(authority.path("server.key")).unwrap();
    let builder = ServerConfig::builder();
    let builder = if wants_certificate {
        let mut roots = RootCertStore::empty();
        roots.add(load("ca.crt")).unwrap();
        builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    builder.with_single_cert(vec![load("server.crt")], key).unwrap()
}

fn serve(config: ServerConfig, listener: std::net::TcpListener, to: &ApiServer, netns: Option<OwnedFd>) {
    let to: SocketAddr = to.url().trim_start_matches("http://").parse().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        netns.inspect(|netns| enter(netns.as_fd()).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (listener, acceptor) =
                (TcpListener::from_std(listener).unwrap(), TlsAcceptor::from(Arc::new(config)));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let (Ok(mut outer), Ok(mut inner)) =
                        (acceptor.accept(stream).await, TcpStream::connect(to).await)
                    else {
                        return;
                    };
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                });
            }
        });
    });
}
