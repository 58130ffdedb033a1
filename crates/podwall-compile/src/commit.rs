//! What does one commit do, step by step?
//!
//! ```text
//!   1 objects    pods and namespaces into the world          ─▶ touched pods and addresses
//!   2 policies   who selects whom, who is active             ─▶ atoms come and go
//!   3 peers      addresses and blocks to classes             ─▶ classes that mean something else
//!   4 subjects   local addresses to classes                  ─▶ classes with other rules
//!   5 rows       (subject, peer) pairs that 3 and 4 touch    ─▶ verdicts
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::policy::Direction;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::atoms::{AtomId, Question};
use crate::compiler::{Member, NodeCompiler, Signature};
use crate::partition::Changes;
use crate::policies::{KnownPolicy, Needs, Part, PolicySlot};
use crate::rows::Rows;
use crate::scopes::label_hashes;
use crate::segments::{SegmentChange, start_address};
use crate::subjects::{Program, Resolved, SubjectKey};
use crate::tables::{Delta, PeerId, SubjectId};
use crate::world::{KnownPod, PodSlot, PortName, Touched};

/// What step 2 hands on.
#[derive(Debug, Default)]
pub(crate) struct PolicyChanges {
    /// Policies that are new, gone, or say something else.
    changed: BTreeSet<PolicySlot>,
    /// Policies that are gone.
    gone: Vec<PolicySlot>,
    /// What policies needed before, where that changed.
    needed: FxHashMap<PolicySlot, Needs>,
    /// Local pods whose subject class may be another.
    pods: BTreeSet<PodSlot>,
}

/// What step 3 hands on.
#[derive(Debug, Default)]
pub(crate) struct ClassChanges {
    /// Classes and the atoms that they have now and had not before, or the other way round.
    differ: Vec<(PeerId, Vec<AtomId>)>,
    /// Classes that are no more.
    gone: Vec<PeerId>,
    /// The classes that no longer meet an atom.
    lost: FxHashMap<AtomId, Vec<PeerId>>,
    /// The same for the atoms of a port name.
    lost_names: FxHashMap<PortName, Vec<PeerId>>,
    /// Atoms that no class has any more.
    unused: Vec<AtomId>,
}

type SubjectChanges = Changes<SubjectKey, (Direction, IpAddr)>;

