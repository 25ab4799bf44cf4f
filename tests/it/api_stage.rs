//! The scripted API server as the tests of the source use it, and what the real one was heard to say.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use beeline::config::Cluster;
use beeline::sandbox::api_server::{ApiServer, Kind, StreamingLists};
use serde_json::Value;

pub(crate) use super::stage::{NODE, Stage, dump_of, service, slice};
use super::stage::{Server, population};

impl Stage {
    /// Has the server keep events.
    pub fn recorder(&self) -> beeline::cluster::events::Recorder {
        let _inside = self.runtime.enter();
        self.source.recorder("vm")
    }

    /// Takes in whatever comes in that time.
    pub fn pump_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let left @ 1.. = end.saturating_duration_since(Instant::now()).as_millis() {
            self.pump(Duration::from_millis(left.min(50) as u64));
        }
    }
}

impl Server for ApiServer {
    fn way(&self) -> Cluster {
        Cluster { apiserver: Some(self.url()), ..Cluster::default() }
    }

    fn put(&self, object: Value) {
        ApiServer::put(self, object).expect("an object");
    }

    fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        assert!(ApiServer::delete(self, kind, namespace, name), "there is no {kind:?} {namespace}/{name}");
    }

    fn objects(&self) -> Vec<Value> {
        Kind::ALL.into_iter().flat_map(|kind| ApiServer::objects(self, kind)).collect()
    }

    fn stop(&mut self) {
        ApiServer::stop(self);
    }

    fn restart(&mut self) {
        ApiServer::restart(self).expect("the address is free");
    }

    fn compact(&mut self) {
        ApiServer::compact(self);
    }

    fn stream_lists(&mut self, streams: bool) {
        self.behave(|manners| {
            manners.streaming_lists =
                if streams { StreamingLists::Serve } else { StreamingLists::Refuse(422) };
        });
    }
}

/// What this thread logs, for as long as it lives.
pub(crate) struct Log {
    file: tempfile::NamedTempFile,
    _while: tracing::subscriber::DefaultGuard,
}

impl Log {
    pub fn begin() -> Log {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let writer = Arc::new(file.reopen().expect("the same file"));
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        Log { file, _while: tracing::subscriber::set_default(subscriber) }
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(self.file.path()).expect("the file is text")
    }
}

/// A recorded body.
pub(crate) fn recorded(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recorded/api").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The objects of a recorded list, each saying its kind.
pub(crate) fn recorded_objects(name: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(&recorded(name)).expect("a list");
    let kind = list["kind"].as_str().expect("a kind").trim_end_matches("List").to_owned();
    let version = list["apiVersion"].clone();
    let said = |item: &Value| {
        let mut item = item.clone();
        item["kind"] = kind.clone().into();
        item["apiVersion"] = version.clone();
        item
    };
    list["items"].as_array().expect("items").iter().map(said).collect()
}

/// A server with this node, its ServiceCIDR, and so many Services with three endpoints.
pub(crate) fn server(services: u32) -> ApiServer {
    let server = ApiServer::start().expect("a server");
    server.put_all(population(services));
    server
}
