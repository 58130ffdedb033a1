//! Who can reach whom, asked again and again while the cluster changes?
//!
//! ```text
//!   put/remove ──▶ objects ─┬─▶ shapes of pods ──meet──▶ selectors ◀──use── policies
//!                           │
//!   between(pod, pod) ──────┴─▶ policies that select the one, rules whose peers the other meets
//!                                    └──▶ the evaluator's walk over tiers ──▶ Passage
//! ```
//!
//! This is the matrix in factored form: what policies say is kept as selectors, and what pods are as
//! the selectors that they meet; a pair is put together when it is asked for. A change costs what
//! it touches and never walks the pods: a pod that moves to other labels meets the selectors that
//! an index finds, a new selector is held against the shapes that carry its labels.
//!
//! What policies mean is not decided here: exemptions, blocks, named ports, missing facts and the
//! walk over tiers are `podwall_policy`'s own, and property tests hold the answers to its
//! evaluator.

mod decide;
pub mod factored;
mod numbers;
mod program;
pub(crate) mod reached;
mod selectors;
mod shapes;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use podwall_policy::address::Family;
use podwall_policy::cluster::{Cluster, Strangers};
use podwall_policy::evaluate::{Evaluation, Verdict, side_among};
use podwall_policy::explain::Question;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::{Name, Namespace, Node, Pod};
use podwall_policy::policy::{Direction, Policy, Tier};
use podwall_policy::port::PortSet;
use podwall_policy::reason::MissingFact;
use rustc_hash::FxHashMap;

use self::program::Program;
pub(crate) use self::selectors::side;
use self::selectors::{PolicySlot, Selectors};
use self::shapes::{Narrow, ShapeId, Shapes};
use crate::combine::worst;

/// What passes between two ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Passage {
    /// What certainly passes over each family that both speak.
    pub passes: PortSet,
    /// What depends on missing facts.
    pub open: PortSet,
    /// Those facts, sorted; empty if nothing is open.
    pub missing: Vec<MissingFact>,
    /// What passes over each family, where there are two that differ.
    pub families: Vec<(Family, PortSet)>,
    /// Whether the ends have a family in common at all.
    pub possible: bool,
}

/// How much an engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Pods that policies can select.
    pub pods: usize,
    /// Distinct (namespace, labels) of these.
    pub shapes: usize,
    /// Namespaces that have such pods.
    pub namespaces: usize,
    /// Distinct labels of such pods.
    pub labels: usize,
    /// Policies that decide something.
    pub policies: usize,
    /// Policies for a dry run.
    pub dry_runs: usize,
    /// Distinct selectors that the others use.
    pub selectors: usize,
    /// Shapes and namespaces that a selector was held against since the engine was made.
    pub walked: usize,
}

/// A cluster's objects, and who can reach whom among them.
///
/// It holds the objects (or borrows them, until the first change) and the indexes that answers are
/// found by. One owner tells it of changes; answers between changes need only `&self`.
#[derive(Debug)]
pub struct Reachability<'a> {
    cluster: Cow<'a, Cluster>,
    selectors: Selectors,
    shapes: Shapes,
    /// The shapes of pods that policies can select.
    pods: FxHashMap<Name, ShapeId>,
    /// By slot.
    programs: Vec<Option<Program>>,
    free: Vec<PolicySlot>,
    slots: FxHashMap<(Tier, Name), PolicySlot>,
    /// Policies that decide nothing.
    dry_runs: BTreeSet<(Tier, Name)>,
}

impl Default for Reachability<'_> {
    fn default() -> Self {
        Self {
            cluster: Cow::Owned(Cluster::default()),
            selectors: Selectors::default(),
            shapes: Shapes::default(),
            pods: FxHashMap::default(),
            programs: Vec::new(),
            free: Vec::new(),
            slots: FxHashMap::default(),
            dry_runs: BTreeSet::new(),
        }
    }
}

impl<'a> Reachability<'a> {
    /// The engine of an empty cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// The engine of a cluster, which is copied at the first change.
    pub fn of(cluster: &'a Cluster) -> Self {
        let mut engine = Self { cluster: Cow::Borrowed(cluster), ..Self::default() };
        engine.build();
        engine
    }

