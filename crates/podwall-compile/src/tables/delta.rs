//! How does one state of the tables become another?
//!
//! ```text
//!   from ── Delta::between ──▶ Delta ──▶ from.apply ──▶ to
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::address::{AddressRange, AddressSet};
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, RuleRef};

use super::{NetId, NodeTables, Peer, PeerId, PolicyId, RuleId, SubjectId, Verdict, VerdictKey};

/// A change of a node's tables: what to set (`Some`) and what to remove (`None`). Each key stands
/// at most once in its list. A data plane makes it visible to packets all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Local addresses.
    pub subjects: Vec<((Direction, IpAddr), Option<SubjectId>)>,
    /// Where this node's pods get their addresses from, if that changes.
    pub pod_ranges: Option<AddressSet>,
    /// Remote addresses.
    pub peers: Vec<(IpAddr, Option<Peer>)>,
    /// Ranges that go; exactly as they were added.
    pub blocks_removed: Vec<AddressRange>,
    /// Ranges that come; disjoint from all that stay. A range whose class alone changes stands in
    /// both lists.
    pub blocks_added: Vec<(AddressRange, PeerId)>,
    /// The same of `nets`.
    pub nets_removed: Vec<AddressRange>,
    /// The same of `nets`.
    pub nets_added: Vec<(AddressRange, NetId)>,
    /// Verdicts.
    pub verdicts: Vec<(VerdictKey, Option<Verdict>)>,
    /// Rules that verdicts newly name or no longer name.
    pub rules: Vec<(RuleId, Option<RuleRef>)>,
    /// Policies behind subject classes.
    pub isolated_by: Vec<(SubjectId, Option<Arc<[PolicyId]>>)>,
    /// Names of policies that newly stand behind a class or no longer do.
    pub policies: Vec<(PolicyId, Option<Name>)>,
}

impl Delta {
    /// The change that leads from one state of the tables to another. Reads both from end to end.
    pub fn between(from: &NodeTables, to: &NodeTables) -> Self {
        let (blocks_removed, blocks_added) = ranges(&from.blocks, &to.blocks);
        let (nets_removed, nets_added) = ranges(&from.nets, &to.nets);
        let peers = {
            let gone = from.peers.keys().filter(|address| !to.peers.contains_key(address));
            let new =
                to.peers.iter().filter(|(address, peer)| from.peers.get(address) != Some(peer));
            gone.map(|address| (*address, None))
                .chain(new.map(|(address, peer)| (*address, Some(*peer))))
                .collect()
        };
        Self {
            subjects: entries(&from.subjects, &to.subjects),
            pod_ranges: (from.pod_ranges != to.pod_ranges).then(|| to.pod_ranges.clone()),
            peers,
            blocks_removed,
            blocks_added,
            nets_removed,
            nets_added,
            verdicts: entries(&from.verdicts, &to.verdicts),
            rules: entries(&from.rules, &to.rules),
            isolated_by: entries(&from.isolated_by, &to.isolated_by),
            policies: entries(&from.policies, &to.policies),
        }
    }

    /// Whether nothing changes in the kernel.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
            && self.pod_ranges.is_none()
            && self.peers.is_empty()
            && self.blocks_removed.is_empty()
            && self.blocks_added.is_empty()
            && self.nets_removed.is_empty()
            && self.nets_added.is_empty()
            && self.verdicts.is_empty()
    }
}

fn entries<K: Ord + Copy, V: PartialEq + Clone>(
    from: &BTreeMap<K, V>,
    to: &BTreeMap<K, V>,
) -> Vec<(K, Option<V>)> {
    let gone = from.keys().filter(|key| !to.contains_key(key)).map(|key| (*key, None));
    let new = to.iter().filter(|(key, value)| from.get(key) != Some(value));
    gone.chain(new.map(|(key, value)| (*key, Some(value.clone())))).collect()
}

type Ranges<C> = BTreeMap<AddressRange, C>;

fn ranges<C: PartialEq + Copy>(
    from: &Ranges<C>,
    to: &Ranges<C>,
) -> (Vec<AddressRange>, Vec<(AddressRange, C)>) {
    let gone = from.iter().filter(|(range, class)| to.get(range) != Some(class));
    let new = to.iter().filter(|(range, class)| from.get(range) != Some(class));
    (gone.map(|(r, _)| *r).collect(), new.map(|(range, class)| (*range, *class)).collect())
}

impl NodeTables {
    /// Makes the change. After it the tables equal what a full compilation gives, class numbers
    /// aside.
    pub fn apply(&mut self, delta: &Delta) {
        for (key, class) in &delta.subjects {
            match class {
                Some(class) => drop(self.subjects.insert(*key, *class)),
                None => drop(self.subjects.remove(key)),
            }
        }
        if let Some(ranges) = &delta.pod_ranges {
            self.pod_ranges = ranges.clone();
        }
        for (address, class) in &delta.peers {
            match class {
                Some(class) => drop(self.peers.insert(*address, *class)),
                None => drop(self.peers.remove(address)),
            }
        }
        for range in &delta.blocks_removed {
            self.blocks.remove(range);
        }
        self.blocks.extend(delta.blocks_added.iter().copied());
        for range in &delta.nets_removed {
            self.nets.remove(range);
        }
        self.nets.extend(delta.nets_added.iter().copied());
        for (key, verdict) in &delta.verdicts {
            match verdict {
                Some(verdict) => drop(self.verdicts.insert(*key, *verdict)),
                None => drop(self.verdicts.remove(key)),
            }
        }
        for (id, rule) in &delta.rules {
            match rule {
                Some(rule) => drop(self.rules.insert(*id, rule.clone())),
                None => drop(self.rules.remove(id)),
            }
        }
        for (id, policies) in &delta.isolated_by {
            match policies {
                Some(policies) => drop(self.isolated_by.insert(*id, policies.clone())),
                None => drop(self.isolated_by.remove(id)),
            }
        }
        for (id, name) in &delta.policies {
            match name {
                Some(name) => drop(self.policies.insert(*id, name.clone())),
                None => drop(self.policies.remove(id)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::compile;
    use crate::testing::dice::Dice;
    use crate::testing::random;

    #[test]
    fn the_change_between_two_states_leads_from_one_to_the_other() {
        let (mut different, mut ranges) = (0, 0);
        for seed in 0..60 {
            let tables = |seed| compile(&random::cluster(&mut Dice::seeded(seed)), None);
            let (from, to) = (tables(seed), tables(seed + 1000));
            let delta = Delta::between(&from, &to);
            different += usize::from(!delta.is_empty());
            ranges += delta.blocks_removed.len() + delta.nets_added.len();
            let mut tables = from.clone();
            tables.apply(&delta);
            assert_eq!(tables, to, "seed {seed}");
            assert_eq!(Delta::between(&to, &to), Delta::default());
        }
        assert!(different > 50 && ranges > 50, "{different} {ranges}");
    }
}
