//! What do the policies of a subject class say to a peer class?
//!
//! ```text
//!   subject class = policies that select + numbers of the port names that their ingress rules use
//!      └─ program: rules in order of evaluation
//!            by atom ──▶ rules for peers that give this answer   ─┐
//!            for anybody                                          ┴─▶ claims ──flatten──▶ row
//! ```
//!
//! Where all rules only add to what passes, a row says what its peer is allowed beyond what anybody
//! is, and rows fall through to that: of the peer itself, of its namespace, of the large blocks
//! that it lies in, of anybody. Otherwise each row is the last word for its peer, so there are rows
//! of peers themselves alone, for which all rules ask narrow atoms.

mod follow;

use std::sync::Arc;

use podwall_policy::policy::{Action, Direction, Rule, Tier};
use podwall_policy::port::{PortMatch, PortRange, PortSpec, Protocol};
use rustc_hash::FxHashMap;

use self::follow::Span;
use crate::atoms::AtomId;
use crate::flatten::{Answer, Claim, Default, Ports, flatten};
use crate::policies::{KnownPolicy, PolicySlot};
use crate::tables::PortKey;
use crate::world::PortName;

/// What makes local addresses alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SubjectKey {
    pub(crate) direction: Direction,
    /// The policies that select the pod in this direction, by slot; at least one.
    pub(crate) policies: Arc<[PolicySlot]>,
    /// The port names that their ingress rules use, and what they stand for on the pod.
    pub(crate) ports: NamedPorts,
}

/// Port names, and the numbers that each stands for on a pod.
pub(crate) type NamedPorts = Arc<[(PortName, Box<[u16]>)]>;

/// A port name and a number that it stands for on a peer.
pub(crate) type Resolved<'a> = (&'a PortName, u16);

/// The rules of a subject class, found by what they ask. Owned by the compiler.
///
/// Rules are known by their place in the order of evaluation. All of it is flat lists of numbers: to
/// shift hundreds of places costs less than to look one policy up, so that a policy that comes or
/// goes costs what it says itself.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    key: SubjectKey,
    /// The policies in order of evaluation.
    order: Vec<Place>,
    default: Default,
    rules: Vec<ProgramRule>,
    /// Sorted.
    by_atom: Vec<(AtomId, u32)>,
    /// Sorted.
    for_anybody: Vec<u32>,
    /// Of `for_anybody`, those whose ports depend on the peer.
    named_for_anybody: Vec<u32>,
    /// What anybody is allowed, so that rows need not say it again; sorted and disjoint.
    cover: Vec<Stretch>,
    covers_everything: bool,
}

/// A policy in a program.
#[derive(Clone, Copy, Debug)]
struct Place {
    policy: PolicySlot,
    tier: Tier,
    /// Where its rules begin.
    first: u32,
}

#[derive(Clone, Copy, Debug)]
struct ProgramRule {
    tier: Tier,
    action: Action,
    policy: PolicySlot,
    index: u32,
    /// Whether its ports depend on the peer.
    named: bool,
    span: Span,
}

/// Ports of which something is said.
pub(crate) type Stretch = (Protocol, PortRange);

/// A rule of a policy by slot, direction and index.
pub(crate) type RuleKey = (PolicySlot, Direction, u32);

/// One entry of a row.
pub(crate) type RowEntry = (PortKey, bool, Option<RuleKey>);

/// The policies by slot.
pub(crate) type PolicyTable = FxHashMap<PolicySlot, KnownPolicy>;

impl Program {
    /// The program of a subject class.
    pub(crate) fn new(key: &SubjectKey, policies: &PolicyTable) -> Self {
        let known = |slot: &PolicySlot| Some((*slot, policies.get(slot)?));
        let mut selecting: Vec<_> = key.policies.iter().filter_map(known).collect();
        selecting.sort_by(|a, b| a.1.rank().cmp(&b.1.rank()));
        let isolated = selecting.iter().any(|(_, it)| it.policy.tier == Tier::NetworkPolicy);
        let mut program = Self {
            key: key.clone(),
            order: Vec::with_capacity(selecting.len()),
            default: Default::Spoken { allow: !isolated },
            rules: Vec::new(),
            by_atom: Vec::new(),
            for_anybody: Vec::new(),
            named_for_anybody: Vec::new(),
            cover: Vec::new(),
            covers_everything: false,
        };
        let counts = |known: &KnownPolicy| known.policy.tier != Tier::Baseline || !isolated;
        let adds = |known: &KnownPolicy| known.only_adds(key.direction) || !counts(known);
        if isolated && selecting.iter().all(|(_, known)| adds(known)) {
            program.default = Default::Silent;
        }
        for (slot, known) in selecting {
            let first = program.next();
            program.order.push(Place { policy: slot, tier: known.policy.tier, first });
            if !counts(known) {
                continue; // the NetworkPolicies have the last word
            }
            for (rule, peers) in program.rules_of(slot, known) {
                program.add(rule, peers);
            }
        }
        program.by_atom.sort_unstable();
        program.by_atom.shrink_to_fit();
        program.note_cover(policies);
        program
    }

