//! Does the traffic pass, and who says so? The reference evaluator.
//!
//! ```text
//!            source's egress                      destination's ingress
//!   Admin rules, first match decides ┐    ┌ Admin rules, first match decides
//!   NetworkPolicies: isolated?       │    │ NetworkPolicies: isolated?
//!      then what any rule allows     │    │    then what any rule allows
//!   Baseline rules, first match      │    │ Baseline rules, first match
//!   otherwise open                   ┘    └ otherwise open
//!                     both sides must let it pass
//! ```
//!
//! This is the written form of the API's meaning: naive, and the measure of everything that is
//! fast. Sources: `k8s.io/api/networking/v1/types.go` (NetworkPolicySpec and below) and, for tiers,
//! the API document of `policy.networking.k8s.io/v1alpha2`. It works on sets of ports, so that one
//! walk answers for every protocol and port at once, and on three values: what is not certain
//! carries the names of the missing facts.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::flow::{Flow, Party};
use crate::matching::{Match, match_peers, rule_ports, selects};
use crate::object::{Name, Phase, Pod};
use crate::policy::{Action, Direction, Policy, Rule, RuleRef, Tier};
use crate::port::{PortSet, Protocol};
use crate::reason::{MissingFact, Reason};
use crate::walk::{Decided, Walk, Word, both};

/// The answer to "does it pass".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// It passes.
    Allowed,
    /// It does not.
    Denied,
    /// It depends on a fact that is missing.
    Unknown,
}

/// Both sides of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// The source's side.
    pub egress: Side,
    /// The destination's side.
    pub ingress: Side,
}

/// What one pod's policies say in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The direction.
    pub direction: Direction,
    /// Why no policy is asked, if none is.
    pub exempt: Option<Exempt>,
    /// The node that isolates the party because nobody knows yet whose address it is; no policy is
    /// asked then, and nothing passes.
    pub stranger_on: Option<Arc<str>>,
    /// The NetworkPolicies that select the pod in this direction, by name. Empty: not isolated.
    pub isolated_by: Vec<Name>,
    /// Every rule of every policy that selects the pod, in the order of evaluation.
    pub rules: Vec<RuleOutcome>,
    /// What certainly passes.
    pub allowed: PortSet,
    /// What certainly does not. What is in neither depends on `missing`.
    pub denied: PortSet,
    /// The facts that would decide the rest.
    pub missing: Vec<MissingFact>,
}

/// What one rule says of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleOutcome {
    /// The rule.
    pub rule: RuleRef,
    /// What it does with what it matches.
    pub action: Action,
    /// Whether its peers match.
    pub peers: Match,
    /// Its ports for this destination.
    pub ports: PortSet,
    /// Its ports as the manifest has them.
    pub specs: Vec<crate::port::PortSpec>,
    /// Port names that the destination does not have.
    pub unresolved: Vec<Reason>,
    /// The ports that get as far as this rule: nothing before it has certainly decided them. All
    /// NetworkPolicies stand on one step, in the other tiers the first match decides.
    pub reach: PortSet,
    /// The policy is evaluated and reported, but decides nothing.
    pub dry_run: bool,
}

/// Why no policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exempt {
    /// Not a pod: policies protect pods.
    NotAPod,
    /// A pod that uses its node's network counts as the node (corner case 33).
    HostNetwork,
    /// The pod has ended (corner case 39).
    Terminated,
    /// A pod always reaches itself on its own address (corner case 34).
    Itself,
    /// Traffic from the pod's own node is always let in (corner case 31).
    OwnNode,
}

impl Evaluation {
    /// The verdict for one protocol and port; the port is ignored for protocols without ports.
    pub fn verdict(&self, protocol: Protocol, port: u16) -> Verdict {
        let sides = [self.egress.verdict(protocol, port), self.ingress.verdict(protocol, port)];
        if sides.contains(&Verdict::Denied) {
            Verdict::Denied
        } else if sides.contains(&Verdict::Unknown) {
            Verdict::Unknown
        } else {
            Verdict::Allowed
        }
    }

