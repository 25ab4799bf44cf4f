//! What can go wrong with a request, in words that say what to do, and what follows from it.

use std::error::Error;
use std::io;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;

use super::pace::{Backoff, Pace};
use super::resource::Resource;

/// The longest pause a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(120);

/// A request, or a stream, that failed.
#[derive(Debug)]
pub enum Failure {
    /// The server said no.
    Refused {
        /// The HTTP status, or the code of an ERROR event.
        code: u16,
        /// What the server says to it.
        message: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// No answer.
    Lost {
        /// What the transport says.
        why: String,
        /// Not even a connection could be made. What is refused so costs nobody anything.
        is_nobody_there: bool,
    },
    /// Nothing was asked, for there is nothing to say who asks: why.
    NoCredentials(String),
    /// An answer that broke off in the middle. Servers end, and proxies give up: once is no news.
    Broken(String),
    /// An answer that makes no sense.
    Garbage(String),
}

impl Failure {
    /// No answer, for a reason whose parts repeat each other.
    pub fn lost(error: &(dyn Error + 'static)) -> Failure {
        let (mut why, mut next) = (error.to_string(), Some(error));
        let mut is_nobody_there = false;
        while let Some(part) = next {
            let text = part.to_string();
            if !why.ends_with(&text) {
                why = format!("{why}: {text}");
            }
            is_nobody_there |= part.downcast_ref::<io::Error>().is_some_and(is_of_connect);
            next = part.source();
        }
        Failure::Lost { why, is_nobody_there }
    }

    /// No answer, for a reason of our own.
    pub fn lost_for(why: String) -> Failure {
        Failure::Lost { why, is_nobody_there: false }
    }

    /// The version or page that was asked for is not there any more: all is to be listed anew.
    pub fn is_expired(&self) -> bool {
        matches!(self, Failure::Refused { code: 410, .. })
    }

    /// The kind of request is not understood, as streaming lists are not by older servers.
    pub fn is_not_understood(&self) -> bool {
        matches!(self, Failure::Refused { code: 400 | 422, .. })
    }

    /// The server has no such kind.
    pub fn is_not_served(&self) -> bool {
        matches!(self, Failure::Refused { code: 404, .. })
    }

    /// The server does not accept us, or not what we ask for.
    pub fn is_denied(&self) -> bool {
        matches!(self, Failure::Refused { code: 401 | 403, .. })
    }

    /// The kind may not be asked for.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Failure::Refused { code: 403, .. })
    }

    /// There was no answer.
    pub fn is_lost(&self) -> bool {
        matches!(self, Failure::Lost { .. } | Failure::NoCredentials(_))
    }

    /// The credentials are not accepted.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Failure::Refused { code: 401, .. })
    }

    /// The credentials may have been replaced by now, or the authority behind the server's.
    pub fn calls_for_credentials(&self) -> bool {
        self.is_unauthorized() || self.is_lost()
    }

    /// How long to wait until the next attempt.
    pub fn pause(&self, pace: &Pace, backoff: &mut Backoff) -> Duration {
        match self {
            _ if self.is_denied() => backoff.pause(pace.first, pace.longest * 2),
            Failure::Refused { retry_after: Some(asked), .. } => {
                let own = backoff.pause(pace.first, pace.longest);
                let asked = backoff.dice().once_to_twice((*asked).min(LONGEST_ASKED));
                own.max(asked)
            }
            Failure::Lost { is_nobody_there: true, .. } => backoff.pause(pace.first, pace.unreachable),
            _ => backoff.pause(pace.first, pace.longest),
        }
    }

    /// What people should know. Failures of several kinds are one message where the kind does not matter.
    pub fn message(&self, resource: &Resource, verb: &str) -> String {
        let name = resource.name();
        match self {
            Failure::Lost { why, .. } => format!(
                "the API server cannot be reached: {why}; traffic goes on as the tables are, and it is tried again"
            ),
            Failure::NoCredentials(why) => format!(
                "no credentials for the API server: {why}; traffic goes on as the tables are, and it is tried again"
            ),
            Failure::Broken(why) => format!("the answer to {verb} {name} breaks off: {why}; it is asked again"),
            Failure::Refused { code: 401, .. } => {
                "the API server does not accept the credentials (401): the token or certificate is expired, or \
                 another cluster's; they are read again from time to time"
                    .into()
            }
            Failure::Refused { code: 403, message, .. } => {
                let who = user(message).map_or_else(String::new, |user| format!(" '{user}'"));
                format!(
                    "may not {verb} {name} (403): bind the ClusterRole system:node-proxier to the user{who}; the \
                     server says: {message}"
                )
            }
            Failure::Refused { code: 404, .. } => {
                format!("the server has no {name} (404): is the address that of a Kubernetes API server?")
            }
            Failure::Refused { code: 429, .. } => {
                "the API server is too busy to answer (429); it is tried again as it asks".into()
            }
            Failure::Refused { code, message, .. } => {
                format!("cannot {verb} {name}: the server answers {code}: {message}; it is tried again")
            }
            Failure::Garbage(why) => {
                format!("the answer to {verb} {name} makes no sense: {why}; it is asked again")
            }
        }
    }

