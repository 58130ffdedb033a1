//! Which changes would let it pass?
//!
//! ```text
//!   a side that denies ─┬─ a rule whose peers match: a port more       rules that nearly match
//!                       ├─ a rule whose ports match: a peer more
//!                       ├─ a rule that lacks a label: label it
//!                       ├─ a policy that isolates: a rule more
//!                       └─ a policy more, which names the pods alone
//! ```
//!
//! Where no step is enough by itself, up to three are taken one after the other, as long as each lets
//! more pairs of pods pass. These are proposals. What they open is the engine's word, and so is which of them is best.

use std::collections::{BTreeMap, BTreeSet};

use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::Verdict;
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::{Action, Direction, Peer as RulePeer, Policy, Rule, Tier};
use podwall_policy::port::PortSpec;
use podwall_policy::reason::Reason;
use podwall_policy::selector::{Operator, Requirement};

use super::change::{Change, RuleAt};
use super::ends::{End, ports};
use super::side::Side;
use super::{asked_again, put};
use crate::can::{Answer, Case};

/// How many rules that nearly match, and policies that isolate, are tried on one side.
const TRIED: usize = 8;
/// How many steps one side takes at the most.
const STEPS: usize = 3;
/// How many beginnings are gone on with after each step.
const OPEN: usize = 12;

/// What one side needs.
struct Need<'a> {
    direction: Direction,
    /// Whose policies must let it pass.
    subject: End<'a>,
    /// To or from whom.
    other: End<'a>,
    /// Empty: everything.
    ports: Vec<PortSpec>,
    /// The policies that isolate the subject, by name.
    isolated_by: BTreeSet<Name>,
    /// What rules lack, of which nothing else would have to change.
    misses: BTreeMap<RuleAt, Vec<Reason>>,
}

/// Proposals for each side that has to change; each is a list of alternatives. `Err` says what no
/// policy can open.
pub(super) fn proposals(
    cluster: &Cluster,
    answer: &Answer<'_>,
) -> Result<Vec<Vec<Vec<Change>>>, Vec<String>> {
    let mut sides = Vec::new();
    let mut obstacles = Vec::new();
    for side in Side::both(answer) {
        match need(cluster, side) {
            Ok(Some(need)) => {
                let mut all = alternatives(cluster, side, &need);
                // The last one names the pods alone, and stays the last.
                let alone = all.pop();
                let more = in_steps(cluster, side, &all);
                all.extend(more);
                all.extend(alone);
                sides.push(all);
            }
            Ok(None) => {}
            Err(mut why) => obstacles.append(&mut why),
        }
    }
    if obstacles.is_empty() { Ok(sides) } else { Err(obstacles) }
}

/// How many pairs of pods a side denies.
fn denied(side: Side<'_, '_>) -> usize {
    let own = |case: &&Case<'_>| side.why(case).verdict == Verdict::Denied;
    side.answer.cases.iter().filter(own).map(|case| case.pairs).sum()
}

/// Up to [`STEPS`] steps where none alone is enough: pods of one workload may be isolated by
/// different policies, and then each of these needs something more. A step is worth another one if
/// fewer pairs are denied after it.
fn in_steps(cluster: &Cluster, side: Side<'_, '_>, first: &[Vec<Change>]) -> Vec<Vec<Change>> {
    let mut found: Vec<Vec<Change>> = Vec::new();
    let now = denied(side);
    if now < 2 {
        return found;
    }
    let mut open: Vec<(usize, Vec<Change>)> =
        first.iter().map(|changes| (now, changes.clone())).collect();
    for step in 1..=STEPS {
        let mut next: Vec<(usize, Vec<Change>)> = Vec::new();
        for (before, changes) in open {
            let Some(after) = put(cluster, &changes) else { continue };
            let Some(answer) = asked_again(&after, side.answer) else { continue };
            let side = Side { answer: &answer, ..side };
            match denied(side) {
                0 if step > 1 => found.push(changes),
                left if left > 0 && left < before && step < STEPS => {
                    let Ok(Some(need)) = need(&after, side) else { continue };
                    let mut more = alternatives(&after, side, &need);
                    more.pop();
                    let join = |step: Vec<Change>| (left, [changes.clone(), step].concat());
                    next.extend(more.into_iter().map(join));
                }
                _ => {}
            }
        }
        next.sort_by_key(|(left, changes)| (*left, changes.len()));
        next.truncate(OPEN);
        open = next;
    }
    found.truncate(OPEN);
    found
}