    /// What certainly passes both sides.
    pub fn allowed(&self) -> PortSet {
        self.egress.allowed.intersection(&self.ingress.allowed)
    }

    /// What certainly does not pass.
    pub fn denied(&self) -> PortSet {
        self.egress.denied.union(&self.ingress.denied)
    }

    /// The verdict where no port is asked for: allowed if anything certainly passes, denied if
    /// nothing can.
    pub fn any_verdict(&self) -> Verdict {
        if !self.allowed().is_empty() {
            Verdict::Allowed
        } else if self.denied().is_everything() {
            Verdict::Denied
        } else {
            Verdict::Unknown
        }
    }
}

impl Side {
    /// The side's verdict for one protocol and port.
    pub fn verdict(&self, protocol: Protocol, port: u16) -> Verdict {
        if self.allowed.contains(protocol, port) {
            Verdict::Allowed
        } else if self.denied.contains(protocol, port) {
            Verdict::Denied
        } else {
            Verdict::Unknown
        }
    }

    /// Whether a NetworkPolicy isolates the pod in this direction.
    pub fn is_isolated(&self) -> bool {
        !self.isolated_by.is_empty()
    }

    fn open(direction: Direction, exempt: Option<Exempt>) -> Self {
        Self {
            direction,
            exempt,
            stranger_on: None,
            isolated_by: Vec::new(),
            rules: Vec::new(),
            allowed: PortSet::everything(),
            denied: PortSet::empty(),
            missing: Vec::new(),
        }
    }

    fn perhaps_own_node(mut self, facts: Vec<MissingFact>) -> Self {
        let mut decided =
            Decided { allowed: self.allowed, denied: self.denied, missing: self.missing };
        decided.perhaps_own_node(facts);
        Decided { allowed: self.allowed, denied: self.denied, missing: self.missing } = decided;
        self
    }

    fn stranger(direction: Direction, node: Arc<str>) -> Self {
        Self {
            stranger_on: Some(node),
            allowed: PortSet::empty(),
            denied: PortSet::everything(),
            ..Self::open(direction, None)
        }
    }
}

/// Evaluates a flow for every protocol and port.
pub fn evaluate(cluster: &Cluster, flow: &Flow<'_>) -> Evaluation {
    Evaluation {
        egress: side(cluster, flow, Direction::Egress),
        ingress: side(cluster, flow, Direction::Ingress),
    }
}

/// Evaluates one side of a flow.
pub fn side(cluster: &Cluster, flow: &Flow<'_>, direction: Direction) -> Side {
    side_among(cluster, cluster.policies.values(), flow, direction)
}

/// Evaluates one side of a flow as if these were all policies. For who knows which of them select
/// the pod: the others have no word, so that leaving them out changes nothing but the time.
pub fn side_among<'p>(
    cluster: &Cluster,
    policies: impl IntoIterator<Item = &'p Policy>,
    flow: &Flow<'_>,
    direction: Direction,
) -> Side {
    side_of(cluster, policies.into_iter().map(|policy| (policy, None)), flow, direction)
}

/// As [`side_among`], and of each policy only the rules at these places, ascending. For who knows
/// that the peers of the others certainly do not match: they are missing in [`Side::rules`], and
/// nothing else is changed.
pub fn side_among_rules<'p>(
    cluster: &Cluster,
    policies: impl IntoIterator<Item = (&'p Policy, &'p [usize])>,
    flow: &Flow<'_>,
    direction: Direction,
) -> Side {
    let policies = policies.into_iter().map(|(policy, places)| (policy, Some(places)));
    side_of(cluster, policies, flow, direction)
}

fn side_of<'p>(
    cluster: &Cluster,
    policies: impl IntoIterator<Item = (&'p Policy, Option<&'p [usize]>)>,
    flow: &Flow<'_>,
    direction: Direction,
) -> Side {
    match setting(cluster, flow, direction) {
        Setting::Open(exempt) => Side::open(direction, Some(exempt)),
        Setting::Policies { pod, peer, perhaps_own_node } => {
            let side = walk_tiers(cluster, policies, flow, pod, peer, direction);
            side.perhaps_own_node(perhaps_own_node)
        }
        Setting::Stranger { node, perhaps_own_node } => {
            Side::stranger(direction, node.clone()).perhaps_own_node(perhaps_own_node)
        }
    }
}

