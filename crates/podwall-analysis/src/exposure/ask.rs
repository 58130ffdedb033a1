//! What do the policies of one pod leave open?
//!
//! ```text
//!   policies that select it ─▶ scopes of rules that allow ── a group of strangers each ─┐
//!                           └▶ scopes of rules that deny: they part the groups          ├▶ evaluator
//!                           └▶ blocks: classes of addresses ────────────────────────────┘
//! ```
//!
//! Rules that allow only add up, so it is enough to know what each scope of theirs opens: a pod that
//! meets two has what both open. Rules that deny or pass do not, so strangers that they treat
//! differently are told apart.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::address::{AddressRange, Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Side, side_among, side_among_rules};
use podwall_policy::explain::Question;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::label::{Labels, METADATA_NAME};
use podwall_policy::matching::Match;
use podwall_policy::object::{Node, Pod};
use podwall_policy::policy::{Action, Direction, NamespaceScope, Peer, PodScope, Policy, RuleRef};
use podwall_policy::port::{ContainerPort, PortSet, Protocol};
use podwall_policy::reason::{MissingFact, Reason};
use podwall_policy::selector::{Operator, Requirement, Selector};
use rustc_hash::{FxHashMap, FxHashSet};

use super::candidates::{Candidates, Stranger};
use super::crowd::{Crowd, meets};
use super::today::Today;
use super::{ANOTHER_NODE, Way, Who};
use crate::blocks::Blocks;
use crate::outside;
use crate::reachability::Reachability;

/// What of a pod its own side of a flow depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape<'a> {
    namespace: &'a str,
    labels: &'a Labels,
    host_network: bool,
    named_ports: Vec<&'a ContainerPort>,
    families: [bool; 2],
    states_address: bool,
}

impl<'a> Shape<'a> {
    pub(super) fn of(pod: &'a Pod) -> Self {
        Self {
            namespace: &pod.name.namespace,
            labels: &pod.labels,
            host_network: pod.host_network,
            named_ports: pod.ports.iter().filter(|port| port.name.is_some()).collect(),
            families: Family::BOTH.map(|family| Party::Pod(pod).speaks(family)),
            states_address: !pod.ips.is_empty(),
        }
    }
}

/// Asks the evaluator about ends that do not exist.
pub(super) struct Asker<'e> {
    engine: &'e Reachability<'e>,
    /// The namespaces and nodes of the cluster; strangers' namespaces come and go.
    world: Cluster,
    /// Addresses of pods and nodes.
    taken: BTreeSet<IpAddr>,
    node: Node,
}

/// What one stranger gets, or what all of a group get.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Answer {
    passes: PortSet,
    families: Vec<(Family, PortSet)>,
    open: PortSet,
    missing: Vec<MissingFact>,
    names: Vec<(Arc<str>, Protocol)>,
    rules: Vec<RuleRef>,
}

/// A pod, and what its policies look at in one direction.
struct Subject<'s> {
    pod: &'s Pod,
    direction: Direction,
    policies: Vec<&'s Policy>,
    rules: Rules<'s>,
}

/// A rule: the place of its policy, and its own among the policy's.
type Place = (usize, usize);

/// Which rules speak of whom, so that an end is asked only about those that may be about it.
struct Rules<'s> {
    /// Those for anybody.
    anybody: Vec<Place>,
    /// Those with blocks, by block.
    by_block: FxHashMap<&'s IpBlock, Vec<Place>>,
    /// Those with scopes, by scope.
    by_scope: FxHashMap<&'s PodScope, Vec<Place>>,
}

impl<'e> Asker<'e> {
    pub(super) fn new(engine: &'e Reachability<'e>) -> Self {
        let cluster = engine.cluster();
        let (namespaces, nodes) = (cluster.namespaces.clone(), cluster.nodes.clone());
        Self {
            engine,
            world: Cluster { namespaces, nodes, ..Cluster::default() },
            taken: outside::taken(cluster),
            node: Node {
                name: ANOTHER_NODE.into(),
                labels: Labels::default(),
                addresses: Vec::new(),
                pod_cidrs: Vec::new(),
                source: None,
            },
        }
    }