fn need<'a>(cluster: &'a Cluster, side: Side<'_, 'a>) -> Result<Option<Need<'a>>, Vec<String>> {
    let Side { direction, answer } = side;
    let denied = answer.cases.iter().filter(|case| case.verdict == Verdict::Denied);
    // Where each side lets something pass, and nothing in common, the destination's ports decide.
    let at_odds = denied.clone().any(|case| {
        case.egress.verdict != Verdict::Denied && case.ingress.verdict != Verdict::Denied
    });
    let (subject, other) = (side.subject(), side.other());
    let asked = ports(answer);
    let mut need = Need {
        direction,
        subject: End::of(cluster, subject, answer.ask.family),
        other: End::of(cluster, other, answer.ask.family),
        ports: asked.unwrap_or_default(),
        isolated_by: BTreeSet::new(),
        misses: BTreeMap::new(),
    };
    let mut obstacles = Vec::new();
    let mut any = false;
    for case in denied {
        let (said, why) = (side.said(case), side.why(case));
        if why.verdict != Verdict::Denied && !(at_odds && direction == Direction::Egress) {
            continue;
        }
        any = true;
        if let Some(node) = &said.stranger_on {
            obstacles.push(format!(
                "node {node} isolates {} until it knows which pod has that address: no policy \
                 can open it",
                side.subject_of(case)
            ));
        }
        obstacles.extend(why.denied_by.iter().map(|rule| {
            format!(
                "rule {} of {} denies it by name, before any NetworkPolicy is asked",
                rule.number, rule.policy.name
            )
        }));
        need.isolated_by.extend(said.isolated_by.iter().cloned());
        for miss in why
            .near_misses
            .iter()
            .filter(|miss| miss.action == Action::Allow && miss.rule.tier == Tier::NetworkPolicy)
        {
            let at = RuleAt {
                policy: miss.rule.policy.clone(),
                direction,
                index: miss.rule.number as usize - 1,
            };
            let all = need.misses.entry(at).or_default();
            all.extend(miss.reasons.iter().cloned());
        }
    }
    if !any {
        return Ok(None);
    }
    if need.subject.pods.is_none() {
        obstacles.push(format!("no NetworkPolicy can select {subject}"));
    }
    obstacles.extend(need.other.nameless.iter().cloned());
    obstacles.sort();
    obstacles.dedup();
    if obstacles.is_empty() { Ok(Some(need)) } else { Err(obstacles) }
}

/// One step each; the last one is a policy more.
fn alternatives(cluster: &Cluster, side: Side<'_, '_>, need: &Need<'_>) -> Vec<Vec<Change>> {
    let Some(subject) = &need.subject.pods else { return Vec::new() };
    let own = &subject.namespace;
    let peers = need.other.peers(own);
    let mut found: Vec<Vec<Change>> = Vec::new();
    let mut misses: Vec<_> = need.misses.iter().collect();
    misses.sort_by_key(|(at, reasons)| (reasons.len(), *at));
    for (at, reasons) in misses.into_iter().take(TRIED) {
        found.extend(for_rule(cluster, need, at, reasons, &peers));
    }
    let rule = Rule::allow(peers, need.ports.clone());
    let mut isolating: Vec<(usize, &Name)> = need
        .isolated_by
        .iter()
        .map(|name| {
            let policy = cluster.policies.get(&(Tier::NetworkPolicy, name.clone()));
            let pods = cluster.pods.values();
            let selected = |pod: &&Pod| {
                policy.is_some_and(|policy| {
                    !matches!(selects(cluster, &policy.subject, pod), Match::No(_))
                })
            };
            (pods.filter(selected).count(), name)
        })
        .collect();
    // Those that speak for the fewest pods first.
    isolating.sort();
    for (_, policy) in isolating.iter().take(TRIED) {
        found.push(vec![Change::AddRule {
            policy: (*policy).clone(),
            direction: need.direction,
            rule: rule.clone(),
        }]);
    }
    let name = free_name(cluster, own, &side.policy_name("to", "from"));
    let mut policy = Policy::network_policy(own.clone(), name, subject.selector.clone());
    *policy.rules_mut(need.direction) = Some(vec![rule]);
    // Beside a policy that is about the same pods, else beside the pods.
    let beside = isolating.iter().find_map(|(_, name)| {
        cluster.policies.get(&(Tier::NetworkPolicy, (*name).clone()))?.source.clone()
    });
    let beside = beside.or_else(|| subject.pods.iter().find_map(|pod| pod.source.clone()));
    found.push(vec![Change::AddPolicy { policy: Box::new(policy), beside }]);
    found
}

