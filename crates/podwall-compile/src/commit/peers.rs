//! Which addresses, namespaces and ranges are alike now?
//!
//! ```text
//!   atoms gone ──▶ whole classes lose them                       ─┐
//!   atoms new  ──▶ addresses that meet them, ranges that they cut ├─▶ partitions ─▶ tables
//!   touched addresses and namespaces ──▶ asked anew              ─┘
//! ```
//!
//! Narrow atoms part single addresses; broad ones part namespaces and, by themselves, the address
//! line. None of the three partitions asks what another says.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::address::AddressRange;
use podwall_policy::label::Labels;
use rustc_hash::{FxHashMap, FxHashSet};

use super::ClassChanges;
use crate::atoms::{AtomChanges, AtomId, Question};
use crate::compiler::{Member, NodeCompiler, Signature};
use crate::partition::{Changes, MemberChange, Partition};
use crate::scopes::OfNamespace;
use crate::segments::{Segment, SegmentChange, Segments, start_address};
use crate::tables::{Delta, GroupId, NetId, Peer, PeerId, PeerKey};
use crate::world::{NamespaceSlot, PortName, Touched};

/// What became of whole classes.
type Rekeys = FxHashMap<u32, Option<Signature>>;

impl NodeCompiler {
    /// Step 3.
    pub(crate) fn update_peer_classes(
        &mut self,
        touched: &Touched,
        delta: &mut Delta,
    ) -> ClassChanges {
        let atoms = self.atoms.take_changes();
        let is_unused: FxHashSet<AtomId> = atoms.unused.iter().copied().collect();
        let mut addresses = Cow::Borrowed(&touched.addresses);
        let mut namespaces = Cow::Borrowed(&touched.namespaces);
        let asks_for_pods = self.atoms.ask_for_pods(&atoms.fresh);
        if self.asks_for_pods != asks_for_pods {
            self.asks_for_pods = asks_for_pods;
            addresses.to_mut().extend(self.world.addresses());
            namespaces.to_mut().extend(self.world.namespaces());
        }
        let all_addresses = self.world.are_all_addresses(&addresses);
        self.update_segments(&atoms.unused, &atoms.fresh);
        let mut result = ClassChanges { unused: atoms.unused.clone(), ..ClassChanges::default() };

        let segments = self.segments.take_changes();
        let peers = self.update_peers(&atoms, &is_unused, &addresses, all_addresses, &segments);
        let groups = self.update_groups(&atoms, &is_unused, &namespaces);
        let net_segments = self.net_segments.take_changes();
        let rekeys = self.rekeys(&atoms.unused, &is_unused, |class| match class {
            PeerKey::Net(class) => Some((class.0, self.nets.key(class.0)?)),
            _ => None,
        });
        let moves = net_segments.iter().map(|(start, _, after)| {
            (start_address(*start), after.as_ref().map(|segment| segment.atoms.clone()))
        });
        let nets = self.nets.update(&rekeys, moves);
        self.work.segments = segments.len() + net_segments.len();

        let owned = |change: &MemberChange<Member>| match change.member {
            Member::Address(address) => Some(address),
            Member::Segment(_) => None,
        };
        let mut written = addresses.into_owned();
        if !all_addresses {
            written.extend(peers.members.iter().filter_map(owned));
            for change in &groups.members {
                if let Some(name) = self.world.namespace_name(change.member) {
                    written.extend(self.world.addresses_of(name));
                }
            }
        }
        if self.tables.peers.is_empty() {
            self.tables.peers.reserve(written.len());
            delta.peers.reserve(written.len());
        }
        for address in written {
            self.write_peer(address, delta);
        }
        let in_line = peers.members.iter().filter_map(|change| match change.member {
            Member::Segment(start) => Some((start, change.before)),
            Member::Address(_) => None,
        });
        let class_of = |start| self.peers.class_of(Member::Segment(start)).map(PeerId);
        let written = range_changes(&self.segments, &segments, in_line, class_of, PeerId);
        (delta.blocks_removed, delta.blocks_added) = written;
        let in_line = nets.members.iter().map(|change| (change.member, change.before));
        let class_of = |start| self.nets.class_of(start).map(NetId);
        let written = range_changes(&self.net_segments, &net_segments, in_line, class_of, NetId);
        (delta.nets_removed, delta.nets_added) = written;
        for range in &delta.blocks_removed {
            self.tables.blocks.remove(range);
        }
        self.tables.blocks.extend(delta.blocks_added.iter().copied());
        for range in &delta.nets_removed {
            self.tables.nets.remove(range);
        }
        self.tables.nets.extend(delta.nets_added.iter().copied());

        self.note_class_changes(peers, |class| PeerKey::Own(PeerId(class)), &mut result);
        self.note_class_changes(groups, |class| PeerKey::Group(GroupId(class)), &mut result);
        self.note_class_changes(nets, |class| PeerKey::Net(NetId(class)), &mut result);
        self.note_lost_names(&mut result);
        result
    }

