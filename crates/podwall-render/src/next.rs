//! What would make a denied flow pass?
//!
//! One sentence for the nearest miss of each side that denies, in the words of the manifest. It is
//! advice on one rule, not a proof that nothing else stands in the way: the other side has its own.

use podwall_analysis::can::{Case, End};
use podwall_analysis::identity::lasting;
use podwall_analysis::outside;
use podwall_policy::evaluate::{Side, Verdict};
use podwall_policy::explain::{Question, SideExplanation};
use podwall_policy::label::METADATA_NAME;
use podwall_policy::object::{Name, Owner, Pod};
use podwall_policy::policy::{Action, Direction, RuleRef};
use podwall_policy::reason::Reason;
use podwall_policy::selector::{Operator, Requirement};

use crate::words;

/// The next steps for a case, at most one for each side and missing fact; none where it passes.
pub fn steps(case: &Case<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for (side, explanation) in
        [(&case.evaluation.egress, &case.egress), (&case.evaluation.ingress, &case.ingress)]
    {
        match explanation.verdict {
            Verdict::Allowed => {}
            Verdict::Denied => out.push(mend(case, side, explanation)),
            Verdict::Unknown => {
                for fact in &side.missing {
                    out.push(format!("state {fact}, and ask again"));
                }
            }
        }
    }
    out.dedup();
    out
}

fn mend(case: &Case<'_>, side: &Side, why: &SideExplanation) -> String {
    if let Some(denied) = why.denied_by.first() {
        return format!("{} denies it by name: change that rule", words::rule(denied));
    }
    let steps = why.near_misses.iter().filter(|miss| miss.action == Action::Allow);
    if let Some(step) = steps
        .filter_map(|miss| match &miss.reasons[..] {
            [reason] => one_step(case, &miss.rule, reason),
            _ => None,
        })
        .next()
    {
        return step;
    }
    let (subject, peer) = match side.direction {
        Direction::Egress => (&case.src, &case.dst),
        Direction::Ingress => (&case.dst, &case.src),
    };
    let preposition = if side.direction == Direction::Egress { "to" } else { "from" };
    let port = match case.question {
        Question::Port(protocol, Some(port)) if protocol.has_ports() => {
            format!(" on port {{protocol: {protocol}, port: {port}}}")
        }
        Question::Port(protocol, _) if !protocol.has_ports() => {
            " without ports (only a rule without ports lets other protocols pass)".to_owned()
        }
        _ => String::new(),
    };
    // One that allows something already, not the default deny beside it.
    let speaks = why.near_misses.iter().find(|miss| miss.action == Action::Allow);
    let speaks =
        speaks.map_or_else(String::new, |miss| format!(" (for instance {})", miss.rule.policy));
    let policy = format!("a policy that selects {subject}{speaks}");
    format!(
        "add to {policy} an {} rule {preposition} {}{port}",
        side.direction,
        selector(subject, peer)
    )
}

/// A peer that a rule could name, as a manifest would have it.
fn selector(subject: &End<'_>, peer: &End<'_>) -> String {
    match peer {
        End::Pod(pod) if pod.is_subject() => pod_selector(subject, pod),
        End::Pod(_) | End::Node(_) => "an ipBlock with the node's address".to_owned(),
        End::Outside(class) => match &outside::cidrs(&class.addresses)[..] {
            [only] => format!("ipBlock {only}"),
            _ => "an ipBlock".to_owned(),
        },
    }
}

fn pod_selector(subject: &End<'_>, pod: &Pod) -> String {
    let own = matches!(subject, End::Pod(subject) if subject.name.namespace == pod.name.namespace);
    // What a controller makes up is another label after the next roll-out.
    let labels = lasting(pod);
    let pods = if labels.is_empty() {
        "podSelector {}".to_owned()
    } else {
        format!("podSelector {labels}")
    };
    if own {
        return pods;
    }
    format!("namespaceSelector {METADATA_NAME}={} with {pods}", pod.name.namespace)
}

/// Who makes a pod of the case.
fn owner_of<'a>(case: &Case<'a>, name: &Name) -> Option<&'a Owner> {
    [&case.src, &case.dst].into_iter().find_map(|end| match end {
        End::Pod(pod) if pod.name == *name => pod.owner.as_ref(),
        _ => None,
    })
}

/// What mends a rule that lacks a label of a workload's pod. A label of the pod itself would go with
/// it, and the pod's name may be none that there is. A label that has another value is what Services
/// and the workload's own selector know its pods by, and stays.
fn of_template(rule: &str, pod: &Name, owner: &Owner, has: bool, wants: &Requirement) -> String {
    let whole = format!("let {rule} name the labels of the pods of {}/{}", owner.kind, owner.name);
    let Operator::Equals(value) = &wants.operator else { return whole };
    // A Job's template never changes.
    if has || &*owner.kind == "Job" {
        return whole;
    }
    let label = format!("{{\"metadata\":{{\"labels\":{{\"{}\":\"{value}\"}}}}}}", wants.key);
    let template = if &*owner.kind == "CronJob" {
        format!("{{\"spec\":{{\"jobTemplate\":{{\"spec\":{{\"template\":{label}}}}}}}}}")
    } else {
        format!("{{\"spec\":{{\"template\":{label}}}}}")
    };
    format!(
        "{whole}, or, if they belong there, label its template: kubectl -n {} patch {} {} -p \
         '{template}'",
        pod.namespace,
        owner.kind.to_ascii_lowercase(),
        owner.name
    )
}