    /// The rules of a policy, and what they ask of peers.
    fn rules_of<'a>(
        &self,
        slot: PolicySlot,
        known: &'a KnownPolicy,
    ) -> Vec<(ProgramRule, Option<&'a [AtomId]>)> {
        let (direction, tier) = (self.key.direction, known.policy.tier);
        let parts = known.needs.as_ref().map(|needs| needs.part(direction));
        let peers = parts.iter().flat_map(|part| &part.peers).map(|peers| {
            peers.as_ref().map(|peers| match self.default {
                Default::Silent => &*peers.adding,
                Default::Spoken { .. } => &*peers.in_order,
            })
        });
        let rules = known.policy.rules(direction).unwrap_or_default();
        let rule = |(index, rule): (u32, &Rule)| {
            let named = direction == Direction::Egress
                && rule.ports.iter().any(|spec| matches!(spec.port, PortMatch::Named(_)));
            let (action, span) = (rule.action, Span::of(rule));
            ProgramRule { tier, action, policy: slot, index, named, span }
        };
        (0..).zip(rules).map(rule).zip(peers).collect()
    }

    /// The place of a rule at the end. A pod is not selected by 2³² rules.
    fn next(&self) -> u32 {
        u32::try_from(self.rules.len()).unwrap_or(u32::MAX)
    }

    /// Adds a rule at the end.
    fn add(&mut self, rule: ProgramRule, peers: Option<&[AtomId]>) {
        let at = self.next();
        match peers {
            Some(peers) => self.by_atom.extend(peers.iter().map(|atom| (*atom, at))),
            None => {
                self.for_anybody.push(at);
                if rule.named {
                    self.named_for_anybody.push(at);
                }
            }
        }
        self.rules.push(rule);
    }

    /// Notes what anybody is allowed, where rows fall through to that.
    fn note_cover(&mut self, policies: &PolicyTable) {
        self.cover.clear();
        self.covers_everything = false;
        if self.default != Default::Silent {
            return;
        }
        let row = self.row_for_anybody(policies);
        let mut cover: Vec<Stretch> = Vec::new();
        for (ports, ..) in row {
            match ports {
                PortKey::Port(protocol, port) => cover.push((protocol, PortRange::one(port))),
                PortKey::Range(protocol, range) => cover.push((protocol, range)),
                PortKey::AnyPort(protocol) => cover.push((protocol, PortRange::ALL)),
                PortKey::AnyProtocol => self.covers_everything = true,
            }
        }
        cover.sort_unstable();
        for (protocol, range) in cover {
            match self.cover.last_mut() {
                Some((its, last))
                    if *its == protocol && u32::from(range.first) <= u32::from(last.last) + 1 =>
                {
                    last.last = last.last.max(range.last);
                }
                _ => self.cover.push((protocol, range)),
            }
        }
    }

    /// What rows depend on besides rules: if it is another, rows may differ even for peers that no
    /// changed rule names.
    pub(crate) fn shape(&self) -> (Default, bool, NamedPorts) {
        (self.default, self.covers_everything, self.key.ports.clone())
    }

    /// Whether rules for anybody stand for ports that depend on the peer.
    pub(crate) fn has_named_for_anybody(&self) -> bool {
        !self.named_for_anybody.is_empty()
    }

    /// The key that the program was made for.
    pub(crate) fn key(&self) -> &SubjectKey {
        &self.key
    }

    /// The policies, in order of evaluation.
    pub(crate) fn order(&self) -> impl Iterator<Item = PolicySlot> {
        self.order.iter().map(|place| place.policy)
    }

    /// The atoms that its rules ask for.
    pub(crate) fn atoms(&self) -> impl Iterator<Item = AtomId> {
        self.by_atom.chunk_by(|a, b| a.0 == b.0).filter_map(|list| Some(list.first()?.0))
    }

    /// The rules that ask an atom.
    fn asking(&self, atom: AtomId) -> impl Iterator<Item = u32> {
        let first = self.by_atom.partition_point(|(its, _)| *its < atom);
        let rules = self.by_atom[first..].iter();
        rules.take_while(move |(its, _)| *its == atom).map(|(_, rule)| *rule)
    }

    /// The row for peers that have none of their own.
    pub(crate) fn row_for_anybody(&self, policies: &PolicyTable) -> Vec<RowEntry> {
        let mut claims = Vec::new();
        for rule in &self.for_anybody {
            self.claim(*rule, &[], policies, &mut claims);
        }
        self.entries(flatten(&claims, self.default))
    }

    /// The row for a peer class; empty if it gets no more and no less than anybody.
    pub(crate) fn row(
        &self,
        signature: &[AtomId],
        ports: &[Resolved<'_>],
        policies: &PolicyTable,
    ) -> Vec<RowEntry> {
        if self.covers_everything {
            return Vec::new();
        }
        let mut rules: Vec<u32> = signature.iter().flat_map(|atom| self.asking(*atom)).collect();
        let resolves = |rule: &u32| {
            let specs = self.rule(*rule, policies).into_iter().flat_map(|(_, rule)| &rule.ports);
            specs.into_iter().any(|spec| ports.iter().any(|(name, _)| is_named(spec, name)))
        };
        rules.extend(self.named_for_anybody.iter().filter(|rule| resolves(rule)));
        rules.sort_unstable();
        rules.dedup();
        let mut claims = Vec::new();
        for rule in &rules {
            self.claim(*rule, ports, policies, &mut claims);
        }
        if claims.is_empty() {
            return Vec::new();
        }
        if self.default != Default::Silent {
            let for_anybody =
                self.for_anybody.iter().filter(|rule| rules.binary_search(rule).is_err());
            for rule in for_anybody {
                self.claim(*rule, ports, policies, &mut claims);
            }
            claims.sort_by_key(|claim| claim.rule);
        }
        let mut row = flatten(&claims, self.default);
        if !self.cover.is_empty() {
            self.drop_covered(&mut row);
        }
        self.entries(row)
    }

    /// Drops what anybody is allowed anyway, unless a wider entry of the row would answer instead:
    /// that would name a rule which does not match.
    fn drop_covered(&self, row: &mut Vec<(PortKey, Answer)>) {
        let covered = |protocol, range: PortRange| {
            self.cover.iter().any(|(its, cover)| {
                *its == protocol && cover.first <= range.first && range.last <= cover.last
            })
        };
        let any_protocol = row.iter().any(|(ports, _)| *ports == PortKey::AnyProtocol);
        if any_protocol {
            return;
        }
        row.retain(|(ports, _)| {
            !matches!(ports, PortKey::AnyPort(protocol) if covered(*protocol, PortRange::ALL))
        });
        let wide: Vec<Protocol> = row
            .iter()
            .filter_map(|(ports, _)| match ports {
                PortKey::AnyPort(protocol) => Some(*protocol),
                _ => None,
            })
            .collect();
        row.retain(|(ports, _)| match *ports {
            PortKey::Port(protocol, port) => {
                wide.contains(&protocol) || !covered(protocol, PortRange::one(port))
            }
            PortKey::Range(protocol, range) => {
                wide.contains(&protocol) || !covered(protocol, range)
            }
            PortKey::AnyPort(_) | PortKey::AnyProtocol => true,
        });
    }

    fn claim(
        &self,
        at: u32,
        ports: &[Resolved<'_>],
        policies: &PolicyTable,
        claims: &mut Vec<Claim>,
    ) {
        let Some((entry, rule)) = self.rule(at, policies) else { return };
        let mut claim = |ports| {
            claims.push(Claim { rule: at, tier: entry.tier, action: entry.action, ports });
        };
        if rule.ports.is_empty() {
            claim(Ports::Everything);
        }
        for spec in &rule.ports {
            let protocol = spec.protocol;
            match &spec.port {
                PortMatch::Any => claim(Ports::Range(protocol, PortRange::ALL)),
                PortMatch::Range(range) => claim(Ports::Range(protocol, *range)),
                PortMatch::Named(_) => {
                    let on_subject = self.key.ports.iter().filter(|(name, _)| is_named(spec, name));
                    let numbers = on_subject.flat_map(|(_, numbers)| numbers.iter().copied());
                    let on_peer = ports.iter().filter(|(name, _)| is_named(spec, name));
                    let on_peer = on_peer.map(|(_, number)| *number);
                    for number in numbers.chain(on_peer) {
                        claim(Ports::Range(protocol, PortRange::one(number)));
                    }
                }
            }
        }
    }

    fn rule<'a>(
        &'a self,
        at: u32,
        policies: &'a PolicyTable,
    ) -> Option<(&'a ProgramRule, &'a Rule)> {
        let entry = self.rules.get(usize::try_from(at).ok()?)?;
        Some((entry, policies.get(&entry.policy)?.rule(self.key.direction, entry.index)?))
    }

    fn entries(&self, row: Vec<(PortKey, Answer)>) -> Vec<RowEntry> {
        let key = |at: u32| {
            let rule = self.rules.get(usize::try_from(at).ok()?)?;
            Some((rule.policy, self.key.direction, rule.index))
        };
        row.into_iter().map(|(ports, (allow, rule))| (ports, allow, rule.and_then(key))).collect()
    }
}

