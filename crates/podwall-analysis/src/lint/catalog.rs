//! Which rules are there?
//!
//! ```text
//!   PW1xx selectors    PW2xx what is open and closed    PW3xx what is said twice
//!   PW4xx ports        PW5xx addresses                  PW6xx who may come in
//! ```
//!
//! Ids never change their meaning and are never used again. `docs/lint.md` has a section for each.

use super::finding::Severity::{self, Warning};

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `PW101`
    pub id: &'static str,
    /// A name for people, which may be used instead of the id: `subject-matches-nothing`.
    pub name: &'static str,
    /// The severity of most of its findings; one that is less certain has a lower one.
    pub severity: Severity,
    /// What it finds, in a line.
    pub what: &'static str,
}

/// Every rule, by id.
pub const RULES: [Rule; 3] = [
    r("PW101", "subject-matches-nothing", Warning, "a policy selects no pod of its namespace"),
    r("PW102", "peer-matches-nothing", Warning, "a peer of a rule selects no pod"),
    r(
        "PW103",
        "namespace-label-not-automatic",
        Warning,
        "a namespace is selected by a label that namespaces do not get by themselves",
    ),
];

const fn r(id: &'static str, name: &'static str, severity: Severity, what: &'static str) -> Rule {
    Rule { id, name, severity, what }
}

/// The rule of an id or a name.
pub fn rule(id_or_name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id.eq_ignore_ascii_case(id_or_name) || rule.name == id_or_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sorted_and_names_are_unique() {
        assert!(RULES.is_sorted_by(|a, b| a.id < b.id));
        for rule in &RULES {
            assert_eq!(RULES.iter().filter(|other| other.name == rule.name).count(), 1);
            assert_eq!(super::rule(rule.name), super::rule(&rule.id.to_lowercase()));
        }
        assert_eq!(rule("PW000"), None);
    }
}
