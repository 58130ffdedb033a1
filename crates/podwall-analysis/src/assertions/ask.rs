//! What passes between two ends, over each family?
//!
//! ```text
//!   pods ──Keys──▶ classes      (class, class) ──▶ flows: what passes, what does not, what is missing
//! ```
//!
//! As the matrix asks, but families stay apart: an assertion that something passes must hold over
//! each, and so must one that nothing does.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use podwall_policy::address::{AddressSet, Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Exempt, side};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::{Name, Phase, Pod};
use podwall_policy::policy::{Direction, NamespaceScope, Policy};
use podwall_policy::port::PortSet;
use podwall_policy::reason::MissingFact;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::blocks::Blocks;
use crate::can::End;
use crate::outside;
use crate::podclass::{Key, Keys};

/// What is known of one flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowAnswer {
    pub(super) family: Family,
    /// What certainly passes both sides.
    pub(super) allowed: PortSet,
    /// What certainly does not pass one of them.
    pub(super) denied: PortSet,
    /// The facts that would decide the rest, sorted.
    pub(super) missing: Vec<MissingFact>,
    /// The source is the destination's own node, whose traffic is always let in.
    pub(super) own_node: bool,
}

/// What of an end decides an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum EndKey {
    Pod(usize),
    Node(Name),
    Outside(IpAddr),
}

/// Answers for one cluster; remembers what it was asked.
pub(super) struct Asker<'a> {
    pub(super) cluster: &'a Cluster,
    blocks: Vec<IpBlock>,
    taken: BTreeSet<IpAddr>,
    keys: Keys,
    classes: FxHashMap<Key<'a>, usize>,
    class_of: FxHashMap<&'a Name, usize>,
    /// For each class the cluster with only the policies that can select it.
    narrowed: Vec<Cluster>,
    known: FxHashMap<(EndKey, EndKey), Rc<[FlowAnswer]>>,
    /// Each distinct answer once: there are few, and many pairs.
    answers: FxHashSet<Rc<[FlowAnswer]>>,
}