    /// The engine of a cluster that it owns.
    pub fn owning(cluster: Cluster) -> Reachability<'static> {
        let mut engine = Reachability { cluster: Cow::Owned(cluster), ..Reachability::default() };
        engine.build();
        engine
    }

    fn build(&mut self) {
        let Self { cluster, selectors, shapes, pods, programs, slots, dry_runs, .. } = self;
        // Policies first: then each shape asks the index once, and no selector walks the shapes.
        for (key, policy) in &cluster.policies {
            if policy.dry_run {
                dry_runs.insert(key.clone());
                continue;
            }
            let slot = programs.len();
            programs.push(Some(Program::new(policy, slot, cluster, selectors, shapes)));
            slots.insert(key.clone(), slot);
        }
        pods.reserve(cluster.pods.len());
        let mut of: Option<(&Arc<str>, Narrow<'_>)> = None;
        for (name, pod) in cluster.pods.iter().filter(|(_, pod)| pod.is_subject()) {
            let namespace = &name.namespace;
            // Pods come by namespace.
            if of.as_ref().is_none_or(|(its, _)| *its != namespace) {
                of = Some((namespace, Narrow::of(cluster, selectors, namespace)));
            }
            let Some((_, narrow)) = &of else { continue };
            let meets = || narrow.meets(cluster, selectors, namespace, &pod.labels);
            let shape = shapes.enter_with(cluster, selectors, (namespace, &pod.labels), meets);
            pods.insert(name.clone(), shape);
        }
    }

    /// The objects. Nodes, pods and policies for questions are best taken from here.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The objects, without the indexes.
    pub fn into_cluster(self) -> Cluster {
        self.cluster.into_owned()
    }

    /// Sizes.
    pub fn stats(&self) -> Stats {
        Stats {
            pods: self.pods.len(),
            shapes: self.shapes.len(),
            namespaces: self.shapes.namespaces(),
            labels: self.shapes.labels(),
            policies: self.slots.len(),
            dry_runs: self.dry_runs.len(),
            selectors: self.selectors.len(),
            walked: self.shapes.walked,
        }
    }
}

/// Changes: each is in force when the call returns.
impl Reachability<'_> {
    /// A pod comes or changes.
    pub fn put_pod(&mut self, pod: Pod) {
        let name = pod.name.clone();
        let facts = pod.is_subject().then(|| (pod.name.namespace.clone(), pod.labels.clone()));
        self.cluster.to_mut().put_pod(pod);
        // First in, then out: replicas that are changed one by one do not make and lose a shape.
        let shape = facts.map(|(namespace, labels)| {
            self.shapes.enter(&self.cluster, &self.selectors, &namespace, &labels)
        });
        let before = match shape {
            Some(shape) => self.pods.insert(name, shape),
            None => self.pods.remove(&name),
        };
        if let Some(before) = before {
            self.shapes.leave(before);
        }
    }

    /// A pod goes.
    pub fn remove_pod(&mut self, name: &Name) {
        self.cluster.to_mut().pods.remove(name);
        if let Some(shape) = self.pods.remove(name) {
            self.shapes.leave(shape);
        }
    }

    /// A namespace comes or changes.
    pub fn put_namespace(&mut self, namespace: Namespace) {
        let name = namespace.name.clone();
        let before = self.cluster.namespaces.get(&name).cloned();
        self.cluster.to_mut().put_namespace(namespace);
        self.namespace_changed(&name, before.as_ref());
    }

    /// Nobody states a namespace any more; of its pods only its name is known then.
    pub fn remove_namespace(&mut self, name: &str) {
        if let Some(before) = self.cluster.to_mut().namespaces.remove(name) {
            self.namespace_changed(&before.name, Some(&before));
        }
    }

    fn namespace_changed(&mut self, name: &Arc<str>, before: Option<&Namespace>) {
        let after = self.cluster.namespaces.get(name);
        let known = |its: Option<&Namespace>| its.is_some_and(|its| its.labels_known);
        let same = match (before, after) {
            (Some(before), Some(after)) if known(Some(before)) && known(Some(after)) => {
                let differ = |a, b| {
                    self.selectors.narrow.tells_apart(a, b)
                        || self.selectors.broad.tells_apart(a, b)
                };
                !differ(&before.labels, &after.labels)
            }
            // Of one that nobody states nothing but its name is known, before and after.
            _ => !known(before) && !known(after),
        };
        if !same {
            self.shapes.refresh(&self.cluster, &self.selectors, name);
        }
    }

    /// A policy comes or changes.
    pub fn put_policy(&mut self, policy: Policy) {
        let key = (policy.tier, policy.name.clone());
        self.cluster.to_mut().put_policy(policy);
        let Some(policy) = self.cluster.policies.get(&key) else { return };
        let program = (!policy.dry_run).then(|| {
            let slot = self.free.pop().unwrap_or_else(|| {
                self.programs.push(None);
                self.programs.len() - 1
            });
            let (selectors, shapes) = (&mut self.selectors, &mut self.shapes);
            (slot, Program::new(policy, slot, &self.cluster, selectors, shapes))
        });
        // First in, then out: selectors that stay are not taken apart.
        self.release(&key);
        match program {
            Some((slot, program)) => {
                self.programs[slot] = Some(program);
                self.slots.insert(key, slot);
            }
            None => drop(self.dry_runs.insert(key)),
        }
    }

    /// A policy goes.
    pub fn remove_policy(&mut self, tier: Tier, name: &Name) {
        let key = (tier, name.clone());
        self.cluster.to_mut().policies.remove(&key);
        self.release(&key);
    }

    fn release(&mut self, key: &(Tier, Name)) {
        self.dry_runs.remove(key);
        let Some(slot) = self.slots.remove(key) else { return };
        if let Some(program) = self.programs.get_mut(slot).and_then(Option::take) {
            program.release(slot, &self.cluster, &mut self.selectors, &mut self.shapes);
        }
        self.free.push(slot);
    }

    /// A node comes or changes.
    pub fn put_node(&mut self, node: Node) {
        self.cluster.to_mut().put_node(node);
    }

    /// A node goes.
    pub fn remove_node(&mut self, name: &str) {
        self.cluster.to_mut().nodes.remove(name);
    }

    /// A node isolates other addresses that nobody knows.
    pub fn set_strangers(&mut self, node: Arc<str>, strangers: Strangers) {
        self.cluster.to_mut().strangers.insert(node, strangers);
    }
}

