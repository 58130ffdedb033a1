//! Which addresses and ranges are alike now?
//!
//! ```text
//!   atoms gone ──▶ whole classes lose them                       ─┐
//!   atoms new  ──▶ addresses that meet them, ranges that they cut ├─▶ partition ─▶ tables
//!   touched addresses ──▶ asked anew                             ─┘
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use podwall_policy::address::AddressRange;
use rustc_hash::{FxHashMap, FxHashSet};

use super::ClassChanges;
use crate::atoms::{AtomId, Question};
use crate::compiler::{Member, NodeCompiler, Signature};
use crate::partition::{Changes, Partition};
use crate::scopes::label_hashes;
use crate::segments::{Segment, SegmentChange, start_address};
use crate::tables::{Delta, PeerId};
use crate::world::{PodSlot, PortName, Touched};

impl NodeCompiler {
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
        let mut moves: Vec<(Member, Option<Signature>)> = Vec::with_capacity(met.len());
        for (address, mut atoms) in met {
            atoms.sort_unstable();
            atoms.dedup();
            let signature = (!atoms.is_empty()).then(|| {
                atoms.extend_from_slice(self.segments.at(address));
                Signature::from(atoms)
            });
            let member = Member::Address(address);
            if signature.is_some() || self.peers.class_of(member).is_some() {
                moves.push((member, signature));
            }
        }
        for (start, _, after) in &segments {
            let signature = after.as_ref().map(|segment| segment.atoms.clone());
            moves.push((Member::Segment(start_address(*start)), signature));
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
                let range =
                    |segment: &Option<_>| segment.as_ref().and_then(|s: &Segment| s.range(*start));
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
                        let point = AddressRange::one(start);
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
}

impl Partition<Signature, Member> {
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
