//! Which change leads from one state of the tables to another?

use podwall_compile::tables::{Delta, NodeTables};

/// The change of what the kernel holds; words are left out.
pub(super) fn between(from: &NodeTables, to: &NodeTables) -> Delta {
    let mut delta = Delta::default();
    let gone = from.subjects.keys().filter(|key| !to.subjects.contains_key(key));
    delta.subjects.extend(gone.map(|key| (*key, None)));
    let new = to.subjects.iter().filter(|(key, class)| from.subjects.get(key) != Some(class));
    delta.subjects.extend(new.map(|(key, class)| (*key, Some(*class))));

    let gone = from.peers.keys().filter(|address| !to.peers.contains_key(address));
    delta.peers.extend(gone.map(|address| (*address, None)));
    let new = to.peers.iter().filter(|(address, class)| from.peers.get(address) != Some(class));
    delta.peers.extend(new.map(|(address, class)| (*address, Some(*class))));

    let gone = from.blocks.iter().filter(|(range, class)| to.blocks.get(range) != Some(class));
    delta.blocks_removed.extend(gone.map(|(range, _)| *range));
    let new = to.blocks.iter().filter(|(range, class)| from.blocks.get(range) != Some(class));
    delta.blocks_added.extend(new.map(|(range, class)| (*range, *class)));

    let gone = from.nets.iter().filter(|(range, class)| to.nets.get(range) != Some(class));
    delta.nets_removed.extend(gone.map(|(range, _)| *range));
    let new = to.nets.iter().filter(|(range, class)| from.nets.get(range) != Some(class));
    delta.nets_added.extend(new.map(|(range, class)| (*range, *class)));

    let gone = from.verdicts.keys().filter(|key| !to.verdicts.contains_key(key));
    delta.verdicts.extend(gone.map(|key| (*key, None)));
    let new = to.verdicts.iter().filter(|(key, verdict)| from.verdicts.get(key) != Some(verdict));
    delta.verdicts.extend(new.map(|(key, verdict)| (*key, Some(*verdict))));
    delta
}
