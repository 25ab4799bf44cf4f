//! One kind, followed: listed, watched, and taken up again after whatever happens.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, timeout};

use super::ask::{Answer, ask};
use super::failure::Failure;
use super::pace::{Backoff, Pace};
use super::resource::{ListFrom, Resource};
use super::split::{Items, Lines};
use super::store::{Said, Store, later};
use crate::cluster::client::Door;

/// So often in a row a watch is taken up where it ended; then all is listed anew. Not while nobody
/// answers: that says nothing of the version.
const RESUMES: u32 = 3;

/// Marks the bookmark that ends a streaming list.
const LIST_ENDS: &str = "k8s.io/initial-events-end";

/// A watch is asked to end by itself; so much later it is taken for dead.
const OVERTIME: Duration = Duration::from_secs(15);

/// Follows one kind until it is dropped.
pub(super) struct Watcher {
    resource: Resource,
    door: Arc<Door>,
    store: Store,
    pace: Pace,
    /// After answers that are no use.
    backoff: Backoff,
    /// After no answer. Apart from the other, so that a server that comes back after long is not made to
    /// wait for, when it starts with an answer like 403 or 410 (SYNC-13).
    lost: Backoff,
    outbox: Sender<Vec<Said>>,
    /// Where the watch is to go on; none: all is to be listed.
    version: Option<String>,
    /// Until when lists come in pages, since the server did not stream them: found out by asking.
    pages_until: Option<Instant>,
    /// What it costs not to know this kind was said.
    absence_said: bool,
    /// Pages expired before they were all read: the next list is asked for in one piece.
    is_whole: bool,
    /// Some list was complete.
    is_listed: bool,
    /// What is wrong was said, and whether it was an answer that made no sense.
    trouble: Option<bool>,
}

