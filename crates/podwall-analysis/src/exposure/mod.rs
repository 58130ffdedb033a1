//! Who could come in, and where could it go, beyond the pods that there are?
//!
//! ```text
//!   a workload's own policies ─▶ scopes in use ─▶ a pod for each, that nobody has made
//!                             └▶ blocks in use ─▶ an address for each, and a node
//!                                                   └──evaluator──▶ Way: who, ports, rules
//! ```
//!
//! Exposure is what the workload's own policies leave open. What the other end's policies hold back
//! is no protection: a namespace without policies can be made, and pods of it with any labels. So a
//! pod that does not exist passes where its own policies let it and a [`Way`] of the other end says
//! so, and nowhere else; a property test holds this to the evaluator.

mod ask;
mod attach;
mod candidates;
mod controllers;
mod crowd;
mod into;
mod nodes;
pub mod paths;
mod today;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use podwall_policy::address::{AddressSet, Family};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Name, Namespace, Phase, Pod};
use podwall_policy::policy::{Direction, RuleRef};
use podwall_policy::port::{PortSet, Protocol};
use podwall_policy::reason::MissingFact;

use self::ask::{Asker, Shape};
pub use self::candidates::ANY_POD;
pub use self::crowd::Crowd;
pub use self::into::paths_into;
pub use self::paths::{Outcome, Path};
use self::today::Census;
pub use self::today::Today;
use crate::reachability::Reachability;

/// The name of a node that there is not.
pub const ANOTHER_NODE: &str = "another-node";

/// Every workload's exposure, the most dangerous first.
#[derive(Clone, Debug)]
pub struct Exposure<'a> {
    /// Workloads, and pods without one; those that have ended are left out.
    pub workloads: Vec<Exposed<'a>>,
    /// Paths from outside that lead to no pod.
    pub loose: Vec<Path>,
}

/// What a workload leaves open.
#[derive(Clone, Debug)]
pub struct Exposed<'a> {
    /// `NAMESPACE/KIND/NAME` or `NAMESPACE/POD`.
    pub label: String,
    /// Its pods, never empty.
    pub pods: Vec<&'a Pod>,
    /// Whether it uses its nodes' network, so that no policy protects it.
    pub host_network: bool,
    /// Who could come in and where it could go, the most dangerous first.
    pub ways: Vec<Way>,
    /// Paths from outside to its pods, those that work first.
    pub paths: Vec<Path>,
}

/// One way in or out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// In: ingress; out: egress.
    pub direction: Direction,
    /// Who could come in, or who could be reached.
    pub who: Who,
    /// What certainly passes the workload's own side for each of them, over each family.
    pub ports: PortSet,
    /// What passes over each family, where that differs.
    pub families: Vec<(Family, PortSet)>,
    /// What depends on missing facts.
    pub open: PortSet,
    /// Those facts. The pod that they name may be [`ANY_POD`], the node [`ANOTHER_NODE`].
    pub missing: Vec<MissingFact>,
    /// Names of ports that are looked up on the other end: whatever it calls so passes, too.
    pub names: Vec<(Arc<str>, Protocol)>,
    /// The rules that let all of them pass; none where no policy isolates the workload.
    pub rules: Vec<RuleRef>,
    /// Whether only some of the workload's pods are open to them.
    pub partly: bool,
    /// The pods of the cluster that are such pods now, those of the workload itself left out.
    pub today: Today,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Pods, those included that do not exist.
    Pods(Crowd),
    /// Addresses outside.
    Outside(AddressSet),
    /// A node other than the pod's own, whose traffic is always let in.
    Node,
}

/// How many could be at the other end, the most dangerous first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Breadth {
    /// Addresses of the internet are among them.
    Internet,
    /// Any pod of any namespace.
    Cluster,
    /// Pods of any namespace with labels that whoever makes a pod can give it.
    Labels,
    /// Pods of namespaces that are chosen by their labels.
    Namespaces,
    /// Addresses outside, none of the internet.
    Outside,
    /// Another node.
    Node,
    /// Any pod of one namespace.
    Namespace,
    /// Pods with certain labels of one namespace.
    Pods,
}

impl Way {
    /// How many could be at the other end.
    pub fn breadth(&self) -> Breadth {
        let crowd = match &self.who {
            Who::Node => return Breadth::Node,
            Who::Outside(addresses) => {
                let public = !addresses.intersection(&crate::outside::public()).is_empty();
                return if public { Breadth::Internet } else { Breadth::Outside };
            }
            Who::Pods(crowd) => crowd,
        };
        let everybody = crowd.scope.pods.is_everything() && crowd.also.is_empty();
        match (crowd.in_any_namespace(), crowd.namespace()) {
            (true, _) if everybody => Breadth::Cluster,
            (true, _) => Breadth::Labels,
            (false, None) => Breadth::Namespaces,
            (false, Some(_)) if everybody => Breadth::Namespace,
            (false, Some(_)) => Breadth::Pods,
        }
    }

    /// Whether anything certainly passes, over any family.
    pub fn passes(&self) -> bool {
        !self.ports.is_empty()
            || !self.names.is_empty()
            || self.families.iter().any(|(_, set)| !set.is_empty())
    }

    /// The place in the order of danger.
    fn danger(&self) -> (bool, Breadth, bool, u32) {
        let passes = self.families.iter().fold(self.ports.clone(), |all, (_, set)| all.union(set));
        let size: u32 = passes.iter().map(|(_, range)| width(range.first, range.last)).sum();
        (self.direction == Direction::Egress, self.breadth(), !self.passes(), u32::MAX - size)
    }
}

fn width(first: u16, last: u16) -> u32 {
    u32::from(last) - u32::from(first) + 1
}