    /// Single addresses, and the stretches of the line between narrow blocks.
    fn update_peers(
        &mut self,
        atoms: &AtomChanges,
        is_unused: &FxHashSet<AtomId>,
        addresses: &FxHashSet<IpAddr>,
        met_all: bool,
        segments: &[SegmentChange],
    ) -> Changes<Signature, Member> {
        let rekeys = self.rekeys(&atoms.unused, is_unused, |class| match class {
            PeerKey::Own(class) => Some((class.0, self.peers.key(class.0)?)),
            _ => None,
        });
        // What touched addresses meet of the atoms that were there before; then what the new atoms
        // add, to these and to others. If all are touched no new atom has to look for others.
        if met_all {
            atoms.fresh.iter().for_each(|atom| self.atoms.index(*atom));
        }
        let mut met = self.atoms_of_owners(addresses);
        let others = if met_all { &[][..] } else { &atoms.fresh };
        for atom in others {
            if !atom.is_broad() {
                for address in self.addresses_that_meet(*atom) {
                    let met = met
                        .entry(address)
                        .or_insert_with(|| self.peers.atoms_about_pod(address, is_unused));
                    if !atom.is_block() {
                        met.push(*atom);
                    }
                }
            }
            self.atoms.index(*atom);
        }
        for name in &atoms.fresh_names {
            for (address, number) in self.addresses_with_port(name) {
                let atom = self.atoms.port(name, number);
                met.entry(address)
                    .or_insert_with(|| self.peers.atoms_about_pod(address, is_unused))
                    .push(atom);
            }
        }
        self.work.addresses = met.len();
        let mut moves: Vec<(Member, Option<Signature>)> = Vec::with_capacity(met.len());
        for (address, mut atoms) in met {
            let is_pod = self.asks_for_pods && self.world.owner(address).is_some();
            let blocks = if is_pod { self.segments.at(address) } else { &[] };
            let met_any = is_pod && !(atoms.is_empty() && blocks.is_empty());
            let signature = met_any.then(|| {
                atoms.sort_unstable();
                atoms.dedup();
                atoms.extend_from_slice(blocks);
                Signature::from(atoms)
            });
            let member = Member::Address(address);
            if signature.is_some() || self.peers.class_of(member).is_some() {
                moves.push((member, signature));
            }
        }
        for (start, _, after) in segments {
            let signature = after.as_ref().map(|segment| segment.atoms.clone());
            moves.push((Member::Segment(start_address(*start)), signature));
        }
        self.peers.update(&rekeys, moves)
    }

    /// Namespaces. Fresh scopes must be in the index.
    fn update_groups(
        &mut self,
        atoms: &AtomChanges,
        is_unused: &FxHashSet<AtomId>,
        touched: &BTreeSet<NamespaceSlot>,
    ) -> Changes<Signature, NamespaceSlot> {
        let rekeys = self.rekeys(&atoms.unused, is_unused, |class| match class {
            PeerKey::Group(class) => Some((class.0, self.groups.key(class.0)?)),
            _ => None,
        });
        let known = |slot: &NamespaceSlot| self.world.namespace_name(*slot).is_some();
        let (mut asked, gone): (BTreeSet<NamespaceSlot>, BTreeSet<NamespaceSlot>) =
            touched.iter().copied().partition(known);
        let all = self.world.namespaces().count();
        for atom in atoms.fresh.iter().filter(|atom| atom.is_broad()) {
            if asked.len() < all
                && let Some(Question::Scope(scope)) = self.atoms.question(*atom)
            {
                asked.extend(self.world.namespaces_in(&scope.namespaces));
            }
        }
        let moves: Vec<(NamespaceSlot, Option<Signature>)> = asked
            .into_iter()
            .map(|slot| (slot, self.group_signature(slot)))
            .chain(gone.into_iter().map(|slot| (slot, None)))
            .collect();
        self.groups.update(&rekeys, moves)
    }

