//! What passes between two ends, asked once for all that are alike?
//!
//! ```text
//!   pods ──Keys──▶ classes            a cell = (class, class), each asked of the evaluator once
//!   class ──narrow──▶ the cluster with only the policies that can select it
//! ```
//!
//! Narrowing changes no answer: the evaluator passes over a policy that does not select the pod,
//! and the engine's own [`selects`] says which those are.

use std::collections::HashMap;

use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Side, side};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::Pod;
use podwall_policy::policy::Direction;
use podwall_policy::port::PortSet;
use podwall_policy::reason::MissingFact;

use crate::outside::{self, Class};
use crate::podclass::{Key, Keys};

/// What passes between two ends.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Cell {
    /// What certainly passes over each family that both speak.
    pub(crate) passes: PortSet,
    /// What depends on missing facts.
    pub(crate) open: PortSet,
    /// Those facts, sorted; empty if nothing is open.
    pub(crate) missing: Vec<MissingFact>,
    /// What passes over each family, where there are two that differ.
    pub(crate) families: Vec<(Family, PortSet)>,
    /// Whether the ends have a family in common at all.
    pub(crate) possible: bool,
}

/// One end of a cell: what the cell is about, and its class if it is a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    party: Party<'a>,
    class: Option<usize>,
}

impl Node<'_> {
    /// The pod's class.
    pub(crate) fn class(&self) -> Option<usize> {
        self.class
    }
}

/// Answers cells of one cluster.
pub(crate) struct Reach<'a> {
    cluster: &'a Cluster,
    keys: Keys,
    /// The classes of addresses outside.
    pub(crate) outside: Vec<Class>,
    classes: HashMap<Key<'a>, usize>,
    /// For each class of pods the cluster with only the policies that can select it.
    narrowed: Vec<Cluster>,
    /// Cells between classes of pods in which no fact is missing: missing facts name pods.
    known: HashMap<(usize, usize), Cell>,
}

impl<'a> Reach<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        let blocks = outside::blocks(cluster);
        Self {
            cluster,
            outside: outside::classes(&blocks, &outside::taken(cluster)),
            keys: Keys::new(cluster, blocks),
            classes: HashMap::new(),
            narrowed: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// A pod as an end.
    pub(crate) fn pod(&mut self, pod: &'a Pod) -> Node<'a> {
        let key = self.keys.key(pod, false);
        let next = self.classes.len();
        let class = *self.classes.entry(key).or_insert(next);
        if class == next {
            self.narrowed.push(narrow(self.cluster, pod));
        }
        Node { party: Party::Pod(pod), class: Some(class) }
    }

    /// An address outside as an end.
    pub(crate) fn address(class: &Class) -> Node<'a> {
        Node { party: Party::Address(class.example), class: None }
    }

    /// What passes from one end to another; the two must not be the same pod.
    pub(crate) fn cell(&mut self, src: Node<'a>, dst: Node<'a>) -> Cell {
        let classes = src.class.zip(dst.class);
        if let Some(cell) = classes.and_then(|classes| self.known.get(&classes)) {
            return cell.clone();
        }
        let cell = self.ask(src, dst);
        if let Some(classes) = classes
            && cell.missing.is_empty()
        {
            self.known.insert(classes, cell.clone());
        }
        cell
    }

    fn ask(&self, src: Node<'a>, dst: Node<'a>) -> Cell {
        let of = |node: Node<'a>| node.class.map_or(self.cluster, |class| &self.narrowed[class]);
        let flows = Flow::between(src.party, dst.party);
        let mut cell =
            Cell { passes: PortSet::everything(), possible: !flows.is_empty(), ..Cell::default() };
        let mut denied = PortSet::empty();
        let mut missing = Vec::new();
        for flow in &flows {
            let sides: [Side; 2] =
                [side(of(src), flow, Direction::Egress), side(of(dst), flow, Direction::Ingress)];
            let [egress, ingress] = &sides;
            let passes = egress.allowed.intersection(&ingress.allowed);
            cell.passes = cell.passes.intersection(&passes);
            cell.families.push((flow.family, passes));
            denied = denied.union(&egress.denied).union(&ingress.denied);
            missing.extend(sides.into_iter().flat_map(|side| side.missing));
        }
        if flows.is_empty() {
            return Cell::default();
        }
        if cell.families.iter().all(|(_, passes)| *passes == cell.passes) {
            cell.families.clear();
        }
        cell.open = PortSet::everything().difference(&cell.passes).difference(&denied);
        if !cell.open.is_empty() {
            missing.sort();
            missing.dedup();
            cell.missing = missing;
        }
        cell
    }
}

fn narrow(cluster: &Cluster, pod: &Pod) -> Cluster {
    Cluster {
        namespaces: cluster.namespaces.clone(),
        nodes: cluster.nodes.clone(),
        strangers: cluster.strangers.clone(),
        policies: cluster
            .policies
            .iter()
            .filter(|(_, policy)| !matches!(selects(cluster, &policy.subject, pod), Match::No(_)))
            .map(|(key, policy)| (key.clone(), policy.clone()))
            .collect(),
        ..Cluster::default()
    }
}
