//! Which things are alike, and what is the cheapest way to say that this has changed?
//!
//! ```text
//!   class 7 {a}: ●●●●●●●●        three of them now also meet b
//!                                 ──▶ class 7 {a}: ●●●●●     class 9 {a,b}: ●●●
//!   class 7 {a}: ●●●●●●●●        seven of them now also meet b
//!                                 ──▶ class 7 {a,b}: ●●●●●●●  class 9 {a}: ●
//! ```
//!
//! Members with equal keys are one class, and each key has one class. When keys change, a class
//! number goes with the greater part, so that few members change their number; a selector that
//! newly matches every member of a class renumbers none of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::hash::Hash;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::ids::Ids;

/// Members grouped by key. Owns the class numbers.
#[derive(Debug)]
pub(crate) struct Partition<K, M> {
    classes: FxHashMap<u32, Class<K, M>>,
    by_key: FxHashMap<K, u32>,
    of: FxHashMap<M, u32>,
    ids: Ids,
}

#[derive(Debug)]
struct Class<K, M> {
    key: K,
    members: FxHashSet<M>,
}

/// What an update changed.
#[derive(Debug)]
pub(crate) struct Changes<K, M> {
    /// Classes that came, went, or have another key.
    pub(crate) classes: Vec<ClassChange<K>>,
    /// Members that have another class number.
    pub(crate) members: Vec<MemberChange<M>>,
}

/// One class that changed.
#[derive(Debug)]
pub(crate) struct ClassChange<K> {
    pub(crate) id: u32,
    pub(crate) before: Option<K>,
    pub(crate) after: Option<K>,
}

/// One member that changed its class.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MemberChange<M> {
    pub(crate) member: M,
    pub(crate) before: Option<u32>,
    pub(crate) after: Option<u32>,
}

impl<K: Clone + Eq + Hash, M: Copy + Ord + Hash> Partition<K, M> {
    /// No class; numbers start at `first`.
    pub(crate) fn new(first: u32) -> Self {
        Self {
            classes: FxHashMap::default(),
            by_key: FxHashMap::default(),
            of: FxHashMap::default(),
            ids: Ids::from(first),
        }
    }

    /// How many classes there are.
    pub(crate) fn len(&self) -> usize {
        self.classes.len()
    }

    /// How many members there are.
    pub(crate) fn members(&self) -> usize {
        self.of.len()
    }

    /// A class's key.
    pub(crate) fn key(&self, id: u32) -> Option<&K> {
        self.classes.get(&id).map(|class| &class.key)
    }

    /// How many members a class has.
    pub(crate) fn size(&self, id: u32) -> usize {
        self.classes.get(&id).map_or(0, |class| class.members.len())
    }

