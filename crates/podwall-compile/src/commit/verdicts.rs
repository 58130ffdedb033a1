//! What do the policies of the subject classes say to the peer classes now?
//!
//! ```text
//!   subject classes ──▶ programs ────────────┐
//!   peer classes that mean something else ───┴─▶ rows ─▶ verdicts
//! ```
//!
//! A class whose policies differ by a few from those it had follows them: what it costs is what
//! these few say, and not the hundreds that the class has besides.

use std::collections::BTreeSet;
use std::sync::Arc;

use podwall_policy::policy::Direction;
use rustc_hash::{FxHashMap, FxHashSet};

use super::isolation::{SubjectChanges, differences};
use super::{ClassChanges, PolicyChanges};
use crate::atoms::Question;
use crate::compiler::{NodeCompiler, Signature};
use crate::policies::{Part, PolicySlot};
use crate::rows::Rows;
use crate::subjects::{Program, Resolved, RowEntry};
use crate::tables::{Delta, PeerKey, PolicyId, SubjectId};
use crate::world::PortName;

impl NodeCompiler {
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
        let origins = origins(subjects);
        for subject in dirty {
            let origin = origins.get(&subject).copied();
            if self.update_program((subject, origin), policies, classes, &mut pairs, delta) {
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

    /// Has a subject class's rules follow its policies and notes the rows that this changes; whether
    /// these are all that there can be. `origin` is where the members of a new class come from.
    fn update_program(
        &mut self,
        (subject, origin): (SubjectId, Option<SubjectId>),
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
        let direction = key.direction;
        let shape = before.as_ref().map(Program::shape);
        let edited =
            policies.changed.iter().filter(|slot| key.policies.binary_search(slot).is_ok());
        let edited: Vec<PolicySlot> = edited.copied().collect();
        let from = before.or_else(|| self.programs.get(&origin?).cloned());
        let mut changed = Vec::new();
        let followed = from.and_then(|mut program| {
            let (mut gone, mut new) = differences(&program.key().policies, &key.policies);
            for policy in edited {
                if !new.contains(&policy) {
                    gone.push(policy);
                    new.push(policy);
                }
            }
            changed = [&gone[..], &new[..]].concat();
            let ports = program.follow(key, (&gone, &new), &self.policies)?;
            Some((program, Some(ports)))
        });
        let made_anew = || (Program::new(key, &self.policies), None);
        self.work.policies += if followed.is_some() { changed.len() } else { key.policies.len() };
        let (program, ports) = followed.unwrap_or_else(made_anew);
        let behind: Arc<[PolicyId]> = program.order().map(PolicyId).collect();
        if self.tables.isolated_by.get(&subject) != Some(&behind) {
            self.tables.isolated_by.insert(subject, behind.clone());
            delta.isolated_by.push((subject, Some(behind)));
        }
        let parts: Vec<&Part> = changed
            .iter()
            .flat_map(|policy| {
                let now = self.policies.get(policy).and_then(|known| known.needs.as_ref());
                [policies.needed.get(policy), now]
            })
            .flatten()
            .map(|needs| needs.part(direction))
            .collect();
        let mut peers: Vec<PeerKey> = Vec::new();
        let for_anybody = parts.iter().any(|part| part.has_rule_for_anybody());
        let far = for_anybody && (ports.is_none() || program.has_named_for_anybody());
        let everything = far || shape.is_none_or(|shape| shape != program.shape());
        if for_anybody {
            // Rows leave out what anybody is allowed: those differ that are about such ports.
            peers.push(PeerKey::Any);
            let atoms = program.atoms_about(ports.as_deref().unwrap_or_default());
            peers.extend(atoms.iter().filter_map(|atom| self.classes_of.get(atom)).flatten());
        }
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
}

/// For new classes one that their members come from.
fn origins(subjects: &SubjectChanges) -> FxHashMap<SubjectId, SubjectId> {
    let new = subjects.classes.iter().filter(|change| change.before.is_none());
    let new: FxHashSet<u32> = new.map(|change| change.id).collect();
    let moved = subjects.members.iter().filter_map(|change| Some((change.after?, change.before?)));
    let moved = moved.filter(|(after, _)| new.contains(after));
    moved.map(|(after, before)| (SubjectId(after), SubjectId(before))).collect()
}
