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

use crate::cluster::Cluster;
use crate::flow::{Flow, Party};
use crate::matching::{Match, match_peers, rule_ports, selects};
use crate::object::{Name, Phase, Pod};
use crate::policy::{Action, Direction, Policy, Rule, RuleRef, Tier};
use crate::port::{PortSet, Protocol};
use crate::reason::{MissingFact, Reason};

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
            isolated_by: Vec::new(),
            rules: Vec::new(),
            allowed: PortSet::everything(),
            denied: PortSet::empty(),
            missing: Vec::new(),
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
    let (subject, peer) = match direction {
        Direction::Egress => (flow.src, flow.dst),
        Direction::Ingress => (flow.dst, flow.src),
    };
    let pod = match subject_of(subject) {
        Ok(pod) => pod,
        Err(exempt) => return Side::open(direction, Some(exempt)),
    };
    if matches!(peer, Party::Pod(other) if other.name == pod.name) {
        return Side::open(direction, Some(Exempt::Itself));
    }
    let own_node = match direction {
        Direction::Ingress => from_own_node(pod, flow.src),
        Direction::Egress => Match::No(Vec::new()),
    };
    if own_node.is_yes() {
        return Side::open(direction, Some(Exempt::OwnNode));
    }
    let mut side = walk_tiers(cluster, flow, pod, peer, direction);
    if let Match::Unknown(facts) = own_node
        && !side.denied.is_empty()
    {
        // If the source is the pod's own node, whatever the policies deny passes after all.
        side.denied = PortSet::empty();
        side.missing.extend(facts);
    }
    side.missing.sort();
    side.missing.dedup();
    side
}

fn subject_of(party: Party<'_>) -> Result<&Pod, Exempt> {
    match party {
        Party::Pod(pod) if pod.phase == Phase::Terminated => Err(Exempt::Terminated),
        Party::Pod(pod) if pod.host_network => Err(Exempt::HostNetwork),
        Party::Pod(pod) => Ok(pod),
        Party::Node(_) | Party::Address(_) => Err(Exempt::NotAPod),
    }
}

/// Whether the source is the node on which the pod runs, or a hostNetwork pod there.
fn from_own_node(pod: &Pod, src: Party<'_>) -> Match {
    let src_node = match src {
        Party::Node(node) => Some(&node.name),
        Party::Pod(other) if other.host_network && other.phase == Phase::Alive => {
            match &other.node {
                Some(node) => Some(node),
                None => return unknown_node(other),
            }
        }
        _ => return Match::No(Vec::new()),
    };
    match &pod.node {
        None => unknown_node(pod),
        Some(node) if Some(node) == src_node => Match::Yes,
        Some(_) => Match::No(Vec::new()),
    }
}

fn unknown_node(pod: &Pod) -> Match {
    Match::Unknown(vec![MissingFact::PodNode { pod: pod.name.clone() }])
}

/// What is decided so far on one side.
struct Walk {
    allowed: PortSet,
    denied: PortSet,
    /// What nothing has decided yet.
    rest: PortSet,
    /// What a Pass rule took out of the current tier.
    passed: PortSet,
    /// Part of `rest` that a NetworkPolicy may allow, if facts turn out so.
    maybe: PortSet,
    missing: Vec<MissingFact>,
}

fn walk_tiers(
    cluster: &Cluster,
    flow: &Flow<'_>,
    pod: &Pod,
    peer: Party<'_>,
    direction: Direction,
) -> Side {
    let mut walk = Walk {
        allowed: PortSet::empty(),
        denied: PortSet::empty(),
        rest: PortSet::everything(),
        passed: PortSet::empty(),
        maybe: PortSet::empty(),
        missing: Vec::new(),
    };
    let mut isolated_by = Vec::new();
    let mut outcomes = Vec::new();
    for tier in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline] {
        for policy in in_order(cluster, tier) {
            let Some(rules) = policy.rules(direction) else { continue };
            let selected = selects(cluster, &policy.subject, pod);
            if matches!(selected, Match::No(_)) {
                continue;
            }
            if tier == Tier::NetworkPolicy && !policy.dry_run {
                isolated_by.push(policy.name.clone());
            }
            for (i, rule) in rules.iter().enumerate() {
                let mut outcome = outcome(cluster, flow, peer, direction, policy, rule, i);
                if let (Match::Unknown(facts), Match::Yes | Match::Unknown(_)) =
                    (&selected, &outcome.peers)
                {
                    // The word of a policy that may or may not select the pod is uncertain.
                    outcome.peers = Match::Unknown(facts.clone());
                }
                if !policy.dry_run {
                    walk.hear(&outcome, tier);
                }
                outcomes.push(outcome);
            }
        }
        walk.end_tier(tier == Tier::NetworkPolicy && !isolated_by.is_empty());
    }
    let allowed = walk.allowed.union(&walk.rest); // no tier has a word on the rest: open
    if allowed.union(&walk.denied).is_everything() {
        walk.missing.clear();
    }
    Side {
        direction,
        exempt: None,
        isolated_by,
        rules: outcomes,
        allowed,
        denied: walk.denied,
        missing: walk.missing,
    }
}

impl Walk {
    /// Takes one rule's word into account.
    fn hear(&mut self, outcome: &RuleOutcome, tier: Tier) {
        let hit = self.rest.intersection(&outcome.ports);
        match &outcome.peers {
            Match::No(_) => return,
            Match::Unknown(facts) => {
                if !hit.is_empty() {
                    self.missing.extend(facts.iter().cloned());
                }
                if tier == Tier::NetworkPolicy {
                    // Additive: another rule may still allow it for certain.
                    self.maybe = self.maybe.union(&hit);
                    return;
                }
            }
            Match::Yes => match outcome.action {
                Action::Allow => self.allowed = self.allowed.union(&hit),
                Action::Deny => self.denied = self.denied.union(&hit),
                Action::Pass => self.passed = self.passed.union(&hit),
            },
        }
        self.rest = self.rest.difference(&hit);
    }

    /// At the end of a tier what was passed goes on; an isolated pod is closed for what no
    /// NetworkPolicy allows.
    fn end_tier(&mut self, isolated: bool) {
        self.rest = self.rest.union(&self.passed);
        self.passed = PortSet::empty();
        if isolated {
            self.denied = self.denied.union(&self.rest.difference(&self.maybe));
            self.rest = PortSet::empty();
        }
    }
}

/// Policies of a tier in the order in which they decide. NetworkPolicies have none; by name, so
/// that answers do not depend on history.
fn in_order(cluster: &Cluster, tier: Tier) -> Vec<&Policy> {
    let mut policies: Vec<&Policy> =
        cluster.policies.values().filter(|policy| policy.tier == tier).collect();
    policies.sort_by_key(|policy| policy.priority); // stable: equal priorities stay by name
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
    }
}
