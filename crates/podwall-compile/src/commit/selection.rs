//! Which objects changed, and which policies select whom now?
//!
//! ```text
//!   recorded pods, namespaces ──▶ world ──▶ touched pods ─┐
//!   recorded policies ────────────────────▶ touched ──────┴─▶ selected by ─▶ active ─▶ atoms
//! ```

use std::collections::BTreeSet;

use podwall_policy::policy::Tier;
use rustc_hash::FxHashSet;

use super::PolicyChanges;
use super::isolation::differences;
use crate::compiler::NodeCompiler;
use crate::policies::{KnownPolicy, Needs, PolicySlot};
use crate::world::{PodSlot, Touched};

impl NodeCompiler {
    /// Step 1.
    pub(crate) fn apply_objects(&mut self) -> Touched {
        let mut touched = Touched::default();
        self.world.reserve(self.pending.pods.len());
        touched.addresses.reserve(self.pending.pods.len());
        for (name, pod) in std::mem::take(&mut self.pending.pods) {
            self.world.set_pod(&name, pod.map(|pod| *pod), &mut touched);
        }
        for (name, namespace) in std::mem::take(&mut self.pending.namespaces) {
            let change = self.world.set_namespace(&name, namespace.as_ref(), &mut touched);
            let Some((before, after)) = change else { continue };
            if self.subject_index.tells_apart(&before, &after)
                || self.atoms.scopes().tells_apart(&before, &after)
            {
                for slot in self.world.pods_of(&name) {
                    touched.pods.insert(slot);
                    let addresses = self.world.pod(slot).into_iter().flat_map(|pod| pod.ips.iter());
                    touched.addresses.extend(addresses.copied());
                }
            }
        }
        self.work.pods = touched.pods.len() + touched.gone.len();
        touched
    }

    /// Step 2.
    pub(crate) fn apply_policies(&mut self, touched: &Touched) -> PolicyChanges {
        let mut changes = PolicyChanges::default();
        let any_went_before = !self.going_before.is_empty();
        // Then each pod finds its policies below, and no new policy has to look for its pods.
        let all_are_touched = touched.pods.len() == self.world.len();
        let mut reselected: BTreeSet<PolicySlot> = BTreeSet::new();
        self.atoms.reserve(self.pending.policies.len());
        for (name, policy) in std::mem::take(&mut self.pending.policies) {
            let slot = self.policy_slots.get(&name).copied();
            let before = slot.and_then(|slot| self.policies.get(&slot));
            if before.map(|known| &*known.policy) == policy.as_ref() {
                continue;
            }
            let slot = slot.unwrap_or_else(|| self.policy_ids.take());
            changes.changed.insert(slot);
            reselected.insert(slot);
            let new = policy.map(KnownPolicy::new);
            if new.as_ref().is_some_and(KnownPolicy::goes_before) {
                self.going_before.insert(slot);
            } else {
                self.going_before.remove(&slot);
            }
            match new {
                Some(policy) => {
                    self.policy_slots.insert(name, slot);
                    self.replace_policy(slot, policy, all_are_touched, &mut changes);
                }
                None => {
                    self.policy_slots.remove(&name);
                    changes.gone.push(slot);
                    self.select(slot, &FxHashSet::default(), &mut changes);
                    if let Some(known) = self.policies.get(&slot) {
                        self.subject_index.remove(&known.subject, slot);
                    }
                }
            }
        }
        // Without any that goes before, what a policy needs depends on whether it selects any pod.
        let in_order = any_went_before || !self.going_before.is_empty();
        for slot in touched.pods.iter().chain(&touched.gone) {
            let now = match self.world.pod(*slot) {
                Some(pod) if pod.local && !self.subject_index.is_empty() => {
                    let namespace = &pod.name.namespace;
                    let labels = self.world.namespace_labels(namespace);
                    self.subject_index.matching(namespace, &labels, &pod.labels)
                }
                _ => Vec::new(),
            };
            let before = self.selected_by.get(slot).map_or(&[][..], Vec::as_slice);
            if before == now {
                continue;
            }
            let (gone, new) = differences(before, &now);
            for policy in gone {
                if let Some(known) = self.policies.get_mut(&policy) {
                    known.selected.remove(slot);
                    if in_order || known.selected.is_empty() {
                        reselected.insert(policy);
                    }
                }
            }
            for policy in new {
                if let Some(known) = self.policies.get_mut(&policy) {
                    if in_order || known.selected.is_empty() {
                        reselected.insert(policy);
                    }
                    known.selected.insert(*slot);
                }
            }
            changes.pods.insert(*slot);
            if now.is_empty() {
                self.selected_by.remove(slot);
            } else {
                self.selected_by.insert(*slot, now);
            }
        }
        if in_order {
            let lists = changes.pods.iter().filter_map(|pod| self.selected_by.get(pod));
            reselected.extend(lists.flatten());
        }
        for slot in reselected {
            self.update_needs(slot, &mut changes);
        }
        changes
    }