    /// The broad scopes that a namespace meets; `None` if none of its pods has an address.
    fn group_signature(&self, slot: NamespaceSlot) -> Option<Signature> {
        let name = self.world.namespace_name(slot).filter(|_| self.asks_for_pods)?;
        self.world.addresses_of(name).next()?;
        let labels = self.world.namespace_labels(name);
        Some(self.atoms.groups().matching(name, &labels, &Labels::default()).into())
    }

    /// What becomes of whole classes when nobody asks for some atoms any more. `class` gives the
    /// number and key of classes of one partition.
    fn rekeys<'a>(
        &'a self,
        unused: &[AtomId],
        is_unused: &FxHashSet<AtomId>,
        class: impl Fn(PeerKey) -> Option<(u32, &'a Signature)>,
    ) -> Rekeys {
        let classes = unused.iter().filter_map(|atom| self.classes_of.get(atom)).flatten();
        let mut rekeys = Rekeys::default();
        for key in classes {
            let Some((number, before)) = class(*key) else { continue };
            rekeys.entry(number).or_insert_with(|| {
                let after: Vec<AtomId> =
                    before.iter().copied().filter(|atom| !is_unused.contains(atom)).collect();
                // A namespace stays a member if it meets nothing.
                let stays = !after.is_empty() || matches!(key, PeerKey::Group(_));
                stays.then(|| after.into())
            });
        }
        rekeys
    }

    fn update_segments(&mut self, unused: &[AtomId], fresh: &[AtomId]) {
        for atom in unused {
            if let Some(Question::Block(set)) = self.atoms.question(*atom) {
                let broad = atom.is_broad();
                let line = if broad { &mut self.net_segments } else { &mut self.segments };
                line.remove(set, *atom);
            }
        }
        for atom in fresh {
            if let Some(Question::Block(set)) = self.atoms.question(*atom) {
                let broad = atom.is_broad();
                let line = if broad { &mut self.net_segments } else { &mut self.segments };
                line.add(set, *atom);
            }
        }
    }

    /// The narrow atoms about pods that the owners of addresses meet, as far as they are indexed.
    fn atoms_of_owners(&mut self, addresses: &FxHashSet<IpAddr>) -> FxHashMap<IpAddr, Vec<AtomId>> {
        let mut by_namespace: FxHashMap<&Arc<str>, OfNamespace<'_, AtomId>> = FxHashMap::default();
        let mut ports: Vec<(IpAddr, PortName, u16)> = Vec::new();
        let mut met: FxHashMap<IpAddr, Vec<AtomId>> = FxHashMap::default();
        met.reserve(addresses.len());
        for address in addresses {
            let mut atoms = Vec::new();
            if let Some((_, pod)) = self.world.owner(*address) {
                let namespace = &pod.name.namespace;
                let scopes = by_namespace.entry(namespace).or_insert_with(|| {
                    let labels = self.world.namespace_labels(namespace);
                    self.atoms.scopes().of_namespace(namespace, &labels)
                });
                atoms = scopes.matching(&pod.labels);
                let in_use = pod.ports.iter().filter(|(name, _)| self.atoms.uses_name(name));
                ports.extend(in_use.map(|(name, number)| (*address, name.clone(), *number)));
            }
            met.insert(*address, atoms);
        }
        for (address, name, number) in ports {
            let atom = self.atoms.port(&name, number);
            met.entry(address).or_default().push(atom);
        }
        met
    }

