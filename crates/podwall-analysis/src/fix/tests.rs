//! Faults that were found by hand, by what they did.

use podwall_manifest::{Input, Options, read, write};
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::port::Protocol;

use super::{Change, Fix, Fixes, fixes};
use crate::can::{Ask, PortAsk, can};
use crate::peer::resolve;

fn cluster(text: &str) -> Cluster {
    let input = Input::Text { name: "t.yaml".to_owned(), text: text.to_owned() };
    read(&[input], &Options::default()).cluster()
}

fn asked(cluster: &Cluster, src: &str, dst: &str, port: u16, family: Option<Family>) -> Fixes {
    let ask = Ask { port: Some(PortAsk::Number(port)), protocol: Some(Protocol::TCP), family };
    let (src, dst) = (resolve(cluster, src, "p").unwrap(), resolve(cluster, dst, "p").unwrap());
    fixes(cluster, &can(cluster, &src, &dst, &ask).unwrap())
}

fn said(fix: &Fix) -> String {
    let text = |change: &Change| match change {
        Change::AddPolicy { policy, .. } => write::policy(policy),
        Change::AddRule { rule, direction, .. } => write::rule(rule, *direction).flow(),
        other => other.to_string(),
    };
    fix.changes.iter().map(text).collect::<Vec<_>>().join("\n")
}

const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: p}
---
apiVersion: v1
kind: Pod
metadata: {name: x, namespace: p, labels: {app: x}}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: p, labels: {app: web}}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: p, labels: {app: host}}
spec: {hostNetwork: true, containers: [{name: c, image: c}]}
";

fn policy(ingress: &str) -> String {
    format!(
        "{PODS}---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: d, \
         namespace: p}}\nspec: {{podSelector: {{matchLabels: {{app: x}}}}, policyTypes: [Ingress], \
         ingress: {ingress}}}\n"
    )
}

/// `can internet x -4 --fix` opened ::/0 too, and did not say so.
#[test]
fn a_question_about_one_family_is_answered_for_that_family() {
    let before = cluster(&policy("[]"));
    for (family, own, other) in
        [(Family::V4, "0.0.0.0/0", "::/0"), (Family::V6, "::/0", "0.0.0.0/0")]
    {
        let found = asked(&before, "internet", "x", 80, Some(family));
        assert!(!found.fixes.is_empty(), "{found:?}");
        for fix in &found.fixes {
            assert!(said(fix).contains(own) && !said(fix).contains(other), "{}", said(fix));
        }
    }
    let both = asked(&before, "internet", "x", 80, None);
    assert!(said(&both.fixes[0]).contains("::/0"), "{both:?}");
}

/// Taking out a rule for both families was told as if nobody but IPv4 had noticed.
#[test]
fn what_a_fix_does_to_the_other_family_is_listed() {
    let both = "[{from: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: \"::/0\"}}], ports: [{port: 80}]}]";
    let found = asked(&cluster(&policy(both)), "internet", "x", 80, Some(Family::V4));
    let gone = |fix: &&Fix| matches!(fix.changes[..], [Change::RemoveRule { .. }]);
    let rule = found.fixes.iter().find(gone).unwrap();
    assert!(rule.besides.iter().any(|effect| effect.src == "::/0"), "{rule:?}");
    let best = &found.fixes[0];
    assert!(best.besides.iter().all(|effect| effect.src != "::/0"), "{best:?}");
}

/// Files that know one namespace alone made a fix that cut off all others, the name server's first.
#[test]
fn a_policy_that_denies_one_pod_leaves_all_other_namespaces() {
    let found = asked(&cluster(PODS), "web", "x", 80, None);
    assert_eq!(found.fixes.len(), 2, "{found:?}");
    for fix in &found.fixes {
        let text = said(fix);
        let elsewhere =
            "- key: kubernetes.io/metadata.name\n          operator: NotIn\n          values: [p]";
        assert!(text.contains("namespaceSelector:") && text.contains(elsewhere), "{text}");
    }
}

/// A pod on its node's network, whose node nobody states, was told as a change of every fix.
#[test]
fn what_is_as_unknown_as_before_is_no_effect() {
    let team = "[{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: p}}}], \
                ports: [{port: 80}]}]";
    let found = asked(&cluster(&policy(team)), "web", "x", 80, None);
    assert!(!found.fixes.is_empty());
    for fix in &found.fixes {
        let added = matches!(fix.changes[0], Change::AddPolicy { .. });
        let host = fix.besides.iter().any(|effect| effect.src.contains("host"));
        assert!(added || !host, "{fix:?}");
    }
    let narrowed =
        found.fixes.iter().find(|fix| matches!(fix.changes[0], Change::ReplacePeer { .. }));
    assert!(narrowed.is_some_and(Fix::is_exact), "{found:?}");
}
