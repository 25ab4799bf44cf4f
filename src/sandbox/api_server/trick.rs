//! How the server misbehaves.

use serde_json::json;

/// What it does from now on, whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manners {
    /// What it makes of `sendInitialEvents`.
    pub streaming_lists: StreamingLists,
    /// Whether it knows ServiceCIDRs.
    pub serves_cidrs: bool,
    /// Whether ServiceCIDRs are denied, as they are where the role of kube-proxy does not name them.
    pub denies_cidrs: bool,
    /// At most so many objects are in a page, whatever limit is asked for.
    pub page: usize,
    /// Who may ask: a bearer token; none: everybody.
    pub token: Option<String>,
}

impl Default for Manners {
    fn default() -> Manners {
        let streaming_lists = StreamingLists::Serve;
        Manners { streaming_lists, serves_cidrs: true, denies_cidrs: false, page: usize::MAX, token: None }
    }
}

/// What a server makes of `sendInitialEvents`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamingLists {
    /// It does what is asked.
    Serve,
    /// It refuses with that status: 422 as 1.27 to 1.31 do by default, or 400.
    Refuse(u16),
    /// It does not know the parameter, as before 1.27: objects come first, and no bookmark ends them.
    Ignore,
}

/// A trick that is played on one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trick {
    /// It answers no.
    Refuse {
        /// The HTTP status.
        status: u16,
        /// The header Retry-After, in seconds.
        retry_after: Option<u32>,
        /// The body.
        body: String,
    },
    /// It says that, whatever was asked for.
    Say(String, End),
    /// It answers as it should, but the connection breaks after so many bytes.
    CutAfter(usize),
    /// It answers as it should, every byte on its own.
    ByteByByte,
    /// It answers as it should, with that line between the objects after so many.
    Insert(usize, String),
    /// It sends every event twice.
    Twice,
    /// It swaps each two events that it sends together.
    Swapped,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Close,
    /// Not at all: it goes on without a word.
    Hold,
    /// By a broken connection.
    Break,
}

/// The body of an answer that says no, as the real one words it.
pub fn refusal(status: u16, reason: &str, message: &str) -> String {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status
    })
    .to_string()
}