    /// All classes and their keys, in no order.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> impl Iterator<Item = (u32, &K)> {
        self.classes.iter().map(|(id, class)| (*id, &class.key))
    }

    /// The class of a member.
    pub(crate) fn class_of(&self, member: M) -> Option<u32> {
        self.of.get(&member).copied()
    }

    /// Ends a commit: numbers that were freed may be used again.
    pub(crate) fn settle(&mut self) {
        self.ids.settle();
    }

    /// Changes keys. `rekeys` gives whole classes another key, or takes their members out; `moves`
    /// gives single members a key or takes them out, each at most once, and goes before `rekeys`.
    pub(crate) fn update(
        &mut self,
        rekeys: &FxHashMap<u32, Option<K>>,
        moves: impl IntoIterator<Item = (M, Option<K>)>,
    ) -> Changes<K, M> {
        let plan = self.plan(rekeys, moves);
        self.carry_out(plan)
    }

    /// Sorts members into groups with equal origin and target, and finds each target's number.
    fn plan(
        &mut self,
        rekeys: &FxHashMap<u32, Option<K>>,
        moves: impl IntoIterator<Item = (M, Option<K>)>,
    ) -> Plan<K, M> {
        let mut targets = Targets::default();
        let mut groups: FxHashMap<(Option<u32>, Option<usize>), Vec<M>> = FxHashMap::default();
        let mut leaving: FxHashMap<u32, usize> = FxHashMap::default();
        for (member, key) in moves {
            let from = self.class_of(member);
            let stays = match from.and_then(|id| Some((id, self.classes.get(&id)?))) {
                Some((id, class)) => match rekeys.get(&id) {
                    Some(rekeyed) => *rekeyed == key,
                    None => key.as_ref() == Some(&class.key),
                },
                None => key.is_none(),
            };
            if stays {
                continue;
            }
            if let Some(id) = from {
                *leaving.entry(id).or_default() += 1;
            }
            groups.entry((from, key.map(|key| targets.number(key)))).or_default().push(member);
        }
        // Where those go that stay with their class.
        let mut touched: BTreeMap<u32, Option<usize>> = BTreeMap::new();
        for id in rekeys.keys().chain(leaving.keys()) {
            let Some(class) = self.classes.get(id) else { continue };
            let key = rekeys.get(id).map_or_else(|| Some(class.key.clone()), Clone::clone);
            touched.insert(*id, key.map(|key| targets.number(key)));
        }
        // A class that has a target as its key already takes part: the greater part keeps its
        // number, whoever had the key before.
        for (number, key) in targets.list.iter().enumerate() {
            if let Some(id) = self.by_key.get(key) {
                touched.entry(*id).or_insert(Some(number));
            }
        }
        let staying = |id: u32| self.size(id) - leaving.get(&id).copied().unwrap_or(0);
        let mut claims: Vec<(Reverse<usize>, u32, usize)> = groups
            .iter()
            .filter_map(|((from, to), members)| Some((Reverse(members.len()), (*from)?, (*to)?)))
            .chain(touched.iter().filter_map(|(id, to)| Some((Reverse(staying(*id)), *id, (*to)?))))
            .filter(|(Reverse(count), ..)| *count > 0)
            .collect();
        claims.sort_unstable();
        let mut numbers: Vec<Option<u32>> = vec![None; targets.list.len()];
        let mut given: FxHashSet<u32> = FxHashSet::default();
        for (_, id, target) in &claims {
            if numbers[*target].is_none() && given.insert(*id) {
                numbers[*target] = Some(*id);
            }
        }
        let mut wanted: Vec<usize> = claims
            .iter()
            .map(|(.., target)| *target)
            .chain(groups.keys().filter_map(|(_, to)| *to))
            .filter(|target| numbers[*target].is_none())
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        for target in wanted {
            numbers[target] = Some(self.ids.take());
        }
        Plan { targets: targets.list, numbers, groups, touched }
    }

    fn carry_out(&mut self, plan: Plan<K, M>) -> Changes<K, M> {
        let Plan { targets, numbers, groups, touched } = plan;
        let mut changes = Changes { classes: Vec::new(), members: Vec::new() };
        let mut before: BTreeMap<u32, Option<K>> = BTreeMap::new();
        let mut staying: FxHashMap<u32, FxHashSet<M>> = FxHashMap::default();
        for id in touched.keys() {
            if let Some(class) = self.classes.remove(id) {
                self.by_key.remove(&class.key);
                before.insert(*id, Some(class.key));
                staying.insert(*id, class.members);
            }
        }
        for ((from, _), members) in &groups {
            if let Some(set) = from.and_then(|id| staying.get_mut(&id)) {
                for member in members {
                    set.remove(member);
                }
            }
        }
        let number = |target: Option<usize>| target.and_then(|target| numbers[target]);
        let mut sets: FxHashMap<u32, FxHashSet<M>> = FxHashMap::default();
        let mut moving: Vec<(Option<u32>, Option<u32>, Vec<M>)> = Vec::new();
        for (id, target) in &touched {
            let Some(members) = staying.remove(id) else { continue };
            match number(*target) {
                Some(to) if to == *id => drop(sets.insert(*id, members)),
                to => moving.push((Some(*id), to, members.into_iter().collect())),
            }
        }
        moving.extend(
            groups.into_iter().map(|((from, target), members)| (from, number(target), members)),
        );
        for (from, to, members) in moving {
            for member in &members {
                match to {
                    Some(to) if from != Some(to) => drop(self.of.insert(*member, to)),
                    Some(_) => {}
                    None => drop(self.of.remove(member)),
                }
            }
            if from != to {
                let moved = members.iter().map(|member| MemberChange {
                    member: *member,
                    before: from,
                    after: to,
                });
                changes.members.extend(moved);
            }
            if let Some(to) = to {
                sets.entry(to).or_default().extend(members);
            }
        }
        for (target, key) in targets.into_iter().enumerate() {
            let Some(id) = numbers[target] else { continue };
            before.entry(id).or_insert(None);
            let members = sets.remove(&id).unwrap_or_default();
            self.by_key.insert(key.clone(), id);
            self.classes.insert(id, Class { key, members });
        }
        for (id, before) in before {
            let after = self.key(id).cloned();
            if after.is_none() {
                self.ids.give_back(id);
            }
            if before != after {
                changes.classes.push(ClassChange { id, before, after });
            }
        }
        changes.members.sort_unstable();
        changes
    }
}

