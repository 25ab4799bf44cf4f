//! Requests and their answers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout_at};

use super::objects::{Kind, Listing};
use super::trick::{End, StreamingLists, Trick, refusal};
use super::{Shared, State};

type Body = BoxBody<Bytes, io::Error>;
type Piece = io::Result<Frame<Bytes>>;

/// A request, understood.
struct Asked {
    kind: Kind,
    query: HashMap<String, String>,
    node: String,
}

impl Asked {
    fn new(uri: &str) -> Option<Asked> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let kind = Kind::ALL.into_iter().find(|kind| kind.facts().2 == path)?;
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let query: HashMap<_, _> = pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
        let node = query.get("fieldSelector").and_then(|field| field.strip_prefix("metadata.name="));
        Some(Asked { kind, node: node.unwrap_or_default().to_owned(), query })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    fn is(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }
}

/// A part of a query as it was before it was encoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        bytes.push(match byte {
            b'%' => (hex(rest.next()).unwrap_or(0) * 16 + hex(rest.next()).unwrap_or(0)) as u8,
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Answers a request.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if request.method() == Method::POST {
        return Ok(keep(&shared, request).await);
    }
    let uri = request.uri().to_string();
    let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let judged = judge(&mut shared.state(), &uri, bearer);
    let (asked, trick) = match judged {
        Ok(judged) => judged,
        Err(refused) => return Ok(*refused),
    };
    let (outbox, inbox) = channel(64);
    let mut pipe = Pipe { outbox, trick, events: 0, bytes: 0 };
    if let Some(Trick::Say(text, end)) = pipe.trick.clone() {
        tokio::spawn(async move {
            pipe.send(&text).await;
            pipe.end(end).await;
        });
    } else if asked.is("watch") {
        let watching = match Watching::new(&shared.state(), asked) {
            Ok(watching) => watching,
            Err(refused) => return Ok(*refused),
        };
        tokio::spawn(watching.run(shared, pipe));
    } else {
        let text = match list(&mut shared.state(), &asked) {
            Ok(text) => text,
            Err(refused) => return Ok(*refused),
        };
        tokio::spawn(async move { pipe.send(&text).await });
    }
    let pieces = stream::unfold(inbox, |mut inbox: Receiver<Piece>| async move {
        inbox.recv().await.map(|piece| (piece, inbox))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(pieces)));
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a header"));
    Ok(response)
}

/// Keeps an Event that is posted. Nothing else is.
async fn keep(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    let (path, body) = (request.uri().path().to_owned(), request.into_body().collect().await);
    let event = body.ok().and_then(|body| serde_json::from_slice::<Value>(&body.to_bytes()).ok());
    let Some(event) = event.filter(|event| {
        let namespace = event["metadata"]["namespace"].as_str().unwrap_or_default();
        path == format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")
    }) else {
        return *refuse(400, None, refusal(400, "BadRequest", "it is no Event of that namespace"));
    };
    let text = event.to_string();
    shared.state().events.push(event);
    *refuse(201, None, text)
}

/// Whether the request may be answered, and the trick that is played on it.
fn judge(
    state: &mut State,
    uri: &str,
    bearer: Option<&str>,
) -> Result<(Asked, Option<Trick>), Box<Response<Body>>> {
    state.requests.push(uri.to_owned());
    if state.manners.token.as_ref().is_some_and(|token| bearer != Some(&format!("Bearer {token}"))) {
        return Err(refuse(401, None, refusal(401, "Unauthorized", "Unauthorized")));
    }
    // Before it is looked whether there is such a kind.
    if state.manners.denies_cidrs && uri.starts_with(Kind::ServiceCidr.facts().2) {
        let message =
            "servicecidrs.networking.k8s.io is forbidden: User \"system:kube-proxy\" cannot watch it";
        return Err(refuse(403, None, refusal(403, "Forbidden", message)));
    }
    let served = |asked: &Asked| state.manners.serves_cidrs || asked.kind != Kind::ServiceCidr;
    let Some(asked) = Asked::new(uri).filter(served) else {
        let message = "the server could not find the requested resource";
        return Err(refuse(404, None, refusal(404, "NotFound", message)));
    };
    if !uri.contains(asked.kind.facts().3) {
        let message = format!("the selectors of {} are missing in {uri}", asked.kind.facts().2);
        return Err(refuse(400, None, refusal(400, "BadRequest", &message)));
    }
    let at = state.tricks.iter().position(|(kind, _)| kind.is_none_or(|kind| kind == asked.kind));
    match at.map(|at| state.tricks.remove(at).1) {
        Some(Trick::Refuse { status, retry_after, body }) => Err(refuse(status, retry_after, body)),
        trick => Ok((asked, trick)),
    }
}

fn refuse(status: u16, retry_after: Option<u32>, body: String) -> Box<Response<Body>> {
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed();
    let mut response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    if let Some(seconds) = retry_after {
        response = response.header(RETRY_AFTER, seconds);
    }
    Box::new(response.body(body).expect("a status and two headers"))
}

/// The text of a list, or of the page that was asked for.
fn list(state: &mut State, asked: &Asked) -> Result<String, Box<Response<Body>>> {
    let mut listing = match asked.get("continue") {
        None => state.objects.list(asked.kind, &asked.node),
        Some(token) => state.objects.page(token).ok_or_else(|| {
            let message = "The provided continue parameter is too old to display a consistent list result.";
            refuse(410, None, refusal(410, "Expired", message))
        })?,
    };
    // From its cache the real one gives all, whatever the limit.
    let limit = match (asked.number("limit"), asked.get("resourceVersion")) {
        (Some(limit), None) => (limit as usize).min(state.manners.page),
        _ => usize::MAX,
    };
    let mut metadata = json!({"resourceVersion": listing.version.to_string()});
    if listing.items.len() > limit {
        let rest = listing.items.split_off(limit);
        metadata["continue"] = state.objects.keep(Listing { version: listing.version, items: rest }).into();
    }
    let (kind, version, ..) = asked.kind.facts();
    let items: Vec<&str> = listing.items.iter().map(|(_, json)| &**json).collect();
    Ok(format!(
        "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":[{}]}}\n",
        items.join(",")
    ))
}