/// What mends the only thing that a rule lacks; nothing where no short advice would do.
fn one_step(case: &Case<'_>, rule: &RuleRef, reason: &Reason) -> Option<String> {
    let rule = words::rule(rule);
    let overwrite = |has: &Option<_>| if has.is_some() { " --overwrite" } else { "" };
    Some(match reason {
        Reason::NamespaceLabel { namespace, has, wants, .. } => match &wants.operator {
            Operator::Equals(value) => format!(
                "kubectl label namespace {namespace} {}={value}{}",
                wants.key,
                overwrite(has)
            ),
            _ => format!("label namespace {namespace} so that {wants} holds, or change {rule}"),
        },
        Reason::PodLabel { pod, has, wants, .. } if owner_of(case, pod).is_some() => {
            of_template(&rule, pod, owner_of(case, pod)?, has.is_some(), wants)
        }
        Reason::PodLabel { pod, has, wants, .. } => match &wants.operator {
            Operator::Equals(value) => format!(
                "let {rule} name this pod's labels, or, if the pod belongs there: kubectl -n {} \
                 label pod {} {}={value}{}",
                pod.namespace,
                pod.name,
                wants.key,
                overwrite(has)
            ),
            _ => format!("label pod {pod} so that {wants} holds, or change {rule}"),
        },
        Reason::OtherNamespace { pod, .. } => format!(
            "give the podSelector in {rule} a namespaceSelector beside it: {METADATA_NAME}={}",
            pod.namespace
        ),
        Reason::Ports { protocol, port, .. } if protocol.has_ports() => {
            let port = port.map_or_else(String::new, |port| format!(", port: {port}"));
            format!("add {{protocol: {protocol}{port}}} to the ports of {rule}")
        }
        Reason::Ports { protocol, .. } => {
            format!("only a rule without ports lets {protocol} pass: {rule} names ports")
        }
        Reason::NoNamedPort { party, name, protocol, .. } => format!(
            "name a {protocol} container port of {party} \"{name}\", or give {rule} the number"
        ),
        Reason::OutsideBlock { address, .. } => format!("add an ipBlock for {address} to {rule}"),
        Reason::Excepted { address, .. } => {
            format!("add an ipBlock for {address} to {rule}, beside the one that excepts it")
        }
        Reason::OtherFamily { family, .. } => format!("add an {family} ipBlock to {rule}"),
        // A rule about pods is no place for an address: better a rule of its own.
        Reason::NotAPod { .. } | Reason::HostNetwork { .. } | Reason::Terminated { .. } => {
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_analysis::can::{Ask, PortAsk, can};
    use podwall_analysis::peer::resolve;
    use podwall_manifest::{Input, Options, read};

    const TEXT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api, tier: back}}
    spec: {containers: [{name: c, image: c}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup, namespace: shop}
spec:
  schedule: '0 3 * * *'
  jobTemplate:
    spec:
      template:
        metadata: {labels: {app: backup}}
        spec: {restartPolicy: Never, containers: [{name: b, image: b}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: shop}
spec: {podSelector: {matchLabels: {app: backup}}, policyTypes: [Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from: [{podSelector: {matchLabels: {LABEL}}}]
    ports: [{port: 9000}]
";

    fn next(label: &str) -> String {
        let text = TEXT.replace("LABEL", label);
        let input = Input::Text { name: "t.yaml".to_owned(), text };
        let cluster = read(&[input], &Options::default()).cluster();
        let ends = ["shop/cronjob/backup", "shop/deploy/api"]
            .map(|peer| resolve(&cluster, peer, "shop").unwrap());
        let ask = Ask { port: Some(PortAsk::Number(9000)), ..Ask::default() };
        let answer = can(&cluster, &ends[0], &ends[1], &ask).unwrap();
        steps(&answer.cases[answer.deciding]).join("\n")
    }

    /// Advice named pods by pod-template-hash, and labelled pods whose names were made up.
    #[test]
    fn advice_on_pods_of_a_workload_is_about_the_workload() {
        let said = next("role: client");
        assert!(said.contains("podSelector app=api,tier=back on port"), "{said}");
        assert!(said.contains("kubectl -n shop patch cronjob backup -p"), "{said}");
        assert!(said.contains(r#"{"spec":{"jobTemplate":{"spec":{"template":"#), "{said}");
        let said = next("app: web");
        assert!(said.contains("name the labels of the pods of CronJob/backup"), "{said}");
        assert!(!said.contains("kubectl"), "{said}");
    }
}
