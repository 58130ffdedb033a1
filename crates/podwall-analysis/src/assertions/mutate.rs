//! Which changes of the policies would the assertions not notice?
//!
//! ```text
//!   policy ──▶ changed in one place, a hundred ways ──▶ the same reach? nothing to notice
//!                                                   └─▶ the assertions again ─▶ noticed, or not
//! ```
//!
//! Each change is one that a slip of the hand makes: a rule or a peer deleted, a selector without its
//! labels, a port list emptied. A change after which every pod reaches and is reached by everybody
//! exactly as before is equivalent: no assertion about packets could notice it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use podwall_manifest::assertions::AssertionFile;
use podwall_policy::address::IpBlock;
use podwall_policy::cluster::Cluster;
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy, Tier};
use podwall_policy::port::PortSet;
use podwall_policy::selector::Selector;
use podwall_policy::source::Source;
use rustc_hash::FxHashSet;

use super::Status;
use super::ask::{Asker, EndKey, FlowAnswer, NOBODY, Shared};
use super::judge::Judge;
use crate::can::End;
use crate::reachability::Reachability;

/// What came of all changes.
#[derive(Clone, Debug, Default)]
pub struct Mutation {
    /// Changes that make a difference, by policy.
    pub mutants: Vec<Mutant>,
    /// How many changes make none.
    pub equivalent: usize,
}

/// A change that makes a difference.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// The policy.
    pub policy: Name,
    /// What was changed, in words: "rule 2 of ingress deleted".
    pub change: String,
    /// The rule, or the policy where it is about no rule.
    pub source: Option<Source>,
    /// The first difference that it makes.
    pub difference: Difference,
    /// Indices of the assertions that held and no longer do.
    pub noticed_by: Vec<usize>,
}

/// A pair of whom more or less passes.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Who.
    pub src: String,
    /// Whom.
    pub dst: String,
    /// What passes now, and did not before.
    pub opened: PortSet,
    /// What passed before, and does not now.
    pub closed: PortSet,
}

impl Mutation {
    /// The changes that no assertion notices.
    pub fn unnoticed(&self) -> impl Iterator<Item = &Mutant> {
        self.mutants.iter().filter(|mutant| mutant.noticed_by.is_empty())
    }
}

/// Makes every change and asks the assertions again. `progress` hears how many changes of how many
/// are done.
pub fn mutate(
    cluster: &Cluster,
    file: &AssertionFile,
    namespace: &str,
    progress: &mut dyn FnMut(usize, usize),
) -> Mutation {
    let engine: Shared = Rc::new(RefCell::new(Reachability::owning(cluster.clone())));
    let mut judge = Judge::new(Asker::shared(cluster, &engine), file, namespace);
    // Which assertions a change can concern: those that hold, and ask of a pair that differs.
    let decided: Vec<(usize, FxHashSet<_>)> = file
        .assertions
        .iter()
        .enumerate()
        .filter_map(|(i, assertion)| {
            let (status, pairs) = judge.pairs_of(assertion);
            (status == Status::Holds).then_some((i, pairs))
        })
        .collect();
    let mut original = Reaches::new(cluster);
    let mut out = Mutation::default();
    let all: Vec<(&Policy, Vec<Change>)> =
        cluster.policies.values().map(|policy| (policy, changes(policy))).collect();
    let (mut done, number) = (0, all.iter().map(|(_, changes)| changes.len()).sum());
    for (policy, changes) in all {
        for change in changes {
            progress(done, number);
            done += 1;
            match &change.policy {
                Some(changed) => engine.borrow_mut().put_policy(changed.clone()),
                None => engine.borrow_mut().remove_policy(policy.tier, &policy.name),
            }
            judge.asker.forget();
            let found = original.differing(&mut judge.asker, policy, change.policy.as_ref());
            let Some((difference, pairs)) = found else {
                out.equivalent += 1;
                continue;
            };
            let concerned: Vec<usize> = decided
                .iter()
                .filter(|(_, asked)| !asked.is_disjoint(&pairs))
                .map(|(i, _)| *i)
                .collect();
            judge.asker.look_at(pairs);
            let noticed_by = concerned
                .into_iter()
                .filter(|i| judge.status(&file.assertions[*i]) != Status::Holds)
                .collect();
            out.mutants.push(Mutant {
                policy: policy.name.clone(),
                change: change.words,
                source: change.source.or_else(|| policy.source.clone()),
                difference,
                noticed_by,
            });
        }
        engine.borrow_mut().put_policy(policy.clone());
    }
    progress(done, number);
    out
}

