//! What leads from one state of the sets to another?
//!
//! ```text
//!   elements in the kernel, tables ──▶ difference ──▶ elements to remove, elements to add
//!   model of the kernel, Delta ──────▶ changes ─────▶ elements to remove, elements to add
//!   elements in the kernel, tables ──▶ drift ───────▶ what differs, in words
//! ```

use std::net::IpAddr;

use podwall_compile::tables::{Delta, NodeTables};
use podwall_policy::policy::Direction;
use rustc_hash::{FxHashMap, FxHashSet};

use super::set::{self, Element};
use crate::Drift;

/// What leads from the kernel's elements to the tables': removals, then additions, both in order
/// of their sets. What stays is not touched.
pub(super) fn difference(found: &[Element], tables: &NodeTables) -> (Vec<Element>, Vec<Element>) {
    let mut remove = Vec::new();
    let mut kept = FxHashSet::with_capacity_and_hasher(found.len(), Default::default());
    for element in found {
        if set::wanted(tables, element.set, element.key) == Some(element.data) {
            kept.insert((element.set, element.key));
        } else {
            remove.push(*element);
        }
    }
    let missing = |element: &Element| !kept.contains(&(element.set, element.key));
    let mut add: Vec<Element> = set::elements(tables).filter(missing).collect();
    remove.sort_by_key(|element| element.set);
    add.sort_by_key(|element| element.set);
    (remove, add)
}

/// What a change comes to in elements: removals, then additions, both in order of their sets.
pub(super) fn changes(model: &NodeTables, delta: &Delta) -> (Vec<Element>, Vec<Element>) {
    let (mut remove, mut add) = (Vec::new(), Vec::new());
    let mut change = |before: Option<Element>, after: Option<Element>| {
        if before != after {
            remove.extend(before);
            add.extend(after);
        }
    };
    let mut touched: FxHashMap<IpAddr, [bool; 2]> = FxHashMap::default();
    for ((direction, address), class) in &delta.subjects {
        let element = |class| Element::subject(*direction, *address, class);
        let before = model.subjects.get(&(*direction, *address)).copied();
        change(before.map(element), class.map(element));
        let isolated = touched.entry(*address).or_insert_with(|| {
            [Direction::Egress, Direction::Ingress]
                .map(|direction| model.subjects.contains_key(&(direction, *address)))
        });
        isolated[usize::from(*direction == Direction::Ingress)] = class.is_some();
    }
    for (address, isolated) in touched {
        let own = |there: bool| there.then(|| Element::own(address));
        change(own(set::is_subject(model, address)), own(isolated.contains(&true)));
    }
    if !delta.subjects.is_empty() || delta.pod_ranges.is_some() {
        let before = set::subject_classes(model);
        let after = set::classes_after(model, delta);
        for class in before.symmetric_difference(&after) {
            let element = |there: bool| there.then(|| Element::unmatched(*class));
            change(element(before.contains(class)), element(after.contains(class)));
        }
    }
    for (address, class) in &delta.peers {
        let element = |peer| Element::peer(*address, peer);
        change(model.peers.get(address).copied().map(element), class.map(element));
    }
    for (key, verdict) in &delta.verdicts {
        let before = model.verdicts.get(key).and_then(|v| Element::row(*key, v.allow));
        change(before, verdict.and_then(|v| Element::row(*key, v.allow)));
    }
    for range in &delta.blocks_removed {
        change(model.blocks.get(range).map(|class| Element::block(*range, *class)), None);
    }
    for (range, class) in &delta.blocks_added {
        change(None, Some(Element::block(*range, *class)));
    }
    for range in &delta.nets_removed {
        change(model.nets.get(range).map(|class| Element::net(*range, *class)), None);
    }
    for (range, class) in &delta.nets_added {
        change(None, Some(Element::net(*range, *class)));
    }
    remove.sort_by_key(|element| element.set);
    add.sort();
    (remove, add)
}

/// The chains that differ.
pub(super) fn drift_of_rows(rows: &[&str]) -> Vec<Drift> {
    rows.iter().map(|chain| Drift::OtherProgram { what: format!("chain {chain}") }).collect()
}

/// Where the kernel's elements and chains differ from the tables, sorted.
pub(super) fn drift(found: &[Element], rows: &[&str], tables: &NodeTables) -> Vec<Drift> {
    let mut out = drift_of_rows(rows);
    let mut seen = FxHashSet::with_capacity_and_hasher(found.len(), Default::default());
    for element in found {
        seen.insert((element.set, element.key));
        match set::wanted(tables, element.set, element.key) {
            Some(data) if data == element.data => {}
            Some(data) => out.push(Drift::Different {
                entry: Element { data, ..*element }.to_string(),
                found: element.data.to_string(),
            }),
            None => out.push(Drift::Extra { entry: element.to_string() }),
        }
    }
    let missing = set::elements(tables).filter(|e| !seen.contains(&(e.set, e.key)));
    out.extend(missing.map(|element| Drift::Missing { entry: element.to_string() }));
    out.sort();
    out
}
