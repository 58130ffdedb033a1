//! Who could come in by giving a pod of theirs the right label?
//!
//! PW601. Whoever may create pods in a namespace chooses their labels; labels of namespaces belong to
//! whoever runs the cluster. So a rule that looks at labels of pods in any namespace trusts everybody.

use podwall_policy::evaluate::side;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::label::Labels;
use podwall_policy::object::{Namespace, Pod};
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy};
use podwall_policy::selector::{Operator, Selector};

use super::View;
use super::finding::Finding;
use super::words::{list, party, peer_path};

/// A namespace that nobody has.
const TENANT: &str = "any-tenant";

pub(super) fn check(view: &View<'_>, found: &mut Vec<Finding>) {
    for policy in &view.policies {
        let direction = Direction::Ingress;
        for (i, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
            for (p, peer) in rule.peers.iter().enumerate() {
                if let Peer::Pods(scope) = peer
                    && let NamespaceScope::Matching(namespaces) = &scope.namespaces
                    && is_open(namespaces)
                    && !scope.pods.is_everything()
                {
                    found.push(impersonable(view, policy, i, p, scope));
                }
            }
        }
    }
}

/// Whether a namespace that nobody has labelled is selected.
pub(super) fn is_open(namespaces: &Selector) -> bool {
    let open = |o: &Operator| matches!(o, Operator::NotIn(_) | Operator::DoesNotExist);
    namespaces.requirements.iter().all(|wants| open(&wants.operator))
}

fn impersonable(view: &View<'_>, policy: &Policy, i: usize, p: usize, scope: &PodScope) -> Finding {
    let message =
        format!("whoever can create a pod anywhere can come in: it only needs {}", scope.pods);
    let field = peer_path(Direction::Ingress, i, p).key("namespaceSelector");
    let mut finding = Finding::of_rule("PW601", policy, (Direction::Ingress, i), field, message)
        .about(scope.to_string());
    let impostor = Pod::new(TENANT, "impostor", labels(&scope.pods));
    let selected = view.select(&policy.subject);
    if let Some(class) = selected.classes.first() {
        let mut cluster = view.narrowed(*class).clone();
        cluster.put_namespace(Namespace::new(TENANT, &Labels::default()));
        let pod = view.classes[*class].pod;
        if let Some(flow) = Flow::between(Party::Pod(&impostor), Party::Pod(pod)).first() {
            let side = side(&cluster, flow, Direction::Ingress);
            finding = finding.proof(format!(
                "a new pod {} with the labels {} reaches {} on {}",
                impostor.name,
                impostor.labels,
                party(Party::Pod(pod)),
                side.allowed
            ));
        }
    }
    let now = view.select(scope);
    let mut namespaces: Vec<&str> =
        now.classes.iter().map(|class| &*view.classes[*class].pod.name.namespace).collect();
    namespaces.dedup();
    let help = match namespaces.as_slice() {
        [] => "select the namespaces that are meant, by kubernetes.io/metadata.name or by a label \
               that only the cluster's operators set"
            .to_owned(),
        names => format!(
            "such pods are now in namespace {}: select it by kubernetes.io/metadata.name",
            list(names)
        ),
    };
    if finding.proof.is_empty() {
        finding = finding.proof(format!("{scope} are selected, whoever made them"));
    }
    finding.help(help)
}

/// Labels that meet a selector.
pub(super) fn labels(selector: &Selector) -> Labels {
    let mut labels = Labels::default();
    for wants in &selector.requirements {
        let value = match &wants.operator {
            Operator::Equals(value) => value.clone(),
            Operator::In(values) => values.first().cloned().unwrap_or_default(),
            Operator::Exists => "any".into(),
            Operator::NotIn(_) | Operator::DoesNotExist => continue,
        };
        labels = labels.with(&wants.key, &value);
    }
    labels
}
