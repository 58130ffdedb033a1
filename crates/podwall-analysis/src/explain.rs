//! What does a policy say, and what do all policies say of a pod?
//!
//! ```text
//!   policy ──▶ the pods it selects now, and for each rule the pods its peers match now
//!   pod    ──▶ the policies that select it, their rules, who comes in and where it can go now
//! ```

use std::collections::BTreeSet;

use podwall_policy::address::{AddressSet, Family};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Exempt, side};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::matching::{Match, match_peers, rule_ports, selects};
use podwall_policy::object::{Phase, Pod};
use podwall_policy::policy::{Direction, Policy, Rule, RuleRef};
use podwall_policy::port::PortSet;
use podwall_policy::reason::{MissingFact, Reason};

use crate::outside::{self, Class};
use crate::reachability::Reachability;
use crate::reachability::factored::{End, Factored};

/// A policy in words.
#[derive(Clone, Debug)]
pub struct PolicyExplanation<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The running pods that it selects now, by name.
    pub selected: Vec<&'a Pod>,
    /// How many running pods its namespace has; all of the cluster for cluster-scoped kinds.
    pub among: usize,
    /// Egress, then ingress.
    pub directions: [PolicyDirection<'a>; 2],
}

/// What a policy says of one direction.
#[derive(Clone, Debug)]
pub struct PolicyDirection<'a> {
    /// The direction.
    pub direction: Direction,
    /// `None` where it says nothing.
    pub rules: Option<Vec<RuleExplanation<'a>>>,
}

/// A rule in words.
#[derive(Clone, Debug)]
pub struct RuleExplanation<'a> {
    /// Which rule.
    pub rule: RuleRef,
    /// As the policy has it.
    pub text: &'a Rule,
    /// The running pods that its peers match now, by name; not listed where there are no peers.
    pub pods: Vec<&'a Pod>,
    /// Pods of which it is unknown, and the facts that would decide.
    pub maybe: Vec<(&'a Pod, Vec<MissingFact>)>,
}

/// What policies say of a pod.
#[derive(Clone, Debug)]
pub struct PodExplanation<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Why no policy selects it, if none can.
    pub exempt: Option<Exempt>,
    /// Egress, then ingress.
    pub directions: [PodDirection<'a>; 2],
    /// Policies of its namespace that do not select it, the nearest first, and what they lack.
    pub passed_over: Vec<(&'a Policy, Vec<Reason>)>,
}

/// What policies say of a pod in one direction.
#[derive(Clone, Debug)]
pub struct PodDirection<'a> {
    /// The direction.
    pub direction: Direction,
    /// The policies that isolate it.
    pub isolated_by: Vec<&'a Policy>,
    /// Their rules, with the ports that their names stand for on this pod (ingress only).
    pub rules: Vec<(RuleExplanation<'a>, Option<PortSet>)>,
    /// Who passes now, over both sides: what, and between this pod and whom.
    pub now: Vec<Passing<'a>>,
    /// Pods with which something passes over one family but nothing over both: what over which.
    pub by_family: Vec<(&'a Pod, Vec<(Family, PortSet)>)>,
    /// Running pods with which nothing passes.
    pub shut: Vec<&'a Pod>,
    /// Running pods of which it depends on a missing fact, and addresses outside likewise.
    pub open: usize,
}

/// Who can pass with one set of ports.
#[derive(Clone, Debug)]
pub struct Passing<'a> {
    /// What passes.
    pub ports: PortSet,
    /// The pods.
    pub pods: Vec<&'a Pod>,
    /// The addresses outside.
    pub outside: AddressSet,
}

fn running(cluster: &Cluster) -> impl Iterator<Item = &Pod> {
    cluster.pods.values().filter(|pod| pod.phase == Phase::Alive)
}

/// Explains a policy.
pub fn policy<'a>(cluster: &'a Cluster, policy: &'a Policy) -> PolicyExplanation<'a> {
    let selected: Vec<&Pod> =
        running(cluster).filter(|pod| selects(cluster, &policy.subject, pod).is_yes()).collect();
    let own = &policy.name.namespace;
    let among = running(cluster).filter(|pod| own.is_empty() || pod.name.namespace == *own).count();
    let directions = Direction::BOTH.map(|direction| PolicyDirection {
        direction,
        rules: policy.rules(direction).map(|_| rules(cluster, policy, direction)),
    });
    PolicyExplanation { policy, selected, among, directions }
}

fn rules<'a>(
    cluster: &'a Cluster,
    policy: &'a Policy,
    direction: Direction,
) -> Vec<RuleExplanation<'a>> {
    let rules = policy.rules(direction).unwrap_or_default();
    (1u32..)
        .zip(rules)
        .map(|(number, rule)| {
            let mut out = RuleExplanation {
                rule: RuleRef {
                    tier: policy.tier,
                    policy: policy.name.clone(),
                    direction,
                    number,
                    source: rule.source.clone(),
                },
                text: rule,
                pods: Vec::new(),
                maybe: Vec::new(),
            };
            if rule.peers.is_empty() {
                return out;
            }
            for pod in running(cluster) {
                match matches(cluster, rule, pod) {
                    Match::Yes => out.pods.push(pod),
                    Match::Unknown(facts) => out.maybe.push((pod, facts)),
                    Match::No(_) => {}
                }
            }
            out
        })
        .collect()
}

/// Whether a rule's peers match a pod over any family that it may speak. Selectors do not ask for
/// the family, so a second look is only for blocks.
fn matches(cluster: &Cluster, rule: &Rule, pod: &Pod) -> Match {
    let party = Party::Pod(pod);
    let mut facts = Vec::new();
    for family in Family::BOTH {
        // A pod that states no address is taken for an IPv4 pod, as flows between two such are.
        if !party.speaks(family) || (pod.ips.is_empty() && family == Family::V6) {
            continue;
        }
        match match_peers(cluster, rule, party, family) {
            Match::Yes => return Match::Yes,
            Match::Unknown(more) => facts.extend(more),
            Match::No(_) => {}
        }
    }
    if facts.is_empty() { Match::No(Vec::new()) } else { Match::Unknown(facts) }
}

