//! What passes between two ends, over each family?
//!
//! ```text
//!   pods ──Keys──▶ classes      (class, class) ──▶ flows: what passes, what does not, what is missing
//! ```
//!
//! The engine's answer, as the matrix has it, but families stay apart: an assertion that something
//! passes must hold over each, and so must one that nothing does.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use podwall_policy::address::{AddressSet, Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Exempt, Setting, setting};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::{Name, Phase, Pod};
use podwall_policy::policy::Direction;
use podwall_policy::port::PortSet;
use podwall_policy::reason::MissingFact;
use podwall_policy::walk::Decided;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::blocks::Blocks;
use crate::can::End;
use crate::outside;
use crate::podclass::{Key, Keys};
use crate::reachability::Reachability;

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

/// What of an end decides an answer, as a number.
pub(super) type EndKey = u32;

/// A number that no end has.
pub(super) const NOBODY: EndKey = EndKey::MAX;

/// An end that is no pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Other {
    Node(Arc<str>),
    /// In these blocks: whatever piece it stands for, policies see no other address of them.
    Outside(Family, Vec<u32>),
    /// One that means something by itself.
    Single(IpAddr),
}

/// An engine in which somebody changes policies between two questions.
pub(super) type Shared = Rc<RefCell<Reachability<'static>>>;

enum Engine<'a> {
    Own(Box<Reachability<'a>>),
    Shared(Shared),
}

/// Answers for one cluster; remembers what it was asked.
pub(super) struct Asker<'a> {
    pub(super) cluster: &'a Cluster,
    engine: Engine<'a>,
    /// Where only some pairs are of interest, those.
    only: Option<FxHashSet<(EndKey, EndKey)>>,
    blocks: Vec<IpBlock>,
    index: Blocks,
    taken: BTreeSet<IpAddr>,
    keys: Keys,
    classes: FxHashMap<Key<'a>, EndKey>,
    class_of: FxHashMap<&'a Name, EndKey>,
    others: FxHashMap<Other, EndKey>,
    known: FxHashMap<(EndKey, EndKey), Rc<[FlowAnswer]>>,
    /// Each distinct answer once: there are few, and many pairs.
    answers: FxHashSet<Rc<[FlowAnswer]>>,
}

