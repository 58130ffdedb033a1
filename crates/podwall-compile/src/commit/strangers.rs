//! Which addresses of this node's pods does nobody know?
//!
//! ```text
//!   pod ranges ─┬─ a pod has the address, or it is released ─▶ its class, or OPEN: an entry
//!               └─ nobody has it ────────────────────────────▶ no entry: a stranger, isolated
//!   given to a pod that is not known, in ranges or not ──────▶ CLOSED: an entry
//! ```
//!
//! A stranger costs nothing, since nobody can list those that are not known; the price is an entry
//! for each known address that no policy isolates. Outside of the ranges it is the other way round.

use std::borrow::Cow;
use std::net::IpAddr;

use podwall_policy::policy::Direction;
use rustc_hash::FxHashSet;

use super::isolation::{Local, SubjectChanges};
use crate::compiler::NodeCompiler;
use crate::tables::{Delta, SubjectId};
use crate::world::Touched;

impl NodeCompiler {
    /// Writes the entries of local addresses whose class has changed, and of those that have become
    /// known or are known no longer.
    pub(super) fn write_subjects(
        &mut self,
        touched: &Touched,
        changes: &SubjectChanges,
        delta: &mut Delta,
    ) {
        let mut asked: Vec<Local> = changes.members.iter().map(|change| change.member).collect();
        let acquaintances = self.update_strangers(touched, delta);
        if !acquaintances.is_empty() {
            let both = |address| Direction::BOTH.map(|direction| (direction, address));
            asked.extend(acquaintances.into_iter().flat_map(both));
            asked.sort_unstable();
            asked.dedup();
        }
        for local in asked {
            let subject = self.subject_entry(local);
            if self.tables.subjects.get(&local) == subject.as_ref() {
                continue;
            }
            match subject {
                Some(subject) => drop(self.tables.subjects.insert(local, subject)),
                None => drop(self.tables.subjects.remove(&local)),
            }
            delta.subjects.push((local, subject));
        }
    }

    /// Takes over what was recorded; the addresses that may have become known or unknown.
    fn update_strangers(&mut self, touched: &Touched, delta: &mut Delta) -> FxHashSet<IpAddr> {
        let released = self.pending.released.take();
        let ranges = self.pending.pod_ranges.take().filter(|it| *it != self.strangers.ranges);
        let mut addresses = FxHashSet::default();
        if let Some(released) = released {
            addresses.extend(released.symmetric_difference(&self.strangers.released).copied());
            self.strangers.released = released;
        }
        if let Some(nameless) = self.pending.nameless.take() {
            addresses.extend(nameless.symmetric_difference(&self.strangers.nameless).copied());
            self.strangers.nameless = nameless;
        }
        let mut either = Cow::Borrowed(&self.strangers.ranges);
        if let Some(ranges) = &ranges {
            either = Cow::Owned(ranges.union(&self.strangers.ranges));
            addresses.extend(self.world.addresses().filter(|address| either.contains(*address)));
            addresses.extend(&self.strangers.released);
        }
        if !either.is_empty() {
            // Those of pods that are gone are not the world's any more.
            let inside = |address: &&IpAddr| either.contains(**address);
            addresses.extend(touched.addresses.iter().filter(inside));
        }
        if let Some(ranges) = ranges {
            self.strangers.ranges = ranges.clone();
            self.tables.pod_ranges = ranges.clone();
            delta.pod_ranges = Some(ranges);
        }
        if !self.strangers.nameless.is_empty() {
            let given = |address: &&IpAddr| self.strangers.nameless.contains(*address);
            addresses.extend(touched.addresses.iter().filter(given));
        }
        addresses
    }

    /// What stands in the tables of a local address in a direction.
    fn subject_entry(&self, local: Local) -> Option<SubjectId> {
        if let Some(class) = self.subjects.class_of(local) {
            return Some(SubjectId(class));
        }
        let (address, strangers) = (local.1, &self.strangers);
        let is_pods = self.world.owner(address).is_some();
        if !is_pods && strangers.nameless.contains(&address) {
            return Some(SubjectId::CLOSED);
        }
        let known = is_pods || strangers.released.contains(&address);
        (known && strangers.ranges.contains(address)).then_some(SubjectId::OPEN)
    }
}