    /// The addresses that a new narrow atom is news for.
    fn addresses_that_meet(&mut self, atom: AtomId) -> Vec<IpAddr> {
        match self.atoms.question(atom) {
            Some(Question::Scope(scope)) => {
                let walked = &mut self.work.pods_walked;
                let pods = self.world.matching(scope, false, walked);
                pods.into_iter().flat_map(|slot| self.world.own_addresses(slot)).collect()
            }
            Some(Question::Block(set)) if self.asks_for_pods => {
                set.ranges().iter().flat_map(|range| self.world.addresses_in(range)).collect()
            }
            Some(Question::Block(_) | Question::Port(..)) | None => Vec::new(),
        }
    }

    fn addresses_with_port(&self, name: &PortName) -> Vec<(IpAddr, u16)> {
        let mut found = Vec::new();
        for slot in self.world.pods_with_port(name) {
            let numbers = self.world.pod(slot).map(|pod| pod.numbers(name)).unwrap_or_default();
            for address in self.world.own_addresses(slot) {
                found.extend(numbers.iter().map(|number| (address, *number)));
            }
        }
        found
    }

    /// Writes an address into tables and delta if it is another than before.
    fn write_peer(&mut self, address: IpAddr, delta: &mut Delta) {
        let peer = self.world.owner(address).filter(|_| self.asks_for_pods).map(|(_, pod)| {
            let own = self.peers.class_of(Member::Address(address)).map_or(PeerId::OTHER, PeerId);
            let namespace = self.world.namespace(&pod.name.namespace);
            let group = namespace.and_then(|slot| self.groups.class_of(slot));
            Peer { own, group: group.map_or(GroupId::NONE, GroupId) }
        });
        let before = match peer {
            Some(peer) => self.tables.peers.insert(address, peer),
            None => self.tables.peers.remove(&address),
        };
        if before != peer {
            delta.peers.push((address, peer));
        }
    }

    fn note_class_changes<M>(
        &mut self,
        changes: Changes<Signature, M>,
        key: impl Fn(u32) -> PeerKey,
        result: &mut ClassChanges,
    ) {
        self.work.peer_classes += changes.classes.len();
        for change in changes.classes {
            let class = key(change.id);
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
    }

    /// Notes which port names lost classes, and which of their numbers are nobody's any more.
    fn note_lost_names(&self, result: &mut ClassChanges) {
        for (atom, classes) in &result.lost {
            if let Some(Question::Port(name, _)) = self.atoms.question(*atom) {
                result.lost_names.entry(name.clone()).or_default().extend(classes);
                if !self.classes_of.contains_key(atom) {
                    result.unused.push(*atom);
                }
            }
        }
    }
}

/// What changes of a line's segments and their classes come to: ranges that go, ranges that come.
fn range_changes<T: Copy + PartialEq>(
    line: &Segments,
    segments: &[SegmentChange],
    reclassed: impl Iterator<Item = (IpAddr, Option<u32>)>,
    class_of: impl Fn(IpAddr) -> Option<T>,
    class: impl Fn(u32) -> T,
) -> (Vec<AddressRange>, Vec<(AddressRange, T)>) {
    let mut ranges: BTreeMap<IpAddr, _> = segments
        .iter()
        .map(|(start, before, after)| {
            let range =
                |segment: &Option<_>| segment.as_ref().and_then(|s: &Segment| s.range(*start));
            (start_address(*start), (range(before), range(after)))
        })
        .collect();
    let mut classes_before: FxHashMap<IpAddr, Option<T>> = FxHashMap::default();
    for (start, before) in reclassed {
        classes_before.insert(start, before.map(&class));
        ranges.entry(start).or_insert_with(|| {
            let point = AddressRange::one(start);
            let key = (point.family(), point.bits().0);
            let range = line.starting_at(start).and_then(|segment| segment.range(key));
            (range, range)
        });
    }
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    for (start, (before, after)) in ranges {
        let class_after = class_of(start);
        let class_before = classes_before.get(&start).copied().unwrap_or(class_after);
        let (before, after) = (before.zip(class_before), after.zip(class_after));
        if before != after {
            removed.extend(before.map(|(range, _)| range));
            added.extend(after);
        }
    }
    (removed, added)
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
