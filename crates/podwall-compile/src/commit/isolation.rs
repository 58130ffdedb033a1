//! Which local addresses are alike now?
//!
//! ```text
//!   pods that changed ─▶ asked anew who isolates them          ─┐
//!   policies that changed ─▶ classes of the pods they isolate   ├─▶ subject classes
//!                             { 3 7 12 … } + 9 = { 3 7 9 12 … } ─┘
//! ```
//!
//! Of pods that did not change themselves it is enough to ask the policies that changed, and once
//! for all that are alike.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::policy::Direction;
use rustc_hash::FxHashMap;

use super::PolicyChanges;
use crate::compiler::NodeCompiler;
use crate::partition::Changes;
use crate::policies::PolicySlot;
use crate::subjects::{NamedPorts, SubjectKey};
use crate::tables::{Delta, PolicyId, SubjectId};
use crate::world::{KnownPod, PodSlot, PortName, Touched};

/// A local address in one direction.
pub(super) type Local = (Direction, IpAddr);

pub(super) type SubjectChanges = Changes<SubjectKey, Local>;

/// Which of the policies that changed isolate a pod now, a bit for each.
type Bits = u64;

/// What local addresses have in common that stay alike: class, and which policies isolate them now.
type Alike = (Direction, Option<u32>, Bits);

/// What becomes of single addresses and of whole classes.
#[derive(Debug, Default)]
struct Regrouped {
    moves: Vec<(Local, Option<SubjectKey>)>,
    rekeys: FxHashMap<u32, Option<SubjectKey>>,
}

impl NodeCompiler {
    /// Step 4.
    pub(crate) fn update_subject_classes(
        &mut self,
        touched: &Touched,
        policies: &PolicyChanges,
        delta: &mut Delta,
    ) -> SubjectChanges {
        let local = |address: &IpAddr| {
            self.world.owner(*address).is_some_and(|(_, pod)| pod.local)
                || Direction::BOTH
                    .iter()
                    .any(|way| self.subjects.class_of((*way, *address)).is_some())
        };
        let mut asked: BTreeSet<IpAddr> = touched.addresses.iter().copied().filter(local).collect();
        let mut regrouped = Regrouped::default();
        if policies.changed.len() <= Bits::BITS as usize {
            regrouped = self.regroup(touched, policies);
        } else {
            for slot in &policies.pods {
                asked.extend(self.world.pod(*slot).into_iter().flat_map(|pod| pod.ips.iter()));
            }
        }
        for address in asked {
            let keys = Direction::BOTH.into_iter().zip(self.subject_keys(address));
            regrouped.moves.extend(keys.map(|(direction, key)| ((direction, address), key)));
        }
        let changes = self.subjects.update(&regrouped.rekeys, regrouped.moves);
        self.write_subjects(touched, &changes, delta);
        self.note_subjects(&changes, delta);
        changes
    }

    /// Notes which classes each policy stands behind, and which policies stand behind any.
    fn note_subjects(&mut self, changes: &SubjectChanges, delta: &mut Delta) {
        let mut came_or_went: BTreeSet<PolicySlot> = BTreeSet::new();
        for change in &changes.classes {
            let subject = SubjectId(change.id);
            let of = |key: &Option<SubjectKey>| key.as_ref().map(|key| Arc::clone(&key.policies));
            let (before, after) = (of(&change.before), of(&change.after));
            let (gone, new) = differences(&before.unwrap_or_default(), &after.unwrap_or_default());
            for policy in gone {
                if let Some(known) = self.policies.get_mut(&policy) {
                    known.subjects.remove(&subject);
                    if known.subjects.is_empty() {
                        came_or_went.insert(policy);
                    }
                }
            }
            for policy in new {
                if let Some(known) = self.policies.get_mut(&policy) {
                    if known.subjects.is_empty() {
                        came_or_went.insert(policy);
                    }
                    known.subjects.insert(subject);
                }
            }
        }
        for policy in came_or_went {
            let known = self.policies.get(&policy).filter(|known| !known.subjects.is_empty());
            let (id, name) = (PolicyId(policy), known.map(|known| known.policy.name.clone()));
            if self.tables.policies.get(&id) != name.as_ref() {
                match &name {
                    Some(name) => drop(self.tables.policies.insert(id, name.clone())),
                    None => drop(self.tables.policies.remove(&id)),
                }
                delta.policies.push((id, name));
            }
        }
    }

    /// The keys of pods that policies have come to or gone from, as far as nothing else changed
    /// about their addresses.
    fn regroup(&self, touched: &Touched, policies: &PolicyChanges) -> Regrouped {
        let mut isolate: FxHashMap<PodSlot, [Bits; 2]> = FxHashMap::default();
        for (bit, policy) in policies.changed.iter().enumerate() {
            let Some(known) = self.policies.get(policy) else { continue };
            let bits =
                Direction::BOTH.map(|direction| Bits::from(known.isolates(direction)) << bit);
            for pod in &known.selected {
                let [egress, ingress] = isolate.entry(*pod).or_default();
                *egress |= bits[0];
                *ingress |= bits[1];
            }
        }
        let mut alike: BTreeMap<Alike, Vec<(Local, &KnownPod)>> = BTreeMap::new();
        for slot in &policies.pods {
            let Some(pod) = self.world.pod(*slot).filter(|pod| pod.local) else { continue };
            let bits = isolate.get(slot).copied().unwrap_or_default();
            let own = self.world.own_addresses(*slot);
            for address in own.filter(|address| !touched.addresses.contains(address)) {
                for (direction, bits) in Direction::BOTH.into_iter().zip(bits) {
                    let local = (direction, address);
                    let class = (direction, self.subjects.class_of(local), bits);
                    alike.entry(class).or_default().push((local, pod));
                }
            }
        }
        let mut regrouped = Regrouped::default();
        for ((direction, class, bits), members) in alike {
            self.regroup_class(policies, (direction, class, bits), members, &mut regrouped);
        }
        regrouped
    }

