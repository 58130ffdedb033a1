//! What does one commit do, step by step?
//!
//! ```text
//!   1 objects    pods and namespaces into the world          ─▶ touched pods and addresses
//!   2 policies   who selects whom, who is active             ─▶ atoms come and go
//!   3 peers      addresses, namespaces and blocks to classes ─▶ classes that mean something else
//!   4 subjects   local addresses to classes; strangers       ─▶ classes with other rules
//!   5 rows       (subject, peer) pairs that 3 and 4 touch    ─▶ verdicts
//! ```

mod isolation;
mod peers;
mod selection;
mod strangers;
mod verdicts;

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::atoms::AtomId;
use crate::compiler::NodeCompiler;
use crate::policies::{Needs, PolicySlot};
use crate::tables::{Delta, PeerKey};
use crate::world::{PodSlot, PortName};

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
    differ: Vec<(PeerKey, Vec<AtomId>)>,
    /// Classes that are no more, or meet nothing.
    gone: Vec<PeerKey>,
    /// The classes that no longer meet an atom.
    lost: FxHashMap<AtomId, Vec<PeerKey>>,
    /// The same for the atoms of a port name.
    lost_names: FxHashMap<PortName, Vec<PeerKey>>,
    /// Atoms that no class has any more.
    unused: Vec<AtomId>,
}

impl NodeCompiler {
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
        self.shared.settle();
        self.atoms.settle();
        self.peers.settle();
        self.groups.settle();
        self.nets.settle();
        self.subjects.settle();
    }
}