/// A body under way.
struct Pipe {
    outbox: Sender<Piece>,
    trick: Option<Trick>,
    events: usize,
    bytes: usize,
}

impl Pipe {
    /// Sends a text. False if nobody listens any more, or the connection was broken on purpose.
    async fn send(&mut self, text: &str) -> bool {
        let mut bytes = text.as_bytes();
        let mut is_cut = false;
        if let Some(Trick::CutAfter(limit)) = self.trick {
            is_cut = self.bytes + bytes.len() > limit;
            bytes = &bytes[..bytes.len().min(limit.saturating_sub(self.bytes))];
        }
        self.bytes += bytes.len();
        let size = if self.trick == Some(Trick::ByteByByte) { 1 } else { bytes.len().clamp(1, 1 << 16) };
        for piece in bytes.chunks(size) {
            if self.outbox.send(Ok(Frame::data(Bytes::copy_from_slice(piece)))).await.is_err() {
                return false;
            }
            if size == 1 {
                tokio::task::yield_now().await;
            }
        }
        if is_cut {
            self.end(End::Break).await;
        }
        !is_cut
    }

    /// Sends lines of a watch.
    async fn send_lines(&mut self, mut lines: Vec<Arc<str>>) -> bool {
        match &self.trick {
            Some(Trick::Twice) => lines = lines.into_iter().flat_map(|line| [line.clone(), line]).collect(),
            Some(Trick::Swapped) => lines.chunks_mut(2).for_each(<[_]>::reverse),
            Some(Trick::Insert(after, line)) => {
                let at = after.checked_sub(self.events).filter(|at| *at <= lines.len());
                self.events += lines.len();
                if let Some(at) = at {
                    lines.insert(at, format!("{line}\n").into());
                    self.trick = None;
                }
            }
            _ => {}
        }
        for line in lines {
            if !self.send(&line).await {
                return false;
            }
        }
        true
    }

    async fn end(self: &mut Pipe, end: End) {
        match end {
            End::Close => {}
            End::Break => drop(self.outbox.send(Err(io::Error::other("a trick"))).await),
            End::Hold => self.outbox.closed().await,
        }
    }
}

/// A watch.
struct Watching {
    asked: Asked,
    /// What was sent: everything up to that version.
    seen: u64,
    lines: Vec<Arc<str>>,
    until: Instant,
}

impl Watching {
    fn new(state: &State, asked: Asked) -> Result<Watching, Box<Response<Body>>> {
        let seconds = asked.number("timeoutSeconds").unwrap_or(300);
        let until = Instant::now() + Duration::from_secs(seconds);
        let objects = &state.objects;
        let lists = asked.is("sendInitialEvents");
        if let (true, StreamingLists::Refuse(status)) = (lists, state.manners.streaming_lists) {
            let message =
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
            return Err(refuse(status, None, refusal(status, "Invalid", message)));
        }
        let from = asked.number("resourceVersion");
        if from.is_none() && asked.get("resourceVersion").is_some() {
            let message = "resourceVersion: Invalid value";
            return Err(refuse(500, None, refusal(500, "InternalError", message)));
        }
        let mut lines: Vec<Arc<str>> = Vec::new();
        let seen = match from {
            Some(version) if objects.remembers(version) => version,
            Some(version) => {
                let message = format!("too old resource version: {version} ({})", objects.version());
                let status = refusal(410, "Expired", &message);
                lines.push(format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n").into());
                return Ok(Watching { asked, seen: u64::MAX, lines, until: Instant::now() });
            }
            None => {
                let listing = objects.list(asked.kind, &asked.node);
                let added =
                    |(_, json): (_, Arc<str>)| format!("{{\"type\":\"ADDED\",\"object\":{json}}}\n").into();
                lines.extend(listing.items.into_iter().map(added));
                if lists && state.manners.streaming_lists == StreamingLists::Serve {
                    lines.push(objects.bookmark_line(asked.kind, true).into());
                }
                listing.version
            }
        };
        Ok(Watching { asked, seen, lines, until })
    }

    async fn run(mut self, shared: Arc<Shared>, mut pipe: Pipe) {
        let mut changes = shared.changes.subscribe();
        loop {
            if !pipe.send_lines(std::mem::take(&mut self.lines)).await {
                return;
            }
            changes.mark_unchanged();
            self.take_news(&shared.state());
            if !self.lines.is_empty() {
                continue;
            }
            tokio::select! {
                changed = timeout_at(self.until, changes.changed()) => match changed {
                    Ok(Ok(())) => self.take_news(&shared.state()),
                    _ => return,
                },
                () = pipe.outbox.closed() => return,
            }
        }
    }

    /// What happened since. A version that does not exist yet is waited for in silence.
    fn take_news(&mut self, state: &State) {
        let asked = &self.asked;
        let news = state.objects.since(self.seen).filter(|happening| {
            happening.kind == asked.kind
                && (asked.kind != Kind::Node || happening.name.is_empty() || happening.name == asked.node)
        });
        self.lines.extend(news.map(|happening| happening.line.clone()));
        self.seen = self.seen.max(state.objects.version());
    }
}
