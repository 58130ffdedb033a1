//! Which policies matter on this node, and what do they need?
//!
//! ```text
//!   policy ── selects a local pod? ──no──▶ kept, costs nothing
//!                  └─yes─▶ active: its peers are atoms, its egress port names are in use
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use podwall_policy::policy::{Action, Direction, PodScope, Policy, Rule, RuleRef, Tier};
use podwall_policy::port::PortMatch;
use rustc_hash::FxHashSet;

use crate::atoms::{AtomId, Atoms, Question};
use crate::scopes::normal;
use crate::tables::SubjectId;
use crate::world::{PodSlot, PortName};

/// A policy's place while it is known. It stays when the policy is updated.
pub(crate) type PolicySlot = u32;

/// A policy and what follows from it. Owned by the compiler.
#[derive(Debug)]
pub(crate) struct KnownPolicy {
    pub(crate) policy: Arc<Policy>,
    /// The subject in its one spelling.
    pub(crate) subject: Arc<PodScope>,
    /// The local pods that it selects.
    pub(crate) selected: FxHashSet<PodSlot>,
    /// The subject classes whose key names it.
    pub(crate) subjects: FxHashSet<SubjectId>,
    /// What it needs of peers, while it is active.
    pub(crate) needs: Option<Needs>,
}

/// What an active policy needs of peers, per direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    pub(crate) ingress: Part,
    pub(crate) egress: Part,
    /// Whether its rules may have to be read in order with others, so that it has narrow atoms for
    /// all that they ask.
    pub(crate) in_order: bool,
}

/// One direction of an active policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    /// Whether the policy says anything about the direction, and so isolates in it.
    pub(crate) isolates: bool,
    /// For each rule its peers; `None`: anybody.
    pub(crate) peers: Vec<Option<RulePeers>>,
    /// Port names that its rules use.
    pub(crate) names: BTreeSet<PortName>,
    /// Of these, those that rules for anybody use.
    pub(crate) names_for_anybody: BTreeSet<PortName>,
}

/// The peers of a rule as atoms, sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct RulePeers {
    /// Where rules only add.
    pub(crate) adding: Box<[AtomId]>,
    /// Where rules are read in order: narrow atoms alone. Empty if that cannot be.
    pub(crate) in_order: Box<[AtomId]>,
}

impl Part {
    fn of(
        rules: Option<&[Rule]>,
        direction: Direction,
        in_order: bool,
        mut atom: impl FnMut(Question, bool) -> AtomId,
    ) -> Self {
        let mut part = Self { isolates: rules.is_some(), ..Self::default() };
        for rule in rules.unwrap_or_default() {
            // A pod says what the port is called: a question about single addresses.
            let named = direction == Direction::Egress && names_of(rule).next().is_some();
            for name in names_of(rule) {
                if rule.peers.is_empty() {
                    part.names_for_anybody.insert(name.clone());
                }
                part.names.insert(name);
            }
            let mut atoms = |narrow: bool| {
                let ask = |question: Question| {
                    let broad = !narrow && question.can_be_broad();
                    atom(question, broad)
                };
                let mut atoms: Vec<AtomId> = rule.peers.iter().map(Question::of).map(ask).collect();
                atoms.sort_unstable();
                atoms.dedup();
                atoms.into()
            };
            part.peers.push((!rule.peers.is_empty()).then(|| RulePeers {
                adding: atoms(named),
                in_order: if in_order { atoms(true) } else { Box::default() },
            }));
        }
        part
    }

    /// All atoms of its peers.
    pub(crate) fn atoms(&self) -> impl Iterator<Item = AtomId> {
        let peers = self.peers.iter().flatten();
        peers.flat_map(|peers| peers.adding.iter().chain(&peers.in_order)).copied()
    }

    /// Whether a rule is for anybody, whatever its ports.
    pub(crate) fn has_rule_for_anybody(&self) -> bool {
        self.peers.iter().any(Option::is_none)
    }
}