/// Questions.
impl Reachability<'_> {
    /// What passes between two pods; `None` if one of them is not there.
    pub fn between(&self, src: &Name, dst: &Name) -> Option<Passage> {
        let (src, dst) = (self.cluster.pods.get(src)?, self.cluster.pods.get(dst)?);
        Some(self.passage(Party::Pod(src), Party::Pod(dst)))
    }

    /// What passes between two ends. A pod need not be one of the cluster: it is asked about as if
    /// it were.
    pub fn passage(&self, src: Party<'_>, dst: Party<'_>) -> Passage {
        let flows = Flow::between(src, dst);
        Passage::of(flows.iter().map(|flow| {
            let sides = Direction::BOTH.map(|direction| self.side(flow, direction));
            (flow.family, sides)
        }))
    }

    /// The verdict on a question, the worst of the families that both ends speak; `None` if they
    /// have none in common.
    pub fn verdict(&self, src: Party<'_>, dst: Party<'_>, question: Question) -> Option<Verdict> {
        let flows = Flow::between(src, dst);
        let verdicts = flows.iter().map(|flow| {
            let [egress, ingress] = Direction::BOTH.map(|direction| self.side(flow, direction));
            let allowed = egress.allowed.intersection(&ingress.allowed);
            question.answer(&allowed, &egress.denied.union(&ingress.denied))
        });
        (!flows.is_empty()).then(|| worst(verdicts))
    }

    /// Both sides of a flow as the evaluator explains them, asked of the policies alone that select
    /// one of its ends.
    pub fn evaluate(&self, flow: &Flow<'_>) -> Evaluation {
        let side = |direction| {
            let subject = match direction {
                Direction::Egress => flow.src,
                Direction::Ingress => flow.dst,
            };
            let policies = subject.subject().map(|pod| self.policies_of(pod)).unwrap_or_default();
            side_among(&self.cluster, policies, flow, direction)
        };
        Evaluation { egress: side(Direction::Egress), ingress: side(Direction::Ingress) }
    }

    /// The policies that select a pod, certainly or perhaps, by tier and name; dry runs too.
    pub fn policies_of(&self, pod: &Pod) -> Vec<&Policy> {
        let mut keys: BTreeSet<(Tier, &Name)> = BTreeSet::new();
        self.with_subject(pod, |subject| {
            let programs = subject.policies().filter_map(|(slot, _)| self.program(slot));
            keys.extend(programs.map(|program| (program.tier, &program.name)));
        });
        let policy = |key: &(Tier, Name)| self.cluster.policies.get(key);
        let dry_runs = self.dry_runs.iter().filter(|key| {
            let subject = policy(key).map(|policy| &policy.subject);
            subject.is_some_and(|its| !matches!(selects(&self.cluster, its, pod), Match::No(_)))
        });
        keys.extend(dry_runs.map(|(tier, name)| (*tier, name)));
        keys.into_iter().filter_map(|(tier, name)| policy(&(tier, name.clone()))).collect()
    }

    fn program(&self, slot: PolicySlot) -> Option<&Program> {
        self.programs.get(slot)?.as_ref()
    }
}
