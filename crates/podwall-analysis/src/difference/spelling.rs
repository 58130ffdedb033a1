//! Which policies say something else than before, however they are spelt?
//!
//! ```text
//!   policies of one side ──▶ (whom they select, direction) ──▶ isolated? peers × ports
//!                                     compared with the other side's
//! ```
//!
//! A NetworkPolicy's name, the order of rules, and how rules are divided among policies mean
//! nothing, so what the policies of one subject say is put together before it is compared. Two sides
//! that say the same are the same for every pod and namespace there may ever be, whatever facts are
//! missing. The other way round nothing follows: who differs here is asked by the engine.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use podwall_compile::scopes::normal;
use podwall_policy::address::IpBlock;
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Name;
use podwall_policy::policy::{Action, Direction, NamespaceScope, Peer, PodScope, Policy, Tier};
use podwall_policy::selector::{Operator, Requirement, Selector};

use crate::reachability::side;
use crate::rule_ports::Ports;

/// Policies that say something else than the other side, by direction. Owned by the comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed(pub(super) [HashSet<(Tier, Name)>; 2]);

impl Changed {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(HashSet::is_empty)
    }

    /// Whether a policy is among them, in a direction.
    pub(super) fn has(&self, policy: &Policy, direction: Direction) -> bool {
        !self.0[side(direction)].is_empty()
            && self.0[side(direction)].contains(&(policy.tier, policy.name.clone()))
    }
}

/// What all NetworkPolicies of one subject say in one direction. That there are any isolates it.
type Said = BTreeMap<(Action, Option<Peer>), Ports>;

/// The policies of either side that say something else than those of the other.
pub(super) fn changed(before: &Cluster, after: &Cluster) -> [Changed; 2] {
    let mut out = [Changed::default(), Changed::default()];
    let clusters = [before, after];
    for direction in Direction::BOTH {
        let said = clusters.map(|cluster| network_policies(cluster, direction));
        for (i, own) in said.iter().enumerate() {
            let other = &said[1 - i];
            for (subject, (words, names)) in own {
                if other.get(subject).map(|(words, _)| words) != Some(words) {
                    let keys = names.iter().map(|name| (Tier::NetworkPolicy, (*name).clone()));
                    out[i].0[side(direction)].extend(keys);
                }
            }
        }
        for tier in [Tier::Admin, Tier::Baseline] {
            let lists = clusters.map(|cluster| ordered(cluster, tier, direction));
            let contents = |list: &[Ordered<'_>]| -> Vec<_> {
                list.iter()
                    .map(|its| (its.priority, its.subject.clone(), its.rules.clone()))
                    .collect()
            };
            if contents(&lists[0]) == contents(&lists[1]) {
                continue;
            }
            for (i, own) in lists.iter().enumerate() {
                let others: BTreeMap<&Name, &Ordered<'_>> =
                    lists[1 - i].iter().map(|its| (its.name, its)).collect();
                let new = own.iter().filter(|its| others.get(its.name) != Some(its));
                out[i].0[side(direction)].extend(new.map(|its| (tier, its.name.clone())));
            }
        }
    }
    out
}

type BySubject<'a> = BTreeMap<PodScope, (Said, Vec<&'a Name>)>;

fn network_policies(cluster: &Cluster, direction: Direction) -> BySubject<'_> {
    let mut out = BySubject::new();
    for policy in cluster.policies.values() {
        if policy.dry_run || policy.tier != Tier::NetworkPolicy {
            continue;
        }
        let Some(rules) = policy.rules(direction) else { continue };
        let (said, names) = out.entry(scope(&policy.subject)).or_default();
        names.push(&policy.name);
        for rule in rules {
            let ports = Ports::of(rule);
            let peers = rule.peers.iter().map(|its| Some(peer(its)));
            let anybody = rule.peers.is_empty().then_some(None);
            for peer in peers.chain(anybody) {
                said.entry((rule.action, peer)).or_default().add(&ports);
            }
        }
    }
    out
}

/// A policy of a tier in which the order counts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ordered<'a> {
    priority: u16,
    name: &'a Name,
    subject: PodScope,
    rules: Vec<(Action, BTreeSet<Peer>, Ports)>,
}

fn ordered(cluster: &Cluster, tier: Tier, direction: Direction) -> Vec<Ordered<'_>> {
    let of_tier = cluster.policies.values().filter(|its| its.tier == tier && !its.dry_run);
    let mut list: Vec<Ordered<'_>> = of_tier
        .filter_map(|policy| {
            let rules = policy.rules(direction)?.iter();
            let rules = rules
                .map(|rule| (rule.action, rule.peers.iter().map(peer).collect(), Ports::of(rule)));
            Some(Ordered {
                priority: policy.priority,
                name: &policy.name,
                subject: scope(&policy.subject),
                rules: rules.collect(),
            })
        })
        .collect();
    list.sort_by_key(|its| (its.priority, its.name));
    list
}

impl Ports {
    fn add(&mut self, other: &Self) {
        self.numbers = self.numbers.union(&other.numbers);
        self.names.extend(other.names.iter().cloned());
    }
}

fn peer(peer: &Peer) -> Peer {
    match peer {
        Peer::Pods(its) => Peer::Pods(scope(its)),
        Peer::Block(block) => {
            let mut except = block.except.clone();
            except.sort_unstable();
            except.dedup();
            Peer::Block(IpBlock { cidr: block.cidr, except })
        }
    }
}

/// A selector of pods in one spelling.
pub(super) fn scope(scope: &PodScope) -> PodScope {
    let plain = |selector: &Selector| Selector {
        requirements: selector.requirements.iter().map(requirement).collect(),
    };
    let namespaces = match &scope.namespaces {
        NamespaceScope::Own(name) => NamespaceScope::Own(name.clone()),
        NamespaceScope::Matching(selector) => NamespaceScope::Matching(plain(selector)),
    };
    normal(&PodScope { namespaces, pods: plain(&scope.pods) })
}

/// `In` of one value is that value.
fn requirement(its: &Requirement) -> Requirement {
    let operator = match &its.operator {
        Operator::In(values) if values.len() == 1 => {
            values.first().cloned().map_or_else(|| its.operator.clone(), Operator::Equals)
        }
        other => other.clone(),
    };
    Requirement { key: its.key.clone(), operator }
}
