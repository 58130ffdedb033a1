//! Which rules are there?
//!
//! ```text
//!   PW1xx selectors    PW2xx what is open and closed    PW3xx what is said twice
//!   PW4xx ports        PW5xx addresses                  PW6xx who may come in
//! ```
//!
//! Ids never change their meaning and are never used again. `docs/lint.md` has a section for each.

use super::finding::Severity::{self, Note, Warning};

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
pub const RULES: [Rule; 28] = [
    r("PW101", "subject-matches-nothing", Warning, "a policy selects no pod of its namespace"),
    r("PW102", "peer-matches-nothing", Warning, "a peer of a rule selects no pod"),
    r(
        "PW103",
        "namespace-label-not-automatic",
        Warning,
        "a namespace is selected by a label that namespaces do not get by themselves",
    ),
    r("PW104", "namespace-without-pods", Warning, "a policy is in a namespace without pods"),
    r("PW105", "and-or", Warning, "two items of from or to that were probably meant as one"),
    r("PW201", "dns-cut-off", Warning, "egress is isolated, and the resolver cannot be reached"),
    r("PW202", "policy-types", Warning, "policyTypes is missing or incomplete where it matters"),
    r("PW203", "allows-everything", Warning, "a rule allows everything"),
    r("PW204", "empty-list", Warning, "an empty from, to or ports allows what it seems to forbid"),
    r("PW205", "unprotected-pods", Warning, "no policy selects some pods"),
    r("PW206", "no-default-deny", Warning, "a namespace has policies, and none denies by default"),
    r("PW207", "refused-by-receiver", Warning, "egress is allowed to pods that let none of it in"),
    r(
        "PW208",
        "refused-by-sender",
        Warning,
        "ingress is allowed from pods that may send none of it",
    ),
    r(
        "PW301",
        "rule-changes-nothing",
        Warning,
        "a rule could be removed, and nothing would change",
    ),
    r(
        "PW302",
        "policy-changes-nothing",
        Warning,
        "a policy could be removed, and nothing would change",
    ),
    r("PW303", "duplicate-policy", Warning, "two policies say the same"),
    r(
        "PW304",
        "overlapping-rules",
        Note,
        "a part of a rule says what another part, or another rule, says already",
    ),
    r("PW401", "named-port-missing", Warning, "no pod that is meant declares a port of this name"),
    r(
        "PW402",
        "named-port-protocol",
        Warning,
        "the port of this name is declared for another protocol",
    ),
    r("PW403", "service-port", Warning, "a Service's port stands where the pod's port is meant"),
    r(
        "PW404",
        "port-protocol",
        Warning,
        "the pods that are meant declare this port for another protocol",
    ),
    r("PW501", "block-over-cluster", Warning, "an ipBlock covers pods or nodes of the cluster"),
    r(
        "PW502",
        "block-over-services",
        Warning,
        "an ipBlock covers addresses of Services, which policies never see",
    ),
    r("PW503", "ipv4-only", Warning, "0.0.0.0/0 is allowed, and nothing of IPv6"),
    r("PW504", "metadata-open", Warning, "the metadata address of clouds can be reached"),
    r("PW505", "block-empty", Warning, "an ipBlock has no address left after its exceptions"),
    r("PW506", "block-odd", Warning, "an ipBlock is not written as it is taken"),
    r("PW601", "impersonable", Warning, "an allow rule trusts labels that anybody can give a pod"),
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
