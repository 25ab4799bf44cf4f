//! The pod protocol: JSON lines on a pod's stdin and stdout, one request, one reply.
//!
//! Each line carries an `id`; replies come when they are ready, so that requests may overlap. A reply is
//! `{"id": 7, "ok": …}` or `{"id": 7, "error": "…"}`. An *error* means that the request itself could not
//! be carried out; what a socket call answered, refusals included, is part of an `ok`.
//!
//! To add a verb: a struct here, a line in [`verbs!`], an arm in `inside::handle`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::load::{LoadReport, LoadSpec, PairReport, PairSpec};

mod dial;
mod exchange;
mod serve;
mod socket;
mod watch;

pub use dial::{ConnectCall, Dial, DialReport, DialUntil, DialUntilReport, Step};
pub use exchange::{Answer, Exchange, ExchangeReport, SendCall};
pub use serve::{App, CloseServer, Serve, ServeReport, ServerReport};
pub use socket::{
    Close, Open, OpenReport, PeerName, PeerNameReport, Receive, ReceiveReport, Reconnect, Send, SendReport,
};
pub use watch::{Sighting, Watch, WatchReport, Watched};

/// One line to a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the caller, repeated in the reply.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// One line from a pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// The id of the call.
    pub id: u64,
    /// The answer of the verb, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<Value>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A verb: what is asked, and the type of the answer.
pub trait Verb: Into<Request> {
    /// What the pod answers.
    type Answer: DeserializeOwned;
}

/// Declares the verbs: their request struct, the name of the variant, and the type of the answer.
macro_rules! verbs {
    ($($(#[$doc:meta])* $verb:ident => $answer:ty,)*) => {
        /// Every verb a pod knows.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(tag = "verb", rename_all = "snake_case")]
        pub enum Request {
            $($(#[$doc])* $verb($verb),)*
        }
        $(
            impl From<$verb> for Request {
                fn from(verb: $verb) -> Self {
                    Self::$verb(verb)
                }
            }
            impl Verb for $verb {
                type Answer = $answer;
            }
        )*
    };
}

verbs! {
    /// Who are you?
    Hello => HelloReport,
    /// Open a server.
    Serve => ServeReport,
    /// Close a server.
    CloseServer => ServerReport,
    /// Connect once.
    Dial => DialReport,
    /// Connect until another backend answers.
    DialUntil => DialUntilReport,
    /// Connect in a loop, and say when each backend was reached.
    Watch => WatchReport,
    /// Send datagrams and wait for their answers, on one socket made for it.
    Exchange => ExchangeReport,
    /// Open a socket that stays open between requests.
    Open => OpenReport,
    /// Connect an open UDP socket to something else, or to nothing.
    Reconnect => OpenReport,
    /// Send on an open socket.
    Send => SendReport,
    /// Receive from an open socket.
    Receive => ReceiveReport,
    /// What does `getpeername` say of an open socket?
    PeerName => PeerNameReport,
    /// Close an open socket.
    Close => (),
    /// Make load, and answer when it is done.
    RunLoad => LoadReport,
    /// Start load that goes on between requests.
    StartLoad => (),
    /// What load in progress has done so far.
    Counters => LoadReport,
    /// Stop load, and report it.
    StopLoad => LoadReport,
    /// Compare two loads in short slices by turns.
    RunPairs => PairReport,
    /// End the pod.
    Exit => (),
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A stream.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

/// See [`Request::Hello`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Hello {}

/// Who a pod is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReport {
    /// The pod's name.
    pub name: String,
    /// Its pid.
    pub pid: u32,
    /// The inode number of its network namespace.
    pub netns: u64,
}

/// See [`Request::RunLoad`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunLoad {
    /// The load; it needs an end.
    pub load: LoadSpec,
}

/// See [`Request::StartLoad`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartLoad {
    /// What later requests call it.
    pub name: String,
    /// The load.
    pub load: LoadSpec,
}

/// See [`Request::Counters`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Counters {
    /// The name given at [`StartLoad`].
    pub name: String,
}

/// See [`Request::StopLoad`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StopLoad {
    /// The name given at [`StartLoad`].
    pub name: String,
}

/// See [`Request::RunPairs`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunPairs {
    /// What is compared with what.
    pub pairs: PairSpec,
}

/// See [`Request::Exit`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Exit {}
