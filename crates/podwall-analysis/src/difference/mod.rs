//! What does a change of policies or objects open, and what does it close?
//!
//! ```text
//!   before ──▶ Reachability ┐  rows of both: workloads, and the outside cut by the blocks of both
//!                           ├─ cell before × cell after ──▶ Shift: opened, closed, perhaps, the same
//!   after  ──▶ Reachability ┘  pairs that no changed policy or fact touches are not asked
//! ```
//!
//! Pods of one name are compared with each other; where a workload's pods have other names (a
//! cluster gives them), all of its pods before with all of them after. What is said of a pair is
//! the evaluator's word on both sides, port by port and family by family: certain only where both
//! are. A port whose verdict depends on a missing fact before and after is `undecided`, unless what
//! decides it is the same on both sides.

mod compare;
mod future;
mod kinds;
mod rows;
mod shift;
mod spelling;
mod why;

use std::sync::Arc;

use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Pod;
use podwall_policy::port::PortSet;

pub use self::future::{Example, Future, Somebody};
pub use self::why::{Isolation, Why, Whys};
use crate::matrix::By;
use crate::outside::Class;
use crate::reachability::Reachability;

/// Two clusters and what differs between them.
#[derive(Debug)]
pub struct Difference<'a> {
    /// Workloads or pods of either side by name, then addresses outside that some change concerns.
    pub rows: Vec<Row<'a>>,
    /// What differs, new exposure first.
    pub changes: Vec<Change>,
    /// Before, after.
    engines: [Arc<Reachability<'a>>; 2],
}

/// Who can have connections.
#[derive(Clone, Debug)]
pub enum Row<'a> {
    /// Pods; on one side there may be none.
    Pods {
        /// `NAMESPACE/POD` or `NAMESPACE/KIND/NAME`.
        label: String,
        /// Before, by name.
        before: Vec<&'a Pod>,
        /// After, by name.
        after: Vec<&'a Pod>,
    },
    /// Addresses outside that change alike; nobody of either side has the example.
    Outside(Class),
}

/// What differs from one row to another.
#[derive(Clone, Debug)]
pub struct Change {
    /// Index of the source's row.
    pub src: usize,
    /// Index of the destination's row.
    pub dst: usize,
    /// What it comes to.
    pub kind: Kind,
    /// Whom it newly exposes, or perhaps does; `None` if nothing is opened.
    pub exposure: Option<Exposure>,
    /// The ports.
    pub shift: Arc<Shifts>,
    /// Whether it is so for some pairs of pods only.
    pub partly: bool,
    /// What the two rows are like, where nothing else of them matters.
    like: Option<(u32, u32)>,
    /// A pair for which it is so, by places in the rows' lists: before, after.
    example: [Option<(u32, u32)>; 2],
}

/// What a change comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing passed, something does.
    Appears,
    /// Something passed and does, on other ports or for other pods.
    Changes,
    /// Something passed, nothing does.
    Disappears,
    /// It depends on missing facts whether anything differs.
    Unknown,
}

/// Whom a change newly exposes, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Exposure {
    /// Addresses outside can reach pods.
    FromOutside,
    /// Pods of another namespace can.
    FromOtherNamespace,
    /// Pods can reach addresses outside.
    ToOutside,
    /// Pods of the same namespace can.
    SameNamespace,
}

/// What happens to the ports of a pair over all families.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shifts {
    /// Over at least one family.
    pub all: Shift,
    /// Over each family, where they differ.
    pub families: Vec<(Family, Shift)>,
}

/// What happens to the ports of a pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shift {
    /// What certainly passed.
    pub before: PortSet,
    /// What certainly passes.
    pub after: PortSet,
    /// What certainly did not pass and certainly does.
    pub opened: PortSet,
    /// What certainly passed and certainly does not.
    pub closed: PortSet,
    /// What is opened if a missing fact says so.
    pub perhaps_opened: PortSet,
    /// What is closed if a missing fact says so.
    pub perhaps_closed: PortSet,
    /// What depends on missing facts before and after, and not certainly in the same way.
    pub undecided: PortSet,
}

impl Shift {
    /// Whether nothing differs, certainly.
    pub fn is_nothing(&self) -> bool {
        self.is_unsure_of_nothing() && self.opened.is_empty() && self.closed.is_empty()
    }

    fn is_unsure_of_nothing(&self) -> bool {
        self.perhaps_opened.is_empty()
            && self.perhaps_closed.is_empty()
            && self.undecided.is_empty()
    }

    /// Both shifts together: of two families, or of two pairs of pods.
    fn and(&self, other: &Self) -> Self {
        Self {
            before: self.before.union(&other.before),
            after: self.after.union(&other.after),
            opened: self.opened.union(&other.opened),
            closed: self.closed.union(&other.closed),
            perhaps_opened: self.perhaps_opened.union(&other.perhaps_opened),
            perhaps_closed: self.perhaps_closed.union(&other.perhaps_closed),
            undecided: self.undecided.union(&other.undecided),
        }
    }
}

impl Row<'_> {
    /// Its name; addresses as people read them.
    pub fn label(&self) -> String {
        match self {
            Self::Pods { label, .. } => label.clone(),
            Self::Outside(class) => crate::outside::describe(&class.addresses),
        }
    }

    /// Whether it has pods before, after; addresses are always there.
    pub fn is_there(&self) -> [bool; 2] {
        match self {
            Self::Pods { before, after, .. } => [!before.is_empty(), !after.is_empty()],
            Self::Outside(_) => [true; 2],
        }
    }

    /// The namespace of its pods.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Pods { before, after, .. } => {
                before.first().or(after.first()).map(|pod| &*pod.name.namespace)
            }
            Self::Outside(_) => None,
        }
    }
}

impl<'a> Difference<'a> {
    /// Whether nothing differs, certainly.
    pub fn is_nothing(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether something differs, certainly.
    pub fn is_certain(&self) -> bool {
        self.changes.iter().any(|change| change.kind != Kind::Unknown)
    }

    /// The engines of before and after, for further questions.
    pub fn engines(&self) -> &[Arc<Reachability<'a>>; 2] {
        &self.engines
    }
}

/// What differs between two clusters.
pub fn difference<'a>(before: &'a Cluster, after: &'a Cluster, by: By) -> Difference<'a> {
    difference_from(&Arc::new(Reachability::of(before)), before, after, by)
}

/// The same where the engine of before is there already, for those who compare it with many others.
pub fn difference_from<'a, 'b: 'a>(
    engine: &Arc<Reachability<'b>>,
    before: &'b Cluster,
    after: &'a Cluster,
    by: By,
) -> Difference<'a> {
    let engines = [engine.clone(), Arc::new(Reachability::of(after))];
    let (rows, changes) = compare::compare(&engines, [before, after], by);
    Difference { rows, changes, engines }
}
