//! Which pods does nothing protect, now or as soon as they are there?
//!
//! PW104, PW205, PW206: one finding for each namespace or policy, however many pods there are.

use podwall_policy::address::Family;
use podwall_policy::flow::Party;
use podwall_policy::policy::{Direction, Policy};
use podwall_policy::source::FieldPath;

use super::View;
use super::finding::{Finding, Severity};
use super::flows::{outside, sentence};
use super::words::{count, list};
use crate::suggest::nearest;

/// Namespaces of the cluster itself; what runs there is mostly not the policies' author's.
fn is_system(namespace: &str) -> bool {
    matches!(namespace, "kube-system" | "kube-public" | "kube-node-lease")
}

pub(super) fn check(view: &View<'_>, found: &mut Vec<Finding>) {
    for namespace in view.cluster.namespaces.keys() {
        let namespace = &**namespace;
        let policies: Vec<&Policy> = view.policies_in(namespace).collect();
        if !is_system(namespace) {
            found.extend(unprotected(view, namespace, &policies));
            found.extend(no_default_deny(view, namespace, &policies));
        }
        found.extend(without_pods(view, namespace, &policies));
    }
}

/// PW205.
fn unprotected(view: &View<'_>, namespace: &str, policies: &[&Policy]) -> Option<Finding> {
    let open: Vec<usize> = view
        .in_namespace(namespace)
        .iter()
        .copied()
        .filter(|class| view.selected_by(*class).is_empty())
        .collect();
    let first = *open.first()?;
    let number = view.count(&open);
    let all = view.pods_in(namespace);
    let message = match (number, all) {
        (1, 1) => format!("no policy selects the only pod of namespace {namespace}"),
        _ if number == all => format!("no policy selects the {all} pods of namespace {namespace}"),
        _ => format!("no policy selects {number} of the {all} pods of namespace {namespace}"),
    };
    let severity =
        if policies.is_empty() && !view.complete { Severity::Note } else { Severity::Warning };
    let mut finding = Finding::of_namespace("PW205", view, namespace, message)
        .severity(severity)
        .proof(format!("not selected: {}", view.name(&open)));
    finding.stand_at(view.classes[first].pod.source.as_ref());
    let proof = Family::BOTH.into_iter().find_map(|family| {
        sentence(view, first, Party::Address(outside(family)), Direction::Ingress, None)
    });
    finding.proof.extend(proof);
    Some(finding.help(format!(
        "add a policy for them, or one that denies by default: `podSelector: {{}}`, `policyTypes: \
         [Ingress]`, in namespace {namespace}"
    )))
}

/// PW206. A namespace without any policy is PW205's.
fn no_default_deny(view: &View<'_>, namespace: &str, policies: &[&Policy]) -> Option<Finding> {
    let first = policies.first()?;
    let is_default =
        |policy: &&Policy| policy.subject.pods.is_everything() && policy.ingress.is_some();
    if policies.iter().any(is_default) {
        return None;
    }
    let message = format!(
        "namespace {namespace} has no default deny: a pod with labels that no policy selects is open"
    );
    let known = view.is_populated(namespace) || view.complete;
    let mut finding = Finding::of_namespace("PW206", view, namespace, message);
    finding.stand_at(first.source.as_ref());
    Some(
        finding
            .severity(if known { Severity::Warning } else { Severity::Note })
            .proof(format!(
                "what there is does not select every pod for ingress: {}",
                list(policies.iter().map(|policy| &*policy.name.name))
            ))
            .help(
                "add a NetworkPolicy with `podSelector: {}` and `policyTypes: [Ingress]`, and no rules",
            ),
    )
}

/// PW104.
fn without_pods(view: &View<'_>, namespace: &str, policies: &[&Policy]) -> Option<Finding> {
    let first = policies.first()?;
    let populated: Vec<&str> = view
        .cluster
        .namespaces
        .keys()
        .map(|name| &**name)
        .filter(|name| view.is_populated(name) && !is_system(name))
        .collect();
    if view.is_populated(namespace) || populated.is_empty() {
        return None;
    }
    let number = match policies.len() {
        1 => "this policy is".to_owned(),
        more => format!("this and {} more policies are", more - 1),
    };
    let message = format!("{number} in namespace {namespace}, which has no pods");
    let stated = view
        .written(first)
        .is_none_or(|raw| raw.get("metadata").is_some_and(|m| m.get("namespace").is_some()));
    let help = match nearest(namespace, populated.iter().copied()) {
        Some(meant) if stated => format!("did you mean namespace {meant}?"),
        _ if namespace == "default" => {
            "a policy without a namespace is in default: write `metadata.namespace`".to_owned()
        }
        _ => {
            "move it to the pods' namespace, or suppress this if pods are still to come".to_owned()
        }
    };
    Some(
        Finding::new("PW104", first, FieldPath::keys("metadata.namespace"), message)
            .about(namespace)
            .proof(format!(
                "pods are known in {}: {}; none in {namespace}",
                count(populated.len(), "namespace"),
                list(&populated)
            ))
            .help(help),
    )
}
