//! Does each selector select anything, and if not, what was meant?
//!
//! ```text
//!   app: ngnix ── no pod has it ──▶ nearest value of `app` among the pods there ──▶ nginx
//!   name: kube-system ── no namespace has `name` ──▶ kubernetes.io/metadata.name
//! ```
//!
//! PW101 to PW103. Of files alone it is not known which other namespaces and pods there are, so a
//! selector is suspected only where pods are known that it could have selected.

use std::collections::{BTreeMap, BTreeSet};

use podwall_policy::label::METADATA_NAME;
use podwall_policy::object::Namespace;
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy};
use podwall_policy::selector::{Operator, Requirement, Selector};
use podwall_policy::source::FieldPath;

use super::View;
use super::finding::{Change, Finding, Fix, Severity};
use super::shape::and_or;
use super::words::{count, list, peer_path, requirement_path};
use crate::suggest::{is_one_slip, is_typo, nearest};

/// Keys under which people look for a namespace's name.
const NAME_KEYS: [&str; 5] =
    ["name", "namespace", "ns", "kubernetes.io/name", "kubernetes.io/metadata.namespace"];

pub(super) fn check(view: &View<'_>, found: &mut Vec<Finding>) {
    for policy in &view.policies {
        subject(view, policy, found);
        for direction in Direction::BOTH {
            for (i, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                // A peer that belongs to the one before it is PW105's.
                let misplaced = and_or(view, policy, (direction, i))
                    .filter(|(_, finding)| finding.severity == Severity::Warning)
                    .map(|(p, _)| p);
                for (p, peer) in rule.peers.iter().enumerate() {
                    let Peer::Pods(scope) = peer else { continue };
                    if misplaced == Some(p) {
                        continue;
                    }
                    let path = peer_path(direction, i, p);
                    found.extend(self::peer(view, policy, (direction, i), &path, scope));
                }
            }
        }
    }
}

/// PW101.
fn subject(view: &View<'_>, policy: &Policy, found: &mut Vec<Finding>) {
    let namespace = &*policy.name.namespace;
    let selector = &policy.subject.pods;
    let path = FieldPath::keys("spec.podSelector");
    let new = |id, field, message| Finding::new(id, policy, field, message);
    if let Some(finding) = contradiction(selector, &path, ("PW101", "policy"), &new) {
        found.push(finding);
        return;
    }
    if !view.is_populated(namespace) {
        return;
    }
    let selected = view.select(&policy.subject);
    if selector.is_everything() || !selected.classes.is_empty() || selected.templates {
        return;
    }
    let guess = guess(view, namespace, selector);
    let field = guess.path(&path, selector);
    let message =
        format!("this policy selects no pod: none in namespace {namespace} has {selector}");
    let finding = Finding::new("PW101", policy, field, message);
    found.push(complete(view, finding, namespace, selector, &path, &guess));
}

/// PW102 and PW103: one peer, one finding at most.
fn peer(
    view: &View<'_>,
    policy: &Policy,
    rule: (Direction, usize),
    path: &FieldPath,
    scope: &PodScope,
) -> Option<Finding> {
    let new = |id, field, message| Finding::of_rule(id, policy, rule, field, message);
    let pods = path.key("podSelector");
    if let Some(finding) = contradiction(&scope.pods, &pods, ("PW102", "peer"), &new) {
        return Some(finding);
    }
    if let NamespaceScope::Matching(selector) = &scope.namespaces {
        let path = path.key("namespaceSelector");
        if let Some(finding) = contradiction(selector, &path, ("PW102", "peer"), &new) {
            return Some(finding);
        }
        for (i, wants) in selector.requirements.iter().enumerate() {
            let field = requirement_path(&path, selector, i);
            if let Some(finding) = not_automatic(view, wants, field.clone(), &new) {
                return Some(finding);
            }
        }
        let namespaces = view.namespaces(selector);
        if namespaces.certain.is_empty() && !namespaces.unknown {
            return no_namespace(view, selector, &path, &new);
        }
    }
    let selected = view.select(scope);
    let pods_known = match &scope.namespaces {
        NamespaceScope::Own(own) => view.is_populated(own),
        NamespaceScope::Matching(_) => selected.looked_at > 0 && !selected.unknown,
    };
    if !selected.classes.is_empty() || selected.templates || !pods_known {
        return None;
    }
    // A rule for all pods of a namespace that has none yet is good for those to come.
    if scope.pods.is_everything() {
        return None;
    }
    let path = pods;
    let (namespaces, place) = match &scope.namespaces {
        NamespaceScope::Own(own) => (vec![own.clone()], format!("namespace {own}")),
        NamespaceScope::Matching(selector) => {
            let certain = view.namespaces(selector).certain.iter().map(|n| (*n).clone()).collect();
            (certain, format!("namespaces {selector}"))
        }
    };
    // Which namespace helps most to guess: the one in which a slip explains it.
    let guesses = namespaces.iter().map(|ns| (ns, guess(view, ns, &scope.pods)));
    let (namespace, guess) = guesses.min_by_key(|(_, guess)| guess.meant.is_none())?;
    let field = guess.path(&path, &scope.pods);
    let message = format!("this peer selects no pod: none in {place} has {}", scope.pods);
    let finding = new("PW102", field, message);
    Some(complete(view, finding, namespace, &scope.pods, &path, &guess))
}

