//! What does a policy say?
//!
//! ```text
//!   Policy ── subject ──▶ pods it selects        (namespaces × pod labels)
//!     ├─ ingress: Some([Rule, …])  isolates for ingress;   None: says nothing about ingress
//!     └─ egress:  Some([Rule, …])
//!            Rule ── peers (none: anybody) × ports (none: everything) ──▶ Action
//! ```
//!
//! `networking.k8s.io/v1` NetworkPolicy is the tier [`Tier::NetworkPolicy`]: its rules only allow,
//! and being selected isolates. The Admin and Baseline tiers of `policy.networking.k8s.io/v1alpha2`
//! ClusterNetworkPolicy use the same types with priorities, deny and pass.

use std::fmt;
use std::sync::Arc;

use crate::address::IpBlock;
use crate::object::Name;
use crate::port::PortSpec;
use crate::selector::Selector;
use crate::source::Source;

/// The direction of a rule, seen from the pod that the policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Into the pod.
    Ingress,
    /// Out of the pod.
    Egress,
}

impl Direction {
    /// Both, in the order in which a packet meets them.
    pub const BOTH: [Self; 2] = [Self::Egress, Self::Ingress];

    /// The direction that the other end of a connection sees.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Ingress { "ingress" } else { "egress" })
    }
}

/// The tier of a policy, in the order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Tier {
    /// ClusterNetworkPolicy `tier: Admin`: before every NetworkPolicy.
    Admin,
    /// `networking.k8s.io/v1` NetworkPolicy.
    #[default]
    NetworkPolicy,
    /// ClusterNetworkPolicy `tier: Baseline`: for pods that no NetworkPolicy isolates.
    Baseline,
}

impl Tier {
    /// All, in the order of evaluation.
    pub const IN_ORDER: [Self; 3] = [Self::Admin, Self::NetworkPolicy, Self::Baseline];
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Action {
    /// Lets it pass; decides.
    #[default]
    Allow,
    /// Drops it; decides. Not in tier NetworkPolicy.
    Deny,
    /// Leaves the decision to the next tier. Not in tier NetworkPolicy.
    Pass,
}

/// A policy, checked: whatever the API server refuses cannot be built from a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespace and name; the namespace is empty for cluster-scoped kinds.
    pub name: Name,
    /// Its tier.
    pub tier: Tier,
    /// Lower decides first; 0 to 1000. NetworkPolicies have no order and all carry 0.
    pub priority: u16,
    /// Evaluate and report, but decide nothing.
    pub dry_run: bool,
    /// The pods that it selects.
    pub subject: PodScope,
    /// `None` where `policyTypes` leaves ingress out. An empty list denies all.
    pub ingress: Option<Vec<Rule>>,
    /// The same for egress.
    pub egress: Option<Vec<Rule>>,
    /// Where the policy stands.
    pub source: Option<Source>,
}

impl Policy {
    /// A NetworkPolicy that selects pods of its namespace and says nothing yet.
    pub fn network_policy(
        namespace: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
        pods: Selector,
    ) -> Self {
        let name = Name::new(namespace, name);
        let subject = PodScope { namespaces: NamespaceScope::Own(name.namespace.clone()), pods };
        Self {
            name,
            tier: Tier::NetworkPolicy,
            priority: 0,
            dry_run: false,
            subject,
            ingress: None,
            egress: None,
            source: None,
        }
    }

    /// The rules of a direction; `None` where the policy says nothing about it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// The same, to be changed; `None` says nothing about the direction.
    pub fn rules_mut(&mut self, direction: Direction) -> &mut Option<Vec<Rule>> {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }
}

/// One rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// `from` or `to`. Empty: anybody, inside or outside of the cluster.
    pub peers: Vec<Peer>,
    /// `ports`. Empty: every protocol and port.
    pub ports: Vec<PortSpec>,
    /// Where the rule stands.
    pub source: Option<Source>,
}

impl Rule {
    /// A rule that allows these peers on these ports.
    pub fn allow(peers: Vec<Peer>, ports: Vec<PortSpec>) -> Self {
        Self { action: Action::Allow, peers, ports, source: None }
    }
}

/// One item of `from` or `to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Pods by labels. Never matches an address outside the cluster, nor a hostNetwork pod.
    Pods(PodScope),
    /// Addresses, those of pods and nodes included.
    Block(IpBlock),
}

/// Pods of some namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodScope {
    /// Which namespaces.
    pub namespaces: NamespaceScope,
    /// Which pods of them.
    pub pods: Selector,
}

/// The namespaces of a [`PodScope`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NamespaceScope {
    /// No `namespaceSelector`: the policy's own namespace, named here.
    Own(Arc<str>),
    /// `namespaceSelector`.
    Matching(Selector),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(scope) => write!(f, "{scope}"),
            Self::Block(block) => write!(f, "{block}"),
        }
    }
}

impl fmt::Display for PodScope {
    /// "pods app=web in namespace demo", "all pods in namespaces env=prod", …
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pods.is_everything() {
            f.write_str("all pods in ")?;
        } else {
            write!(f, "pods {} in ", self.pods)?;
        }
        match &self.namespaces {
            NamespaceScope::Own(name) => write!(f, "namespace {name}"),
            NamespaceScope::Matching(all) if all.is_everything() => f.write_str("all namespaces"),
            NamespaceScope::Matching(selector) => write!(f, "namespaces {selector}"),
        }
    }
}

/// A rule's identity for people: policy, direction and its place in the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleRef {
    /// The policy's tier, to tell kinds with equal names apart.
    pub tier: Tier,
    /// The policy.
    pub policy: Name,
    /// The direction of the list.
    pub direction: Direction,
    /// Its place in the list, from 1, as people count.
    pub number: u32,
    /// Where it stands.
    pub source: Option<Source>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} rule {}", self.policy, self.direction, self.number)
    }
}
