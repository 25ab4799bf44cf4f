//! `/healthz` and `/livez` (HLT-1 to HLT-7), and `/beeline/ready`, which kube-proxy has not.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Serialize;

use super::board::Board;
use super::http::{Answer, Answers, not_found, plain};
use super::kube_proxy::Probe;
use crate::model::addr::Family;
use crate::plan::health::{HealthReport, Moment};

/// The pages of the health port.
#[derive(Debug)]
pub struct Site {
    board: Arc<Board>,
}

/// The body, in kube-proxy's order of fields (HLT-2).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "Status::is_empty")]
    status: Status,
}

#[derive(Debug, Serialize)]
struct Status {
    #[serde(rename = "IPv4", skip_serializing_if = "Option::is_none")]
    v4: Option<FamilyStatus>,
    #[serde(rename = "IPv6", skip_serializing_if = "Option::is_none")]
    v6: Option<FamilyStatus>,
}

impl Status {
    fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyStatus {
    last_updated: String,
    healthy: bool,
}

impl Site {
    /// Pages about what a board says.
    pub fn new(board: Arc<Board>) -> Site {
        Site { board }
    }

    fn probe(&self, probe: Probe) -> Answer {
        let now = self.board.now();
        let mut told = self.board.told();
        let eligible = (probe == Probe::Healthz).then_some(told.is_eligible);
        let (status, body) = page(told.health.report(now), eligible, now);
        *told.kube_proxy.probes.entry((probe, status.as_u16())).or_default() += 1;
        drop(told);
        plain(status, "application/json", body)
    }
}

impl Site {
    /// Whether this agent has brought the tables to what its source says, once. The other two hold one that
    /// still starts to be healthy (HLT-3), and so a rollout whose agents never get a list would go on.
    fn ready(&self) -> Answer {
        let synced = self.board.told().synced;
        let (code, text) = match synced {
            true => (StatusCode::OK, "ready"),
            false => {
                (StatusCode::SERVICE_UNAVAILABLE, "starting: the tables do not hold the first lists yet")
            }
        };
        plain(code, "text/plain; charset=utf-8", format!("{text}\n"))
    }
}

impl Answers for Site {
    fn answer(&self, path: &str) -> Answer {
        match path {
            "/healthz" => self.probe(Probe::Healthz),
            "/livez" => self.probe(Probe::Livez),
            "/beeline/ready" => self.ready(),
            _ => not_found(),
        }
    }
}

/// Code and body of a probe; `eligible` where the node has a say (HLT-4).
pub fn page(report: HealthReport, eligible: Option<bool>, now: Moment) -> (StatusCode, String) {
    let is_fine = report.healthy && eligible.unwrap_or(true);
    // HLT-6: what is healthy was updated now.
    let last = if is_fine { Some(now.wall) } else { report.updated().map(|moment| moment.wall) };
    let status = |family: Family| {
        report.families[family.index()].map(|family| FamilyStatus {
            last_updated: rfc3339(Some(family.updated.wall)),
            healthy: family.healthy,
        })
    };
    let body = Body {
        last_updated: rfc3339(last),
        current_time: rfc3339(Some(now.wall)),
        node_eligible: eligible,
        healthy: report.healthy,
        status: Status { v4: status(Family::V4), v6: status(Family::V6) },
    };
    let code = if is_fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, serde_json::to_string(&body).unwrap_or_default())
}

/// A time as Go writes it; never is its year 1.
fn rfc3339(time: Option<Duration>) -> String {
    let known = time.and_then(|time| jiff::Timestamp::from_nanosecond(time.as_nanos() as i128).ok());
    known.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::health::Health;

    const RECORDED: &str = include_str!("../../tests/data/recorded/http/healthz-node-being-deleted.json");

    fn moment(text: &str) -> Moment {
        let wall = text.parse::<jiff::Timestamp>().unwrap().as_nanosecond();
        let wall = Duration::from_nanos(u64::try_from(wall).unwrap());
        Moment { steady: wall, wall }
    }

    fn health() -> Health {
        let mut health = Health::new(Duration::from_secs(60));
        health.updated(Family::V4, moment("2026-11-20T19:54:17.910272568Z"));
        health.updated(Family::V6, moment("2026-11-20T19:54:17.893980388Z"));
        health
    }

    #[test]
    fn a_node_that_is_being_deleted_is_answered_as_kube_proxy_does() {
        // HLT-2, HLT-4, HLT-6
        let now = moment("2026-11-20T19:54:21.34302773Z");
        let (code, body) = page(health().report(now), Some(false), now);
        assert_eq!((code.as_u16(), &*body), (503, RECORDED));
    }

    #[test]
    fn a_healthy_proxy_was_updated_now_and_livez_does_not_ask_the_node() {
        // HLT-4, HLT-6
        let recorded = include_str!("../../tests/data/recorded/http/livez-node-being-deleted.json");
        let now = moment("2026-11-20T19:54:21.521092463Z");
        let (code, body) = page(health().report(now), None, now);
        // kube-proxy reads the clock twice.
        assert_eq!(code.as_u16(), 200);
        assert_eq!(body, recorded.replace("21.52110957Z", "21.521092463Z"));
    }

    #[test]
    fn an_unhealthy_family_is_named_with_its_last_success() {
        // HLT-2, HLT-3, HLT-6
        let mut health = health();
        health.queued(Family::V6, moment("2026-11-20T19:55:00Z"));
        let now = moment("2026-11-20T19:56:00Z");
        let (code, body) = page(health.report(now), None, now);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(code.as_u16(), 503);
        assert_eq!(body["lastUpdated"], "2026-11-20T19:54:17.910272568Z");
        assert_eq!(body["healthy"], false);
        assert_eq!(body["status"]["IPv4"]["healthy"], true);
        assert_eq!(body["status"]["IPv6"]["healthy"], false);
    }

    #[test]
    fn a_proxy_that_starts_is_healthy_and_shows_the_families_that_have_succeeded() {
        // HLT-2, HLT-3, HLT-6
        let now = moment("2026-11-20T19:56:00Z");
        let starting = Health::new(Duration::from_secs(60));
        let (code, body) = page(starting.report(now), Some(true), now);
        assert!(code.as_u16() == 200 && !body.contains("status"), "{body}");
        let (code, body) = page(starting.report(now), Some(false), now);
        assert!(code.as_u16() == 503 && body.contains(r#""lastUpdated":"0001-01-01T00:00:00Z""#), "{body}");
        for (family, other) in [(Family::V4, "IPv6"), (Family::V6, "IPv4")] {
            let mut one = starting;
            one.updated(family, moment("2026-11-20T19:55:00Z"));
            let body: serde_json::Value = serde_json::from_str(&page(one.report(now), None, now).1).unwrap();
            assert_eq!(body["status"][family.name()]["lastUpdated"], "2026-11-20T19:55:00Z");
            assert_eq!(body["status"].get(other), None);
        }
    }
}