/// PW101 and PW102: a selector that no labels can meet, whatever there is.
fn contradiction(
    selector: &Selector,
    path: &FieldPath,
    (id, what): (&'static str, &str),
    new: &dyn Fn(&'static str, FieldPath, String) -> Finding,
) -> Option<Finding> {
    let wants = &selector.requirements;
    let (index, other) = (1..wants.len()).find_map(|index| {
        let other = wants[..index].iter().find(|other| never_both(&wants[index], other))?;
        Some((index, other))
    })?;
    let message = format!("this {what} can select nothing: {selector} contradicts itself");
    Some(
        new(id, requirement_path(path, selector, index), message)
            .severity(Severity::Error)
            .about(selector.to_string())
            .proof(format!("no labels meet both {other} and {}", wants[index]))
            .help("remove one of the two"),
    )
}

/// Whether no value of one key meets both.
fn never_both(a: &Requirement, b: &Requirement) -> bool {
    use Operator::{DoesNotExist, Equals, Exists, In, NotIn};
    if a.key != b.key {
        return false;
    }
    match (&a.operator, &b.operator) {
        (Equals(x), Equals(y)) => x != y,
        (Equals(x), In(set)) | (In(set), Equals(x)) => !set.contains(x),
        (Equals(x), NotIn(set)) | (NotIn(set), Equals(x)) => set.contains(x),
        (In(x), In(y)) => x.is_disjoint(y),
        (In(x), NotIn(y)) | (NotIn(y), In(x)) => x.is_subset(y),
        (DoesNotExist, Equals(_) | In(_) | Exists) | (Equals(_) | In(_) | Exists, DoesNotExist) => {
            true
        }
        _ => false,
    }
}

/// What was probably meant by a selector that selects no pod of a namespace.
struct Guess {
    /// The requirement that nobody meets, if it is one alone.
    requirement: Option<usize>,
    meant: Option<Meant>,
    /// Values that the key has there, and on how many sets of labels.
    values: BTreeMap<String, usize>,
}

enum Meant {
    Value(String),
    Key(String),
    Item { wrong: String, value: String },
}

impl Guess {
    fn path(&self, path: &FieldPath, selector: &Selector) -> FieldPath {
        match self.requirement {
            Some(index) => requirement_path(path, selector, index),
            None => path.clone(),
        }
    }
}

fn guess(view: &View<'_>, namespace: &str, selector: &Selector) -> Guess {
    let mut guess = Guess { requirement: None, meant: None, values: BTreeMap::new() };
    let unmet: Vec<usize> = selector
        .requirements
        .iter()
        .enumerate()
        .filter(|(_, wants)| !view.labels_in(namespace).any(|labels| wants.matches(labels)))
        .map(|(index, _)| index)
        .collect();
    let [index] = unmet[..] else { return guess };
    guess.requirement = Some(index);
    let wants = &selector.requirements[index];
    let mut keys: BTreeSet<&str> = BTreeSet::new();
    // Only labels that would do otherwise: the rest of the selector holds for them.
    let rest = Selector {
        requirements: (0..)
            .zip(&selector.requirements)
            .filter(|(i, _)| *i != index)
            .map(|(_, r)| r.clone())
            .collect(),
    };
    for labels in view.labels_in(namespace).filter(|labels| rest.matches(labels)) {
        for (key, value) in labels.iter() {
            if *key == *wants.key {
                *guess.values.entry(value.to_owned()).or_default() += 1;
            }
            let same = Requirement { key: key.into(), operator: wants.operator.clone() };
            if same.matches(labels) {
                keys.insert(key);
            }
        }
    }
    let value = match &wants.operator {
        Operator::Equals(value) => value,
        // One of several values that is near one that there is.
        Operator::In(wanted) => {
            let near = |wrong: &str| nearest(wrong, guess.values.keys().map(String::as_str));
            guess.meant = wanted.iter().find_map(|wrong| {
                Some(Meant::Item { wrong: wrong.to_string(), value: near(wrong)?.to_owned() })
            });
            return guess;
        }
        _ => return guess,
    };
    guess.meant = nearest(value, guess.values.keys().map(String::as_str))
        .map(|value| Meant::Value(value.to_owned()))
        .or_else(|| {
            let near = nearest(&wants.key, keys.iter().copied());
            let only = (keys.len() == 1).then(|| keys.first().copied()).flatten();
            near.or(only).map(|key| Meant::Key(key.to_owned()))
        });
    guess
}

/// Adds proof, help and fix to a finding about a selector of pods.
fn complete(
    view: &View<'_>,
    mut finding: Finding,
    namespace: &str,
    selector: &Selector,
    path: &FieldPath,
    guess: &Guess,
) -> Finding {
    finding = finding.about(selector.to_string());
    let pods = view.pods_in(namespace);
    let wants = guess.requirement.and_then(|index| selector.requirements.get(index));
    let others = view.others(namespace);
    let on_host = others.iter().filter(|pod| selector.matches(&pod.labels)).count();
    if on_host > 0 {
        return finding
            .proof(format!(
                "{} of namespace {namespace} with these labels {} on the host's network, or ended",
                count(on_host, "pod"),
                if on_host == 1 { "is" } else { "are" }
            ))
            .help("policies do not select such pods: they count as their node");
    }
    finding = finding.proof(match wants {
        Some(wants) if guess.values.is_empty() => format!(
            "none of the {} in namespace {namespace} has a label {}",
            count(pods, "pod"),
            wants.key
        ),
        Some(wants) => format!(
            "pods of namespace {namespace} ({pods}) have {} = {}",
            wants.key,
            list(guess.values.keys())
        ),
        None => format!(
            "none of the {} in namespace {namespace} has all of {selector}",
            count(pods, "pod")
        ),
    });
    let (Some(index), Some(wants)) = (guess.requirement, wants) else { return finding };
    let field = requirement_path(path, selector, index);
    match (&guess.meant, &wants.operator) {
        (Some(Meant::Value(value)), _) => {
            let what = format!("write {}: {value}", wants.key);
            let fix = Fix {
                what,
                changes: vec![Change::Value(field, value.clone())],
                sure: is_slip(wants, value),
            };
            finding.help(format!("did you mean {}={value}?", wants.key)).fix(Some(fix))
        }
        (Some(Meant::Item { wrong, value }), Operator::In(all)) => {
            let help = format!("did you mean {}={value} where {wrong} is?", wants.key);
            let values = field.key("values");
            let place = view.written_at(&finding.at.name, &values).and_then(|list| {
                list.as_array()?.iter().position(|item| item.as_str() == Some(wrong))
            });
            let fix = place.map(|index| Fix {
                what: format!("write {value} instead of {wrong}"),
                changes: vec![Change::Value(values.item(index), value.clone())],
                sure: all.len() == 1 && is_typed_wrong(wrong, value),
            });
            finding.help(help).fix(fix)
        }
        (Some(Meant::Key(key)), Operator::Equals(value)) => {
            let fix = Fix {
                what: format!("write {key}: {value}"),
                changes: vec![Change::Key(field, key.clone())],
                sure: false,
            };
            finding.help(format!("did you mean {key}={value}?")).fix(Some(fix))
        }
        _ => elsewhere(view, finding, namespace, selector),
    }
}

/// One letter, or two that changed places, in a word that is long enough.
fn is_slip(wants: &Requirement, meant: &str) -> bool {
    matches!(&wants.operator, Operator::Equals(value) if is_typed_wrong(value, meant))
}

fn is_typed_wrong(word: &str, meant: &str) -> bool {
    word.chars().count() >= 4 && is_one_slip(word, meant)
}

/// Namespaces that every cluster has.
const ALWAYS: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Whether other namespaces have such pods.
fn elsewhere(view: &View<'_>, finding: Finding, namespace: &str, selector: &Selector) -> Finding {
    let elsewhere: Vec<&str> = view
        .cluster
        .namespaces
        .keys()
        .map(|name| &**name)
        .filter(|name| *name != namespace)
        .filter(|name| view.labels_in(name).any(|labels| selector.matches(labels)))
        .collect();
    if elsewhere.is_empty() {
        return finding
            .help("correct the selector, or suppress this if such pods are still to come");
    }
    let help = match (finding.rule.id, elsewhere.as_slice()) {
        ("PW101", names) => format!(
            "namespace {} has such pods; a policy selects pods of its own namespace only",
            list(names)
        ),
        (_, names) => format!(
            "namespace {} has such pods: put a namespaceSelector with \
             kubernetes.io/metadata.name into the same item",
            list(names)
        ),
    };
    finding.help(help)
}

/// PW103: a label that looks like the namespace's name, but is not the one that is always there.
fn not_automatic(
    view: &View<'_>,
    wants: &Requirement,
    field: FieldPath,
    new: &dyn Fn(&'static str, FieldPath, String) -> Finding,
) -> Option<Finding> {
    let values: Vec<&str> = match &wants.operator {
        Operator::Equals(value) => vec![value],
        Operator::In(values) => values.iter().map(|value| &**value).collect(),
        _ => return None,
    };
    let namespaces = &view.cluster.namespaces;
    if *wants.key == *METADATA_NAME || namespaces.values().any(|ns| wants.matches(&ns.labels)) {
        return None;
    }
    let named: Vec<&Namespace> = values.iter().filter_map(|name| namespaces.get(*name)).collect();
    let lacking = named.iter().any(|namespace| namespace.labels_known);
    let by_name = NAME_KEYS.contains(&&*wants.key);
    let somebody_has_it = namespaces.values().any(|ns| ns.labels.get(&wants.key).is_some());
    if !lacking && (somebody_has_it || !by_name) {
        return None;
    }
    let message = format!(
        "namespaces do not get the label {} by themselves, so this may select none",
        wants.key
    );
    let mut finding = new("PW103", field.clone(), message).about(wants.to_string());
    finding = match named.iter().find(|namespace| namespace.labels_known) {
        Some(namespace) => finding
            .proof(format!("namespace {} has the labels {}", namespace.name, namespace.labels)),
        None => finding.proof(format!("no namespace that is stated has the label {}", wants.key)),
    };
    let change = match wants.operator {
        Operator::Equals(_) => Change::Key(field, METADATA_NAME.to_owned()),
        _ => Change::Value(field.key("key"), METADATA_NAME.to_owned()),
    };
    let all_lack = lacking && named.len() == values.len();
    Some(
        finding
            .help(format!(
                "every namespace has its name as {METADATA_NAME}; write that, or label the \
                 namespace"
            ))
            .fix(Some(Fix {
                what: format!("select by {METADATA_NAME}"),
                changes: vec![change],
                sure: all_lack,
            })),
    )
}

/// PW102 for namespaces: none of those that are known is selected, and all labels are known.
fn no_namespace(
    view: &View<'_>,
    selector: &Selector,
    path: &FieldPath,
    new: &dyn Fn(&'static str, FieldPath, String) -> Finding,
) -> Option<Finding> {
    let namespaces = &view.cluster.namespaces;
    let unmet =
        selector.requirements.iter().enumerate().find(|(_, wants)| {
            !namespaces.values().any(|namespace| wants.matches(&namespace.labels))
        });
    let field = unmet.map_or(path.clone(), |(i, _)| requirement_path(path, selector, i));
    let values: BTreeSet<&str> = unmet
        .map(|(_, wants)| namespaces.values().filter_map(|ns| ns.labels.get(&wants.key)).collect())
        .unwrap_or_default();
    let meant = unmet.and_then(|(_, wants)| match &wants.operator {
        Operator::Equals(value) => {
            let always = ALWAYS.into_iter().filter(|_| *wants.key == *METADATA_NAME);
            let near = nearest(value, values.iter().copied().chain(always))?;
            // Files do not state every namespace: team-b may well be beside team-a, and only a slip
            // of the fingers is wrong.
            (view.complete || is_typo(value, near)).then_some(near)
        }
        _ => None,
    });
    if !view.complete && meant.is_none() {
        return None;
    }
    let message = format!("this peer selects no pod: no namespace has {selector}");
    let mut finding = new("PW102", field.clone(), message).about(format!("namespaces {selector}"));
    if let Some((_, wants)) = unmet {
        finding = finding.proof(if values.is_empty() {
            format!(
                "none of the {} has a label {}",
                count(namespaces.len(), "namespace"),
                wants.key
            )
        } else {
            format!("namespaces have {} = {}", wants.key, list(&values))
        });
    }
    let Some((meant, (_, wants))) = meant.zip(unmet) else {
        return Some(finding.severity(Severity::Warning).help(
            "correct the selector, label the namespace, or suppress this if it is still to come",
        ));
    };
    let fix = Fix {
        what: format!("write {}: {meant}", wants.key),
        changes: vec![Change::Value(field, meant.to_owned())],
        sure: view.complete && is_slip(wants, meant),
    };
    Some(finding.help(format!("did you mean {}={meant}?", wants.key)).fix(Some(fix)))
}