impl<'a> Asker<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        let blocks = outside::blocks(cluster);
        Self {
            cluster,
            taken: outside::taken(cluster),
            keys: Keys::new(cluster, Blocks::new(blocks.clone())),
            blocks,
            classes: FxHashMap::default(),
            class_of: FxHashMap::default(),
            narrowed: Vec::new(),
            known: FxHashMap::default(),
            answers: FxHashSet::default(),
        }
    }

    /// Every running pod.
    pub(super) fn pods(&self) -> impl Iterator<Item = &'a Pod> + use<'a> {
        self.cluster.pods.values().filter(|pod| pod.phase == Phase::Alive)
    }

    /// Addresses outside, by what rules can tell apart.
    pub(super) fn outside(&self, within: &AddressSet) -> Vec<End<'a>> {
        let classes = outside::classes_within(&self.blocks, within, &self.taken);
        classes.into_iter().map(End::Outside).collect()
    }

    /// The class of a pod: pods of one class get the same answers.
    pub(super) fn class(&mut self, pod: &'a Pod) -> usize {
        if let Some(class) = self.class_of.get(&pod.name) {
            return *class;
        }
        // A node may be the other end, so the pod's own node matters.
        let key = self.keys.key(pod, !self.cluster.nodes.is_empty());
        let next = self.classes.len();
        let class = *self.classes.entry(key).or_insert(next);
        if class == next {
            self.narrowed.push(narrow(self.cluster, pod));
        }
        // A workload's template has its workload's name, which a pod may have, too.
        if self.cluster.pods.get(&pod.name).is_some_and(|known| std::ptr::eq(known, pod)) {
            self.class_of.insert(&pod.name, class);
        }
        class
    }

    /// What policies know of a pod, wherever it runs.
    pub(super) fn traits(&self, pod: &'a Pod) -> Key<'a> {
        self.keys.key(pod, false).without_node()
    }

    pub(super) fn key(&mut self, end: &End<'a>) -> EndKey {
        match end {
            End::Pod(pod) => EndKey::Pod(self.class(pod)),
            End::Node(node) => EndKey::Node(Name::new("", node.name.clone())),
            End::Outside(class) => EndKey::Outside(class.example),
        }
    }

    /// What passes from one end to another, which must not be the same pod. Empty if they have no
    /// family in common.
    pub(super) fn flows(&mut self, src: &End<'a>, dst: &End<'a>) -> Rc<[FlowAnswer]> {
        let key = (self.key(src), self.key(dst));
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let flows = Flow::between(src.party(), dst.party());
        let answers: Vec<FlowAnswer> = flows.iter().map(|flow| self.ask(&key, flow)).collect();
        let answers: Rc<[FlowAnswer]> = match self.answers.get(&answers[..]) {
            Some(same) => same.clone(),
            None => {
                let answers: Rc<[FlowAnswer]> = answers.into();
                self.answers.insert(answers.clone());
                answers
            }
        };
        // Missing facts name pods.
        if answers.iter().all(|answer| answer.missing.is_empty()) {
            self.known.insert(key, answers.clone());
        }
        answers
    }

    fn ask(&self, (src, dst): &(EndKey, EndKey), flow: &Flow<'_>) -> FlowAnswer {
        let of = |key: &EndKey| match key {
            EndKey::Pod(class) => &self.narrowed[*class],
            _ => self.cluster,
        };
        let family = flow.family;
        let ingress = side(of(dst), flow, Direction::Ingress);
        if ingress.denied.is_everything() {
            // Whatever the other side says.
            let (allowed, denied) = (PortSet::empty(), ingress.denied);
            return FlowAnswer { family, allowed, denied, missing: Vec::new(), own_node: false };
        }
        let egress = side(of(src), flow, Direction::Egress);
        let allowed = egress.allowed.intersection(&ingress.allowed);
        let denied = egress.denied.union(&ingress.denied);
        let mut missing = Vec::new();
        if !allowed.union(&denied).is_everything() {
            missing.extend(egress.missing);
            missing.extend(ingress.missing);
            missing.sort();
            missing.dedup();
        }
        let own_node = ingress.exempt == Some(Exempt::OwnNode);
        FlowAnswer { family, allowed, denied, missing, own_node }
    }

    /// The policies that isolate a pod in a direction.
    pub(super) fn isolates(&mut self, pod: &'a Pod, direction: Direction) -> Vec<Name> {
        let class = self.class(pod);
        let mut names = Vec::new();
        for family in Family::BOTH {
            let stranger = match family {
                Family::V4 => IpAddr::from([203, 0, 113, 1]),
                Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            };
            let (own, other) = (Party::Pod(pod), Party::Address(stranger));
            let (src, dst) =
                if direction == Direction::Egress { (own, other) } else { (other, own) };
            let side = side(&self.narrowed[class], &Flow { src, dst, family }, direction);
            names.extend(side.isolated_by);
        }
        names.sort();
        names.dedup();
        names
    }
}

/// The policies of other namespaces are most of all, and the cheapest to leave out.
fn narrow(cluster: &Cluster, pod: &Pod) -> Cluster {
    let elsewhere = |policy: &Policy| match &policy.subject.namespaces {
        NamespaceScope::Own(own) => *own != pod.name.namespace,
        NamespaceScope::Matching(_) => false,
    };
    let can_select = |policy: &Policy| {
        !elsewhere(policy) && !matches!(selects(cluster, &policy.subject, pod), Match::No(_))
    };
    Cluster {
        namespaces: cluster.namespaces.clone(),
        nodes: cluster.nodes.clone(),
        strangers: cluster.strangers.clone(),
        policies: cluster
            .policies
            .iter()
            .filter(|(_, policy)| can_select(policy))
            .map(|(key, policy)| (key.clone(), policy.clone()))
            .collect(),
        ..Cluster::default()
    }
}
