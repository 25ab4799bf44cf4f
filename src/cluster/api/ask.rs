//! Requests to the API server.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper::http::request::Builder;
use hyper::{Method, Request};
use kube::client::Body;
use tokio::time::timeout;

use super::failure::Failure;
use crate::cluster::client::Door;

/// The body of an answer.
pub(super) type Answer = Body;

/// So much of an answer that is not taken in piece by piece is read.
const SHORT: usize = 64 << 10;

/// Asks, and returns the body once the server has said yes.
pub(super) async fn ask(door: &Door, uri: &str, patience: Duration) -> Result<Answer, Failure> {
    send(door, Request::get(uri), Body::empty(), patience).await
}

/// Posts an object, given as JSON.
pub(super) async fn post(door: &Door, uri: &str, object: &str, patience: Duration) -> Result<(), Failure> {
    let began = Instant::now();
    let request = Request::post(uri).header(CONTENT_TYPE, "application/json");
    let sent = send(door, request, object.as_bytes().to_vec().into(), patience).await;
    let (posted, size) = match sent {
        // Read to its end, so that the connection can be used again.
        Ok(answer) => (Ok(()), short(answer, patience).await.len()),
        Err(failure) => (Err(failure), 0),
    };
    door.tally().over((door.host(), "POST"), began.elapsed(), object.len(), size);
    posted
}

async fn send(door: &Door, request: Builder, body: Body, patience: Duration) -> Result<Answer, Failure> {
    let agent = concat!("beeline/", env!("CARGO_PKG_VERSION"));
    let authorization = door.authorization().await;
    let authorization = authorization.map_err(|error| Failure::NoCredentials(format!("{error:#}")))?;
    let mut request = request
        .header(ACCEPT, "application/json")
        .header(ACCEPT_ENCODING, "identity")
        .header(USER_AGENT, agent)
        .body(body)
        .map_err(|error| Failure::lost_for(format!("it cannot be asked for: {error}")))?;
    if let Some(authorization) = authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    let asked = (door.host(), if request.method() == Method::POST { "POST" } else { "GET" });
    let client = door.client();
    let response = timeout(patience, client.send(request))
        .await
        .map_err(|_| Failure::lost_for(format!("no answer in {} s", patience.as_secs())))
        .and_then(|sent| sent.map_err(|error| Failure::lost(&error)));
    let code = response.as_ref().ok().map(|response| response.status().as_u16());
    door.tally().asked(asked, code);
    let (parts, body) = response?.into_parts();
    if parts.status.is_success() {
        return Ok(body);
    }
    let retry_after = parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    Err(Failure::of_answer(parts.status, retry_after, &short(body, patience).await))
}

/// The whole of a body that is short; nothing of one that breaks off.
async fn short(body: Body, patience: Duration) -> Bytes {
    let said = timeout(patience, Limited::new(body, SHORT).collect()).await;
    said.ok().and_then(Result::ok).map(|said| said.to_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::client::Roots;
    use crate::config::Cluster;

    /// Whether nobody is there, as the failure says that asking this server leads to.
    async fn is_nobody_there(apiserver: String) -> bool {
        let roots = Roots { account: "/nonexistent".into(), neighbours: Vec::new(), service: None };
        let cluster = Cluster { apiserver: Some(apiserver), ..Cluster::default() };
        let door = Door::open(&cluster, &roots).unwrap();
        match ask(&door, "/", Duration::from_secs(1)).await {
            Err(Failure::Lost { is_nobody_there, .. }) => is_nobody_there,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn only_where_no_connection_can_be_made_nobody_is_there() {
        // SYNC-13
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        // As a server whose process hangs: the kernel takes connections, nobody answers.
        for scheme in ["http", "https"] {
            assert!(!is_nobody_there(format!("{scheme}://{at}")).await, "{scheme}");
        }
        drop(listener);
        for scheme in ["http", "https"] {
            assert!(is_nobody_there(format!("{scheme}://{at}")).await, "{scheme}");
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                drop(stream);
            }
        });
        for scheme in ["http", "https"] {
            assert!(!is_nobody_there(format!("{scheme}://{at}")).await, "{scheme}: it breaks off");
        }
    }
}
