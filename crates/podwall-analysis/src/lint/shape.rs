//! Does the shape of what is written mislead its reader?
//!
//! ```text
//!   from:                              from:
//!   - namespaceSelector: …   or        - namespaceSelector: …   and
//!   - podSelector: …                     podSelector: …
//! ```
//!
//! PW105, PW202, PW203, PW204: lists that look like one thing and mean another.

use podwall_policy::address::Family;
use podwall_policy::flow::Party;
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy};
use podwall_policy::source::FieldPath;
use serde_json::Value as Json;

use super::View;
use super::finding::{Change, Finding, Fix, Severity};
use super::flows::{example, outside, sentence};
use super::words::{count, peer_path, peers_key, rule_path};

pub(super) fn check(view: &View<'_>, found: &mut Vec<Finding>) {
    for policy in &view.policies {
        types(view, policy, found);
        for direction in Direction::BOTH {
            for (i, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                found.extend(and_or(view, policy, (direction, i)).map(|(_, finding)| finding));
                let empty = empty_lists(view, policy, (direction, i));
                if empty.is_empty() && rule.peers.is_empty() && rule.ports.is_empty() {
                    found.push(everything(view, policy, (direction, i)));
                }
                found.extend(empty);
            }
        }
    }
}

/// PW105, and the item that is suspected of belonging to the one before it.
pub(super) fn and_or(
    view: &View<'_>,
    policy: &Policy,
    (direction, i): (Direction, usize),
) -> Option<(usize, Finding)> {
    let peers = &policy.rules(direction)?.get(i)?.peers;
    for (p, pair) in peers.windows(2).enumerate() {
        let [Peer::Pods(a), Peer::Pods(b)] = pair else { continue };
        let ((namespaces, pods), pods_at) = match (spaces(a), own_pods(b), own_pods(a), spaces(b)) {
            (Some(ns), Some(pods), _, _) => ((ns, pods), p + 1),
            (_, _, Some(pods), Some(ns)) => ((ns, pods), p),
            _ => continue,
        };
        let together =
            PodScope { namespaces: namespaces.namespaces.clone(), pods: pods.pods.clone() };
        let there = view.select(namespaces);
        let both = view.select(&together);
        let own = view.select(pods);
        let nobody_here = own.classes.is_empty() && !own.templates;
        let here = view.is_populated(&policy.name.namespace);
        let severity = match (there.classes.is_empty(), nobody_here) {
            // The other item is a part of this one, so it says nothing: it was meant otherwise.
            _ if anywhere(namespaces) => Severity::Warning,
            (false, _) if both.classes.is_empty() => continue,
            (false, _) if both.classes.len() == there.classes.len() => continue,
            (false, true) => Severity::Warning,
            (false, false) => Severity::Note,
            // Nothing is known of those namespaces, but that there are no such pods here is.
            (true, true) if peers.len() == 2 && here => Severity::Warning,
            (true, true) if peers.len() == 2 => Severity::Note,
            (true, _) => continue,
        };
        let message = format!(
            "two items of `{}` mean either: {}, or {}",
            peers_key(direction),
            namespaces,
            pods
        );
        let field = peer_path(direction, i, p + 1);
        let mut finding = Finding::of_rule("PW105", policy, (direction, i), field.clone(), message)
            .severity(severity)
            .about(format!("{namespaces} or {pods}"));
        let subject = view.select(&policy.subject).classes.first().copied();
        let other = there.classes.iter().find(|class| !both.classes.contains(class));
        if let (Some(class), Some(other)) = (subject, other) {
            let rule = &policy.rules(direction).unwrap_or_default()[i];
            let (ports, _) = podwall_policy::matching::rule_ports(
                rule,
                &podwall_policy::flow::Flow {
                    src: Party::Pod(view.classes[*other].pod),
                    dst: Party::Pod(view.classes[class].pod),
                    family: Family::V4,
                },
            );
            let other = Party::Pod(view.classes[*other].pod);
            finding.proof.extend(sentence(view, class, other, direction, example(&ports)));
        }
        let [there_many, own_many, both_many] =
            [&there, &own, &both].map(|of| view.count(&of.classes));
        // Where nobody is known numbers prove nothing.
        finding.proof.push(if there_many + own_many == 0 {
            "items are alternatives: whoever is meant by one of them need not be by the other"
                .into()
        } else {
            format!(
                "as written {} and {} are meant; as one item {} would be",
                count(there_many, "pod"),
                count(own_many, "pod"),
                count(both_many, "pod")
            )
        });
        if anywhere(namespaces) {
            finding = finding.proof(format!("{pods} are among all pods in all namespaces"));
        }
        finding = finding.help(format!(
            "if {together} are meant, make one item of the two: remove the `- ` of the second; if \
             both are meant, keep them apart in two rules"
        ));
        let fix = Fix {
            what: "make one item of the two".to_owned(),
            changes: vec![Change::Join(field)],
            sure: severity == Severity::Warning && nobody_here && !both.classes.is_empty(),
        };
        return Some((pods_at, finding.fix(Some(fix))));
    }
    None
}

