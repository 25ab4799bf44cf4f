//! Events for people, kept by the API server (MET-10): posted one after another by a task of their own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::watch;
use tokio::time::sleep;

use super::ask::post;
use super::failure::Failure;
use crate::cluster::client::Door;
use crate::cluster::events::{Event, Sink, now};

/// So many wait to be posted. What comes when there are as many is lost: the log has it.
const WAITING: usize = 64;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// One that could not be posted is tried again after each of these.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// How many events are on their way.
pub(super) type OnTheWay = watch::Sender<usize>;

/// Takes events from any thread. To be called on a runtime, whose end is that of the posting.
pub(super) fn sink(door: Arc<Door>, host: &str, on_the_way: Arc<OnTheWay>) -> Sink {
    let (outbox, inbox) = channel(WAITING);
    tokio::spawn(run(door, host.to_owned(), inbox, on_the_way.clone()));
    Box::new(move |event| {
        on_the_way.send_modify(|count| *count += 1);
        if outbox.try_send(event).is_err() {
            on_the_way.send_modify(|count| *count -= 1);
        }
    })
}

async fn run(door: Arc<Door>, host: String, mut inbox: Receiver<Event>, on_the_way: Arc<OnTheWay>) {
    let mut is_well = true;
    while let Some(event) = inbox.recv().await {
        let delivered = deliver(&door, &host, &event).await;
        on_the_way.send_modify(|count| *count -= 1);
        if let (Err(error), true) = (&delivered, is_well) {
            tracing::warn!(
                "events do not reach the API server ({} of {} was the first): {}; they need the right to \
                 create events in events.k8s.io",
                event.reason,
                event.regarding,
                words(error)
            );
        }
        is_well = delivered.is_ok();
    }
}

async fn deliver(door: &Door, host: &str, event: &Event) -> Result<(), Failure> {
    let uri = format!("/apis/events.k8s.io/v1/namespaces/{}/events", event.namespace());
    let object = event.object(host, now()).to_string();
    let mut posted = post(door, &uri, &object, PATIENCE).await;
    for pause in PAUSES {
        if !posted.as_ref().is_err_and(Failure::is_lost) {
            break;
        }
        sleep(pause).await;
        posted = post(door, &uri, &object, PATIENCE).await;
    }
    posted
}

/// What went wrong, for a log line.
fn words(failure: &Failure) -> String {
    match failure {
        Failure::Refused { code, message, .. } => format!("{code}: {message}"),
        Failure::Lost { why, .. }
        | Failure::NoCredentials(why)
        | Failure::Broken(why)
        | Failure::Garbage(why) => why.clone(),
    }
}