/// Who decides one side of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting<'a> {
    /// Nobody: everything passes.
    Open(Exempt),
    /// The pod's policies.
    Policies {
        /// The pod.
        pod: &'a Pod,
        /// The other party.
        peer: Party<'a>,
        /// What is missing to know whether the other party is the pod's own node: if it is,
        /// whatever the policies deny passes after all. Empty where that is known.
        perhaps_own_node: Vec<MissingFact>,
    },
    /// The node that isolates the party because nobody knows whose address it is: nothing passes.
    Stranger {
        /// The node.
        node: &'a Arc<str>,
        /// As above.
        perhaps_own_node: Vec<MissingFact>,
    },
}

/// Who decides one side of a flow; no policy is looked at.
pub fn setting<'a>(cluster: &'a Cluster, flow: &Flow<'a>, direction: Direction) -> Setting<'a> {
    let (subject, peer) = match direction {
        Direction::Egress => (flow.src, flow.dst),
        Direction::Ingress => (flow.dst, flow.src),
    };
    let subject = match subject_of(cluster, subject) {
        Ok(subject) => subject,
        Err(exempt) => return Setting::Open(exempt),
    };
    let itself = match (subject, peer) {
        (Subject::Pod(pod), _) => is_itself(pod, peer),
        // Whoever was given it is a pod, if one without a name.
        (Subject::Stranger(node), Party::Address(address)) => {
            flow.src == flow.dst && cluster.is_nameless(node, address)
        }
        (Subject::Stranger(_), _) => false,
    };
    if itself {
        return Setting::Open(Exempt::Itself);
    }
    let perhaps_own_node = match direction {
        Direction::Ingress => match from_own_node(cluster, subject, flow.src) {
            Match::Yes => return Setting::Open(Exempt::OwnNode),
            Match::No(_) => Vec::new(),
            Match::Unknown(facts) => facts,
        },
        Direction::Egress => Vec::new(),
    };
    match subject {
        Subject::Pod(pod) => Setting::Policies { pod, peer, perhaps_own_node },
        Subject::Stranger(node) => Setting::Stranger { node, perhaps_own_node },
    }
}

