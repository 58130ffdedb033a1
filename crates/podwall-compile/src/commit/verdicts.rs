//! Which local addresses are alike now, and what do their policies say?
//!
//! ```text
//!   touched local addresses ──▶ subject classes ──▶ programs ─┐
//!   peer classes that mean something else ────────────────────┴─▶ rows ─▶ verdicts
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::object::Name;
use podwall_policy::policy::Direction;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{ClassChanges, PolicyChanges};
use crate::atoms::Question;
use crate::compiler::{NodeCompiler, Signature};
use crate::partition::Changes;
use crate::policies::{Needs, Part, PolicySlot};
use crate::rows::Rows;
use crate::subjects::{Program, Resolved, RowEntry, SubjectKey};
use crate::tables::{Delta, PeerKey, SubjectId};
use crate::world::{KnownPod, PortName, Touched};

type SubjectChanges = Changes<SubjectKey, (Direction, IpAddr)>;

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
        let mut addresses: BTreeSet<IpAddr> =
            touched.addresses.iter().copied().filter(local).collect();
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
            let of = |key: &Option<SubjectKey>| key.as_ref().map(|key| Arc::clone(&key.policies));
            let (before, after) = (of(&change.before), of(&change.after));
            let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
            for policy in before.iter().filter(|policy| after.binary_search(policy).is_err()) {
                if let Some(known) = self.policies.get_mut(policy) {
                    known.subjects.remove(&subject);
                }
            }
            for policy in after.iter().filter(|policy| before.binary_search(policy).is_err()) {
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
        let mut pairs: Vec<(SubjectId, PeerKey)> = Vec::new();
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
        // Subjects of which all rows that there can be are in `pairs`.
        let mut complete: FxHashSet<SubjectId> = FxHashSet::default();
        for subject in dirty {
            if self.update_program(subject, policies, classes, &mut pairs, delta) {
                complete.insert(subject);
            }
        }
        // After a full load all are, and no class has to look for them.
        let all_are_complete = complete.len() >= self.programs.len()
            && self.programs.keys().all(|subject| complete.contains(subject));
        let differ = if all_are_complete { &[] } else { &classes.differ[..] };
        for (class, atoms) in differ {
            let users: FxHashSet<PolicySlot> =
                atoms.iter().flat_map(|atom| self.atoms.users(*atom)).collect();
            let known = users.iter().filter_map(|policy| self.policies.get(policy));
            let subjects = known.flat_map(|known| &known.subjects);
            let subjects = subjects.filter(|subject| !complete.contains(subject));
            pairs.extend(subjects.map(|subject| (*subject, *class)));
        }
        for class in &classes.gone {
            pairs.extend(self.rows.subjects_of(*class).map(|subject| (subject, *class)));
        }
        pairs.sort_unstable();
        pairs.dedup();
        self.work.rows = pairs.len();
        if !self.tables.verdicts.is_empty() {
            for pair in pairs {
                let row = self.row(pair);
                self.rows.set(&mut self.tables, delta, pair, &row);
            }
            return;
        }
        let mut verdicts = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let row = self.row(pair);
            self.rows.add(&mut verdicts, pair, &row);
        }
        // At once and in order: quicker, and the tree has no half-empty nodes.
        self.tables.verdicts = verdicts.iter().copied().collect();
        delta.verdicts = verdicts.into_iter().map(|(key, verdict)| (key, Some(verdict))).collect();
    }

    fn row(&self, (subject, peer): (SubjectId, PeerKey)) -> Vec<RowEntry> {
        let Some(program) = self.programs.get(&subject) else { return Vec::new() };
        if peer == PeerKey::Any {
            return program.row_for_anybody(&self.policies);
        }
        let Some(signature) = self.signature(peer) else { return Vec::new() };
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

    /// What a class meets.
    fn signature(&self, peer: PeerKey) -> Option<&Signature> {
        match peer {
            PeerKey::Own(class) => self.peers.key(class.0),
            PeerKey::Group(class) => self.groups.key(class.0),
            PeerKey::Net(class) => self.nets.key(class.0),
            PeerKey::Any => None,
        }
    }

    /// Puts a subject class's rules together anew and notes the rows that this changes; whether
    /// these are all that there can be.
    fn update_program(
        &mut self,
        subject: SubjectId,
        policies: &PolicyChanges,
        classes: &ClassChanges,
        pairs: &mut Vec<(SubjectId, PeerKey)>,
        delta: &mut Delta,
    ) -> bool {
        let before = self.programs.remove(&subject);
        let Some(key) = self.subjects.key(subject.0) else {
            pairs.extend(Rows::peers_of(&self.tables, subject).into_iter().map(|p| (subject, p)));
            if self.tables.isolated_by.remove(&subject).is_some() {
                delta.isolated_by.push((subject, None));
            }
            return true;
        };
        self.work.subject_classes += 1;
        let edited = key.policies.iter().any(|policy| policies.changed.contains(policy));
        let program = Program::new(key, &self.policies, before.as_ref().filter(|_| !edited));
        let names = self.names_of(&program);
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
        let mut peers: Vec<PeerKey> = Vec::new();
        let everything = parts.iter().any(|part| part.has_rule_for_anybody())
            || before.is_none_or(|before| before.has_other_shape(&program));
        if everything {
            peers.push(PeerKey::Any);
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
        peers.sort_unstable();
        peers.dedup();
        pairs.extend(peers.into_iter().map(|peer| (subject, peer)));
        self.programs.insert(subject, program);
        everything
    }

    fn classes_with_name<'a>(
        &'a self,
        name: &'a PortName,
        lost: &'a FxHashMap<PortName, Vec<PeerKey>>,
    ) -> impl Iterator<Item = PeerKey> {
        let atoms = self.atoms.ports_of(name);
        let now = atoms.filter_map(|atom| self.classes_of.get(&atom)).flatten();
        now.chain(lost.get(name).into_iter().flatten()).copied()
    }

    fn names_of(&self, program: &Program) -> Vec<Name> {
        let known = program.order().iter().filter_map(|policy| self.policies.get(policy));
        known.map(|known| known.policy.name.clone()).collect()
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
