//! Which verdicts stand, and which rules do they name?
//!
//! ```text
//!   row (subject, peer) ──▶ entries in the tables ──▶ rule ids, each as long as an entry names it
//! ```

use podwall_policy::policy::Direction;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::ids::Ids;
use crate::policies::PolicySlot;
use crate::subjects::{PolicyTable, RowEntry, RuleKey};
use crate::tables::{
    Delta, NodeTables, PeerId, PeerKey, PortKey, RuleId, SubjectId, Verdict, VerdictKey,
};

/// Rows that stand, and the numbers of rules. Owned by the compiler.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Sorted.
    subjects_of: FxHashMap<PeerKey, Vec<SubjectId>>,
    numbers: FxHashMap<RuleKey, RuleId>,
    rules: FxHashMap<RuleId, NumberedRule>,
    ids: Ids,
    touched: FxHashSet<RuleId>,
}

#[derive(Debug)]
struct NumberedRule {
    key: RuleKey,
    entries: usize,
}

impl Rows {
    /// No row; rule numbers start at 1.
    pub(crate) fn new() -> Self {
        Self {
            subjects_of: FxHashMap::default(),
            numbers: FxHashMap::default(),
            rules: FxHashMap::default(),
            ids: Ids::from(1),
            touched: FxHashSet::default(),
        }
    }

    /// The subjects that have a row for a peer class.
    pub(crate) fn subjects_of(&self, peer: PeerKey) -> impl Iterator<Item = SubjectId> {
        self.subjects_of.get(&peer).into_iter().flatten().copied()
    }

    /// The peer classes that a subject has a row for.
    pub(crate) fn peers_of(tables: &NodeTables, subject: SubjectId) -> Vec<PeerKey> {
        let all = first_key(subject, PeerKey::Own(PeerId(0)))..=last_key(subject, PeerKey::Any);
        let mut peers: Vec<PeerKey> = tables.verdicts.range(all).map(|(key, _)| key.peer).collect();
        peers.dedup();
        peers
    }

    /// Notes a row of tables that have none yet, and adds its entries to `verdicts`, sorted. Rows
    /// come in order.
    pub(crate) fn add(
        &mut self,
        verdicts: &mut Vec<(VerdictKey, Verdict)>,
        (subject, peer): (SubjectId, PeerKey),
        row: &[RowEntry],
    ) {
        if row.is_empty() {
            return;
        }
        self.subjects_of.entry(peer).or_default().push(subject);
        let start = verdicts.len();
        for (ports, allow, rule) in row {
            let rule = rule.map(|rule| self.number(rule));
            self.count(rule, true);
            let key = VerdictKey { subject, peer, ports: *ports };
            verdicts.push((key, Verdict { allow: *allow, rule }));
        }
        verdicts[start..].sort_unstable();
    }

    /// Replaces a row.
    pub(crate) fn set(
        &mut self,
        tables: &mut NodeTables,
        delta: &mut Delta,
        (subject, peer): (SubjectId, PeerKey),
        row: &[RowEntry],
    ) {
        let mut new: Vec<(PortKey, Verdict)> = row
            .iter()
            .map(|(ports, allow, rule)| {
                let rule = rule.map(|rule| self.number(rule));
                (*ports, Verdict { allow: *allow, rule })
            })
            .collect();
        new.sort_unstable();
        let old: Vec<(PortKey, Verdict)> = tables
            .verdicts
            .range(first_key(subject, peer)..=last_key(subject, peer))
            .map(|(key, verdict)| (key.ports, *verdict))
            .collect();
        if old == new {
            return;
        }
        if new.is_empty() {
            if let Some(subjects) = self.subjects_of.get_mut(&peer) {
                if let Ok(at) = subjects.binary_search(&subject) {
                    subjects.remove(at);
                }
                if subjects.is_empty() {
                    self.subjects_of.remove(&peer);
                }
            }
        } else if old.is_empty() {
            let subjects = self.subjects_of.entry(peer).or_default();
            if let Err(at) = subjects.binary_search(&subject) {
                subjects.insert(at, subject);
            }
        }
        let find = |list: &[(PortKey, Verdict)], ports| {
            list.binary_search_by_key(&ports, |(its, _)| *its).ok().map(|at| list[at].1)
        };
        for (ports, verdict) in &new {
            if find(&old, *ports) != Some(*verdict) {
                let key = VerdictKey { subject, peer, ports: *ports };
                tables.verdicts.insert(key, *verdict);
                delta.verdicts.push((key, Some(*verdict)));
            }
            self.count(verdict.rule, true);
        }
        for (ports, verdict) in &old {
            if find(&new, *ports).is_none() {
                let key = VerdictKey { subject, peer, ports: *ports };
                tables.verdicts.remove(&key);
                delta.verdicts.push((key, None));
            }
            self.count(verdict.rule, false);
        }
    }

    /// Notes that a policy's rules may have other names or places now.
    pub(crate) fn touch(&mut self, policy: PolicySlot, rules: usize) {
        for direction in Direction::BOTH {
            for index in 0..u32::try_from(rules).unwrap_or(u32::MAX) {
                self.touched.extend(self.numbers.get(&(policy, direction, index)));
            }
        }
    }

    /// Ends a commit: brings the names of rules up to date.
    pub(crate) fn settle(
        &mut self,
        tables: &mut NodeTables,
        delta: &mut Delta,
        policies: &PolicyTable,
    ) {
        let mut touched: Vec<RuleId> = self.touched.drain().collect();
        touched.sort_unstable();
        for id in touched {
            let Some(rule) = self.rules.get(&id) else { continue };
            let (policy, direction, index) = rule.key;
            let now = (rule.entries > 0)
                .then(|| policies.get(&policy)?.rule_ref(direction, index))
                .flatten();
            if now.is_none() {
                self.numbers.remove(&rule.key);
                self.rules.remove(&id);
                self.ids.give_back(id.0);
            }
            if tables.rules.get(&id) != now.as_ref() {
                match &now {
                    Some(rule) => drop(tables.rules.insert(id, rule.clone())),
                    None => drop(tables.rules.remove(&id)),
                }
                delta.rules.push((id, now));
            }
        }
        self.ids.settle();
    }

    fn number(&mut self, key: RuleKey) -> RuleId {
        if let Some(id) = self.numbers.get(&key) {
            return *id;
        }
        let id = RuleId(self.ids.take());
        self.numbers.insert(key, id);
        self.rules.insert(id, NumberedRule { key, entries: 0 });
        self.touched.insert(id);
        id
    }

    fn count(&mut self, rule: Option<RuleId>, comes: bool) {
        let Some(id) = rule else { return };
        let Some(rule) = self.rules.get_mut(&id) else { return };
        if comes {
            rule.entries += 1;
        } else {
            rule.entries -= 1;
        }
        if rule.entries <= 1 {
            self.touched.insert(id);
        }
    }
}

fn first_key(subject: SubjectId, peer: PeerKey) -> VerdictKey {
    let ports = PortKey::Port(podwall_policy::port::Protocol(0), 0);
    VerdictKey { subject, peer, ports }
}

fn last_key(subject: SubjectId, peer: PeerKey) -> VerdictKey {
    VerdictKey { subject, peer, ports: PortKey::AnyProtocol }
}
