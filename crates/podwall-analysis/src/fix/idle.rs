//! Is what is not known of a pair left as it was?
//!
//! ```text
//!   rule before   {team=sre?}                    rule after   {team=sre?, app notin (prom): yes}
//!        └──▶ [unknown: team of kube-system]  =  [unknown: team of kube-system] ◀──┘
//! ```
//!
//! A pair may be unknown before and after a change without the change having a part in it: a pod on
//! its node's network, which no podSelector matches, or a namespace whose labels nobody states. If
//! each changed rule says the same of a pair as before, the verdict is the same, whatever the missing
//! facts are.

use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::flow::Party;
use podwall_policy::matching::{Match, match_peer};
use podwall_policy::object::Pod;
use podwall_policy::policy::{Direction, NamespaceScope, Peer, Policy, Rule, Tier};
use podwall_policy::port::PortSpec;
use podwall_policy::reason::MissingFact;

/// Of more pairs of pods than these nothing is claimed.
const PAIRS: usize = 256;

/// What a rule says of a party.
#[derive(PartialEq)]
enum Said<'p> {
    /// It matches.
    Yes,
    /// It depends, for each peer that may match.
    Perhaps(Vec<Term<'p>>),
}

/// A peer that may match: what it depends on. Two that depend on the same facts of one scope of
/// namespaces are the same; what else they ask is known, and met.
#[derive(PartialEq)]
enum Term<'p> {
    Pods(&'p NamespaceScope, Vec<MissingFact>),
    Block(&'p Peer),
}

/// Whether every policy that differs says the same of each pair of these pods as before. `false`
/// where that is not certain.
pub(super) fn is_idle(before: &Cluster, after: &Cluster, src: &[&Pod], dst: &[&Pod]) -> bool {
    if src.is_empty() || dst.is_empty() || src.len() + dst.len() > PAIRS {
        return false;
    }
    // A label says something to every policy.
    let same_labels = |pod: &&Pod| {
        after.pods.get(&pod.name).is_some_and(|now| now.labels == pod.labels)
            && before.namespaces.get(&pod.name.namespace)
                == after.namespaces.get(&pod.name.namespace)
    };
    if !src.iter().chain(dst).all(same_labels) {
        return false;
    }
    let of_tier = |cluster: &Cluster| {
        cluster.policies.keys().filter(|(tier, _)| *tier == Tier::NetworkPolicy).count()
    };
    if of_tier(before) != of_tier(after) {
        return false;
    }
    before.policies.iter().filter(|(key, policy)| after.policies.get(key) != Some(policy)).all(
        |(key, old)| {
            let Some(new) = after.policies.get(key) else { return false };
            let sides = [(Direction::Egress, dst), (Direction::Ingress, src)];
            sides.into_iter().all(|(direction, pods)| {
                let same = |pod: &&Pod| says_the_same([before, after], [old, new], direction, pod);
                pods.iter().all(same)
            })
        },
    )
}

fn says_the_same(
    clusters: [&Cluster; 2],
    policies: [&Policy; 2],
    direction: Direction,
    pod: &Pod,
) -> bool {
    let [old, new] = policies.map(|policy| policy.rules(direction));
    let (Some(old), Some(new)) = (old, new) else { return old.is_none() && new.is_none() };
    Family::BOTH
        .into_iter()
        .all(|family| said(clusters[0], old, pod, family) == said(clusters[1], new, pod, family))
}

/// What rules say of a pod, without those that certainly do not match it.
fn said<'p>(
    cluster: &Cluster,
    rules: &'p [Rule],
    pod: &Pod,
    family: Family,
) -> Vec<(Said<'p>, &'p [PortSpec])> {
    let of = |rule: &'p Rule| {
        let mut terms: Vec<Term<'p>> = Vec::new();
        for peer in &rule.peers {
            match match_peer(cluster, peer, Party::Pod(pod), family) {
                Match::Yes => return Some((Said::Yes, &rule.ports[..])),
                Match::No(_) => {}
                Match::Unknown(facts) => {
                    let term = match peer {
                        Peer::Pods(scope) => Term::Pods(&scope.namespaces, facts),
                        Peer::Block(_) => Term::Block(peer),
                    };
                    if !terms.contains(&term) {
                        terms.push(term);
                    }
                }
            }
        }
        let said = match (rule.peers.is_empty(), terms.is_empty()) {
            (true, _) => Said::Yes,
            (false, true) => return None,
            (false, false) => Said::Perhaps(terms),
        };
        Some((said, &rule.ports[..]))
    };
    rules.iter().filter_map(of).collect()
}