/// Explains what policies say of a pod.
pub fn pod<'a>(cluster: &'a Cluster, pod: &'a Pod) -> PodExplanation<'a> {
    let engine = Reachability::of(cluster);
    let mut factored = Factored::new(&engine);
    let outside = outside::classes(&outside::blocks(cluster), &outside::taken(cluster));
    let mut exempt = None;
    let directions = Direction::BOTH.map(|direction| {
        // Any address outside will do to ask who isolates the pod: that does not depend on peers.
        let probe = outside.iter().find(|class| Party::Pod(pod).speaks(class.family));
        let mut isolated_by = Vec::new();
        if let Some(class) = probe {
            let (own, other) = (Party::Pod(pod), Party::Address(class.example));
            let (src, dst) =
                if direction == Direction::Egress { (own, other) } else { (other, own) };
            let side = side(cluster, &Flow { src, dst, family: class.family }, direction);
            exempt = exempt.or(side.exempt);
            isolated_by = side
                .isolated_by
                .iter()
                .filter_map(|name| cluster.policies.values().find(|p| p.name == *name))
                .collect();
        }
        let rules = isolated_by
            .iter()
            .flat_map(|policy| rules(cluster, policy, direction))
            .map(|mut rule| {
                rule.pods.retain(|other| other.name != pod.name); // it needs no rule for itself
                let ports = own_ports(&rule, pod, direction);
                (rule, ports)
            })
            .collect();
        let mut out = PodDirection {
            direction,
            isolated_by,
            rules,
            now: Vec::new(),
            by_family: Vec::new(),
            shut: Vec::new(),
            open: 0,
        };
        passing(cluster, &mut factored, &outside, pod, &mut out);
        out
    });
    PodExplanation { pod, exempt, directions, passed_over: passed_over(cluster, pod) }
}

/// What an ingress rule's port names stand for on this pod, if it has names.
fn own_ports(rule: &RuleExplanation<'_>, pod: &Pod, direction: Direction) -> Option<PortSet> {
    use podwall_policy::port::PortMatch;
    let named = rule.text.ports.iter().any(|spec| matches!(spec.port, PortMatch::Named(_)));
    if direction == Direction::Egress || !named {
        return None;
    }
    // Names are resolved on the destination; who asks does not matter.
    let party = Party::Pod(pod);
    let family = Family::BOTH.into_iter().find(|family| party.speaks(*family))?;
    Some(rule_ports(rule.text, &Flow { src: party, dst: party, family }).0)
}

/// Asks both sides of every flow between the pod and everybody else.
fn passing<'a: 'e, 'e>(
    cluster: &'a Cluster,
    factored: &mut Factored<'e>,
    outside: &[Class],
    pod: &'a Pod,
    out: &mut PodDirection<'a>,
) {
    let own = factored.pod(pod);
    let direction = out.direction;
    let passage = |factored: &mut Factored<'e>, other: &End<'e>| {
        let (src, dst) = match direction {
            Direction::Egress => (&own, other),
            Direction::Ingress => (other, &own),
        };
        let cell = factored.cell(src, dst);
        factored.passage(cell, src, dst)
    };
    let mut add = |ports: PortSet, other: Option<&'a Pod>, addresses: &AddressSet| {
        let at = out.now.iter().position(|passing| passing.ports == ports).unwrap_or_else(|| {
            out.now.push(Passing { ports, pods: Vec::new(), outside: AddressSet::empty() });
            out.now.len() - 1
        });
        out.now[at].pods.extend(other);
        out.now[at].outside = out.now[at].outside.union(addresses);
    };
    for other in running(cluster).filter(|other| other.name != pod.name) {
        let end = factored.pod(other);
        let cell = passage(factored, &end);
        if !cell.passes.is_empty() {
            add(cell.passes, Some(other), &AddressSet::empty());
        } else if cell.families.iter().any(|(_, ports)| !ports.is_empty()) {
            out.by_family.push((other, cell.families));
        } else if cell.open.is_empty() {
            out.shut.push(other);
        } else {
            out.open += 1;
        }
    }
    for class in outside {
        let end = factored.outside(class.example);
        let cell = passage(factored, &end);
        if !cell.passes.is_empty() {
            add(cell.passes, None, &class.addresses);
        } else if !cell.open.is_empty() {
            out.open += 1;
        }
    }
}

/// Policies of the pod's namespace that do not select it.
fn passed_over<'a>(cluster: &'a Cluster, pod: &Pod) -> Vec<(&'a Policy, Vec<Reason>)> {
    let mut out: Vec<(&Policy, Vec<Reason>)> = cluster
        .policies
        .values()
        .filter(|policy| policy.name.namespace == pod.name.namespace)
        .filter_map(|policy| match selects(cluster, &policy.subject, pod) {
            Match::No(reasons) => Some((policy, reasons)),
            Match::Yes | Match::Unknown(_) => None,
        })
        .collect();
    out.sort_by_key(|(_, reasons)| reasons.len()); // stable: else by name
    out
}

/// The missing facts of rules, each once.
pub fn facts(rules: &[RuleExplanation<'_>]) -> Vec<MissingFact> {
    let all: BTreeSet<MissingFact> = rules
        .iter()
        .flat_map(|rule| &rule.maybe)
        .flat_map(|(_, facts)| facts.iter().cloned())
        .collect();
    all.into_iter().collect()
}