/// What would make one rule match.
fn for_rule(
    cluster: &Cluster,
    need: &Need<'_>,
    at: &RuleAt,
    reasons: &[Reason],
    peers: &[RulePeer],
) -> Vec<Vec<Change>> {
    let of_ports =
        |reason: &&Reason| matches!(reason, Reason::Ports { .. } | Reason::NoNamedPort { .. });
    let ports = reasons.iter().filter(of_ports).count();
    if ports == reasons.len() {
        let add =
            need.ports.iter().map(|port| Change::AddPort { rule: at.clone(), port: port.clone() });
        return if need.ports.is_empty() { Vec::new() } else { vec![add.collect()] };
    }
    if ports > 0 {
        return Vec::new();
    }
    let add = peers.iter().map(|peer| Change::AddPeer { rule: at.clone(), peer: peer.clone() });
    let mut found = vec![add.collect()];
    // A label that is not there yet may be given; one with another value means something else.
    let labels: Option<Vec<Change>> = reasons
        .iter()
        .map(|reason| match reason {
            Reason::NamespaceLabel { namespace, has: None, wants, .. } => {
                let stated = cluster.namespaces.get(namespace)?.labels_known;
                let (key, value) = label_for(wants).filter(|_| stated)?;
                Some(Change::LabelNamespace { namespace: namespace.clone(), key, value })
            }
            Reason::PodLabel { has: None, wants, .. } => {
                let group = need.other.pods.as_ref()?;
                let (key, value) = label_for(wants)?;
                let owner = group.pods.first()?.owner.as_ref();
                Some(Change::LabelPods {
                    pods: group.pods.iter().map(|pod| pod.name.clone()).collect(),
                    owner: owner.map(|owner| format!("{}/{}", owner.kind, owner.name)),
                    key,
                    value,
                })
            }
            _ => None,
        })
        .collect();
    if let Some(mut labels) = labels {
        let mut seen = Vec::new();
        labels.retain(|label| {
            let new = !seen.contains(label);
            seen.push(label.clone());
            new
        });
        found.push(labels);
    }
    found
}

/// A label that meets a requirement.
fn label_for(wants: &Requirement) -> Option<(std::sync::Arc<str>, std::sync::Arc<str>)> {
    let value = match &wants.operator {
        Operator::Equals(value) => value.clone(),
        Operator::In(values) => values.first()?.clone(),
        Operator::Exists => "true".into(),
        Operator::NotIn(_) | Operator::DoesNotExist => return None,
    };
    Some((wants.key.clone(), value))
}

/// A name that no policy of the namespace has.
pub(super) fn free_name(cluster: &Cluster, namespace: &str, wanted: &str) -> String {
    let taken = |name: &str| {
        cluster.policies.contains_key(&(Tier::NetworkPolicy, Name::new(namespace, name)))
    };
    if !taken(wanted) {
        return wanted.to_owned();
    }
    let mut number = 2;
    while taken(&format!("{wanted}-{number}")) {
        number += 1;
    }
    format!("{wanted}-{number}")
}
