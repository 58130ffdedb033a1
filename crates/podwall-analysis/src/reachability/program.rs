//! What does a policy ask, with its selectors as numbers?
//!
//! ```text
//!   Policy ── subject ──▶ ScopeId
//!     └ rules ── Clause: peers (ScopeId | ipBlock) × ports ──▶ Action
//! ```

use podwall_policy::address::{AddressRange, AddressSet, Family, IpBlock};
use podwall_policy::flow::Flow;
use podwall_policy::matching::rule_ports;
use podwall_policy::object::Name;
use podwall_policy::policy::{Action, Direction, Peer, PodScope, Policy, Rule, Tier};
use podwall_policy::port::{PortMatch, PortRange, PortSet, PortSpec};

use super::selectors::{PolicySlot, ScopeId, Selectors, Use, side};
use super::shapes::Shapes;
use podwall_policy::cluster::Cluster;

/// A policy that decides something; one for a dry run is none.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) tier: Tier,
    pub(super) priority: u16,
    pub(super) name: Name,
    subject: ScopeId,
    /// Rules of egress and of ingress; `None` where the policy says nothing about it.
    clauses: [Option<Box<[Clause]>>; 2],
}

/// A rule.
#[derive(Debug)]
pub(super) struct Clause {
    pub(super) action: Action,
    /// Empty: anybody.
    pub(super) peers: Box<[Asks]>,
    ports: Ports,
}

/// One item of `from` or `to`.
#[derive(Debug)]
pub(super) enum Asks {
    Scope(ScopeId),
    Block {
        block: IpBlock,
        /// Whether it covers every address of its family.
        whole: bool,
    },
}

#[derive(Debug)]
enum Ports {
    Fixed(PortSet),
    /// With names, which depend on the destination. A rule with nothing but its ports.
    Named(Rule),
}

impl Program {
    /// Takes the policy's selectors into use; `slot` is its place.
    pub(super) fn new(
        policy: &Policy,
        slot: PolicySlot,
        cluster: &Cluster,
        selectors: &mut Selectors,
        shapes: &mut Shapes,
    ) -> Self {
        let mut take = |scope: &PodScope, used: Use| {
            let (id, new) = selectors.take(scope, used);
            if let Some(scope) = new {
                shapes.attach(cluster, id, &scope);
            }
            id
        };
        let subject = take(&policy.subject, Use::Subject(slot));
        let clauses = Direction::BOTH.map(|direction| {
            let rules = policy.rules(direction)?.iter();
            let clause = |rule: &Rule| Clause {
                action: rule.action,
                peers: rule
                    .peers
                    .iter()
                    .map(|peer| match peer {
                        Peer::Pods(scope) => Asks::Scope(take(scope, Use::Peer(direction))),
                        Peer::Block(block) => {
                            Asks::Block { block: block.clone(), whole: covers_its_family(block) }
                        }
                    })
                    .collect(),
                ports: ports(rule),
            };
            Some(rules.map(clause).collect())
        });
        let (tier, priority, name) = (policy.tier, policy.priority, policy.name.clone());
        Self { tier, priority, name, subject, clauses }
    }

    /// Gives the policy's selectors back.
    pub(super) fn release(
        self,
        slot: PolicySlot,
        cluster: &Cluster,
        selectors: &mut Selectors,
        shapes: &mut Shapes,
    ) {
        let mut give_back = |id, used| {
            if let Some(scope) = selectors.give_back(id, used) {
                shapes.detach(cluster, id, &scope);
            }
        };
        give_back(self.subject, Use::Subject(slot));
        for (direction, clauses) in Direction::BOTH.into_iter().zip(self.clauses) {
            for clause in clauses.into_iter().flatten() {
                for asks in clause.peers {
                    if let Asks::Scope(id) = asks {
                        give_back(id, Use::Peer(direction));
                    }
                }
            }
        }
    }

    /// The rules of a direction; `None` where the policy says nothing about it.
    pub(super) fn clauses(&self, direction: Direction) -> Option<&[Clause]> {
        self.clauses[side(direction)].as_deref()
    }

    /// The port names that its rules of a direction ask for.
    pub(super) fn names(&self, direction: Direction) -> impl Iterator<Item = &PortSpec> {
        let clauses = self.clauses(direction).unwrap_or_default().iter();
        clauses.flat_map(|clause| match &clause.ports {
            Ports::Fixed(_) => &[],
            Ports::Named(rule) => &rule.ports[..],
        })
    }
}

impl Clause {
    /// The ports for flows to this destination.
    pub(super) fn ports(&self, flow: &Flow<'_>) -> PortSet {
        match &self.ports {
            Ports::Fixed(set) => set.clone(),
            Ports::Named(rule) => rule_ports(rule, flow).0,
        }
    }
}

fn ports(rule: &Rule) -> Ports {
    if rule.ports.is_empty() {
        return Ports::Fixed(PortSet::everything());
    }
    let mut set = PortSet::empty();
    for spec in &rule.ports {
        let range = match &spec.port {
            PortMatch::Any => PortRange::ALL,
            PortMatch::Range(range) => *range,
            PortMatch::Named(_) => {
                return Ports::Named(Rule {
                    peers: Vec::new(),
                    source: None,
                    action: rule.action,
                    ports: rule.ports.clone(),
                });
            }
        };
        set = set.union(&PortSet::range(spec.protocol, range));
    }
    Ports::Fixed(set)
}

fn covers_its_family(block: &IpBlock) -> bool {
    let family = Family::of(block.cidr.addr());
    block.ranges() == AddressSet::from(AddressRange::all(family))
}