/// A policy that was changed in one place; `None` if it was deleted.
pub(super) struct Change {
    pub(super) words: String,
    source: Option<Source>,
    pub(super) policy: Option<Policy>,
}

/// Every change of a policy, each with another result.
pub(super) fn changes(policy: &Policy) -> Vec<Change> {
    let mut out = vec![Change { words: "deleted".to_owned(), source: None, policy: None }];
    let mut add = |words: String, source: Option<&Source>, changed: Policy| {
        let known = out.iter().any(|it: &Change| it.policy.as_ref() == Some(&changed));
        if !known && changed != *policy {
            out.push(Change { words, source: source.cloned(), policy: Some(changed) });
        }
    };
    for (i, requirement) in policy.subject.pods.requirements.iter().enumerate() {
        let mut changed = policy.clone();
        changed.subject.pods.requirements.remove(i);
        add(format!("podSelector without {requirement}"), None, changed);
    }
    for direction in Direction::BOTH {
        let type_name = if direction == Direction::Ingress { "Ingress" } else { "Egress" };
        let Some(rules) = policy.rules(direction) else {
            if policy.tier == Tier::NetworkPolicy {
                let mut changed = policy.clone();
                *changed.rules_mut(direction) = Some(Vec::new());
                add(format!("policyTypes with {type_name}"), None, changed);
            }
            continue;
        };
        let mut changed = policy.clone();
        *changed.rules_mut(direction) = None;
        add(format!("policyTypes without {type_name}"), None, changed);
        for (i, rule) in rules.iter().enumerate() {
            let of = format!("rule {} of {direction}", i + 1);
            let source = rule.source.as_ref();
            let with = |change: &dyn Fn(&mut podwall_policy::policy::Rule)| {
                let mut changed = policy.clone();
                if let Some(rule) =
                    changed.rules_mut(direction).as_mut().and_then(|all| all.get_mut(i))
                {
                    change(rule);
                }
                changed
            };
            let mut without = policy.clone();
            if let Some(rules) = without.rules_mut(direction) {
                rules.remove(i);
            }
            add(format!("{of} deleted"), source, without);
            let field = if direction == Direction::Ingress { "from" } else { "to" };
            for (p, peer) in rule.peers.iter().enumerate() {
                if rule.peers.len() > 1 {
                    let changed = with(&|rule| _ = rule.peers.remove(p));
                    add(format!("{of} without {field} {peer}"), source, changed);
                }
                for (words, wider) in widened(peer) {
                    let changed = with(&|rule| rule.peers[p] = wider.clone());
                    add(format!("{of} with {words}"), source, changed);
                }
            }
            let changed = with(&|rule| rule.peers.clear());
            add(format!("{of} without {field}, so for anybody"), source, changed);
            for (p, port) in rule.ports.iter().enumerate() {
                if rule.ports.len() > 1 {
                    let changed = with(&|rule| _ = rule.ports.remove(p));
                    add(format!("{of} without port {port}"), source, changed);
                }
            }
            let changed = with(&|rule| rule.ports.clear());
            add(format!("{of} without ports, so for every port"), source, changed);
        }
    }
    out
}

/// A peer that matches more.
fn widened(peer: &Peer) -> Vec<(String, Peer)> {
    match peer {
        Peer::Block(block) if !block.except.is_empty() => {
            let wider = IpBlock { except: Vec::new(), ..block.clone() };
            vec![(format!("{} without its exceptions", block.cidr), Peer::Block(wider))]
        }
        Peer::Block(_) => Vec::new(),
        Peer::Pods(scope) => {
            let mut out = Vec::new();
            if !scope.pods.is_everything() {
                let wider = PodScope { pods: Selector::everything(), ..scope.clone() };
                out.push((format!("{wider} instead of {}", scope.pods), Peer::Pods(wider)));
            }
            let all = NamespaceScope::Matching(Selector::everything());
            if scope.namespaces != all {
                let wider = PodScope { namespaces: all, ..scope.clone() };
                out.push((format!("{wider} instead of {scope}"), Peer::Pods(wider)));
            }
            out
        }
    }
}

