//! The rules of `docs/service-semantics.md` that a decision can follow, as an enum.

use serde::{Serialize, Serializer};

macro_rules! rules {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        /// A rule of `docs/service-semantics.md`. The order is that of the document, and the
        /// discriminant is the bit in a [`RuleSet`]: rows in pinned maps carry those bits, so a
        /// rule is only ever added at the end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Rule { $(#[doc = $text] $variant),+ }

        impl Rule {
            /// Every rule there is.
            pub const ALL: &'static [Rule] = &[$(Rule::$variant),+];

            /// The id as the document writes it, like `CAT-2`.
            pub fn id(self) -> &'static str {
                match self { $(Rule::$variant => $text),+ }
            }
        }
    };
}

rules! {
    Svc1 = "SVC-1", Svc3 = "SVC-3", Svc6 = "SVC-6", Svc17 = "SVC-17",
    Ep4 = "EP-4", Ep9 = "EP-9", Ep12 = "EP-12",
    Cat1 = "CAT-1", Cat2 = "CAT-2", Cat3 = "CAT-3", Cat4 = "CAT-4", Cat5 = "CAT-5", Cat6 = "CAT-6", Cat7 = "CAT-7",
    Top1 = "TOP-1", Top3 = "TOP-3", Top5 = "TOP-5", Top8 = "TOP-8", Top10 = "TOP-10",
    Pol1 = "POL-1", Pol2 = "POL-2", Pol4 = "POL-4", Pol5 = "POL-5", Pol6 = "POL-6", Pol7 = "POL-7", Pol8 = "POL-8",
    Pol9 = "POL-9", Pol10 = "POL-10",
    Und1 = "UND-1", Und2 = "UND-2", Rej1 = "REJ-1", Rej2 = "REJ-2",
    Snat1 = "SNAT-1", Snat2 = "SNAT-2", Snat3 = "SNAT-3", Snat5 = "SNAT-5", Snat6 = "SNAT-6", Snat9 = "SNAT-9",
    Aff1 = "AFF-1", Dec1 = "DEC-1", Dec5 = "DEC-5",
}

/// A set of rules, kept as bits so that a row of the tables can carry it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleSet(pub u64);

impl RuleSet {
    /// Adds a rule.
    pub fn add(&mut self, rule: Rule) {
        self.0 |= 1 << rule as u8;
    }

    /// The set with a rule added.
    pub fn with(mut self, rule: Rule) -> RuleSet {
        self.add(rule);
        self
    }

    /// Everything in either set.
    pub fn union(self, other: RuleSet) -> RuleSet {
        RuleSet(self.0 | other.0)
    }

    /// The rules in it, in the order of the document. Bits of rules that a newer version added are skipped.
    pub fn iter(self) -> impl Iterator<Item = Rule> {
        Rule::ALL.iter().copied().filter(move |rule| self.0 & (1 << *rule as u8) != 0)
    }
}

impl Serialize for RuleSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Rule::id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_bit_of_its_own() {
        assert!(Rule::ALL.len() <= 64, "RuleSet has 64 bits");
        let all = Rule::ALL.iter().fold(RuleSet::default(), |set, rule| set.with(*rule));
        assert_eq!(all.iter().count(), Rule::ALL.len());
    }
}
