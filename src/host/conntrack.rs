//! The settings of conntrack: those of the network namespace the agent runs in, and its hash table.

use std::fs;

use anyhow::{Context, Result};

use super::sysctl;
use crate::config::conntrack::{HASH_SIZE, Setting};

/// The parameter that holds the size of the hash table.
const HASH_SIZE_FILE: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// What became of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was right already, and was not written.
    Right,
    /// It was written; before it was this.
    Written(u64),
    /// It could not be: why.
    Failed(String),
}

/// The cores of the machine: not of the cgroup or the affinity of this process.
pub fn cores() -> usize {
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN);
    online.ok().flatten().and_then(|cores| usize::try_from(cores).ok()).unwrap_or(1).max(1)
}

/// Makes settings as they should be, where they are not (DEC-7).
pub fn apply(settings: &[Setting]) -> Vec<(Setting, Done)> {
    settings.iter().map(|setting| (*setting, apply_one(*setting, &read, &write))).collect()
}

fn apply_one(
    setting: Setting,
    read: &dyn Fn(&str) -> Result<u64>,
    write: &dyn Fn(&str, u64) -> Result<()>,
) -> Done {
    let Setting { key, value, is_least } = setting;
    match read(key) {
        Ok(now) if now == value || is_least && now > value => Done::Right,
        Ok(now) => match write(key, value) {
            Ok(()) => Done::Written(now),
            Err(error) => Done::Failed(format!("stays {now}, wanted {value}: {error:#}")),
        },
        Err(error) => Done::Failed(format!("wanted {value}: {error:#}")),
    }
}

fn read(key: &str) -> Result<u64> {
    let text = match key {
        HASH_SIZE => fs::read_to_string(HASH_SIZE_FILE).with_context(|| format!("read {HASH_SIZE_FILE}"))?,
        _ => sysctl::read(key)?,
    };
    text.trim().parse().with_context(|| format!("{key} is '{}', no number", text.trim()))
}

fn write(key: &str, value: u64) -> Result<()> {
    match key {
        HASH_SIZE => fs::write(HASH_SIZE_FILE, value.to_string()).with_context(|| {
            format!("write {HASH_SIZE_FILE} (only in the machine's first network namespace)")
        }),
        _ => sysctl::write(key, &value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Applies a setting to a machine that has `now`; gives what came of it and what was written.
    fn applied(value: u64, is_least: bool, now: Option<u64>) -> (Done, Vec<u64>) {
        let written = RefCell::new(Vec::new());
        let read = |_: &str| now.context("no such setting");
        let write = |_: &str, value: u64| {
            written.borrow_mut().push(value);
            if value == 13 { Err(anyhow::anyhow!("read-only")) } else { Ok(()) }
        };
        let done = apply_one(Setting { key: "k", value, is_least }, &read, &write);
        (done, written.into_inner())
    }

    #[test]
    fn limits_are_only_raised_and_timeouts_are_exact() {
        // DEC-7
        assert_eq!(applied(100, true, Some(50)), (Done::Written(50), vec![100]));
        assert_eq!(applied(100, true, Some(200)), (Done::Right, vec![]));
        assert_eq!(applied(100, true, Some(100)), (Done::Right, vec![]));
        assert_eq!(applied(100, false, Some(200)), (Done::Written(200), vec![100]));
        assert_eq!(applied(100, false, Some(100)), (Done::Right, vec![]), "right already is not written");
    }

    #[test]
    fn what_cannot_be_set_says_what_was_wanted() {
        // DEC-7
        let (done, _) = applied(13, false, Some(7));
        assert_eq!(done, Done::Failed("stays 7, wanted 13: read-only".into()));
        let (done, written) = applied(13, false, None);
        assert_eq!(done, Done::Failed("wanted 13: no such setting".into()));
        assert_eq!(written, [0; 0]);
    }
}