/// What an update is going to do.
struct Plan<K, M> {
    targets: Vec<K>,
    /// The class number of each target; `None` where no member goes there.
    numbers: Vec<Option<u32>>,
    /// Members that leave their class's majority, by origin and target.
    groups: FxHashMap<(Option<u32>, Option<usize>), Vec<M>>,
    /// Classes that take part, and where their other members go.
    touched: BTreeMap<u32, Option<usize>>,
}

/// Keys that members go to, each once.
struct Targets<K> {
    list: Vec<K>,
    numbers: FxHashMap<K, usize>,
}

impl<K> Default for Targets<K> {
    fn default() -> Self {
        Self { list: Vec::new(), numbers: FxHashMap::default() }
    }
}

impl<K: Clone + Eq + Hash> Targets<K> {
    fn number(&mut self, key: K) -> usize {
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        self.list.push(key.clone());
        self.numbers.insert(key, self.list.len() - 1);
        self.list.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Small = Partition<u8, u16>;

    fn moves(members: impl IntoIterator<Item = u16>, key: Option<u8>) -> Vec<(u16, Option<u8>)> {
        members.into_iter().map(|member| (member, key)).collect()
    }

    fn renumbered(changes: &Changes<u8, u16>) -> Vec<u16> {
        changes.members.iter().map(|change| change.member).collect()
    }

    #[test]
    fn the_greater_part_keeps_the_number() {
        let mut p = Small::new(1);
        p.update(&FxHashMap::default(), moves(0..10, Some(1)));
        assert_eq!(p.class_of(3), Some(1));
        let changes = p.update(&FxHashMap::default(), moves(0..7, Some(2)));
        assert_eq!(renumbered(&changes), [7, 8, 9]);
        assert_eq!((p.class_of(0), p.class_of(9)), (Some(1), Some(2)));
        let changes = p.update(&FxHashMap::default(), moves(0..2, Some(3)));
        assert_eq!(renumbered(&changes), [0, 1]);
    }

    #[test]
    fn a_whole_class_changes_its_key_and_no_member_its_number() {
        let mut p = Small::new(1);
        p.update(&FxHashMap::default(), moves(0..10, Some(1)));
        let rekeys = FxHashMap::from_iter([(1, Some(5))]);
        let changes = p.update(&rekeys, []);
        assert!(changes.members.is_empty());
        assert_eq!(changes.classes.len(), 1);
        assert_eq!(p.key(1), Some(&5));
    }

    #[test]
    fn a_great_class_that_becomes_equal_to_a_small_one_swallows_it() {
        let mut p = Small::new(1);
        p.update(
            &FxHashMap::default(),
            moves(0..1, Some(9)).into_iter().chain(moves(1..9, Some(1))),
        );
        let great = p.class_of(5).unwrap();
        let changes = p.update(&FxHashMap::from_iter([(great, Some(9))]), []);
        assert_eq!(renumbered(&changes), [0]);
        assert_eq!((p.len(), p.class_of(0), p.key(great)), (1, Some(great), Some(&9)));
    }

    #[test]
    fn a_number_comes_back_only_after_the_commit() {
        let mut p = Small::new(1);
        p.update(&FxHashMap::default(), moves(0..1, Some(1)));
        p.update(&FxHashMap::default(), moves(0..1, None));
        p.update(&FxHashMap::default(), moves(0..1, Some(1)));
        assert_eq!(p.class_of(0), Some(2));
        p.settle();
        p.update(&FxHashMap::default(), moves(1..2, Some(2)));
        assert_eq!(p.class_of(1), Some(1));
    }

    proptest! {
        /// After any updates the partition is the one that its keys describe, and what an update
        /// says that it changed is what changed.
        #[test]
        fn classes_are_the_keys_of_their_members(steps in prop::collection::vec((
            prop::collection::vec((0u16..12, prop::option::of(0u8..5)), 0..8),
            prop::collection::vec((0usize..5, prop::option::of(0u8..5)), 0..3),
        ), 1..12)) {
            let mut p = Small::new(1);
            let mut model: BTreeMap<u16, u8> = BTreeMap::new();
            for (single, whole) in steps {
                let single: BTreeMap<u16, Option<u8>> = single.into_iter().collect();
                let mut ids: Vec<u32> = p.classes.keys().copied().collect();
                ids.sort_unstable();
                let rekeys: FxHashMap<u32, Option<u8>> = whole.iter()
                    .filter_map(|(n, key)| Some((*ids.get(*n)?, *key)))
                    .collect();
                let keys = |p: &Small| p.keys().map(|(id, k)| (id, *k)).collect::<BTreeMap<_, _>>();
                let (old_of, old_keys) = (p.of.clone(), keys(&p));
                for (member, id) in &old_of {
                    match rekeys.get(id) {
                        Some(Some(key)) => { model.insert(*member, *key); }
                        Some(None) => { model.remove(member); }
                        None => {}
                    }
                }
                for (member, key) in &single {
                    match key {
                        Some(key) => { model.insert(*member, *key); }
                        None => { model.remove(member); }
                    }
                }
                let changes = p.update(&rekeys, single);
                p.settle();
                let now: BTreeMap<u16, u8> =
                    p.of.iter().map(|(m, id)| (*m, *p.key(*id).unwrap())).collect();
                prop_assert_eq!(&now, &model);
                for (id, class) in &p.classes {
                    prop_assert!(!class.members.is_empty());
                    prop_assert_eq!(p.by_key.get(&class.key), Some(id));
                    prop_assert!(class.members.iter().all(|m| p.of.get(m) == Some(id)));
                }
                prop_assert_eq!(p.by_key.len(), p.classes.len());
                prop_assert_eq!(p.classes.values().map(|c| c.members.len()).sum::<usize>(), p.of.len());
                let (mut of, mut replayed) = (old_of, old_keys);
                for change in changes.members {
                    prop_assert_eq!(of.get(&change.member).copied(), change.before);
                    prop_assert_ne!(change.before, change.after);
                    match change.after {
                        Some(id) => { of.insert(change.member, id); }
                        None => { of.remove(&change.member); }
                    }
                }
                for change in changes.classes {
                    prop_assert_eq!(replayed.get(&change.id).copied(), change.before);
                    match change.after {
                        Some(key) => { replayed.insert(change.id, key); }
                        None => { replayed.remove(&change.id); }
                    }
                }
                prop_assert_eq!(&of, &p.of);
                prop_assert_eq!(replayed, keys(&p));
            }
        }
    }
}
