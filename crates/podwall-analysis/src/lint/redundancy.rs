//! What could be removed, and nothing would change?
//!
//! ```text
//!   candidates, last first ──▶ is each peer, on each port, allowed by what stays?   (within.rs)
//!                         ──▶ the evaluator, with the rule and without: all verdicts the same?
//! ```
//!
//! PW301 to PW303, and PW304 in `overlap`. What is found may be removed all at once: what covers a rule is never itself
//! reported. Policies that only deny are left alone unless two say the very same, since a default
//! deny beside rules that isolate anyhow is good style.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use podwall_policy::address::{AddressSet, Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::side;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::Pod;
use podwall_policy::policy::{Direction, NamespaceScope, Peer, Policy, Rule};
use podwall_policy::port::{PortSet, PortSpec};
use podwall_policy::source::FieldPath;

use super::View;
use super::finding::{Change, Finding, Fix};
use super::overlap;
use super::trust::labels;
use super::within;
use super::words::{list, rule_path};

/// How many flows are put to the evaluator for one finding.
const FLOWS: usize = 400;

/// A rule by policy, direction and index.
pub(super) type Id = (usize, Direction, usize);

pub(super) fn check(view: &View<'_>, found: &mut Vec<Finding>) {
    let mut by_namespace: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, policy) in view.policies.iter().enumerate() {
        by_namespace.entry(&policy.name.namespace).or_default().push(i);
    }
    for policies in by_namespace.values_mut() {
        policies.sort_by_key(|i| view.policies[*i].source.clone());
        namespace(view, policies, found);
    }
}

fn namespace(view: &View<'_>, policies: &[usize], found: &mut Vec<Finding>) {
    let copies = copies(view, policies, found);
    let policies: Vec<usize> = policies.iter().copied().filter(|i| !copies.contains(i)).collect();
    let mut gone: HashMap<Id, Vec<Id>> = HashMap::new();
    for own in policies.iter().rev() {
        let policy = view.policies[*own];
        for direction in Direction::BOTH {
            let wider: Vec<usize> = policies
                .iter()
                .copied()
                .filter(|other| {
                    let other = view.policies[*other];
                    other.rules(direction).is_some_and(|rules| !rules.is_empty())
                        && within::scope(view, &policy.subject, &other.subject)
                })
                .collect();
            for i in (0..policy.rules(direction).map_or(0, <[Rule]>::len)).rev() {
                let id = (*own, direction, i);
                if let Some(by) = covered(view, id, &wider, &gone) {
                    gone.insert(id, by);
                }
            }
        }
    }
    let mut whole: HashSet<usize> = HashSet::new();
    for own in policies.iter().rev() {
        if let Some(finding) = whole_policy(view, *own, &policies, &gone, &whole) {
            whole.insert(*own);
            found.push(finding);
        }
    }
    let mut ids: Vec<&Id> = gone.keys().filter(|(own, ..)| !whole.contains(own)).collect();
    ids.sort();
    for id in ids {
        found.extend(useless(view, *id, &gone[id]));
    }
    overlap::check(view, &policies, &gone, found);
}

pub(super) fn rule_of<'a>(view: &View<'a>, (own, direction, i): Id) -> Option<&'a Rule> {
    view.policies[own].rules(direction)?.get(i)
}

/// Whether a rule allows anything to anybody whom another names: most do not, and there may be
/// thousands.
fn concerns(view: &View<'_>, rule: &Rule, wide: &Rule) -> bool {
    let overlaps = |block: &IpBlock, other: &Peer| match other {
        Peer::Block(other) => {
            other.cidr.contains(&block.cidr.addr()) || block.cidr.contains(&other.cidr.addr())
        }
        Peer::Pods(_) => false,
    };
    wide.peers.is_empty()
        || rule.peers.iter().any(|peer| match peer {
            // One that excepts all of itself is within every other.
            Peer::Block(block) if !block.except.is_empty() => true,
            Peer::Block(block) => wide.peers.iter().any(|other| overlaps(block, other)),
            Peer::Pods(_) => within::peers(view, peer, wide),
        })
}