/// An event of a watch.
#[derive(Deserialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What is read of a bookmark, and of a list without its items.
#[derive(Deserialize)]
struct Frame {
    #[serde(default)]
    kind: String,
    metadata: FrameMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FrameMeta {
    resource_version: String,
    #[serde(default, rename = "continue")]
    next_page: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// How far a stream is.
struct Progress {
    /// The objects that are there are still being named.
    in_list: bool,
    /// Something was heard after that: what was wrong is not any more.
    is_heard: bool,
}

impl Watcher {
    pub fn new(
        resource: Resource,
        door: Arc<Door>,
        store: Store,
        (pace, seed): (Pace, u64),
        outbox: Sender<Vec<Said>>,
    ) -> Watcher {
        Watcher {
            resource,
            door,
            store,
            pace,
            backoff: Backoff::new(seed),
            lost: Backoff::new(!seed),
            outbox,
            version: None,
            pages_until: None,
            absence_said: false,
            is_whole: false,
            is_listed: false,
            trouble: None,
        }
    }

    /// Follows for ever.
    pub async fn run(mut self) {
        loop {
            let (verb, done) = match self.version.clone() {
                None if !self.streams_lists() => ("list", self.list().await),
                version => ("watch", self.watch(version).await),
            };
            match done {
                Ok(()) => sleep(self.backoff.dice().once_to_twice(self.pace.first / 10)).await,
                Err(failure) => self.recover(&failure, verb).await,
            }
        }
    }

    /// Lists by pages.
    async fn list(&mut self) -> Result<(), Failure> {
        self.store.begin_list();
        let mut page = String::new();
        loop {
            let from = match page.as_str() {
                "" if self.is_whole => ListFrom::Whole,
                "" if self.is_listed => ListFrom::Start,
                "" => ListFrom::Cache,
                token => ListFrom::Page(token),
            };
            let uri = self.resource.list(&from);
            let frame = match self.page(&uri).await {
                Err(failure) if failure.is_expired() => {
                    self.is_whole = true;
                    return Err(failure);
                }
                other => other?,
            };
            page = frame.next_page;
            if page.is_empty() {
                return self.end_list(frame.resource_version).await;
            }
        }
    }

    /// Asks for one answer to a list.
    async fn page(&mut self, uri: &str) -> Result<FrameMeta, Failure> {
        let (began, mut size) = (Instant::now(), 0);
        let taken = self.take_page(uri, &mut size).await;
        self.door.tally().over((self.door.host(), "GET"), began.elapsed(), 0, size);
        taken
    }

    /// Takes it in.
    async fn take_page(&mut self, uri: &str, size: &mut usize) -> Result<FrameMeta, Failure> {
        let mut answer = ask(&self.door, uri, self.pace.answer).await?;
        let mut items = Items::default();
        while let Some(bytes) = next_bytes(&mut answer, self.pace.answer).await? {
            *size += bytes.len();
            let mut said = Vec::new();
            items.feed(&bytes, |item| self.store.there(item, &mut said).map(|_| ()))?;
            self.say(said).await;
        }
        let frame: Frame = serde_json::from_slice(items.frame())
            .map_err(|error| Failure::Garbage(format!("it is no whole list: {error}")))?;
        let (kind, _) = self.resource.kind.names();
        match frame.kind.strip_suffix("List") {
            Some(listed) if listed == kind => Ok(frame.metadata),
            _ => Err(Failure::Garbage(format!("it is a '{}' and no list of kind {kind}", frame.kind))),
        }
    }

    /// A list is complete, as of a version.
    async fn end_list(&mut self, version: String) -> Result<(), Failure> {
        let mut said = Vec::new();
        self.store.end_list(&mut said);
        self.version = Some(version);
        (self.is_listed, self.is_whole) = (true, false);
        self.works(&mut said);
        self.say(said).await;
        Ok(())
    }

    /// Watches from a version on; without one, the stream begins with a list.
    async fn watch(&mut self, from: Option<String>) -> Result<(), Failure> {
        let asked = self.backoff.dice().once_to_twice(self.pace.watch);
        let uri = match &from {
            Some(version) => self.resource.watch(version, asked.as_secs()),
            None => self.resource.streaming_list(asked.as_secs()),
        };
        let mut answer = ask(&self.door, &uri, self.pace.answer).await?;
        let began = Instant::now();
        let mut progress = Progress { in_list: from.is_none(), is_heard: false };
        if progress.in_list {
            self.store.begin_list();
        }
        let mut lines = Lines::default();
        let ended = loop {
            // A server where nothing happens says nothing: that it does not break off has to do.
            let waits_for_calm = !progress.in_list && self.trouble == Some(false);
            let patience = match progress.in_list || waits_for_calm {
                true => self.pace.silence,
                false => (asked + OVERTIME).saturating_sub(began.elapsed()),
            };
            let bytes = match timeout(patience, next_piece(&mut answer)).await {
                Err(_) if progress.in_list => {
                    self.page_lists();
                    return Ok(());
                }
                Err(_) if waits_for_calm => {
                    let mut said = Vec::new();
                    self.works(&mut said);
                    self.say(said).await;
                    continue;
                }
                Err(_) => break Ok(()),
                Ok(Err(failure)) => break Err(failure),
                Ok(Ok(None)) => break Ok(()),
                Ok(Ok(Some(bytes))) => bytes,
            };
            let mut said = Vec::new();
            let taken = lines.feed(&bytes, |line| self.take(line, &mut progress, &mut said));
            if progress.is_heard {
                self.works(&mut said);
            }
            self.say(said).await;
            if let Err(failure) = taken {
                break Err(failure);
            }
            if progress.in_list && !self.streams_lists() {
                return Ok(());
            }
        };
        self.judge_end(&progress, (began.elapsed(), asked), ended)
    }

    /// Takes in a line of a watch.
    fn take(&mut self, line: &[u8], progress: &mut Progress, said: &mut Vec<Said>) -> Result<(), Failure> {
        let event: WatchEvent<'_> = serde_json::from_slice(line)
            .map_err(|error| Failure::Garbage(format!("a line is no event: {error}")))?;
        let object = event.object.get().as_bytes();
        let version = match &*event.kind {
            "ADDED" | "MODIFIED" => self.store.there(object, said)?,
            "DELETED" => self.store.deleted(object, said)?,
            "BOOKMARK" => Some(self.bookmark(object, progress, said)?),
            "ERROR" => return Err(Failure::of_event(object)),
            other => return Err(Failure::Garbage(format!("'{other}' is no type of event"))),
        };
        if !progress.in_list {
            progress.is_heard = true;
            self.version = version.map(|version| later(self.version.take(), version)).or(self.version.take());
        }
        Ok(())
    }

    /// Takes in a bookmark, and returns its version.
    fn bookmark(
        &mut self,
        object: &[u8],
        progress: &mut Progress,
        said: &mut Vec<Said>,
    ) -> Result<String, Failure> {
        let frame: Frame = serde_json::from_slice(object)
            .map_err(|error| Failure::Garbage(format!("a bookmark without a version: {error}")))?;
        let ends_list = frame.metadata.annotations.get(LIST_ENDS).is_some_and(|value| value == "true");
        if progress.in_list && ends_list {
            self.store.end_list(said);
            (self.is_listed, progress.in_list) = (true, false);
            self.version = None;
        } else if progress.in_list {
            // A bookmark before the end: the server does not know that it was to send a list first.
            self.page_lists();
        } else {
            self.store.bookmark();
        }
        Ok(frame.metadata.resource_version)
    }

    /// What the end of a stream means.
    fn judge_end(
        &mut self,
        progress: &Progress,
        (lasted, asked): (Duration, Duration),
        ended: Result<(), Failure>,
    ) -> Result<(), Failure> {
        if progress.in_list {
            return ended.and(Err(Failure::Broken("it ended before the list was complete".into())));
        }
        // What is heard before an error or garbage may be the same each time.
        let is_sound = !matches!(ended, Err(Failure::Refused { .. } | Failure::Garbage(_)));
        if (progress.is_heard && is_sound) || lasted >= self.pace.stable {
            self.lost.reset();
            self.backoff.reset();
        }
        if !progress.is_heard && lasted >= asked / 2 {
            // Not even a bookmark in all that time: the version may be one that this server, restored
            // from a backup, has not reached yet. It would be silent until it has.
            self.version = None;
        }
        if !progress.is_heard && lasted < self.pace.stable {
            return ended.and(Err(Failure::Broken("it ended at once".into())));
        }
        ended
    }

    /// Decides what to do about a failure, and waits for as long as that should wait.
    async fn recover(&mut self, failure: &Failure, verb: &str) {
        tracing::debug!("{verb} {}: {failure:?}", self.resource.name());
        let was_listing = self.version.is_none();
        let in_a_row = self.backoff.failures();
        match failure {
            _ if failure.is_expired() => self.version = None,
            _ if failure.is_not_understood() => {
                if was_listing && self.streams_lists() {
                    return self.page_lists();
                }
                self.version = None;
            }
            _ if failure.is_not_served() && self.resource.is_optional() && self.store.is_empty() => {
                return self.do_without().await;
            }
            // Who may ask is judged before it is looked whether there is such a kind.
            _ if failure.is_forbidden() && self.resource.is_optional() && !self.is_listed => {
                return self.do_without_for_now(failure, in_a_row).await;
            }
            Failure::Broken(_) if was_listing && in_a_row >= RESUMES => self.page_lists(),
            Failure::Lost { .. }
            | Failure::NoCredentials(_)
            | Failure::Refused { code: 401 | 403 | 429, .. } => {}
            _ if in_a_row >= RESUMES => self.version = None,
            _ => {}
        }
        if failure.calls_for_credentials() {
            self.door.renew(failure.is_unauthorized());
        }
        // A server that just started denies everything, until it has read who may what.
        let is_no_news = failure.is_expired()
            || matches!(failure, Failure::Broken(_))
            || (failure.is_denied() && self.is_listed);
        if !is_no_news || in_a_row >= RESUMES {
            self.trouble = Some(matches!(failure, Failure::Garbage(_)));
            let message = failure.message(&self.resource, verb);
            self.say(vec![Said::Trouble(self.resource.kind, Some(message))]).await;
        }
        let pause = if failure.is_lost() {
            failure.pause(&self.pace, &mut self.lost)
        } else {
            self.lost.reset();
            failure.pause(&self.pace, &mut self.backoff)
        };
        sleep(pause).await;
    }

    /// The server has no such kind: there are no such objects, until it is asked again.
    async fn do_without(&mut self) {
        let mut said = vec![Said::Listed(self.resource.kind)];
        self.works(&mut said);
        self.say(said).await;
        self.backoff.reset();
        sleep(self.backoff.dice().once_to_twice(self.pace.absent)).await;
    }

    /// The kind may not be asked for, and perhaps there is none: nobody waits for it. A server that just started
    /// denies everything, so pauses grow to that of a kind that is not served.
    async fn do_without_for_now(&mut self, failure: &Failure, in_a_row: u32) {
        if in_a_row >= RESUMES && !self.absence_said {
            self.absence_said = true;
            tracing::warn!(
                "ServiceCIDRs are not known, so a connection to an address of them that is no Service's is left \
                 alone instead of dropped (UND-2). If the cluster serves them (since 1.33): {}",
                failure.message(&self.resource, "list")
            );
        }
        let mut said = vec![Said::Listed(self.resource.kind)];
        self.works(&mut said);
        self.say(said).await;
        self.lost.reset();
        let pause = self.backoff.pause(self.pace.first, self.pace.absent);
        sleep(pause).await;
    }

    /// Whether lists are to be streamed.
    fn streams_lists(&self) -> bool {
        self.pages_until.is_none_or(|until| until <= Instant::now())
    }

    /// The server does not stream lists, or not now: for a while they come in pages.
    fn page_lists(&mut self) {
        let while_at_most = self.backoff.dice().once_to_twice(self.pace.absent);
        self.pages_until = Some(Instant::now() + while_at_most);
    }

    /// What was wrong is not any more.
    fn works(&mut self, said: &mut Vec<Said>) {
        if self.trouble.take().is_some() {
            said.push(Said::Trouble(self.resource.kind, None));
        }
    }

    /// Hands over to the source; waits where that is behind. When the source is dropped, so are we.
    async fn say(&self, said: Vec<Said>) {
        if !said.is_empty() {
            let _ = self.outbox.send(said).await;
        }
    }
}

/// The next piece of a body; none at its end.
async fn next_piece(answer: &mut Answer) -> Result<Option<hyper::body::Bytes>, Failure> {
    loop {
        match answer.frame().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(Failure::Broken(format!("{:#}", anyhow::Error::from(error)))),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// The same, with a limit to how long it may take.
async fn next_bytes(answer: &mut Answer, patience: Duration) -> Result<Option<hyper::body::Bytes>, Failure> {
    let stuck = |_| Failure::Broken(format!("nothing came for {} s", patience.as_secs()));
    timeout(patience, next_piece(answer)).await.map_err(stuck)?
}
