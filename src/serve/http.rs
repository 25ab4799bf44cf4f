//! Listeners and answers: as little of HTTP as kube-proxy shows.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::host::socket;

/// An address that could not be had is tried again after this long (HLT-8).
const AGAIN: Duration = Duration::from_secs(5);
/// A client that does not finish its request in this time is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection is over after this long, whatever its client does: a scrape takes a fraction of a second.
const LIFE: Duration = Duration::from_secs(120);
/// Connections that one listener serves at a time. For one more the oldest is hung up on, so that nobody who
/// only holds connections keeps a probe from being answered.
const CONNECTIONS: usize = 64;
/// After accept(2) failed (no descriptors, mostly) the next try waits this long.
const BREATH: Duration = Duration::from_millis(100);

/// An answer.
pub type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Says what a request is answered with. It must not block for long: all servers share a thread.
pub trait Answers: Send + Sync {
    /// The answer, whatever the method (Go's mux asks for none).
    fn answer(&self, path: &str) -> Answer;
}

/// What a listener serves.
pub type Site = Arc<dyn Answers>;

/// Where something is served, and how to move it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// What, for people.
    pub what: &'static str,
    /// The flag that says where.
    pub flag: &'static str,
    /// Where.
    pub addr: SocketAddr,
    /// If it cannot be had, that is the end.
    pub hard_fail: bool,
}

/// Serves for ever. An address that cannot be had is said once and tried again, or is the end (HLT-8): that is
/// the error it returns.
pub async fn listen(place: Place, site: Site) -> anyhow::Error {
    let Place { what, flag, addr, hard_fail } = place;
    let mut has_failed = false;
    loop {
        let open = || TcpListener::from_std(socket::listen_widely(addr)?);
        match open() {
            Ok(listener) => {
                if has_failed {
                    tracing::info!("{what}: served on {addr} now");
                }
                accept(&listener, &site).await;
            }
            Err(error) if hard_fail => {
                return anyhow::Error::from(error).context(format!("{what}: listen on {addr}"));
            }
            Err(error) => {
                if !has_failed {
                    let seconds = AGAIN.as_secs();
                    tracing::warn!(
                        "{what}: cannot listen on {addr}: {error}; tried again every {seconds} s; see who has \
                         it (ss -ltnp), or choose another address with {flag} ('' for none)"
                    );
                }
                has_failed = true;
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Serves what connects. Dropping the future hangs up on everybody.
pub async fn accept(listener: &TcpListener, site: &Site) {
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        while connections.len() >= CONNECTIONS {
            by_age.retain(|connection| !connection.is_finished());
            by_age.pop_front().inspect(AbortHandle::abort);
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    by_age.retain(|connection| !connection.is_finished());
                    by_age.push_back(connections.spawn(timeout(LIFE, serve(stream, site.clone()))));
                }
                Err(error) => {
                    tracing::debug!("accept: {error}");
                    tokio::time::sleep(BREATH).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection to its end.
async fn serve(stream: TcpStream, site: Site) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = site.answer(request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.title_case_headers(true).timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    if let Err(error) = connection.as_mut().await {
        tracing::trace!("a client went away: {error}");
    }
}

/// An answer with a body and headers.
pub fn answer(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

/// The same, with the browser told not to guess.
pub fn plain(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = answer(status, media_type, body);
    set(&mut answer, X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// An answer in pieces, each made when it is its turn.
pub fn pieces(media_type: &'static str, pieces: impl Iterator<Item = String> + Send + 'static) -> Answer {
    let frames = futures_util::stream::iter(pieces).map(|piece| Ok(Frame::data(Bytes::from(piece))));
    let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
    set(&mut answer, CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

/// Sets a header.
pub fn set(answer: &mut Answer, name: HeaderName, value: HeaderValue) {
    answer.headers_mut().insert(name, value);
}

/// What Go says of a path it does not have.
pub fn not_found() -> Answer {
    plain(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n")
}