impl Exposed<'_> {
    /// What passes this side for a pod that has no address yet, certainly and perhaps, if its
    /// namespace has these labels: all ways that it could take, together.
    pub fn for_pod(
        &self,
        direction: Direction,
        namespace: &Namespace,
        pod: &Pod,
    ) -> (PortSet, PortSet) {
        let (mut passes, mut open) = (PortSet::empty(), PortSet::empty());
        for way in self.ways.iter().filter(|way| way.direction == direction) {
            if matches!(&way.who, Who::Pods(crowd) if crowd.contains(namespace, pod)) {
                passes = passes.union(&way.ports);
                open = open.union(&way.open);
            }
        }
        (passes.clone(), open.difference(&passes))
    }
}

/// What every workload leaves open, and the paths from outside to it. `controller` are the pods that
/// serve Ingresses and Gateways, where that is known.
pub fn exposure<'a>(cluster: &'a Cluster, controller: &[&Pod]) -> Exposure<'a> {
    let engine = Reachability::of(cluster);
    let mut asker = Asker::new(&engine);
    let mut census = Census::of(cluster);
    let mut known: HashMap<Shape<'a>, Vec<Way>> = HashMap::new();
    let mut workloads = Vec::new();
    for (label, pods) in rows(cluster) {
        let mut shapes: Vec<Shape<'a>> = Vec::new();
        for pod in &pods {
            let shape = Shape::of(pod);
            if shapes.contains(&shape) {
                continue;
            }
            known.entry(shape.clone()).or_insert_with(|| {
                let both = [Direction::Ingress, Direction::Egress];
                both.iter().flat_map(|direction| asker.ways(pod, *direction)).collect()
            });
            shapes.push(shape);
        }
        let of_shapes = shapes.iter().filter_map(|shape| known.get(shape));
        let mut ways = together(&of_shapes.collect::<Vec<_>>());
        for way in &mut ways {
            if let Who::Pods(crowd) = &way.who {
                way.today = census.of_crowd(crowd, &pods);
            }
        }
        ways.sort_by_cached_key(Way::danger);
        let host_network = pods.iter().all(|pod| pod.host_network);
        workloads.push(Exposed { label, pods, host_network, ways, paths: Vec::new() });
    }
    let loose = paths::paths(&engine, &mut workloads, controller, None);
    workloads.sort_by_cached_key(|workload| {
        let dangers: Vec<_> = workload.ways.iter().map(Way::danger).collect();
        let path = workload.paths.iter().map(|path| path.outcome.danger()).min();
        // What leads in counts first, then what would let it in; those without any are the safest.
        let works = path.filter(|danger| *danger < Outcome::Shut.danger());
        (works.is_none(), works, dangers.is_empty(), dangers, workload.label.clone())
    });
    Exposure { workloads, loose }
}

/// A missing fact; those of pods and nodes that do not exist have no name.
pub fn fact(fact: &MissingFact) -> String {
    match fact {
        MissingFact::PodAddress { pod, family } if *pod.name == *ANY_POD => {
            format!("the {family} address that such a pod gets")
        }
        MissingFact::NodeAddress { node } if **node == *ANOTHER_NODE => {
            "the address that such a node has".to_owned()
        }
        _ => fact.to_string(),
    }
}

/// Workloads with their pods; a pod without one stands alone.
fn rows(cluster: &Cluster) -> BTreeMap<String, Vec<&Pod>> {
    let mut rows: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
    for pod in cluster.pods.values().filter(|pod| pod.phase == Phase::Alive) {
        rows.entry(label(pod)).or_default().push(pod);
    }
    rows
}

/// What the pod's row is called.
fn label(pod: &Pod) -> String {
    let Name { namespace, name } = &pod.name;
    match &pod.owner {
        Some(owner) => format!("{namespace}/{}/{}", owner.kind, owner.name),
        None => format!("{namespace}/{name}"),
    }
}

/// The ways of pods of one workload; those that not all of them have are marked.
fn together(of_pods: &[&Vec<Way>]) -> Vec<Way> {
    let [first, rest @ ..] = of_pods else { return Vec::new() };
    let mut out: Vec<Way> = (*first).clone();
    let mut known: HashMap<(Direction, &Who), usize> = HashMap::new();
    for (at, way) in first.iter().enumerate() {
        known.entry((way.direction, &way.who)).or_insert(at);
    }
    for ways in rest {
        let mut found = vec![false; out.len()];
        for way in *ways {
            match known.get(&(way.direction, &way.who)).copied() {
                Some(at) => {
                    if let Some(found) = found.get_mut(at) {
                        *found = true;
                    }
                    merge(&mut out[at], way);
                }
                None => {
                    known.insert((way.direction, &way.who), out.len());
                    out.push(Way { partly: true, ..way.clone() });
                }
            }
        }
        for (way, _) in out.iter_mut().zip(found).filter(|(_, found)| !found) {
            way.partly = true;
        }
    }
    out
}

fn merge(sum: &mut Way, way: &Way) {
    sum.partly |= sum.ports != way.ports || sum.families != way.families;
    sum.ports = sum.ports.union(&way.ports);
    for (family, set) in &way.families {
        match sum.families.iter_mut().find(|(of, _)| of == family) {
            Some((_, all)) => *all = all.union(set),
            None => sum.families.push((*family, set.clone())),
        }
    }
    sum.open = sum.open.union(&way.open).difference(&sum.ports);
    for fact in &way.missing {
        if !sum.missing.contains(fact) {
            sum.missing.push(fact.clone());
        }
    }
    for name in &way.names {
        if !sum.names.contains(name) {
            sum.names.push(name.clone());
        }
    }
    for rule in &way.rules {
        if !sum.rules.contains(rule) {
            sum.rules.push(rule.clone());
        }
    }
}
