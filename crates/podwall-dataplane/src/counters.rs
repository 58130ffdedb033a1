//! How many packets did each rule decide?
//!
//! ```text
//!   packet, direction ── rule ──▶ rules[RuleId] += 1
//!                    └── none ──▶ defaults[SubjectId] += 1      isolated, and no rule allows it
//! ```
//!
//! A packet counts in each direction that is asked: at most once for egress and once for ingress on
//! a node, and not for ingress where egress denied it. Only packets in the original direction of
//! their connection are asked; replies, ICMP errors of known connections and neighbour discovery
//! are not. What a default lets pass (a tier that ends without a word) is counted nowhere.
//!
//! eBPF counts a packet when it is judged: one of a connection that stands, and of which a packet was
//! let through since the last change, passes without being looked up, and is not counted. nftables
//! looks up, and counts, all of them.
//!
//! A number belongs to a rule, not to an id: when an id goes or is given to another rule it starts
//! at zero. Until then it never goes back within a process' life, whatever is loaded or changed. A
//! packet that meets the very moment of a change may be missed. A new process finds the numbers of
//! the one before by the rules' names where those are in the kernel, which eBPF has.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use podwall_compile::tables::{Delta, NodeTables, PolicyId, RuleId, SubjectId};
use podwall_policy::policy::{Direction, RuleRef};
use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

/// Packets by what decided them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that a rule allowed or denied; every rule of the tables has its number. With eBPF
    /// those with an id beyond [`counters`](crate::ebpf::Config::counters) have none.
    pub rules: BTreeMap<RuleId, u64>,
    /// Packets that no rule allowed, by the class of the pod that is isolated; those from and to
    /// strangers under [`SubjectId::STRANGER`], as long as the tables have pod ranges.
    pub defaults: BTreeMap<SubjectId, u64>,
}

/// Whose a number is: by its id, a hash of what it stands for, never 0.
pub(crate) type Owners = BTreeMap<u32, u64>;

fn hash(of: impl Hash) -> u64 {
    let mut hasher = FxHasher::default();
    of.hash(&mut hasher);
    hasher.finish() | 1
}

/// The hash of a rule's name. Where it stands in which file is not part of it.
pub(crate) fn rule(rule: &RuleRef) -> u64 {
    hash((rule.tier, &rule.policy, rule.direction, rule.number))
}

/// The rules of tables.
pub(crate) fn rules(tables: &NodeTables) -> Owners {
    tables.rules.iter().map(|(id, name)| (id.0, rule(name))).collect()
}

/// The subject classes that local addresses have, by the policies behind them.
///
/// Hashes are kept: a class of a busy pod has hundreds of policies, and most changes touch none.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    hashes: FxHashMap<SubjectId, u64>,
    /// The same of the policies' names.
    names: FxHashMap<PolicyId, u64>,
}

impl Classes {
    /// The classes after full tables.
    pub(crate) fn all(&mut self, tables: &NodeTables) -> Owners {
        self.hashes.clear();
        self.names.clear();
        self.owners(tables)
    }

    /// The classes after a change; `None`: they are what they were.
    pub(crate) fn after(&mut self, tables: &NodeTables, delta: &Delta) -> Option<Owners> {
        // Verdicts that do not fit isolate a class, which then has no address.
        let same = delta.subjects.is_empty() && delta.isolated_by.is_empty();
        let same = same && delta.pod_ranges.is_none();
        if same && delta.verdicts.is_empty() {
            return None;
        }
        for (subject, _) in &delta.isolated_by {
            self.hashes.remove(subject);
        }
        for (policy, _) in &delta.policies {
            self.names.remove(policy);
        }
        Some(self.owners(tables))
    }

    /// The hash of what a class stands for.
    fn behind(&mut self, direction: Direction, policies: &[PolicyId], tables: &NodeTables) -> u64 {
        let mut hasher = FxHasher::default();
        direction.hash(&mut hasher);
        for policy in policies {
            let name = || hash(tables.policies.get(policy));
            self.names.entry(*policy).or_insert_with(name).hash(&mut hasher);
        }
        hasher.finish() | 1
    }

    fn owners(&mut self, tables: &NodeTables) -> Owners {
        let mut names = FxHashSet::default();
        let strangers =
            (!tables.pod_ranges.is_empty()).then_some((SubjectId::STRANGER, Direction::Egress));
        let subjects: BTreeSet<_> = tables
            .subjects
            .iter()
            .filter(|(_, subject)| !subject.is_open())
            .map(|((direction, _), subject)| (*subject, *direction))
            .chain(strangers)
            .collect();
        let mut owners = Owners::new();
        let known = std::mem::take(&mut self.hashes);
        for (subject, direction) in subjects {
            let mut name = known.get(&subject).copied().unwrap_or_else(|| {
                match tables.isolated_by.get(&subject) {
                    Some(policies) => self.behind(direction, policies, tables),
                    None => hash(subject),
                }
            });
            self.hashes.insert(subject, name);
            // Two classes of the same policies (a port's name may mean two numbers).
            if !names.insert(name) {
                name = hash((name, subject));
            }
            owners.entry(subject.0).or_insert(name);
        }
        owners
    }
}