/// Who is protected.
#[derive(Clone, Copy)]
enum Subject<'a> {
    Pod(&'a Pod),
    /// An address that this node isolates until somebody is known to have it.
    Stranger(&'a Arc<str>),
}

fn subject_of<'a>(cluster: &'a Cluster, party: Party<'a>) -> Result<Subject<'a>, Exempt> {
    match party {
        Party::Pod(pod) if pod.phase == Phase::Terminated => Err(Exempt::Terminated),
        Party::Pod(pod) if pod.host_network => Err(Exempt::HostNetwork),
        Party::Pod(pod) => Ok(Subject::Pod(pod)),
        Party::Node(_) => Err(Exempt::NotAPod),
        Party::Address(address) => {
            cluster.stranger_on(address).map(Subject::Stranger).ok_or(Exempt::NotAPod)
        }
    }
}

/// Whether the other party is the pod itself: by name, by its own address, or by a loopback
/// address, which never leaves the pod (corner case 34).
fn is_itself(pod: &Pod, peer: Party<'_>) -> bool {
    match peer {
        Party::Pod(other) => other.name == pod.name,
        Party::Node(_) => false,
        Party::Address(address) => address.is_loopback() || pod.ips.contains(&address),
    }
}

/// Whether the source is the node on which the destination is, by whatever address, or a
/// hostNetwork pod there.
fn from_own_node(cluster: &Cluster, destination: Subject<'_>, src: Party<'_>) -> Match {
    let unstated = |pod: &Pod| MissingFact::PodNode { pod: pod.name.clone() };
    let (own, own_unstated) = match destination {
        Subject::Pod(pod) => (pod.node.as_ref(), Some(unstated(pod))),
        Subject::Stranger(node) => (Some(node), None),
    };
    let (src_node, src_unstated) = match src {
        Party::Node(node) => (Some(&node.name), None),
        Party::Pod(other) if other.host_network && other.phase == Phase::Alive => {
            (other.node.as_ref(), Some(unstated(other)))
        }
        Party::Pod(_) => return Match::No(Vec::new()),
        Party::Address(address) => match cluster.node_by_ip(address) {
            Some(node) => (Some(&node.name), None),
            None => return Match::No(Vec::new()),
        },
    };
    match (src_node, own) {
        (Some(src), Some(own)) if src == own => Match::Yes,
        (Some(_), Some(_)) => Match::No(Vec::new()),
        (None, Some(_)) => Match::Unknown(src_unstated.into_iter().collect()),
        (Some(_), None) => Match::Unknown(own_unstated.into_iter().collect()),
        (None, None) => Match::Unknown(src_unstated.into_iter().chain(own_unstated).collect()),
    }
}

fn walk_tiers<'p>(
    cluster: &Cluster,
    policies: impl IntoIterator<Item = (&'p Policy, Option<&'p [usize]>)>,
    flow: &Flow<'_>,
    pod: &Pod,
    peer: Party<'_>,
    direction: Direction,
) -> Side {
    let policies = in_order(policies);
    let mut walk = Walk::new();
    let mut isolated_by = Vec::new();
    let mut outcomes = Vec::new();
    for tier in Tier::IN_ORDER {
        walk.begin_tier(tier);
        let mut perhaps_isolated = Vec::new();
        for (policy, places) in policies.iter().filter(|(policy, _)| policy.tier == tier) {
            let Some(rules) = policy.rules(direction) else { continue };
            let selected = selects(cluster, &policy.subject, pod);
            if matches!(selected, Match::No(_)) {
                continue;
            }
            if tier == Tier::NetworkPolicy && !policy.dry_run {
                match &selected {
                    Match::Unknown(facts) => perhaps_isolated.extend(facts.iter().cloned()),
                    _ => isolated_by.push(policy.name.clone()),
                }
            }
            walk.begin_policy();
            let all = places.is_none().then_some(0..rules.len());
            let places = places.unwrap_or_default().iter().copied();
            for i in all.into_iter().flatten().chain(places) {
                let Some(rule) = rules.get(i) else { continue };
                let mut outcome = outcome(cluster, flow, peer, direction, policy, rule, i);
                outcome.reach = walk.reach();
                let applies = both(&selected, &outcome.peers);
                let word = Word { action: outcome.action, ports: &outcome.ports };
                walk.rule(word, &outcome.peers, &applies, policy.dry_run);
                outcome.peers = applies;
                outcomes.push(outcome);
            }
        }
        walk.end_tier(!isolated_by.is_empty(), perhaps_isolated);
    }
    let Decided { allowed, denied, missing } = walk.finish();
    Side {
        direction,
        exempt: None,
        stranger_on: None,
        isolated_by,
        rules: outcomes,
        allowed,
        denied,
        missing,
    }
}

/// Policies in the order in which those of a tier decide. NetworkPolicies have none; by name, so
/// that answers do not depend on history.
fn in_order<'p, T>(policies: impl IntoIterator<Item = (&'p Policy, T)>) -> Vec<(&'p Policy, T)> {
    let mut policies: Vec<(&Policy, T)> = policies.into_iter().collect();
    policies.sort_by(|(a, _), (b, _)| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    policies
}

fn outcome(
    cluster: &Cluster,
    flow: &Flow<'_>,
    peer: Party<'_>,
    direction: Direction,
    policy: &Policy,
    rule: &Rule,
    index: usize,
) -> RuleOutcome {
    let (ports, unresolved) = rule_ports(rule, flow);
    RuleOutcome {
        rule: RuleRef {
            tier: policy.tier,
            policy: policy.name.clone(),
            direction,
            number: u32::try_from(index + 1).unwrap_or(u32::MAX),
            source: rule.source.clone(),
        },
        action: rule.action,
        peers: match_peers(cluster, rule, peer, flow.family),
        ports,
        specs: rule.ports.clone(),
        unresolved,
        reach: PortSet::empty(),
        dry_run: policy.dry_run,
    }
}