/// The port names that a rule uses.
fn names_of(rule: &Rule) -> impl Iterator<Item = PortName> {
    rule.ports.iter().filter_map(|spec| match &spec.port {
        PortMatch::Named(name) => Some((name.clone(), spec.protocol)),
        PortMatch::Any | PortMatch::Range(_) => None,
    })
}

impl Needs {
    /// Takes the atoms and names that a policy needs.
    pub(crate) fn acquire(
        policy: &Policy,
        slot: PolicySlot,
        in_order: bool,
        atoms: &mut Atoms,
    ) -> Self {
        let mut part = |direction| {
            let acquire = |question, broad| atoms.acquire(question, broad, slot);
            Part::of(policy.rules(direction), direction, in_order, acquire)
        };
        let (ingress, egress) = (part(Direction::Ingress), part(Direction::Egress));
        let needs = Self { ingress, egress, in_order };
        for name in &needs.egress.names {
            atoms.acquire_name(name, slot);
        }
        needs
    }

    /// Gives back what is not needed any more; `now` is what the policy needs instead.
    pub(crate) fn release(&self, now: Option<&Self>, slot: PolicySlot, atoms: &mut Atoms) {
        let used: FxHashSet<AtomId> = now.map(Self::atoms).into_iter().flatten().collect();
        for atom in self.atoms().filter(|atom| !used.contains(atom)) {
            atoms.release(atom, slot);
        }
        for name in &self.egress.names {
            if now.is_none_or(|now| !now.egress.names.contains(name)) {
                atoms.release_name(name, slot);
            }
        }
    }

    /// One direction.
    pub(crate) fn part(&self, direction: Direction) -> &Part {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    fn atoms(&self) -> impl Iterator<Item = AtomId> {
        self.ingress.atoms().chain(self.egress.atoms())
    }
}

impl KnownPolicy {
    /// A policy that selects nothing yet.
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            subject: Arc::new(normal(&policy.subject)),
            policy: Arc::new(policy),
            selected: FxHashSet::default(),
            subjects: FxHashSet::default(),
            needs: None,
        }
    }

    /// Whether it decides anything on this node.
    pub(crate) fn is_active(&self) -> bool {
        let speaks = self.policy.ingress.is_some() || self.policy.egress.is_some();
        speaks && !self.policy.dry_run && !self.selected.is_empty()
    }

    /// Whether it decides something about the pods that it selects in a direction.
    pub(crate) fn isolates(&self, direction: Direction) -> bool {
        self.needs.as_ref().is_some_and(|needs| needs.part(direction).isolates)
    }

    /// Whether it is of a tier before NetworkPolicy and in force, so that the rules of the policies
    /// beside it are read after its own.
    pub(crate) fn goes_before(&self) -> bool {
        let speaks = self.policy.ingress.is_some() || self.policy.egress.is_some();
        self.policy.tier == Tier::Admin && speaks && !self.policy.dry_run
    }

    /// Whether all that it says of a direction only adds to what passes, and leaves the rules beside
    /// it what they are.
    pub(crate) fn only_adds(&self, direction: Direction) -> bool {
        let adds =
            |rule: &Rule| self.policy.tier == Tier::NetworkPolicy && rule.action == Action::Allow;
        self.policy.rules(direction).unwrap_or_default().iter().all(adds)
    }

    /// Its place in the order of evaluation: Admin, NetworkPolicy, Baseline; in a tier by priority,
    /// then by name.
    pub(crate) fn rank(&self) -> impl Ord + use<'_> {
        (self.policy.tier, self.policy.priority, &self.policy.name)
    }

    /// A rule of a direction, by index.
    pub(crate) fn rule(&self, direction: Direction, index: u32) -> Option<&Rule> {
        self.policy.rules(direction)?.get(usize::try_from(index).ok()?)
    }

    /// What people call a rule.
    pub(crate) fn rule_ref(&self, direction: Direction, index: u32) -> Option<RuleRef> {
        let source = self.rule(direction, index)?.source.clone();
        let (tier, policy) = (self.policy.tier, self.policy.name.clone());
        Some(RuleRef { tier, policy, direction, number: index + 1, source })
    }
}
