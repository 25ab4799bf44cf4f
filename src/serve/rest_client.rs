//! Requests to the API server, under client-go's names (MET-9).

use super::text::{Family, Kind};
use crate::cluster::client::{Counts, Tally, Whole};
use crate::model::histogram::Histogram;

/// client-go's families of metrics, with its own words.
pub(super) fn families(tally: &Tally) -> Vec<Family> {
    let counts = tally.counts();
    let mut requests = Family::new(
        "rest_client_requests_total",
        Kind::Counter,
        "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
    );
    for (((host, method), code), count) in &counts.requests {
        let code = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        requests.sample(&[("code", &code), ("host", host), ("method", method)], *count as f64);
    }
    vec![
        histogram(
            &counts,
            "rest_client_request_duration_seconds",
            "Request latency in seconds. Broken down by verb, and host.",
            |whole| &whole.seconds,
        ),
        histogram(
            &counts,
            "rest_client_request_size_bytes",
            "Request size in bytes. Broken down by verb and host.",
            |whole| &whole.sent,
        ),
        requests,
        histogram(
            &counts,
            "rest_client_response_size_bytes",
            "Response size in bytes. Broken down by verb and host.",
            |whole| &whole.answered,
        ),
    ]
}

fn histogram(counts: &Counts, name: &'static str, help: &str, of: fn(&Whole) -> &Histogram) -> Family {
    let mut family = Family::new(name, Kind::Histogram, &format!("[ALPHA] {help}"));
    for ((host, verb), whole) in &counts.whole {
        family.histogram(&[("host", host), ("verb", verb)], of(whole));
    }
    family
}