/// Whether a rule's port is this name.
fn is_named(spec: &PortSpec, name: &PortName) -> bool {
    spec.protocol == name.1 && matches!(&spec.port, PortMatch::Named(its) if *its == name.0)
}

#[cfg(test)]
mod tests {
    use podwall_policy::cluster::Cluster;
    use podwall_policy::label::Labels;
    use podwall_policy::object::Pod;
    use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy, Rule};
    use podwall_policy::port::{PortMatch, PortRange, PortSpec, Protocol};
    use podwall_policy::selector::Selector;

    use crate::compiler::compile;
    use crate::tables::{NodeTables, PeerKey};

    fn tcp(first: u16, last: u16) -> PortSpec {
        let port = PortMatch::Range(PortRange { first, last });
        PortSpec { protocol: Protocol::TCP, port }
    }

    /// Pods `x/a` (10.0.0.1) and `x/b` (10.0.0.2), and one policy for all of `x`.
    fn compiled(ingress: Vec<Rule>) -> NodeTables {
        let mut cluster = Cluster::default();
        for (name, ip) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
            let mut pod = Pod::new("x", name, Labels::default());
            pod.ips = vec![ip.parse().unwrap()];
            cluster.put_pod(pod);
        }
        let mut policy = Policy::network_policy("x", "p", Selector::everything());
        policy.ingress = Some(ingress);
        cluster.put_policy(policy);
        compile(&cluster, None)
    }

    fn pods() -> Vec<Peer> {
        let namespaces = NamespaceScope::Own("x".into());
        vec![Peer::Pods(PodScope { namespaces, pods: Selector::everything() })]
    }

    /// The number of the rule that lets `x/b` reach `x/a` on a TCP port.
    fn rule_for(tables: &NodeTables, port: u16) -> Option<u32> {
        let subject = tables.subjects[&(Direction::Ingress, "10.0.0.1".parse().unwrap())];
        let verdict = tables.verdict(subject, "10.0.0.2".parse().unwrap(), Protocol::TCP, port);
        verdict.rule.map(|id| tables.rules[&id].number)
    }

    #[test]
    fn what_anybody_is_allowed_is_not_said_again_for_a_peer() {
        let tables = compiled(vec![
            Rule::allow(pods(), vec![tcp(80, 80), tcp(8000, 8001)]),
            Rule::allow(vec![], vec![tcp(80, 90)]),
        ]);
        let own = tables.verdicts.keys().filter(|key| key.peer != PeerKey::Any).count();
        assert_eq!(own, 1);
        assert_eq!((rule_for(&tables, 80), rule_for(&tables, 8000)), (Some(2), Some(1)));
    }

    #[test]
    fn a_port_is_said_again_where_a_wider_entry_would_name_a_rule_that_does_not_match() {
        let tables = compiled(vec![
            Rule::allow(pods(), vec![tcp(80, 80)]),
            Rule::allow(pods(), vec![tcp(0, 79), tcp(81, u16::MAX)]),
            Rule::allow(vec![], vec![tcp(80, 80)]),
        ]);
        assert_eq!((rule_for(&tables, 80), rule_for(&tables, 79)), (Some(1), Some(2)));
    }
}
