//! What a later piece of work will serve, by vector, or by vector and check.

use std::collections::BTreeSet;

use crate::run::Case;

/// The list; every entry has to fail, or it does not belong there any more.
pub struct Later {
    vectors: BTreeSet<String>,
    checks: BTreeSet<(String, String)>,
}

/// What the list makes of a vector's cases.
pub struct Judged {
    /// What is wrong, with the name of the check.
    pub failures: Vec<String>,
    /// Some check is served later.
    pub skipped: bool,
}

impl Later {
    /// Reads the list: `ID` or `ID CHECK` a line, `#` begins a comment.
    pub fn read(text: &str) -> Later {
        let mut later = Later { vectors: BTreeSet::new(), checks: BTreeSet::new() };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once(' ') {
                Some((id, check)) => later.checks.insert((id.into(), check.trim().into())),
                None => later.vectors.insert(line.into()),
            };
        }
        later
    }

    /// Judges the cases of a vector: what fails has to be listed, what is listed has to fail.
    pub fn judge(&self, id: &str, cases: &[Case]) -> Judged {
        let passes = |case: &Case| case.wrong.is_empty();
        if self.vectors.contains(id) {
            let stale = cases.iter().all(passes);
            let failures = stale.then(|| "is listed as served later, but passes".to_owned());
            return Judged { failures: failures.into_iter().collect(), skipped: !stale };
        }
        let mut judged = Judged { failures: Vec::new(), skipped: false };
        for case in cases {
            match (self.lists(id, &case.name), passes(case)) {
                (true, true) => {
                    judged.failures.push(format!("{}: is listed as served later, but passes", case.name));
                }
                (true, false) => judged.skipped = true,
                (false, _) => {
                    judged.failures.extend(case.wrong.iter().map(|wrong| format!("{}: {wrong}", case.name)));
                }
            }
        }
        judged
    }

    fn lists(&self, id: &str, check: &str) -> bool {
        self.checks.contains(&(id.to_owned(), check.to_owned()))
    }

    /// Entries that name nothing in these vectors.
    pub fn unknown<'a>(&self, all: impl Iterator<Item = (&'a str, &'a [Case])>) -> Vec<String> {
        let (mut vectors, mut checks) = (self.vectors.clone(), self.checks.clone());
        for (id, cases) in all {
            vectors.remove(id);
            cases.iter().for_each(|case| {
                checks.remove(&(id.to_owned(), case.name.clone()));
            });
        }
        vectors.into_iter().chain(checks.into_iter().map(|(id, check)| format!("{id} {check}"))).collect()
    }
}