    /// What the pod leaves open in one direction.
    pub(super) fn ways(&mut self, pod: &Pod, direction: Direction) -> Vec<Way> {
        // On a node, so that another node is another one.
        let mut placed = pod.clone();
        placed.node.get_or_insert_with(|| "its-node".into());
        let mut policies = self.engine.policies_of(pod);
        policies.retain(|policy| !policy.dry_run && policy.rules(direction).is_some());
        let rules = Rules::of(&policies, direction);
        let subject = Subject { pod: &placed, direction, policies, rules };
        let mut ways = self.pods(&subject);
        ways.extend(self.outside(&subject));
        let node = self.node.clone();
        if let Some(answer) = self.ask(&subject, Party::Node(&node), None) {
            ways.push(answer.into_way(direction, Who::Node));
        }
        ways.retain(|way| way.passes() || !way.open.is_empty());
        ways
    }

    /// Ways of pods.
    fn pods(&mut self, subject: &Subject<'_>) -> Vec<Way> {
        let (opening, parting) = subject.scopes();
        let all: Vec<PodScope> = opening.iter().chain(&parting).cloned().collect();
        let cluster = self.engine.cluster();
        let candidates = Candidates::new(cluster, &subject.pod.name.namespace, &all);
        let mut ways: Vec<Way> = Vec::new();
        for scope in opening {
            let groups = self.groups(subject, candidates.meeting(&scope), &all, &parting);
            let alike = groups
                .iter()
                .all(|(_, answer)| groups.first().is_some_and(|(_, first)| first.opens_as(answer)));
            if alike {
                let answers = groups.into_iter().map(|(_, answer)| answer);
                if let Some(answer) = answers.reduce(Answer::common) {
                    let who = Who::Pods(Crowd::of(scope));
                    ways.push(answer.into_way(subject.direction, who));
                }
                continue;
            }
            let varies = |at: usize| {
                let first = groups.first().and_then(|(met, _)| met.get(at));
                groups.iter().any(|(met, _)| met.get(at) != first)
            };
            let telling: Vec<usize> = (0..parting.len()).filter(|at| varies(*at)).collect();
            for (met, answer) in &groups {
                let mut crowd = Crowd::of(scope.clone());
                for at in &telling {
                    let list = if met[*at] { &mut crowd.also } else { &mut crowd.except };
                    list.push(parting[*at].clone());
                }
                let way = answer.clone().into_way(subject.direction, Who::Pods(crowd));
                ways.push(way);
            }
        }
        without_narrower(ways)
    }

    /// What strangers get, by what of the scopes that part them they meet.
    fn groups(
        &mut self,
        subject: &Subject<'_>,
        strangers: Vec<Stranger>,
        all: &[PodScope],
        parting: &[PodScope],
    ) -> Vec<(Vec<bool>, Answer)> {
        let mut groups: Vec<(Vec<bool>, Answer)> = Vec::new();
        for Stranger { namespace, pod, meets: its } in strangers {
            // What labels nobody states may meet is only known when each rule is asked.
            let rules = namespace.labels_known.then(|| {
                let scopes = its.iter().filter_map(|place| all.get(*place));
                subject.rules.about_pod(scopes)
            });
            let met: Vec<bool> =
                parting.iter().map(|scope| meets(scope, &namespace, &pod)).collect();
            let name = namespace.name.clone();
            let before = self.world.namespaces.insert(name.clone(), namespace);
            let answer = self.ask(subject, Party::Pod(&pod), rules);
            match before {
                Some(before) => drop(self.world.namespaces.insert(name, before)),
                None => drop(self.world.namespaces.remove(&name)),
            }
            let Some(answer) = answer else { continue };
            match groups.iter_mut().find(|(its, _)| *its == met) {
                Some((_, sum)) => *sum = sum.clone().common(answer),
                None => groups.push((met, answer)),
            }
        }
        groups
    }