    /// The failure that an answer says, if it says one.
    pub fn of_answer(status: StatusCode, retry_after: Option<&str>, body: &[u8]) -> Failure {
        let said = serde_json::from_slice::<Status>(body).unwrap_or_default();
        let message = if said.message.is_empty() { status.to_string() } else { said.message };
        let retry_after = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        Failure::Refused { code: status.as_u16(), message, retry_after }
    }

    /// The failure that an ERROR event carries.
    pub fn of_event(status: &[u8]) -> Failure {
        match serde_json::from_slice::<Status>(status) {
            Ok(Status { message, code: code @ 1.. }) => Failure::Refused { code, message, retry_after: None },
            _ => Failure::Garbage("an ERROR event without a code".into()),
        }
    }
}

/// Whether a connection was not made.
fn is_of_connect(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

/// A Status object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
    code: u16,
}

/// The user that a message of the authoriser names: `… User "NAME" cannot …`.
fn user(message: &str) -> Option<&str> {
    message.split("User \"").nth(1)?.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Resource {
        let [services, ..] = Resource::all("n");
        services
    }

    #[test]
    fn a_missing_right_is_named_with_verb_resource_and_user() {
        let body = include_str!("../../../tests/data/recorded/api/services.list-403-anonymous.json");
        let failure = Failure::of_answer(StatusCode::FORBIDDEN, None, body.as_bytes());
        let message = failure.message(&services(), "list");
        let wanted = "may not list services (403): bind the ClusterRole system:node-proxier to the user 'system:anonymous'";
        assert!(message.starts_with(wanted), "{message}");
    }

    #[test]
    fn a_server_that_asks_for_time_gets_it() {
        let failure = Failure::of_answer(StatusCode::TOO_MANY_REQUESTS, Some("7"), b"slow down");
        let pause = failure.pause(&Pace::default(), &mut Backoff::new(1));
        assert!(pause >= Duration::from_secs(7) && pause <= Duration::from_secs(14), "{pause:?}");
        let absurd = Failure::of_answer(StatusCode::SERVICE_UNAVAILABLE, Some("9999999999"), b"");
        assert!(absurd.pause(&Pace::default(), &mut Backoff::new(1)) <= 2 * LONGEST_ASKED);
    }

    #[test]
    fn what_the_layers_below_repeat_is_said_once() {
        let error = anyhow::anyhow!("refused").context("connect").context("request: connect");
        let error: Box<dyn Error> = error.into();
        let Failure::Lost { why, .. } = Failure::lost(&*error) else { panic!("no answer is lost") };
        assert_eq!(why, "request: connect: refused");
    }

    #[test]
    fn a_server_that_comes_back_is_found_within_seconds() {
        // SYNC-13
        let (pace, mut lost, mut refused) = (Pace::default(), Backoff::new(1), Backoff::new(1));
        let busy = Failure::of_answer(StatusCode::INTERNAL_SERVER_ERROR, None, b"");
        let io = |kind| {
            let error = anyhow::Error::from(io::Error::from(kind)).context("tcp connect error");
            Failure::lost(&*Box::<dyn Error>::from(error))
        };
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::HostUnreachable,
            io::ErrorKind::NetworkUnreachable,
        ] {
            let pauses: Vec<_> = (0..20).map(|_| io(kind).pause(&pace, &mut lost)).collect();
            assert!(pauses.iter().all(|pause| *pause <= pace.unreachable), "{kind}: {pauses:?}");
        }
        let longest = (0..20).map(|_| busy.pause(&pace, &mut refused)).max().unwrap();
        assert!(
            longest > pace.unreachable && longest <= pace.longest,
            "one that answers gets its rest: {longest:?}"
        );
        // So does one whose connections are made and lead to nothing: each is a TLS handshake of every node.
        for failure in [
            io(io::ErrorKind::ConnectionReset),
            io(io::ErrorKind::InvalidData),
            io(io::ErrorKind::TimedOut),
            Failure::lost_for("no answer in 30 s".into()),
            Failure::NoCredentials("the plugin failed".into()),
        ] {
            let mut backoff = Backoff::new(1);
            let longest = (0..20).map(|_| failure.pause(&pace, &mut backoff)).max().unwrap();
            assert!(longest > pace.unreachable && longest <= pace.longest, "{failure:?}: {longest:?}");
        }
    }

    #[test]
    fn an_error_event_is_read_as_the_answer_it_would_have_been() {
        let line = include_str!("../../../tests/data/recorded/api/services.watch-410.jsonl");
        let status = line.split_once("\"object\":").unwrap().1.trim().strip_suffix('}').unwrap();
        assert!(Failure::of_event(status.as_bytes()).is_expired());
        assert!(matches!(Failure::of_event(b"{}"), Failure::Garbage(_)));
    }
}