/// What passes in the cluster as it is, to be compared with what passes after a change.
struct Reaches<'a> {
    asker: Asker<'a>,
    /// Pods that no policy tells apart: the first two of each class.
    classes: BTreeMap<EndKey, Vec<&'a Pod>>,
    outside: Vec<End<'a>>,
}

impl<'a> Reaches<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let mut asker = Asker::fine(cluster);
        let mut classes: BTreeMap<EndKey, Vec<&'a Pod>> = BTreeMap::new();
        for pod in asker.pods() {
            let own = classes.entry(asker.class(pod)).or_default();
            if own.len() < 2 {
                own.push(pod);
            }
        }
        let outside = asker.outside(&podwall_policy::address::AddressSet::everything());
        Self { asker, classes, outside }
    }

    /// Every kind of pair of whom something else passes than before, as `new` numbers them, and the
    /// first of them in words. Only pods that the policy selects, before or after, can be the one
    /// whose side differs; and every block of the changed policy is one of the policy as it was, so
    /// that addresses that were alike still are.
    fn differing(
        &mut self,
        new: &mut Asker<'a>,
        before: &Policy,
        after: Option<&Policy>,
    ) -> Option<(Difference, FxHashSet<(EndKey, EndKey)>)> {
        let cluster = self.asker.cluster;
        let touched = |policy: &Policy, pod: &Pod| {
            !matches!(selects(cluster, &policy.subject, pod), Match::No(_))
        };
        let subjects: Vec<(EndKey, &'a Pod)> = self
            .classes
            .iter()
            .map(|(class, pods)| (*class, pods[0]))
            .filter(|(_, pod)| {
                touched(before, pod) || after.is_some_and(|after| touched(after, pod))
            })
            .collect();
        let mut first = None;
        let mut pairs = FxHashSet::default();
        for (class, pod) in subjects {
            let own = End::Pod(pod);
            let is = new.key(&own);
            pairs.insert((is, NOBODY));
            let rules = |policy: &Policy, direction| policy.rules(direction).map(<[_]>::to_vec);
            for direction in Direction::BOTH {
                let (was, now) = (rules(before, direction), after.map(|it| rules(it, direction)));
                let same_pods = after.is_some_and(|after| after.subject == before.subject);
                if same_pods && Some(&was) == now.as_ref() {
                    continue; // this side says what it did
                }
                let twin = self.classes.get(&class).and_then(|pods| pods.get(1));
                let pods = self.classes.iter().filter(|(other, _)| **other != class);
                let pods = pods.map(|(_, pods)| pods[0]).chain(twin.copied()).map(End::Pod);
                let nodes = cluster.nodes.values().map(End::Node);
                for other in pods.chain(nodes).chain(self.outside.iter().cloned()) {
                    let (src, dst) = match direction {
                        Direction::Egress => (&own, &other),
                        Direction::Ingress => (&other, &own),
                    };
                    let (before, now) = (self.asker.flows(src, dst), new.flows(src, dst));
                    // Facts that are missing can be others, though the same passes.
                    if before != now {
                        pairs.insert((new.key(src), new.key(dst)));
                        first = first.or_else(|| difference(&before, &now, src, dst));
                    }
                }
            }
        }
        first.map(|first| (first, pairs))
    }
}

/// What passes otherwise than before, if anything does.
fn difference(
    before: &[FlowAnswer],
    now: &[FlowAnswer],
    src: &End<'_>,
    dst: &End<'_>,
) -> Option<Difference> {
    let mut both = before.iter().zip(now);
    let (before, now) =
        both.find(|(before, now)| before.allowed != now.allowed || before.denied != now.denied)?;
    Some(Difference {
        src: src.to_string(),
        dst: dst.to_string(),
        opened: now.allowed.difference(&before.allowed),
        closed: before.allowed.difference(&now.allowed),
    })
}