impl NodeCompiler {
    /// Step 1.
    pub(crate) fn apply_objects(&mut self) -> Touched {
        let mut touched = Touched::default();
        for (name, pod) in std::mem::take(&mut self.pending.pods) {
            self.world.set_pod(&name, pod, &mut touched);
        }
        for (name, namespace) in std::mem::take(&mut self.pending.namespaces) {
            let Some((before, after)) = self.world.set_namespace(&name, namespace.as_ref()) else {
                continue;
            };
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
        let mut reselected: BTreeSet<PolicySlot> = BTreeSet::new();
        for (name, policy) in std::mem::take(&mut self.pending.policies) {
            let slot = self.policy_slots.get(&name).copied();
            let before = slot.and_then(|slot| self.policies.get(&slot));
            if before.map(|known| &*known.policy) == policy.as_ref() {
                continue;
            }
            let slot = slot.unwrap_or_else(|| self.policy_ids.take());
            changes.changed.insert(slot);
            reselected.insert(slot);
            match policy {
                Some(policy) => {
                    self.policy_slots.insert(name, slot);
                    self.replace_policy(slot, KnownPolicy::new(policy), &mut changes);
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
        for slot in touched.pods.iter().chain(&touched.gone) {
            let now = match self.world.pod(*slot) {
                Some(pod) if pod.local && !self.subject_index.is_empty() => {
                    let namespace = &pod.name.namespace;
                    let labels = self.world.namespace_labels(namespace);
                    let hashes = label_hashes(&pod.labels);
                    self.subject_index.matching(namespace, &labels, &pod.labels, &hashes)
                }
                _ => Vec::new(),
            };
            let before = self.selected_by.get(slot).map_or(&[][..], Vec::as_slice);
            if before == now {
                continue;
            }
            for policy in before.iter().filter(|policy| now.binary_search(policy).is_err()) {
                if let Some(known) = self.policies.get_mut(policy) {
                    known.selected.remove(slot);
                    reselected.insert(*policy);
                }
            }
            for policy in now.iter().filter(|policy| before.binary_search(policy).is_err()) {
                if let Some(known) = self.policies.get_mut(policy) {
                    known.selected.insert(*slot);
                    reselected.insert(*policy);
                }
            }
            changes.pods.insert(*slot);
            if now.is_empty() {
                self.selected_by.remove(slot);
            } else {
                self.selected_by.insert(*slot, now);
            }
        }
        for slot in reselected {
            self.update_needs(slot, &mut changes);
        }
        changes
    }

    /// Puts a new or changed policy in its slot and finds the pods that it selects.
    fn replace_policy(&mut self, slot: PolicySlot, new: KnownPolicy, changes: &mut PolicyChanges) {
        match self.policies.get_mut(&slot) {
            Some(known) if known.subject == new.subject => {
                known.policy = new.policy;
                changes.pods.extend(known.selected.iter().copied());
                return;
            }
            Some(known) => {
                self.subject_index.remove(&known.subject, slot);
                known.policy = new.policy;
                known.subject = new.subject;
            }
            None => drop(self.policies.insert(slot, new)),
        }
        let Some(known) = self.policies.get(&slot) else { return };
        self.subject_index.insert(&known.subject, slot);
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
        let Some(known) = self.policies.get_mut(&slot) else { return };
        let active = known.is_active() && !gone;
        let changed = changes.changed.contains(&slot);
        if known.needs.is_some() == active && !(active && changed) {
            return;
        }
        let now = active.then(|| Needs::acquire(&known.policy, slot, &mut self.atoms));
        let before = std::mem::replace(&mut known.needs, now);
        if let Some(before) = before {
            before.release(known.needs.as_ref(), slot, &mut self.atoms);
            changes.needed.insert(slot, before);
        }
    }

    /// Step 3.
    pub(crate) fn update_peer_classes(
        &mut self,
        touched: &Touched,
        delta: &mut Delta,
    ) -> ClassChanges {
        let atoms = self.atoms.take_changes();
        let is_unused: FxHashSet<AtomId> = atoms.unused.iter().copied().collect();
        let rekeys = self.rekeys(&atoms.unused, &is_unused);
        self.update_segments(&atoms.unused, &atoms.fresh);
        let segments = self.segments.take_changes();
        self.work.segments = segments.len();
        // What touched addresses meet of the atoms that were there before; then what the new atoms
        // add, to these and to others.
        let mut met: FxHashMap<IpAddr, Vec<AtomId>> = touched
            .addresses
            .iter()
            .map(|address| (*address, self.atoms_of_owner(*address)))
            .collect();
        for atom in &atoms.fresh {
            for address in self.addresses_that_meet(*atom) {
                let met = met
                    .entry(address)
                    .or_insert_with(|| self.peers.atoms_about_pod(address, &is_unused));
                if !atom.is_block() {
                    met.push(*atom);
                }
            }
            self.atoms.index(*atom);
        }
        for name in &atoms.fresh_names {
            for (address, number) in self.addresses_with_port(name) {
                let atom = self.atoms.port(name, number);
                met.entry(address)
                    .or_insert_with(|| self.peers.atoms_about_pod(address, &is_unused))
                    .push(atom);
            }
        }
        self.work.addresses = met.len();
        let mut moves: BTreeMap<Member, Option<Signature>> = BTreeMap::new();
        for (address, mut atoms) in met {
            atoms.sort_unstable();
            atoms.dedup();
            let signature = (!atoms.is_empty()).then(|| {
                atoms.extend_from_slice(self.segments.at(address));
                Signature::from(atoms)
            });
            moves.insert(Member::Address(address), signature);
        }
        for (start, _, after) in &segments {
            let signature = after.as_ref().map(|segment| segment.atoms.clone());
            moves.insert(Member::Segment(start_address(*start)), signature);
        }
        let changes = self.peers.update(&rekeys, moves);
        self.write_peers(&changes, &segments, delta);
        self.note_class_changes(changes, atoms.unused)
    }

    /// What becomes of whole classes when nobody asks for some atoms any more.
    fn rekeys(
        &self,
        unused: &[AtomId],
        is_unused: &FxHashSet<AtomId>,
    ) -> FxHashMap<u32, Option<Signature>> {
        let classes = unused.iter().filter_map(|atom| self.classes_of.get(atom)).flatten();
        let mut rekeys: FxHashMap<u32, Option<Signature>> = FxHashMap::default();
        for class in classes {
            let Some(before) = self.peers.key(class.0) else { continue };
            rekeys.entry(class.0).or_insert_with(|| {
                let after: Vec<AtomId> =
                    before.iter().copied().filter(|atom| !is_unused.contains(atom)).collect();
                // A pod's address stays a member only while something about pods is asked.
                let about_pod = |list: &[AtomId]| list.first().is_some_and(|atom| !atom.is_block());
                let stays = !after.is_empty() && about_pod(&after) == about_pod(before);
                stays.then(|| after.into())
            });
        }
        rekeys
    }

    fn update_segments(&mut self, unused: &[AtomId], fresh: &[AtomId]) {
        for atom in unused {
            if let Some(Question::Block(set)) = self.atoms.question(*atom) {
                self.segments.remove(set, *atom);
            }
        }
        for atom in fresh {
            if let Some(Question::Block(set)) = self.atoms.question(*atom) {
                self.segments.add(set, *atom);
            }
        }
    }

    /// The atoms about pods that the owner of an address meets, as far as they are indexed.
    fn atoms_of_owner(&mut self, address: IpAddr) -> Vec<AtomId> {
        let Some((_, pod)) = self.world.owner(address) else { return Vec::new() };
        let mut atoms = Vec::new();
        if !self.atoms.scopes().is_empty() {
            let namespace = &pod.name.namespace;
            let labels = self.world.namespace_labels(namespace);
            let hashes = label_hashes(&pod.labels);
            atoms = self.atoms.scopes().matching(namespace, &labels, &pod.labels, &hashes);
        }
        for (name, number) in &pod.ports {
            if self.atoms.uses_name(name) {
                atoms.push(self.atoms.port(name, *number));
            }
        }
        atoms
    }

    /// The addresses that a new atom is news for.
    fn addresses_that_meet(&mut self, atom: AtomId) -> Vec<IpAddr> {
        match self.atoms.question(atom) {
            Some(Question::Scope(scope)) => {
                let walked = &mut self.work.pods_walked;
                let pods = self.world.matching(scope, false, walked);
                pods.into_iter().flat_map(|slot| self.own_addresses(slot)).collect()
            }
            Some(Question::Block(set)) => set
                .ranges()
                .iter()
                .flat_map(|range| {
                    let ends = (Member::Address(range.first()), Member::Address(range.last()));
                    self.peers.members_between(ends.0, ends.1)
                })
                .map(|member| match member {
                    Member::Address(address) | Member::Segment(address) => address,
                })
                .collect(),
            Some(Question::Port(..)) | None => Vec::new(),
        }
    }

    /// The addresses that a pod has and no other pod takes from it.
    fn own_addresses(&self, slot: PodSlot) -> impl Iterator<Item = IpAddr> {
        let addresses = self.world.pod(slot).into_iter().flat_map(|pod| pod.ips.iter().copied());
        addresses.filter(move |ip| self.world.owner(*ip).is_some_and(|(owner, _)| owner == slot))
    }

    fn addresses_with_port(&self, name: &PortName) -> Vec<(IpAddr, u16)> {
        let mut found = Vec::new();
        for slot in self.world.pods_with_port(name) {
            let numbers = self.world.pod(slot).map(|pod| pod.numbers(name)).unwrap_or_default();
            for address in self.own_addresses(slot) {
                found.extend(numbers.iter().map(|number| (address, *number)));
            }
        }
        found
    }

    /// Writes addresses and ranges into tables and delta.
    fn write_peers(
        &mut self,
        changes: &Changes<Signature, Member>,
        segments: &[SegmentChange],
        delta: &mut Delta,
    ) {
        let mut ranges: BTreeMap<IpAddr, _> = segments
            .iter()
            .map(|(start, before, after)| {
                let range = |segment: &Option<_>| {
                    segment.as_ref().and_then(|s: &crate::segments::Segment| s.range(*start))
                };
                (start_address(*start), (range(before), range(after)))
            })
            .collect();
        let mut classes_before: FxHashMap<IpAddr, Option<u32>> = FxHashMap::default();
        for change in &changes.members {
            match change.member {
                Member::Address(address) => {
                    let class = change.after.map(PeerId);
                    match class {
                        Some(class) => drop(self.tables.peers.insert(address, class)),
                        None => drop(self.tables.peers.remove(&address)),
                    }
                    delta.peers.push((address, class));
                }
                Member::Segment(start) => {
                    classes_before.insert(start, change.before);
                    ranges.entry(start).or_insert_with(|| {
                        let point = podwall_policy::address::AddressRange::one(start);
                        let key = (point.family(), point.bits().0);
                        let range = self.segments.starting_at(start).and_then(|s| s.range(key));
                        (range, range)
                    });
                }
            }
        }
        for (start, (before, after)) in ranges {
            let class_after = self.peers.class_of(Member::Segment(start));
            let class_before = classes_before.get(&start).copied().unwrap_or(class_after);
            let (before, after) = (before.zip(class_before), after.zip(class_after));
            if before == after {
                continue;
            }
            delta.blocks_removed.extend(before.map(|(range, _)| range));
            delta.blocks_added.extend(after.map(|(range, class)| (range, PeerId(class))));
        }
        for range in &delta.blocks_removed {
            self.tables.blocks.remove(range);
        }
        self.tables.blocks.extend(delta.blocks_added.iter().copied());
    }

    fn note_class_changes(
        &mut self,
        changes: Changes<Signature, Member>,
        unused: Vec<AtomId>,
    ) -> ClassChanges {
        self.work.peer_classes = changes.classes.len();
        let mut result = ClassChanges { unused, ..ClassChanges::default() };
        for change in changes.classes {
            let class = PeerId(change.id);
            let (before, after) = (change.before.as_deref(), change.after.as_deref());
            let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
            let mut differ = Vec::new();
            for atom in before.iter().filter(|atom| after.binary_search(atom).is_err()) {
                differ.push(*atom);
                result.lost.entry(*atom).or_default().push(class);
                if let Some(classes) = self.classes_of.get_mut(atom) {
                    classes.remove(&class);
                    if classes.is_empty() {
                        self.classes_of.remove(atom);
                    }
                }
            }
            for atom in after.iter().filter(|atom| before.binary_search(atom).is_err()) {
                differ.push(*atom);
                self.classes_of.entry(*atom).or_default().insert(class);
            }
            if after.is_empty() {
                result.gone.push(class);
            } else {
                result.differ.push((class, differ));
            }
        }
        for (atom, classes) in &result.lost {
            if let Some(Question::Port(name, _)) = self.atoms.question(*atom) {
                result.lost_names.entry(name.clone()).or_default().extend(classes);
                if !self.classes_of.contains_key(atom) {
                    result.unused.push(*atom);
                }
            }
        }
        result
    }

    /// Step 4.
    pub(crate) fn update_subject_classes(
        &mut self,
        touched: &Touched,
        policies: &PolicyChanges,
        delta: &mut Delta,
    ) -> SubjectChanges {
        let mut addresses = touched.addresses.clone();
        for slot in &policies.pods {
            addresses.extend(self.world.pod(*slot).into_iter().flat_map(|pod| pod.ips.iter()));
        }
        let moves: Vec<_> = addresses
            .into_iter()
            .flat_map(|address| Direction::BOTH.map(|direction| (direction, address)))
            .map(|(direction, address)| {
                ((direction, address), self.subject_key(direction, address))
            })
            .collect();
        let changes = self.subjects.update(&FxHashMap::default(), moves);
        for change in &changes.members {
            let class = change.after.map(SubjectId);
            match class {
                Some(class) => drop(self.tables.subjects.insert(change.member, class)),
                None => drop(self.tables.subjects.remove(&change.member)),
            }
            delta.subjects.push((change.member, class));
        }
        for change in &changes.classes {
            let subject = SubjectId(change.id);
            for policy in change.before.iter().flat_map(|key| key.policies.iter()) {
                if let Some(known) = self.policies.get_mut(policy) {
                    known.subjects.remove(&subject);
                }
            }
            for policy in change.after.iter().flat_map(|key| key.policies.iter()) {
                if let Some(known) = self.policies.get_mut(policy) {
                    known.subjects.insert(subject);
                }
            }
        }
        changes
    }

    /// What makes a local address a subject; `None` if no policy isolates it or it is not local.
    fn subject_key(&self, direction: Direction, address: IpAddr) -> Option<SubjectKey> {
        let (slot, pod) = self.world.owner(address).filter(|(_, pod)| pod.local)?;
        let selecting: Vec<(PolicySlot, &Needs)> = self
            .selected_by
            .get(&slot)?
            .iter()
            .filter_map(|policy| Some((*policy, self.policies.get(policy)?)))
            .filter(|(_, known)| known.policy.rules(direction).is_some())
            .filter_map(|(policy, known)| Some((policy, known.needs.as_ref()?)))
            .collect();
        if selecting.is_empty() {
            return None;
        }
        let ports = match direction {
            Direction::Ingress => resolve(pod, selecting.iter().map(|(_, needs)| &needs.ingress)),
            Direction::Egress => Arc::from([]),
        };
        let policies = selecting.into_iter().map(|(policy, _)| policy).collect();
        Some(SubjectKey { direction, policies, ports })
    }

    /// Step 5.
    pub(crate) fn update_rows(
        &mut self,
        policies: &PolicyChanges,
        classes: &ClassChanges,
        subjects: &SubjectChanges,
        delta: &mut Delta,
    ) {
        let mut pairs: Vec<(SubjectId, PeerId)> = Vec::new();
        let mut dirty: BTreeSet<SubjectId> =
            subjects.classes.iter().map(|change| SubjectId(change.id)).collect();
        for policy in &policies.changed {
            if let Some(known) = self.policies.get(policy) {
                dirty.extend(&known.subjects);
                let rules = |direction| known.policy.rules(direction).unwrap_or_default().len();
                let rules = rules(Direction::Ingress).max(rules(Direction::Egress));
                self.rows.touch(*policy, rules);
            }
        }
        for subject in dirty {
            self.update_program(subject, policies, classes, &mut pairs, delta);
        }
        for (class, atoms) in &classes.differ {
            let users: FxHashSet<PolicySlot> =
                atoms.iter().flat_map(|atom| self.atoms.users(*atom)).collect();
            let known = users.iter().filter_map(|policy| self.policies.get(policy));
            pairs.extend(known.flat_map(|known| &known.subjects).map(|s| (*s, *class)));
        }
        for class in &classes.gone {
            pairs.extend(self.rows.subjects_of(*class).map(|subject| (subject, *class)));
        }
        pairs.sort_unstable();
        pairs.dedup();
        self.work.rows = pairs.len();
        for pair in pairs {
            let row = self.row(pair);
            self.rows.set(&mut self.tables, delta, pair, &row);
        }
    }

    fn row(&self, (subject, peer): (SubjectId, PeerId)) -> Vec<crate::subjects::RowEntry> {
        let Some(program) = self.programs.get(&subject) else { return Vec::new() };
        if peer == PeerId::ANY {
            return program.row_for_anybody(&self.policies);
        }
        let Some(signature) = self.peers.key(peer.0) else { return Vec::new() };
        let ports: Vec<Resolved<'_>> = match program.key().direction {
            Direction::Ingress => Vec::new(),
            Direction::Egress => signature
                .iter()
                .filter_map(|atom| match self.atoms.question(*atom) {
                    Some(Question::Port(name, number)) => Some((name, *number)),
                    _ => None,
                })
                .collect(),
        };
        program.row(signature, &ports, &self.policies)
    }

    /// Puts a subject class's rules together anew and notes the rows that this changes.
    fn update_program(
        &mut self,
        subject: SubjectId,
        policies: &PolicyChanges,
        classes: &ClassChanges,
        pairs: &mut Vec<(SubjectId, PeerId)>,
        delta: &mut Delta,
    ) {
        let before = self.programs.remove(&subject);
        let Some(key) = self.subjects.key(subject.0) else {
            pairs.extend(Rows::peers_of(&self.tables, subject).into_iter().map(|p| (subject, p)));
            if self.tables.isolated_by.remove(&subject).is_some() {
                delta.isolated_by.push((subject, None));
            }
            return;
        };
        self.work.subject_classes += 1;
        let program = Program::new(key, &self.policies);
        let names = self.names_of(key);
        if self.tables.isolated_by.get(&subject) != Some(&names) {
            self.tables.isolated_by.insert(subject, names.clone());
            delta.isolated_by.push((subject, Some(names)));
        }
        let direction = key.direction;
        let changed = before.as_ref().map(|before| {
            let differ = symmetric_difference(&before.key().policies, &key.policies);
            let edited = key.policies.iter().filter(|policy| policies.changed.contains(policy));
            differ.into_iter().chain(edited.copied()).collect::<BTreeSet<_>>()
        });
        let parts: Vec<&Part> = changed
            .iter()
            .flatten()
            .flat_map(|policy| {
                let now = self.policies.get(policy).and_then(|known| known.needs.as_ref());
                [policies.needed.get(policy), now]
            })
            .flatten()
            .map(|needs| needs.part(direction))
            .collect();
        let mut peers: Vec<PeerId> = Vec::new();
        let everything = parts.iter().any(|part| part.has_rule_for_anybody())
            || before.is_none_or(|before| before.has_other_shape(&program));
        if everything {
            peers.push(PeerId::ANY);
            peers.extend(Rows::peers_of(&self.tables, subject));
            let met = program.atoms().filter_map(|atom| self.classes_of.get(&atom));
            peers.extend(met.flatten());
            for policy in key.policies.iter().filter_map(|policy| self.policies.get(policy)) {
                let part = policy.needs.as_ref().map(|needs| needs.part(direction));
                for name in part.iter().flat_map(|part| &part.names_for_anybody) {
                    peers.extend(self.classes_with_name(name, &classes.lost_names));
                }
            }
        }
        for part in parts {
            for atom in part.atoms() {
                peers.extend(self.classes_of.get(&atom).into_iter().flatten());
                peers.extend(classes.lost.get(&atom).into_iter().flatten());
            }
            for name in &part.names_for_anybody {
                peers.extend(self.classes_with_name(name, &classes.lost_names));
            }
        }
        pairs.extend(peers.into_iter().map(|peer| (subject, peer)));
        self.programs.insert(subject, program);
    }

    fn classes_with_name<'a>(
        &'a self,
        name: &'a PortName,
        lost: &'a FxHashMap<PortName, Vec<PeerId>>,
    ) -> impl Iterator<Item = PeerId> {
        let atoms = self.atoms.ports_of(name);
        let now = atoms.filter_map(|atom| self.classes_of.get(&atom)).flatten();
        now.chain(lost.get(name).into_iter().flatten()).copied()
    }

    fn names_of(&self, key: &SubjectKey) -> Vec<podwall_policy::object::Name> {
        let mut known: Vec<&KnownPolicy> =
            key.policies.iter().filter_map(|policy| self.policies.get(policy)).collect();
        known.sort_by(|a, b| a.rank().cmp(&b.rank()));
        known.into_iter().map(|known| known.policy.name.clone()).collect()
    }

    /// Ends a commit: what nobody needs any more goes, and numbers become free.
    pub(crate) fn settle(
        &mut self,
        policies: PolicyChanges,
        classes: ClassChanges,
        delta: &mut Delta,
    ) {
        for slot in policies.gone {
            self.policies.remove(&slot);
            self.policy_ids.give_back(slot);
        }
        for atom in classes.unused {
            self.atoms.forget(atom);
        }
        self.rows.settle(&mut self.tables, delta, &self.policies);
        self.policy_ids.settle();
        self.world.settle();
        self.atoms.settle();
        self.peers.settle();
        self.subjects.settle();
    }
}

impl crate::partition::Partition<Signature, Member> {
    /// What a member's class says about its pod, as far as it is still asked.
    fn atoms_about_pod(&self, address: IpAddr, unused: &FxHashSet<AtomId>) -> Vec<AtomId> {
        let signature = self.class_of(Member::Address(address)).and_then(|class| self.key(class));
        signature
            .into_iter()
            .flat_map(|signature| signature.iter().copied())
            .filter(|atom| !atom.is_block() && !unused.contains(atom))
            .collect()
    }
}

/// What the port names that some ingress rules use stand for on a pod.
fn resolve<'a>(
    pod: &KnownPod,
    parts: impl Iterator<Item = &'a Part>,
) -> Arc<[(PortName, Box<[u16]>)]> {
    let names: BTreeSet<&PortName> = parts.flat_map(|part| &part.names).collect();
    names.into_iter().map(|name| (name.clone(), pod.numbers(name))).collect()
}

/// What is in one of two sorted lists.
fn symmetric_difference(a: &[PolicySlot], b: &[PolicySlot]) -> Vec<PolicySlot> {
    let only = |x: &[PolicySlot], y: &[PolicySlot]| -> Vec<PolicySlot> {
        x.iter().copied().filter(|slot| y.binary_search(slot).is_err()).collect()
    };
    [only(a, b), only(b, a)].concat()
}