    /// Whether a policy's rules may have to be read in order with others: its own, or those of a
    /// policy that goes before it on some pod.
    fn is_in_order(&self, known: &KnownPolicy) -> bool {
        let after_another = |pod: &PodSlot| {
            let selecting = self.selected_by.get(pod).into_iter().flatten();
            selecting.into_iter().any(|policy| self.going_before.contains(policy))
        };
        known.policy.tier != Tier::NetworkPolicy
            || !self.going_before.is_empty() && known.selected.iter().any(after_another)
    }

    /// Puts a new or changed policy in its slot and finds the pods that it selects; not those of a
    /// new one if all pods are going to be asked anyway.
    fn replace_policy(
        &mut self,
        slot: PolicySlot,
        new: KnownPolicy,
        all_are_touched: bool,
        changes: &mut PolicyChanges,
    ) {
        let is_new = match self.policies.get_mut(&slot) {
            Some(known) if known.subject == new.subject => {
                known.policy = new.policy;
                changes.pods.extend(known.selected.iter().copied());
                return;
            }
            Some(known) => {
                self.subject_index.remove(&known.subject, slot);
                known.policy = new.policy;
                known.subject = new.subject;
                false
            }
            None => {
                self.policies.insert(slot, new);
                true
            }
        };
        let Some(known) = self.policies.get(&slot) else { return };
        self.subject_index.insert(&known.subject, slot);
        if is_new && all_are_touched {
            return;
        }
        let selected = self.world.matching(&known.subject, true, &mut self.work.pods_walked);
        self.select(slot, &selected.into_iter().collect(), changes);
    }

    /// Sets the pods that a policy selects.
    fn select(&mut self, slot: PolicySlot, now: &FxHashSet<PodSlot>, changes: &mut PolicyChanges) {
        let Some(known) = self.policies.get_mut(&slot) else { return };
        let before = std::mem::replace(&mut known.selected, now.clone());
        for pod in before.difference(now) {
            if let Some(list) = self.selected_by.get_mut(pod) {
                list.retain(|policy| *policy != slot);
                if list.is_empty() {
                    self.selected_by.remove(pod);
                }
            }
        }
        for pod in now.difference(&before) {
            let list = self.selected_by.entry(*pod).or_default();
            if let Err(at) = list.binary_search(&slot) {
                list.insert(at, slot);
            }
        }
        changes.pods.extend(before.union(now).copied());
    }

    /// Takes or gives back atoms as the policy became active, inactive, or another.
    fn update_needs(&mut self, slot: PolicySlot, changes: &mut PolicyChanges) {
        let gone = changes.gone.contains(&slot);
        let Some(known) = self.policies.get(&slot) else { return };
        let in_order = (known.is_active() && !gone).then(|| self.is_in_order(known));
        let changed = changes.changed.contains(&slot);
        let had = known.needs.as_ref().map(|needs| needs.in_order);
        if had == in_order && !(in_order.is_some() && changed) {
            return;
        }
        let Some(known) = self.policies.get_mut(&slot) else { return };
        let now =
            in_order.map(|in_order| Needs::acquire(&known.policy, slot, in_order, &mut self.atoms));
        let before = std::mem::replace(&mut known.needs, now);
        if let Some(before) = before {
            before.release(known.needs.as_ref(), slot, &mut self.atoms);
            changes.needed.insert(slot, before);
        }
    }
}
