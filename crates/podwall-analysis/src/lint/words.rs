//! How do rules build their findings and paths?

use podwall_policy::flow::Party;
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::{Direction, Policy};
use podwall_policy::selector::{Operator, Requirement, Selector};
use podwall_policy::source::{FieldPath, Source, Step};
use serde_json::Value as Json;

use super::catalog::{RULES, rule};
use super::finding::{At, Finding, Fix, Severity};

impl Finding {
    /// A finding about a field of a policy, with the rule's own severity.
    pub(super) fn new(id: &str, policy: &Policy, field: FieldPath, message: String) -> Self {
        let at = At {
            kind: "NetworkPolicy",
            name: policy.name.clone(),
            source: policy.source.clone(),
            object: policy.source.clone(),
            field,
        };
        Self::at(id, at, message)
    }

    fn at(id: &str, at: At, message: String) -> Self {
        let rule = rule(id).unwrap_or(&RULES[0]);
        Self {
            rule,
            severity: rule.severity,
            message,
            at,
            snippet: None,
            proof: Vec::new(),
            help: None,
            fix: None,
            replacements: Vec::new(),
            about: String::new(),
        }
    }

    /// A finding about a rule of a policy, or a part of it.
    pub(super) fn of_rule(
        id: &str,
        policy: &Policy,
        (direction, index): (Direction, usize),
        field: FieldPath,
        message: String,
    ) -> Self {
        let mut finding = Self::new(id, policy, field, message);
        let rules = policy.rules(direction).unwrap_or_default();
        if let Some(source) = rules.get(index).and_then(|rule| rule.source.clone()) {
            finding.at.source = Some(source);
        }
        finding
    }

    /// A finding about a namespace as a whole.
    pub(super) fn of_namespace(
        id: &str,
        view: &super::View<'_>,
        namespace: &str,
        message: String,
    ) -> Self {
        let source = view.cluster.namespaces.get(namespace).and_then(|found| found.source.clone());
        let at = At {
            kind: "Namespace",
            name: Name::new(namespace, namespace),
            field: FieldPath::keys("metadata.name"),
            object: source.clone(),
            source,
        };
        Self::at(id, at, message)
    }

    /// Gives a finding about a namespace that nobody states a place.
    pub(super) fn stand_at(&mut self, source: Option<&Source>) {
        if self.at.source.is_none() {
            self.at.source = source.cloned();
            self.at.object = source.cloned();
        }
    }

    pub(super) fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    pub(super) fn about(mut self, about: impl Into<String>) -> Self {
        self.about = about.into();
        self
    }

    pub(super) fn proof(mut self, sentence: impl Into<String>) -> Self {
        self.proof.push(sentence.into());
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn fix(mut self, fix: Option<Fix>) -> Self {
        self.fix = fix;
        self
    }
}

/// `spec.ingress[0]`
pub(super) fn rule_path(direction: Direction, index: usize) -> FieldPath {
    FieldPath::keys("spec").key(&direction.to_string()).item(index)
}

/// `spec.ingress[0].from[1]`
pub(super) fn peer_path(direction: Direction, index: usize, peer: usize) -> FieldPath {
    rule_path(direction, index).key(peers_key(direction)).item(peer)
}

/// `from` or `to`.
pub(super) fn peers_key(direction: Direction) -> &'static str {
    if direction == Direction::Ingress { "from" } else { "to" }
}

/// The field of one requirement below its selector: `matchLabels` come first in a checked selector,
/// `matchExpressions` after them.
pub(super) fn requirement_path(path: &FieldPath, selector: &Selector, index: usize) -> FieldPath {
    let labels = selector.requirements.iter().take_while(|r| is_label(r)).count();
    match selector.requirements.get(index) {
        Some(wants) if index < labels => path.key("matchLabels").key(&wants.key),
        _ => path.key("matchExpressions").item(index.saturating_sub(labels)),
    }
}

fn is_label(wants: &Requirement) -> bool {
    matches!(wants.operator, Operator::Equals(_))
}

/// A pod as people know it: by its workload where it has one, whose pods' names come and go and are
/// made up where only files are looked at.
pub(super) fn who(pod: &Pod) -> String {
    match &pod.owner {
        Some(owner) => format!("{}/{}/{}", pod.name.namespace, owner.kind, owner.name),
        None => pod.name.to_string(),
    }
}

/// "pod shop/web", "a pod of shop/Deployment/web", "203.0.113.1".
pub(super) fn party(party: Party<'_>) -> String {
    match party {
        Party::Pod(pod) if pod.owner.is_some() => format!("a pod of {}", who(pod)),
        other => other.to_string(),
    }
}

/// "1 pod", "3 pods".
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Up to five words, and how many more.
pub(super) fn list<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    const SHOWN: usize = 5;
    let words: Vec<S> = words.into_iter().collect();
    let shown: Vec<&str> = words.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = words.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

/// The value at a path of an object as it is written.
pub(super) fn json_at<'j>(raw: &'j Json, path: &FieldPath) -> Option<&'j Json> {
    path.0.iter().try_fold(raw, |value, step| match step {
        Step::Key(key) => value.get(&**key),
        Step::Item(index) => value.get(index),
    })
}