/// The rules that together allow all that this one does, without those that are gone.
fn covered(
    view: &View<'_>,
    id: Id,
    wider: &[usize],
    gone: &HashMap<Id, Vec<Id>>,
) -> Option<Vec<Id>> {
    let rule = rule_of(view, id)?;
    let direction = id.1;
    let candidates: Vec<(Id, &Rule)> = wider
        .iter()
        .flat_map(|other| {
            let rules = view.policies[*other].rules(direction).unwrap_or_default();
            rules.iter().enumerate().map(move |(i, rule)| ((*other, direction, i), rule))
        })
        .filter(|(_, wide)| concerns(view, rule, wide))
        .filter(|(other, _)| *other != id && !gone.contains_key(other))
        .collect();
    covering(view, rule, &candidates)
}

/// Which of the candidates together allow all that a rule does; `None` if they do not.
pub(super) fn covering(
    view: &View<'_>,
    rule: &Rule,
    candidates: &[(Id, &Rule)],
) -> Option<Vec<Id>> {
    let candidates: Vec<(Id, &Rule, PortSet, Vec<&PortSpec>)> = candidates
        .iter()
        .map(|(other, rule)| {
            let (set, named) = within::ports(rule);
            (*other, *rule, set, named)
        })
        .collect();
    let mut by: Vec<Id> = Vec::new();
    let everybody = [None];
    let peers: Vec<Option<&Peer>> = rule.peers.iter().map(Some).collect();
    for peer in if peers.is_empty() { &everybody[..] } else { &peers[..] } {
        let (mut left, mut named) = within::ports(rule);
        let all = left.clone();
        let mut addresses = match peer {
            Some(Peer::Block(block)) => within::block(block),
            _ => AddressSet::empty(),
        };
        for (other, wide, set, names) in &candidates {
            let covers = match peer {
                None => wide.peers.is_empty(),
                Some(peer) => within::peers(view, peer, wide),
            };
            let before = (left.clone(), named.len(), addresses.clone());
            if covers {
                left = left.difference(set);
                named.retain(|spec| {
                    let range = podwall_policy::port::PortRange::ALL;
                    let any = PortSet::range(spec.protocol, range).difference(set).is_empty();
                    !names.contains(spec) && !any
                });
            } else if all.difference(set).is_empty() && named.is_empty() {
                for block in &wide.peers {
                    if let Peer::Block(block) = block {
                        addresses = addresses.difference(&within::block(block));
                    }
                }
            }
            if before != (left.clone(), named.len(), addresses.clone()) {
                by.push(*other);
            }
        }
        let by_blocks = matches!(peer, Some(Peer::Block(_))) && addresses.is_empty();
        let by_rules = left.is_empty() && named.is_empty();
        if !(by_blocks || by_rules) {
            return None;
        }
    }
    by.sort_unstable();
    by.dedup();
    (!by.is_empty()).then_some(by)
}

/// PW301.
fn useless(view: &View<'_>, id: Id, by: &[Id]) -> Option<Finding> {
    let (own, direction, i) = id;
    let policy = view.policies[own];
    let tried = unchanged(view, own, |policies| {
        for policy in policies.iter_mut().filter(|p| p.name == view.policies[own].name) {
            if let Some(rules) = policy.rules_mut(direction) {
                rules.remove(i);
            }
        }
    })?;
    let message = "this rule changes nothing: other rules allow all that it allows".to_owned();
    let rule = rule_of(view, id)?;
    let peers = list(rule.peers.iter().map(ToString::to_string));
    let ports = list(rule.ports.iter().map(ToString::to_string));
    Some(
        Finding::of_rule("PW301", policy, (direction, i), rule_path(direction, i), message)
            .about(format!("{direction} {peers} {ports}").trim_end().to_owned())
            .proof(format!("covered by {}", list(by.iter().map(|id| named(view, *id, own)))))
            .proof(format!(
                "without it the engine gives the same verdicts for all {tried} flows that were tried"
            ))
            .help("remove it; or, if it was meant to restrict, narrow the other rule")
            .fix(Some(Fix {
                what: "remove the rule".to_owned(),
                changes: vec![Change::Remove(rule_path(direction, i))],
                sure: false,
            })),
    )
}