    /// Ways of addresses outside: those that rules treat alike are together.
    fn outside(&mut self, subject: &Subject<'_>) -> Vec<Way> {
        let blocks = Blocks::new(subject.blocks());
        let mut groups: Vec<(Answer, Vec<AddressRange>)> = Vec::new();
        let mut known: HashMap<Answer, usize> = HashMap::new();
        for class in outside::classes(blocks.list(), &self.taken) {
            let around = blocks.of(class.example);
            let around = around.iter().filter_map(|number| blocks.list().get(*number as usize));
            let rules = subject.rules.about_address(around);
            let example = Party::Address(class.example);
            let Some(answer) = self.ask(subject, example, Some(rules)) else { continue };
            let at = *known.entry(answer).or_insert_with_key(|answer| {
                groups.push((answer.clone(), Vec::new()));
                groups.len() - 1
            });
            groups[at].1.extend(class.addresses.ranges());
        }
        let way = |(answer, ranges): (Answer, Vec<AddressRange>)| {
            answer.into_way(subject.direction, Who::Outside(ranges.into_iter().collect()))
        };
        groups.into_iter().map(way).collect()
    }

    /// What the pod's side lets pass; `None` if the two have no family in common. With places only
    /// those rules are asked: no other has the peer.
    fn ask(
        &self,
        subject: &Subject<'_>,
        peer: Party<'_>,
        rules: Option<Vec<Place>>,
    ) -> Option<Answer> {
        let Subject { pod, direction, policies, .. } = subject;
        let (src, dst) = match direction {
            Direction::Egress => (Party::Pod(pod), peer),
            Direction::Ingress => (peer, Party::Pod(pod)),
        };
        let rules = rules.map(|rules| {
            let mut of_policies: Vec<Vec<usize>> = vec![Vec::new(); policies.len()];
            for (policy, rule) in rules {
                of_policies[policy].push(rule);
            }
            of_policies
        });
        let flows = Flow::between(src, dst);
        let sides = flows.iter().map(|flow| {
            let all = policies.iter().copied();
            let side = match &rules {
                None => side_among(&self.world, all, flow, *direction),
                Some(rules) => {
                    let some = all.zip(rules.iter().map(|places| &places[..]));
                    side_among_rules(&self.world, some, flow, *direction)
                }
            };
            (flow.family, side)
        });
        Answer::of(&sides.collect::<Vec<_>>())
    }
}

impl<'s> Rules<'s> {
    fn of(policies: &[&'s Policy], direction: Direction) -> Self {
        let mut found = Self {
            anybody: Vec::new(),
            by_block: FxHashMap::default(),
            by_scope: FxHashMap::default(),
        };
        for (at, policy) in policies.iter().enumerate() {
            for (number, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                let place = (at, number);
                if rule.peers.is_empty() {
                    found.anybody.push(place);
                }
                for peer in &rule.peers {
                    match peer {
                        Peer::Pods(scope) => found.by_scope.entry(scope).or_default().push(place),
                        Peer::Block(block) => found.by_block.entry(block).or_default().push(place),
                    }
                }
            }
        }
        found
    }

    /// The rules that may have a pod without an address that meets these scopes, ascending. Every
    /// block may: nobody knows the address.
    fn about_pod<'p>(&self, scopes: impl Iterator<Item = &'p PodScope>) -> Vec<Place> {
        let named = scopes.filter_map(|scope| self.by_scope.get(scope)).flatten();
        in_order(named.chain(self.by_block.values().flatten()).chain(&self.anybody))
    }

    /// The rules that have an address of the outside in these blocks, ascending.
    fn about_address<'p>(&self, blocks: impl Iterator<Item = &'p IpBlock>) -> Vec<Place> {
        let around = blocks.filter_map(|block| self.by_block.get(block)).flatten();
        in_order(around.chain(&self.anybody))
    }
}

fn in_order<'p>(places: impl Iterator<Item = &'p Place>) -> Vec<Place> {
    let mut places: Vec<Place> = places.copied().collect();
    places.sort_unstable();
    places.dedup();
    places
}