impl<'a> Asker<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        let engine = Engine::Own(Box::new(Reachability::of(cluster)));
        Self::with(cluster, engine, outside::blocks(cluster))
    }

    /// Tells addresses apart that policies could, were their blocks without exceptions.
    pub(super) fn fine(cluster: &'a Cluster) -> Self {
        let engine = Engine::Own(Box::new(Reachability::of(cluster)));
        Self::with(cluster, engine, fine(cluster))
    }

    /// Asks an engine whose policies change, of the same objects; see [`Self::forget`].
    pub(super) fn shared(cluster: &'a Cluster, engine: &Shared) -> Self {
        Self::with(cluster, Engine::Shared(engine.clone()), fine(cluster))
    }

    fn with(cluster: &'a Cluster, engine: Engine<'a>, blocks: Vec<IpBlock>) -> Self {
        Self {
            cluster,
            taken: outside::taken(cluster),
            keys: Keys::new(cluster, Blocks::new(blocks.clone())),
            index: Blocks::new(blocks.clone()),
            blocks,
            classes: FxHashMap::default(),
            others: FxHashMap::default(),
            class_of: FxHashMap::default(),
            engine,
            only: None,
            known: FxHashMap::default(),
            answers: FxHashSet::default(),
        }
    }

    fn side(&self, flow: &Flow<'_>, direction: Direction) -> Decided {
        match &self.engine {
            Engine::Own(own) => own.side(flow, direction),
            Engine::Shared(shared) => shared.borrow().side(flow, direction),
        }
    }

    /// From now on only pairs of these kinds are of interest.
    pub(super) fn look_at(&mut self, pairs: FxHashSet<(EndKey, EndKey)>) {
        self.only = Some(pairs);
    }

    /// Forgets the answers, because policies have changed.
    pub(super) fn forget(&mut self) {
        self.only = None;
        self.known.clear();
        self.answers.clear();
    }

    /// Whether a pair is of interest.
    pub(super) fn is_looked_at(&mut self, src: &End<'a>, dst: &End<'a>) -> bool {
        if self.only.is_none() {
            return true;
        }
        let pair = (self.key(src), self.key(dst));
        self.only.as_ref().is_none_or(|only| only.contains(&pair))
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
    pub(super) fn class(&mut self, pod: &'a Pod) -> EndKey {
        if let Some(class) = self.class_of.get(&pod.name) {
            return *class;
        }
        // A node may be the other end, so the pod's own node matters.
        let key = self.keys.key(pod, !self.cluster.nodes.is_empty());
        let next = self.next();
        let class = *self.classes.entry(key).or_insert(next);
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
        let next = self.next();
        let other = match end {
            End::Pod(pod) => return self.class(pod),
            End::Node(node) => Other::Node(node.name.clone()),
            End::Outside(class) => {
                let (address, cluster) = (class.example, self.cluster);
                let ordinary = cluster.strangers.is_empty()
                    && !address.is_loopback()
                    && cluster.node_by_ip(address).is_none();
                if ordinary {
                    Other::Outside(Family::of(address), self.index.of(address))
                } else {
                    Other::Single(address)
                }
            }
        };
        *self.others.entry(other).or_insert(next)
    }

    fn next(&self) -> EndKey {
        EndKey::try_from(self.classes.len() + self.others.len()).unwrap_or(NOBODY)
    }

    /// What passes from one end to another, which must not be the same pod. Empty if they have no
    /// family in common.
    pub(super) fn flows(&mut self, src: &End<'a>, dst: &End<'a>) -> Rc<[FlowAnswer]> {
        let key = (self.key(src), self.key(dst));
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let flows = Flow::between(src.party(), dst.party());
        let answers: Vec<FlowAnswer> = flows.iter().map(|flow| self.ask(flow)).collect();
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

    fn ask(&self, flow: &Flow<'_>) -> FlowAnswer {
        let family = flow.family;
        let ingress = self.side(flow, Direction::Ingress);
        if ingress.denied.is_everything() {
            // Whatever the other side says.
            let (allowed, denied) = (PortSet::empty(), ingress.denied);
            return FlowAnswer { family, allowed, denied, missing: Vec::new(), own_node: false };
        }
        let egress = self.side(flow, Direction::Egress);
        let allowed = egress.allowed.intersection(&ingress.allowed);
        let denied = egress.denied.union(&ingress.denied);
        let mut missing = Vec::new();
        if !allowed.union(&denied).is_everything() {
            missing.extend(egress.missing);
            missing.extend(ingress.missing);
            missing.sort();
            missing.dedup();
        }
        let own_node = ingress.allowed.is_everything()
            && setting(self.cluster, flow, Direction::Ingress) == Setting::Open(Exempt::OwnNode);
        FlowAnswer { family, allowed, denied, missing, own_node }
    }

    /// The policies that isolate a pod in a direction.
    pub(super) fn isolates(&self, pod: &'a Pod, direction: Direction) -> Vec<Name> {
        let mut names = Vec::new();
        for family in Family::BOTH {
            let stranger = match family {
                Family::V4 => IpAddr::from([203, 0, 113, 1]),
                Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            };
            let (own, other) = (Party::Pod(pod), Party::Address(stranger));
            let (src, dst) =
                if direction == Direction::Egress { (own, other) } else { (other, own) };
            let flow = Flow { src, dst, family };
            let said = match &self.engine {
                Engine::Own(own) => own.evaluate(&flow),
                Engine::Shared(shared) => shared.borrow().evaluate(&flow),
            };
            let side = if direction == Direction::Egress { said.egress } else { said.ingress };
            names.extend(side.isolated_by);
        }
        names.sort();
        names.dedup();
        names
    }
}

/// Every block of the policies, and each without its exceptions.
fn fine(cluster: &Cluster) -> Vec<IpBlock> {
    let mut blocks = outside::blocks(cluster);
    let whole = |block: &IpBlock| IpBlock { except: Vec::new(), ..block.clone() };
    let wide: Vec<IpBlock> = blocks.iter().map(whole).collect();
    blocks.extend(wide);
    blocks.sort();
    blocks.dedup();
    blocks
}
