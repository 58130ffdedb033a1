//! What changes for a subject class when policies come or go?
//!
//! ```text
//!   rules      a a b c c c d e          c goes, f comes before e
//!              0 1 2 3 4 5 6 7
//!              a a b d f e              places behind are shifted; nobody is looked up again
//!              0 1 2 3 4 5
//! ```
//!
//! Only where all rules add, before and after. Rows leave out what anybody is allowed, so that a
//! rule for anybody concerns the rows that are about its ports, and no others.

use podwall_policy::policy::{Rule, Tier};
use podwall_policy::port::{PortMatch, PortRange, Protocol};

use super::{Place, PolicyTable, Program, Stretch, SubjectKey};
use crate::atoms::AtomId;
use crate::flatten::Default;
use crate::policies::{KnownPolicy, PolicySlot};

/// Where the ports of a rule lie: none is outside, and not all inside need be its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// A bit for each of [`Protocol::WITH_PORTS`].
    protocols: u8,
    first: u16,
    last: u16,
}

impl Program {
    /// Follows a change of its key, and gives the ports of which others may be allowed to anybody
    /// now; `None`: it cannot and must be made anew. `gone` and `new` are the policies that are only
    /// in the one key or the other, and in both lists those that say something else now.
    ///
    /// Where all rules only add, a policy that only adds leaves the others what they are.
    pub(crate) fn follow(
        &mut self,
        key: &SubjectKey,
        (gone, new): (&[PolicySlot], &[PolicySlot]),
        policies: &PolicyTable,
    ) -> Option<Vec<Stretch>> {
        let only_adds = |slot: &PolicySlot| {
            policies.get(slot).is_some_and(|known| known.only_adds(key.direction))
        };
        // Sorting once is cheaper than many times moving what stands behind.
        let few = (gone.len() + new.len()) * 4 <= key.policies.len().max(16);
        if self.default != Default::Silent || !few || !new.iter().all(only_adds) {
            return None;
        }
        let isolates = |slot: &PolicySlot| {
            policies.get(slot).is_some_and(|known| known.policy.tier == Tier::NetworkPolicy)
        };
        let stays =
            |place: &Place| place.tier == Tier::NetworkPolicy && !gone.contains(&place.policy);
        if !new.iter().any(isolates) && !self.order.iter().any(stays) {
            return None;
        }
        let mut covers_else = key.ports != self.key.ports;
        self.key = key.clone();
        for policy in gone {
            if let Some(at) = self.order.iter().position(|place| place.policy == *policy) {
                covers_else |= self.take_out(at);
            }
        }
        for policy in new {
            let Some(known) = policies.get(policy) else { continue };
            let is_before = |place: &Place| {
                policies.get(&place.policy).is_some_and(|its| its.rank() <= known.rank())
            };
            let at = self.order.partition_point(is_before);
            covers_else |= self.put_in(at, *policy, known);
        }
        if !covers_else {
            return Some(Vec::new());
        }
        let before = std::mem::take(&mut self.cover);
        self.note_cover(policies);
        let only = |a: &[Stretch], b: &[Stretch]| -> Vec<Stretch> {
            a.iter().copied().filter(|stretch| b.binary_search(stretch).is_err()).collect()
        };
        Some([only(&before, &self.cover), only(&self.cover, &before)].concat())
    }

    /// Takes the policy at a place out, where all rules only add; whether a rule for anybody goes.
    fn take_out(&mut self, at: usize) -> bool {
        let place = self.order.remove(at);
        let end = self.order.get(at).map_or(self.next(), |next| next.first);
        let (rules, count) = (place.first..end, end - place.first);
        let stays = |rule: &mut u32| {
            let stays = !rules.contains(rule);
            *rule -= if *rule >= rules.end { count } else { 0 };
            stays
        };
        self.order[at..].iter_mut().for_each(|place| place.first -= count);
        self.rules.drain(index(rules.start)..index(rules.end));
        self.by_atom.retain_mut(|(_, rule)| stays(rule));
        let before = self.for_anybody.len();
        self.for_anybody.retain_mut(stays);
        self.named_for_anybody.retain_mut(stays);
        before > self.for_anybody.len()
    }