/// A peer that takes whole namespaces.
fn spaces(scope: &PodScope) -> Option<&PodScope> {
    let whole = matches!(&scope.namespaces, NamespaceScope::Matching(_));
    (whole && scope.pods.is_everything()).then_some(scope)
}

/// A peer that takes all pods there are.
fn anywhere(scope: &PodScope) -> bool {
    matches!(&scope.namespaces, NamespaceScope::Matching(s) if s.is_everything())
}

/// A peer that takes some pods of the policy's own namespace.
fn own_pods(scope: &PodScope) -> Option<&PodScope> {
    let own = matches!(&scope.namespaces, NamespaceScope::Own(_));
    (own && !scope.pods.is_everything()).then_some(scope)
}

/// PW202.
fn types(view: &View<'_>, policy: &Policy, found: &mut Vec<Finding>) {
    let Some(spec) = view.written(policy).and_then(|raw| raw.get("spec")) else { return };
    let spec_path = FieldPath::keys("spec");
    let stated = spec.get("policyTypes").and_then(Json::as_array).filter(|types| !types.is_empty());
    let rules = |key: &str| spec.get(key).filter(|value| !value.is_null());
    let items = |key: &str| rules(key).and_then(Json::as_array).map_or(0, Vec::len);
    if let Some(stated) = stated {
        for (key, name) in [("ingress", "Ingress"), ("egress", "Egress")] {
            if rules(key).is_some() && !stated.iter().any(|item| item == name) {
                // Of rules it is clear that they were to have an effect.
                let (severity, sure) = match items(key) {
                    0 => (Severity::Warning, false),
                    _ => (Severity::Error, true),
                };
                let message = format!("`{key}` has no effect: `policyTypes` does not name {name}");
                let selected = view.select(&policy.subject);
                let finding = Finding::new("PW202", policy, spec_path.key(key), message)
                    .severity(severity)
                    .about(format!("{key} ignored"))
                    .proof(format!(
                        "{} of {key} are written; the policy isolates none of the {} that it \
                         selects for {key}",
                        count(items(key), "rule"),
                        count(view.count(&selected.classes), "pod")
                    ))
                    .help(format!("add {name} to `policyTypes`, or remove `{key}`"))
                    .fix(Some(Fix {
                        what: format!("add {name} to policyTypes"),
                        changes: vec![Change::Append(
                            spec_path.key("policyTypes"),
                            vec![name.to_owned()],
                        )],
                        sure,
                    }));
                found.push(finding);
            }
        }
        return;
    }
    if rules("egress").is_some() && items("egress") == 0 {
        let message = "an empty `egress` denies nothing: `policyTypes` is left out, and then it is \
                       Ingress alone";
        let finding = Finding::new("PW202", policy, spec_path.key("egress"), message.to_owned())
            .severity(Severity::Error)
            .about("empty egress")
            .proof(
                "without `policyTypes` a policy isolates for egress only if it has an egress rule",
            )
            .help("write `policyTypes: [Ingress, Egress]`, or remove `egress`")
            .fix(Some(Fix {
                what: "write policyTypes: [Ingress, Egress]".to_owned(),
                changes: vec![Change::Insert(
                    spec_path.key("egress"),
                    "policyTypes: [Ingress, Egress]".to_owned(),
                )],
                sure: true,
            }));
        found.push(finding);
    } else if items("egress") > 0 && rules("ingress").is_none() {
        let selected = view.select(&policy.subject);
        // Where something else isolates them for ingress anyhow it does not matter.
        let closed_by_this = selected.classes.iter().copied().find(|class| {
            view.selected_by(*class)
                .iter()
                .all(|other| other.name == policy.name || other.ingress.is_none())
        });
        if closed_by_this.is_none() && !selected.classes.is_empty() {
            return;
        }
        let message =
            "`policyTypes` is left out, so this policy for egress denies all ingress, too";
        let mut finding =
            Finding::new("PW202", policy, spec_path.key("egress"), message.to_owned())
                .about("ingress denied");
        if let Some(class) = closed_by_this {
            let other = Party::Address(outside(Family::V4));
            let pod = view.classes[class].pod;
            let family = if pod.ips.is_empty() || pod.ip(Family::V4).is_some() {
                other
            } else {
                Party::Address(outside(Family::V6))
            };
            finding.proof.extend(sentence(view, class, family, Direction::Ingress, None));
        }
        finding.proof.push(
            "without `policyTypes` every policy isolates for ingress, with rules or not".into(),
        );
        found.push(finding.help("say which is meant: `policyTypes: [Egress]`, or both").fix(Some(
            Fix {
                what: "write policyTypes: [Egress]".to_owned(),
                changes: vec![Change::Insert(
                    spec_path.key("egress"),
                    "policyTypes: [Egress]".to_owned(),
                )],
                sure: false,
            },
        )));
    }
}

