//! What was seen against what is expected; and the same with each expectation turned around.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::file::{Expected, Outcome};

/// What one flow came to, as `explain` shows it and as the function decided it: one shape.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The JSON of `explain -o json`.
    pub answer: Value,
    /// The backends for which the source is rewritten because they are the client.
    pub hairpin: BTreeSet<String>,
    /// The Service that the objects plainly say is dialled.
    pub plain_service: Option<String>,
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn set(list: &[String]) -> BTreeSet<String> {
    list.iter().cloned().collect()
}

fn backends(answer: &Value) -> BTreeSet<String> {
    answer["backends"].as_array().into_iter().flatten().map(|b| text(b).to_owned()).collect()
}

impl Outcome {
    const ALL: [Outcome; 3] = [Outcome::Reject, Outcome::Drop, Outcome::Pass];

    fn action(self) -> &'static str {
        match self {
            Outcome::Reject => "reject",
            Outcome::Drop => "drop",
            Outcome::Pass => "pass",
        }
    }
}

/// Everything in which a flow is not as expected; empty if it passes.
pub fn judge(expected: &Expected, seen: &Seen) -> Vec<String> {
    let answer = &seen.answer;
    let mut wrong = Vec::new();
    let mut compare = |what: &str, expected: String, seen: String| {
        if expected != seen {
            wrong.push(format!("{what}: expected {expected}, seen {seen}"));
        }
    };
    let action = expected.result.map_or("forward", Outcome::action);
    compare("action", action.into(), text(&answer["action"]).into());
    let wanted = expected.backends.as_deref().map(set).unwrap_or_default();
    compare("backends", format!("{wanted:?}"), format!("{:?}", backends(answer)));
    if let Some(preserved) = expected.client_ip_preserved {
        compare("client_ip_preserved", preserved.to_string(), answer["client_ip_preserved"].to_string());
    }
    if let Some(hairpin) = &expected.hairpin_snat {
        compare("hairpin_snat", format!("{:?}", set(hairpin)), format!("{:?}", seen.hairpin));
    }
    if let Some(service) = seen.plain_service.as_deref().filter(|_| action == "forward") {
        compare("service", service.into(), text(&answer["service"]).into());
    }
    let sorted = answer["backends"].as_array().is_some_and(|b| b.is_sorted_by_key(text));
    compare("backends sorted", "true".into(), sorted.to_string());
    wrong
}

/// The expectation with one part turned around, in every way: none of them may pass.
pub fn flips(expected: &Expected) -> Vec<Expected> {
    const NOBODY: &str = "192.0.2.255:9";
    let with = |change: &dyn Fn(&mut Expected)| {
        let mut flipped = expected.clone();
        change(&mut flipped);
        flipped
    };
    let mut flips = Vec::new();
    for outcome in Outcome::ALL.into_iter().filter(|outcome| Some(*outcome) != expected.result) {
        flips.push(with(&|e| (e.result, e.backends) = (Some(outcome), None)));
    }
    let list = expected.backends.clone().unwrap_or_default();
    flips
        .push(with(&|e| (e.result, e.backends) = (None, Some([list.clone(), vec![NOBODY.into()]].concat()))));
    for at in 0..list.len() {
        let mut fewer = list.clone();
        fewer.remove(at);
        flips.push(with(&|e| e.backends = Some(fewer.clone())));
    }
    if let Some(preserved) = expected.client_ip_preserved {
        flips.push(with(&|e| e.client_ip_preserved = Some(!preserved)));
    }
    if let Some(hairpin) = &expected.hairpin_snat {
        let mut turned = hairpin.clone();
        match turned.is_empty() {
            true => turned.push(NOBODY.into()),
            false => turned.clear(),
        }
        flips.push(with(&|e| e.hairpin_snat = Some(turned.clone())));
    }
    flips
}