impl Subject<'_> {
    /// The scopes of rules that allow, everybody first, and of rules that do not; each once.
    fn scopes(&self) -> (Vec<PodScope>, Vec<PodScope>) {
        let (mut opening, mut parting) = (vec![Crowd::everybody().scope], Vec::new());
        let mut seen: [FxHashSet<PodScope>; 2] =
            [opening.iter().cloned().collect(), FxHashSet::default()];
        for rule in self.policies.iter().flat_map(|p| p.rules(self.direction).unwrap_or_default()) {
            let [seen_opening, seen_parting] = &mut seen;
            let (scopes, seen) = match rule.action {
                Action::Allow => (&mut opening, seen_opening),
                Action::Deny | Action::Pass => (&mut parting, seen_parting),
            };
            for peer in &rule.peers {
                if let Peer::Pods(scope) = peer
                    && seen.insert(scope.clone())
                {
                    scopes.push(scope.clone());
                }
            }
        }
        (opening, parting)
    }

    fn blocks(&self) -> Vec<IpBlock> {
        let rules = self.policies.iter().flat_map(|p| p.rules(self.direction).unwrap_or_default());
        let blocks = rules.flat_map(|rule| &rule.peers).filter_map(|peer| match peer {
            Peer::Block(block) => Some(block.clone()),
            Peer::Pods(_) => None,
        });
        blocks.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Answer {
    fn of(sides: &[(Family, Side)]) -> Option<Self> {
        let mut sum: Option<Self> = None;
        let mut denied = PortSet::empty();
        for (family, side) in sides {
            let rules = side.explain(Question::Anything).allowed_by;
            let sum = sum.get_or_insert_with(|| Self {
                passes: PortSet::everything(),
                families: Vec::new(),
                open: PortSet::empty(),
                missing: Vec::new(),
                names: Vec::new(),
                rules: Vec::new(),
            });
            sum.passes = sum.passes.intersection(&side.allowed);
            sum.families.push((*family, side.allowed.clone()));
            denied = denied.union(&side.denied);
            sum.missing.extend(side.missing.iter().cloned());
            sum.rules.extend(rules);
            sum.names.extend(names(side));
        }
        let mut sum = sum?;
        if sum.families.iter().all(|(_, set)| *set == sum.passes) {
            sum.families.clear();
        }
        sum.open = PortSet::everything().difference(&sum.passes).difference(&denied);
        if sum.open.is_empty() {
            sum.missing.clear();
        }
        sum.missing.sort();
        sum.missing.dedup();
        sum.names.sort();
        sum.names.dedup();
        let mut seen = BTreeSet::new();
        sum.rules.retain(|rule| seen.insert(rule.clone()));
        Some(sum)
    }

    /// Whether the same passes.
    fn opens_as(&self, other: &Self) -> bool {
        (&self.passes, &self.families, &self.open, &self.names)
            == (&other.passes, &other.families, &other.open, &other.names)
    }

    /// What both get.
    fn common(mut self, other: Self) -> Self {
        let certain = self.passes.intersection(&other.passes);
        let perhaps = |its: &Self| its.passes.union(&its.open);
        self.open = perhaps(&self).intersection(&perhaps(&other)).difference(&certain);
        let of = |its: &Self, family: Family| {
            let stated = its.families.iter().find(|(of, _)| *of == family);
            stated.map_or_else(|| its.passes.clone(), |(_, set)| set.clone())
        };
        if !self.families.is_empty() || !other.families.is_empty() {
            let both = |family| (family, of(&self, family).intersection(&of(&other, family)));
            let families = Family::BOTH.map(both);
            let differ = families.iter().any(|(_, set)| *set != certain);
            self.families = if differ { families.to_vec() } else { Vec::new() };
        }
        self.passes = certain;
        self.missing.extend(other.missing);
        self.missing.sort();
        self.missing.dedup();
        if self.open.is_empty() {
            self.missing.clear();
        }
        self.names.retain(|name| other.names.contains(name));
        self.rules.retain(|rule| other.rules.contains(rule));
        self
    }

    fn into_way(self, direction: Direction, who: Who) -> Way {
        let Self { passes, families, open, missing, names, rules } = self;
        let (partly, today) = (false, Today::default());
        Way { direction, who, ports: passes, families, open, missing, names, rules, partly, today }
    }
}

/// Names of ports that rules of egress allow and that only the other end could resolve.
fn names(side: &Side) -> Vec<(Arc<str>, Protocol)> {
    if side.direction == Direction::Ingress {
        return Vec::new();
    }
    let allow = side
        .rules
        .iter()
        .filter(|rule| rule.action == Action::Allow && !rule.dry_run && rule.peers == Match::Yes);
    let unresolved = allow.flat_map(|rule| &rule.unresolved);
    unresolved
        .filter_map(|reason| match reason {
            // Only a pod on a network of its own has names.
            Reason::NoNamedPort { name, protocol, declared: Some(_), .. } => {
                Some((name.clone(), *protocol))
            }
            _ => None,
        })
        .collect()
}

/// Leaves out ways that say nothing which a wider one does not say.
fn without_narrower(ways: Vec<Way>) -> Vec<Way> {
    fn crowd(way: &Way) -> Option<&Crowd> {
        match &way.who {
            Who::Pods(crowd) => Some(crowd),
            _ => None,
        }
    }
    let says = |wide: &Way, narrow: &Way| {
        let in_families = narrow.families.is_empty()
            || narrow.families == wide.families
            || (wide.families.is_empty()
                && narrow.families.iter().all(|(_, set)| set.difference(&wide.ports).is_empty()));
        in_families
            && narrow.ports.difference(&wide.ports).is_empty()
            && narrow.open.difference(&wide.ports).difference(&wide.open).is_empty()
            && narrow.names.iter().all(|name| wide.names.contains(name))
    };
    let mut by_demand: FxHashMap<[Demand<'_>; 2], Vec<usize>> = FxHashMap::default();
    for (at, way) in ways.iter().enumerate() {
        if let Some(crowd) = crowd(way) {
            by_demand.entry(demand_of(&crowd.scope)).or_default().push(at);
        }
    }
    let redundant = |at: usize| {
        let Some((narrow, its)) = ways.get(at).and_then(|way| Some((way, crowd(way)?))) else {
            return false;
        };
        let wider = demands_met_by(&its.scope).into_iter().filter_map(|key| by_demand.get(&key));
        wider.flatten().copied().any(|other| {
            let wide = ways.get(other).filter(|_| other != at);
            let Some((wide, crowd)) = wide.and_then(|way| Some((way, crowd(way)?))) else {
                return false;
            };
            if !its.is_within(crowd) || !says(wide, narrow) {
                return false;
            }
            // Of two that say the same the first stays.
            let twins = crowd.is_within(its) && says(narrow, wide);
            !twins || other < at
        })
    };
    let keep: Vec<bool> = (0..ways.len()).map(|at| !redundant(at)).collect();
    ways.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(way, _)| way).collect()
}

/// The first requirement of a selector: its key, and the value if it demands one.
type Demand<'s> = Option<(&'s str, Option<&'s str>)>;

/// What a scope demands first, of namespaces and of pods. A scope that is within it demands the same,
/// or something of which that follows, of the same key.
fn demand_of(scope: &PodScope) -> [Demand<'_>; 2] {
    fn first(selector: &Selector) -> Demand<'_> {
        selector.requirements.first().map(demand)
    }
    let namespaces = match &scope.namespaces {
        NamespaceScope::Own(name) => Some((METADATA_NAME, Some(&**name))),
        NamespaceScope::Matching(selector) => first(selector),
    };
    [namespaces, first(&scope.pods)]
}