/// PW204: lists that are written and empty.
fn empty_lists(
    view: &View<'_>,
    policy: &Policy,
    (direction, i): (Direction, usize),
) -> Vec<Finding> {
    let rule = view
        .written(policy)
        .and_then(|raw| raw.get("spec")?.get(direction.to_string())?.get(i)?.as_object());
    let Some(rule) = rule else { return Vec::new() };
    let mut found = Vec::new();
    for (key, meaning) in [(peers_key(direction), "everybody"), ("ports", "every port")] {
        let Some(value) = rule.get(key) else { continue };
        if !(value.is_null() || value.as_array().is_some_and(Vec::is_empty)) {
            continue;
        }
        let field = rule_path(direction, i).key(key);
        let message = format!("an empty `{key}` means {meaning}, not nobody");
        let message =
            if key == "ports" { message.replace("not nobody", "not none") } else { message };
        found.push(
            with_outside(
                view,
                policy,
                direction,
                Finding::of_rule("PW204", policy, (direction, i), field, message),
            )
            .about(format!("{direction} empty {key}"))
            .help(format!(
                "to allow {meaning} leave `{key}` out; to allow nothing remove the rule"
            )),
        );
    }
    found
}

/// PW203: a rule that allows everything.
fn everything(view: &View<'_>, policy: &Policy, (direction, i): (Direction, usize)) -> Finding {
    let (whom, severity) = match direction {
        Direction::Ingress => ("anybody may come in", Severity::Warning),
        Direction::Egress => ("anything may be reached", Severity::Note),
    };
    let message = format!("this rule allows everything: {whom}, on every port");
    let field = rule_path(direction, i);
    let finding = Finding::of_rule("PW203", policy, (direction, i), field, message)
        .severity(severity)
        .about(format!("{direction} everything"));
    with_outside(view, policy, direction, finding).help(format!(
        "name peers and ports; to leave {direction} open on purpose, leave it out of `policyTypes` \
         or suppress this with a reason"
    ))
}

/// Adds what the evaluator says of a flow to or from outside.
fn with_outside(
    view: &View<'_>,
    policy: &Policy,
    direction: Direction,
    mut finding: Finding,
) -> Finding {
    let selected = view.select(&policy.subject);
    let proof = selected.classes.first().and_then(|class| {
        let families = Family::BOTH.map(outside);
        families
            .iter()
            .find_map(|address| sentence(view, *class, Party::Address(*address), direction, None))
    });
    let otherwise =
        || "a rule without peers is about everybody, one without ports about all".to_owned();
    finding.proof.push(proof.unwrap_or_else(otherwise));
    finding
}
