//! A verdict as `explain` shows it: the JSON contract.

use std::net::SocketAddr;

use serde::Serialize;

use crate::cli::render::fields;
use crate::plan::resolve::{Action, Path, Verdict};
use crate::plan::rule::RuleSet;
use crate::plan::table::{FrontendKind, Lookup};

/// How many backends the table shows; `wide` and `json` show all.
const SHOWN: usize = 8;

/// What happens to the connection. What cannot be known is `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `namespace/name:port`.
    pub service: Option<String>,
    /// ClusterIP, NodePort, ExternalIP or LoadBalancer.
    pub frontend_kind: Option<&'static str>,
    /// forward, reject, drop or pass.
    pub action: &'static str,
    /// socket or packet.
    pub path: Option<&'static str>,
    /// `ip:port` or `[v6]:port`, sorted as text.
    pub backends: Vec<String>,
    /// Whether the backend sees the client's address (DEC-8).
    pub client_ip_preserved: Option<bool>,
    /// Seconds of session affinity.
    pub affinity_seconds: Option<u32>,
    /// The rules that led here.
    pub rules: RuleSet,
}

impl Answer {
    /// The answer that a verdict is.
    pub fn of(tables: &dyn Lookup, verdict: &Verdict) -> Answer {
        let rows = verdict.backends.iter().filter_map(|id| tables.backend(*id));
        let mut backends: Vec<_> = rows.map(|row| SocketAddr::new(row.addr, row.port).to_string()).collect();
        backends.sort_unstable();
        Answer {
            service: verdict.name.as_ref().map(ToString::to_string),
            frontend_kind: verdict.frontend_kind.map(FrontendKind::name),
            action: verdict.action.name(),
            path: verdict.path.map(Path::name),
            backends,
            client_ip_preserved: verdict.client_ip_preserved,
            affinity_seconds: verdict.affinity_seconds,
            rules: verdict.rules,
        }
    }

    /// The answer in words, a line each; `wide` shows every backend.
    pub fn text(&self, wide: bool) -> String {
        let known = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let path = match self.path {
            Some("packet") => "packet (this version serves sockets alone)".to_owned(),
            path => known(path),
        };
        let mut lines = vec![
            ("service", known(self.service.as_deref())),
            ("frontend", known(self.frontend_kind)),
            ("action", self.action.to_owned()),
            ("path", path),
        ];
        if self.action == Action::Forward.name() {
            lines.extend(self.shown_backends(wide));
            let preserved = match self.client_ip_preserved {
                Some(true) => "yes",
                Some(false) => "no",
                None => "depends on the client's address, give --from KIND:IP",
            };
            lines.push(("client IP preserved", preserved.to_owned()));
        }
        if let Some(seconds) = self.affinity_seconds {
            lines.push(("affinity", format!("{seconds} s")));
        }
        let rules: Vec<_> = self.rules.iter().map(|rule| rule.id()).collect();
        lines.push(("rules", rules.join(" ")));
        fields(&lines)
    }

    /// A line a backend, the first one named.
    fn shown_backends(&self, wide: bool) -> Vec<(&'static str, String)> {
        let all = self.backends.len();
        let shown = if wide { all } else { SHOWN.min(all) };
        let mut lines: Vec<_> = self.backends[..shown].iter().map(|backend| ("", backend.clone())).collect();
        if shown < all {
            lines.push(("", format!("and {} more (-o wide)", all - shown)));
        }
        if let Some(first) = lines.first_mut() {
            first.0 = "backends";
        }
        lines
    }
}