fn demand(wants: &Requirement) -> (&str, Option<&str>) {
    match &wants.operator {
        Operator::Equals(value) => (&wants.key, Some(value)),
        _ => (&wants.key, None),
    }
}

/// The first demands of all scopes that a scope may be within.
fn demands_met_by(scope: &PodScope) -> Vec<[Demand<'_>; 2]> {
    fn all(selector: &Selector) -> Vec<Demand<'_>> {
        let mut found = vec![None];
        for wants in &selector.requirements {
            let value = match &wants.operator {
                Operator::Equals(value) => Some(value),
                Operator::In(values) if values.len() == 1 => values.first(),
                _ => None,
            };
            found.push(Some((&*wants.key, None)));
            found.extend(value.map(|value| Some((&*wants.key, Some(&**value)))));
        }
        found
    }
    let namespaces = match &scope.namespaces {
        NamespaceScope::Own(name) => {
            vec![None, Some((METADATA_NAME, None)), Some((METADATA_NAME, Some(&**name)))]
        }
        NamespaceScope::Matching(selector) => all(selector),
    };
    let pods = all(&scope.pods);
    let pairs =
        namespaces.iter().flat_map(|first| pods.iter().map(move |second| [*first, *second]));
    // Two requirements may be of one key.
    pairs.collect::<FxHashSet<_>>().into_iter().collect()
}