    /// Puts a policy in at a place, where all rules only add; whether a rule for anybody comes.
    fn put_in(&mut self, at: usize, policy: PolicySlot, known: &KnownPolicy) -> bool {
        let first = self.order.get(at).map_or(self.next(), |next| next.first);
        let rules = self.rules_of(policy, known);
        let count = u32::try_from(rules.len()).unwrap_or(u32::MAX);
        let shift = |rule: &mut u32| *rule += if *rule >= first { count } else { 0 };
        self.order[at..].iter_mut().for_each(|place| place.first += count);
        self.order.insert(at, Place { policy, tier: known.policy.tier, first });
        self.by_atom.iter_mut().for_each(|(_, rule)| shift(rule));
        self.for_anybody.iter_mut().for_each(shift);
        self.named_for_anybody.iter_mut().for_each(shift);
        let place = index(first);
        self.rules.splice(place..place, rules.iter().map(|(rule, _)| *rule));
        let mut asked: Vec<(AtomId, u32)> = Vec::new();
        let mut anybody = false;
        for ((rule, peers), number) in rules.iter().zip(first..) {
            asked.extend(peers.iter().copied().flatten().map(|atom| (*atom, number)));
            if peers.is_none() {
                anybody = true;
                insert_sorted(&mut self.for_anybody, number);
                if rule.named {
                    insert_sorted(&mut self.named_for_anybody, number);
                }
            }
        }
        self.by_atom.reserve_exact(asked.len());
        if asked.len() > 16 {
            self.by_atom.extend(asked);
            self.by_atom.sort_unstable();
        } else {
            asked.into_iter().for_each(|entry| insert_sorted(&mut self.by_atom, entry));
        }
        anybody
    }

    /// The atoms that rules ask for which are about some of these ports; perhaps more.
    pub(crate) fn atoms_about(&self, ports: &[Stretch]) -> Vec<AtomId> {
        let is_about = |rule: u32| {
            let span = self.rules.get(index(rule)).map(|rule| rule.span);
            span.is_some_and(|span| ports.iter().any(|ports| span.meets(*ports)))
        };
        if ports.is_empty() {
            return Vec::new();
        }
        self.by_atom.iter().filter(|(_, rule)| is_about(*rule)).map(|(atom, _)| *atom).collect()
    }
}

impl Span {
    const ALL: Self = Self { protocols: u8::MAX, first: 0, last: u16::MAX };

    pub(super) fn of(rule: &Rule) -> Self {
        let spans = rule.ports.iter().map(|spec| {
            let PortRange { first, last } = match &spec.port {
                PortMatch::Range(range) => *range,
                PortMatch::Any | PortMatch::Named(_) => PortRange::ALL,
            };
            Self { protocols: protocol_bit(spec.protocol), first, last }
        });
        let both = |a: Self, b: Self| Self {
            protocols: a.protocols | b.protocols,
            first: a.first.min(b.first),
            last: a.last.max(b.last),
        };
        spans.reduce(both).unwrap_or(Self::ALL)
    }

    fn meets(self, (protocol, range): Stretch) -> bool {
        self.protocols & protocol_bit(protocol) != 0
            && self.first <= range.last
            && range.first <= self.last
    }
}

fn protocol_bit(protocol: Protocol) -> u8 {
    let at = Protocol::WITH_PORTS.iter().position(|its| *its == protocol);
    at.map_or(u8::MAX, |at| 1 << at)
}

/// A place as an index.
fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

fn insert_sorted<T: Ord>(list: &mut Vec<T>, item: T) {
    let at = list.partition_point(|its| *its <= item);
    list.insert(at, item);
}