    /// The new keys of members of a class that the same policies isolate.
    fn regroup_class(
        &self,
        policies: &PolicyChanges,
        (direction, class, bits): Alike,
        members: Vec<(Local, &KnownPod)>,
        regrouped: &mut Regrouped,
    ) {
        let before = class.and_then(|class| self.subjects.key(class));
        let mut list = before.map_or_else(Vec::new, |key| key.policies.to_vec());
        for (bit, policy) in policies.changed.iter().enumerate() {
            match (list.binary_search(policy), bits >> bit & 1) {
                (Ok(at), 0) => drop(list.remove(at)),
                (Err(at), 1) => list.insert(at, *policy),
                _ => {}
            }
        }
        let mut by_ports: BTreeMap<NamedPorts, Vec<Local>> = BTreeMap::new();
        if direction == Direction::Ingress && self.names_change(policies) {
            let names = self.ingress_names(list.iter());
            for (local, pod) in members {
                by_ports.entry(resolve(pod, &names)).or_default().push(local);
            }
        } else {
            let ports = before.map_or_else(|| Arc::from([]), |key| key.ports.clone());
            by_ports.insert(ports, members.into_iter().map(|(local, _)| local).collect());
        }
        let list: Arc<[PolicySlot]> = list.into();
        for (ports, members) in by_ports {
            let policies = list.clone();
            let key = (!list.is_empty()).then_some(SubjectKey { direction, policies, ports });
            match class.filter(|class| self.subjects.size(*class) == members.len()) {
                Some(class) => drop(regrouped.rekeys.insert(class, key)),
                None => {
                    let moves = members.into_iter().map(|local| (local, key.clone()));
                    regrouped.moves.extend(moves);
                }
            }
        }
    }

    /// Whether ingress rules of policies that changed use port names, or did.
    fn names_change(&self, policies: &PolicyChanges) -> bool {
        policies.changed.iter().any(|policy| {
            let now = self.policies.get(policy).and_then(|known| known.needs.as_ref());
            let needs = [now, policies.needed.get(policy)];
            needs.into_iter().flatten().any(|needs| !needs.ingress.names.is_empty())
        })
    }

    /// The port names that ingress rules of policies use.
    fn ingress_names<'a>(
        &'a self,
        policies: impl Iterator<Item = &'a PolicySlot>,
    ) -> BTreeSet<&'a PortName> {
        let known = policies.filter_map(|policy| self.policies.get(policy));
        known.filter_map(|known| known.needs.as_ref()).flat_map(|it| &it.ingress.names).collect()
    }

    /// What makes a local address a subject, by direction; `None` if no policy isolates it or it is
    /// not local.
    fn subject_keys(&self, address: IpAddr) -> [Option<SubjectKey>; 2] {
        let owner = self.world.owner(address).filter(|(_, pod)| pod.local);
        let selecting = owner.and_then(|(slot, _)| self.selected_by.get(&slot));
        let mut lists: [Vec<PolicySlot>; 2] = Default::default();
        for policy in selecting.into_iter().flatten() {
            let Some(known) = self.policies.get(policy) else { continue };
            for (direction, list) in Direction::BOTH.into_iter().zip(&mut lists) {
                if known.isolates(direction) {
                    list.push(*policy);
                }
            }
        }
        let [egress, ingress] = lists;
        let key = |direction, list: Vec<PolicySlot>, ports| {
            let policies = list.into();
            SubjectKey { direction, policies, ports }
        };
        let names = self.ingress_names(ingress.iter());
        let ports = owner.map_or_else(|| Arc::from([]), |(_, pod)| resolve(pod, &names));
        [
            (!egress.is_empty()).then(|| key(Direction::Egress, egress, Arc::from([]))),
            (!ingress.is_empty()).then(|| key(Direction::Ingress, ingress, ports)),
        ]
    }
}

/// What the port names that some ingress rules use stand for on a pod.
fn resolve(pod: &KnownPod, names: &BTreeSet<&PortName>) -> NamedPorts {
    names.iter().map(|name| ((*name).clone(), pod.numbers(name))).collect()
}

/// What is in one of two sorted lists: the first, the second.
pub(super) fn differences(
    a: &[PolicySlot],
    b: &[PolicySlot],
) -> (Vec<PolicySlot>, Vec<PolicySlot>) {
    // Mostly one has come or gone, and all before and after it are the same.
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[same..], &b[same..]);
    let same = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[..a.len() - same], &b[..b.len() - same]);
    let only = |x: &[PolicySlot], y: &[PolicySlot]| -> Vec<PolicySlot> {
        x.iter().copied().filter(|slot| y.binary_search(slot).is_err()).collect()
    };
    (only(a, b), only(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn differences_are_what_the_other_list_lacks(
            a in prop::collection::btree_set(0u32..20, 0..12),
            b in prop::collection::btree_set(0u32..20, 0..12),
        ) {
            let list = |set: &BTreeSet<u32>| set.iter().copied().collect::<Vec<_>>();
            let minus = |x: &BTreeSet<u32>, y| x.difference(y).copied().collect::<Vec<_>>();
            prop_assert_eq!(differences(&list(&a), &list(&b)), (minus(&a, &b), minus(&b, &a)));
        }
    }
}