/// "rule 2 of policy web (shop/web.yaml:12:5)"
pub(super) fn named(view: &View<'_>, (own, direction, i): Id, from: usize) -> String {
    let policy = view.policies[own];
    let place = policy
        .rules(direction)
        .and_then(|rules| rules.get(i)?.source.as_ref())
        .map(|source| format!(" ({source})"))
        .unwrap_or_default();
    let whose =
        if own == from { String::new() } else { format!(" of policy {}", policy.name.name) };
    format!("{direction} rule {}{whose}{place}", i + 1)
}

/// PW302.
fn whole_policy(
    view: &View<'_>,
    own: usize,
    policies: &[usize],
    gone: &HashMap<Id, Vec<Id>>,
    whole: &HashSet<usize>,
) -> Option<Finding> {
    let policy = view.policies[own];
    let mut by: Vec<usize> = Vec::new();
    let mut rules = 0;
    for direction in Direction::BOTH {
        let Some(own_rules) = policy.rules(direction) else { continue };
        for i in 0..own_rules.len() {
            // Each rule must be covered by what stays when the whole policy goes.
            let covering = gone.get(&(own, direction, i))?;
            if covering.iter().any(|(other, ..)| *other == own || whole.contains(other)) {
                return None;
            }
            by.extend(covering.iter().map(|(other, ..)| *other));
            rules += 1;
        }
        let isolated = policies.iter().copied().find(|other| {
            let wide = view.policies[*other];
            *other != own
                && !whole.contains(other)
                && wide.rules(direction).is_some()
                && within::scope(view, &policy.subject, &wide.subject)
        })?;
        by.push(isolated);
    }
    if rules == 0 {
        return None; // a default deny
    }
    by.sort_unstable();
    by.dedup();
    let tried = unchanged(view, own, |policies| {
        policies.retain(|other| other.name != policy.name);
    })?;
    let message = "this policy changes nothing: others isolate the same pods and allow the same";
    let field = FieldPath::keys("metadata.name");
    Some(
        Finding::new("PW302", policy, field, message.to_owned())
            .proof(format!(
                "covered by {}",
                list(by.iter().map(|i| format!("policy {}", view.policies[*i].name.name)))
            ))
            .proof(format!(
                "without it the engine gives the same verdicts for all {tried} flows that were tried"
            ))
            .help("remove it; or, if it was meant to restrict, narrow the others"),
    )
}

/// PW303: policies that say the very same as an earlier one.
fn copies(view: &View<'_>, policies: &[usize], found: &mut Vec<Finding>) -> HashSet<usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut copies = HashSet::new();
    for own in policies {
        let policy = view.policies[*own];
        let Some(first) = seen.get(&content(policy)).copied() else {
            seen.insert(content(policy), *own);
            continue;
        };
        let first = view.policies[first];
        let remove = |policies: &mut Vec<Policy>| policies.retain(|p| p.name != policy.name);
        let Some(tried) = unchanged(view, *own, remove) else { continue };
        copies.insert(*own);
        let place = first.source.as_ref().map(|s| format!(" ({s})")).unwrap_or_default();
        let message = format!("this policy says the same as {}", first.name.name);
        found.push(
            Finding::new("PW303", policy, FieldPath::keys("metadata.name"), message)
                .about(&*first.name.name)
                .proof(format!("the same pods, directions and rules as {}{place}", first.name))
                .proof(format!(
                    "without it the engine gives the same verdicts for all {tried} flows that were \
                     tried"
                ))
                .help("remove one of them"),
        );
    }
    copies
}

/// What a policy says, whatever the order in which it does.
fn content(policy: &Policy) -> String {
    let sorted = |rules: Option<&[Rule]>| {
        rules.map(|rules| {
            let mut rules: Vec<_> = rules.iter().map(canonical).collect();
            rules.sort();
            rules
        })
    };
    format!(
        "{:?} {:?} {:?}",
        policy.subject,
        sorted(policy.rules(Direction::Ingress)),
        sorted(policy.rules(Direction::Egress))
    )
}

pub(super) fn canonical(rule: &Rule) -> (Vec<Peer>, Vec<PortSpec>) {
    let (mut peers, mut ports) = (rule.peers.clone(), rule.ports.clone());
    for peer in &mut peers {
        if let Peer::Pods(scope) = peer {
            scope.pods.requirements.sort();
            if let NamespaceScope::Matching(selector) = &mut scope.namespaces {
                selector.requirements.sort();
            }
        }
    }
    peers.sort();
    ports.sort();
    (peers, ports)
}

/// Puts flows to the evaluator before and after a change to the policies that select the pods of
/// one. How many, if no verdict changed; pods and peers that the selectors ask for are tried even
/// where there are none.
pub(super) fn unchanged(
    view: &View<'_>,
    own: usize,
    change: impl FnOnce(&mut Vec<Policy>),
) -> Option<usize> {
    let policy = view.policies[own];
    let subject =
        Pod::new(policy.name.namespace.clone(), "any-pod-it-selects", labels(&policy.subject.pods));
    let selected = view.select(&policy.subject);
    let mut subjects: Vec<&Pod> =
        selected.classes.iter().take(8).map(|class| view.classes[*class].pod).collect();
    subjects.push(&subject);
    let mut policies: Vec<Policy> =
        view.policies_in(&policy.name.namespace).map(Policy::clone).collect();
    let of = |policies: &[Policy]| Cluster {
        namespaces: view.cluster.namespaces.clone(),
        nodes: view.cluster.nodes.clone(),
        policies: policies.iter().map(|p| ((p.tier, p.name.clone()), p.clone())).collect(),
        ..Cluster::default()
    };
    policies.retain(|other| subjects.iter().any(|pod| other.subject.pods.matches(&pod.labels)));
    let before = of(&policies);
    change(&mut policies);
    let after = of(&policies);
    let mut tried = 0;
    for direction in Direction::BOTH {
        let Some(rules) = policy.rules(direction) else { continue };
        let (pods, addresses) = others(view, rules);
        for subject in &subjects {
            let parties =
                pods.iter().map(Party::Pod).chain(addresses.iter().map(|a| Party::Address(*a)));
            for other in parties {
                if tried >= FLOWS {
                    return Some(tried);
                }
                let (src, dst) = match direction {
                    Direction::Egress => (Party::Pod(subject), other),
                    Direction::Ingress => (other, Party::Pod(subject)),
                };
                for flow in Flow::between(src, dst) {
                    let (was, is) =
                        (side(&before, &flow, direction), side(&after, &flow, direction));
                    if (&was.allowed, &was.denied) != (&is.allowed, &is.denied) {
                        return None;
                    }
                    tried += 1;
                }
            }
        }
    }
    (tried > 0).then_some(tried)
}

/// Whom to try: pods that rules select, such as they would select, and addresses in and out of
/// blocks.
fn others(view: &View<'_>, rules: &[Rule]) -> (Vec<Pod>, Vec<IpAddr>) {
    let mut pods = Vec::new();
    let mut addresses: Vec<IpAddr> = Family::BOTH.map(super::flows::outside).to_vec();
    for peer in rules.iter().flat_map(|rule| &rule.peers) {
        match peer {
            Peer::Block(block) => {
                for range in block.ranges().ranges() {
                    addresses.extend([range.first(), range.last()]);
                }
            }
            Peer::Pods(scope) => {
                let namespace = match &scope.namespaces {
                    NamespaceScope::Own(own) => Some(own.clone()),
                    NamespaceScope::Matching(selector) => {
                        view.namespaces(selector).certain.first().map(|name| (*name).clone())
                    }
                };
                let name = format!("any-peer-{}", pods.len());
                pods.extend(
                    namespace.map(|namespace| Pod::new(namespace, name, labels(&scope.pods))),
                );
                let selected = view.select(scope);
                let known = selected.classes.iter().take(8);
                pods.extend(known.map(|class| view.classes[*class].pod.clone()));
            }
        }
    }
    pods.extend(view.classes.iter().take(8).map(|class| class.pod.clone()));
    (pods, addresses)
}
