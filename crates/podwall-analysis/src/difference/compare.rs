//! Which pairs differ, without asking all of them?
//!
//! ```text
//!   kind of a row × kind of a row ──touched by a change?──▶ no: the same, for certain
//!        └─ yes: cell before, cell after ──Shifts, once for each pair of cells──▶ nothing: the same
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use podwall_policy::address::{AddressRange, Family};
use podwall_policy::cluster::Cluster;
use podwall_policy::port::PortSet;

use super::kinds::Kinds;
use super::rows::{Facts, Group, Like, Members, rows};
use super::shift::{State, Which, open, states};
use super::{Change, Exposure, Kind, Row, Shift, Shifts};
use crate::matrix::By;
use crate::reachability::Reachability;
use crate::reachability::factored::{Cell, Factored};

/// The rows, and what differs between them in order.
pub(super) fn compare<'a>(
    engines: &[Arc<Reachability<'a>>; 2],
    clusters: [&'a Cluster; 2],
    by: By,
) -> (Vec<Row<'a>>, Vec<Change>) {
    let (rows, inside, blocks) = rows(clusters, by);
    let changes = {
        let facts = Facts::of(clusters, &blocks);
        let mut factored = [Factored::new(&engines[0]), Factored::new(&engines[1])];
        let members: Vec<Members<'_>> =
            rows.iter().map(|row| Members::of(&mut factored, engines, &facts, row)).collect();
        let mut comparison = Comparison { factored, known: HashMap::new() };
        let mut kinds = Kinds::of(&members, inside);
        let mut changes = Vec::new();
        for src in 0..rows.len() {
            for dst in kinds.worth_asking(&mut comparison, &rows, &members, src) {
                let change = comparison.change(&rows, &members, src, dst);
                let like = kinds.of[src].zip(kinds.of[dst]).filter(|_| src != dst);
                changes.extend(change.map(|change| Change { like, ..change }));
            }
        }
        changes
    };
    let (rows, mut changes) = merge_outside(rows, changes, inside);
    changes.sort_by_key(order);
    (rows, changes)
}

/// New exposure first, and of that what is certain; then what is closed; then what is not known.
fn order(change: &Change) -> impl Ord + use<> {
    let shift = &change.shift.all;
    let class = match () {
        () if !shift.opened.is_empty() => 0,
        () if !shift.perhaps_opened.is_empty() => 1,
        () if !shift.closed.is_empty() => 2,
        () => 3,
    };
    // Rows are in the order of their names.
    (class, change.exposure, change.dst, change.src)
}

/// Both matrices, and what their cells come to. Owned by one comparison.
pub(super) struct Comparison<'e> {
    factored: [Factored<'e>; 2],
    /// By the cells before and after, and the sides that something touches.
    known: HashMap<(Cell, Cell, [bool; 2]), Arc<Shifts>>,
}

impl<'e> Comparison<'e> {
    /// What differs between two rows.
    pub(super) fn change(
        &mut self,
        rows: &[Row<'_>],
        members: &[Members<'e>],
        src: usize,
        dst: usize,
    ) -> Option<Change> {
        let there = [rows[src].is_there(), rows[dst].is_there()];
        let both = |s: usize| there[0][s] && there[1][s];
        let mut sum: Option<Arc<Shifts>> = None;
        let mut partly = false;
        let mut example = None;
        let sources = members[src].groups(&members[dst]);
        let targets = members[dst].groups(&members[src]);
        for from in sources {
            for to in targets {
                let cells = [0, 1].map(|s| self.cells(s, from, to, src == dst));
                if (0..2).any(|s| cells[s].is_empty() && both(s)) {
                    continue; // of a lone pod that gets a second there is no pair to compare with
                }
                let shifts = self.shifts(&cells, sides_touched(from, to));
                if !shifts.is_nothing() && example.is_none() {
                    example = Some([0, 1].map(|s| cells[s].first().map(|(_, pair)| *pair)));
                }
                sum = Some(match sum {
                    None => shifts,
                    Some(sum) if sum == shifts => sum,
                    Some(sum) => {
                        partly = true;
                        Arc::new(sum.and(&shifts))
                    }
                });
            }
        }
        let shift = sum.filter(|shifts| !shifts.is_nothing())?;
        let kind = kind(&shift.all);
        let exposure = exposure(&shift.all, &rows[src], &rows[dst]);
        Some(Change { src, dst, kind, exposure, shift, partly, like: None, example: example? })
    }

    /// What may pass on one side between the pods of two groups, and between whom.
    fn cells(
        &mut self,
        s: usize,
        from: &Group<'e>,
        to: &Group<'e>,
        same_row: bool,
    ) -> Vec<(Cell, (u32, u32))> {
        let mut out = Vec::with_capacity(1);
        for src in &from.likes[s] {
            for dst in &to.likes[s] {
                let Some((end, at)) = partner(src, dst, same_row) else { continue };
                out.push((self.factored[s].cell(&src.end, end), (src.at, at)));
            }
        }
        out
    }

    /// What happens between two groups.
    fn shifts(&mut self, cells: &[Vec<(Cell, (u32, u32))>; 2], touched: [bool; 2]) -> Arc<Shifts> {
        let one = |list: &[(Cell, (u32, u32))]| match list {
            [] => Some(Cell::IMPOSSIBLE),
            [(cell, _)] => Some(*cell),
            [(first, _), rest @ ..] => rest.iter().all(|(cell, _)| cell == first).then_some(*first),
        };
        if let (Some(before), Some(after)) = (one(&cells[0]), one(&cells[1])) {
            return self.of_cells(before, after, touched);
        }
        // Pods without a namesake that are not alike: what some of them let pass before and after,
        // and, where that is the same, what all of them do.
        let sum = |which: Which| {
            let states = [0, 1].map(|s| self.together(s, &cells[s], which));
            Arc::new(Shifts::of(&states, |_| PortSet::everything()))
        };
        let some = sum(Which::Some);
        let all = sum(Which::All);
        let kinds = [0, 1].map(|s| self.kinds(s, &cells[s]));
        if !some.is_nothing() || kinds[0] == kinds[1] {
            return some;
        }
        if !all.is_nothing() {
            return all;
        }
        // Some pairs differ, but nobody can say which pod of before is which of after.
        let undecided = some.all.before.difference(&all.all.before);
        Arc::new(Shifts { all: Shift { undecided, ..some.all.clone() }, families: Vec::new() })
    }

    /// The different things that pairs let pass.
    fn kinds(&self, s: usize, cells: &[(Cell, (u32, u32))]) -> HashSet<[Option<State>; 2]> {
        cells.iter().map(|(cell, _)| states(self.factored[s].flows(*cell))).collect()
    }

    fn of_cells(&mut self, before: Cell, after: Cell, touched: [bool; 2]) -> Arc<Shifts> {
        let [of_before, of_after] = &self.factored;
        let known = self.known.entry((before, after, touched)).or_insert_with(|| {
            let flows = [of_before.flows(before), of_after.flows(after)];
            if touched == [false; 2] {
                return Arc::new(Shifts::unchanged(&states(flows[0])));
            }
            Arc::new(Shifts::of(&flows.map(states), |family| {
                // What a side leaves open on which nothing differs it leaves open in the same way.
                let mut doubts = PortSet::empty();
                for d in [0, 1].into_iter().filter(|d| touched[*d]) {
                    for flow in flows {
                        let of = flow.iter().find(|(its, _)| *its == family);
                        doubts =
                            of.map_or(doubts.clone(), |(_, sides)| doubts.union(&open(&sides[d])));
                    }
                }
                doubts
            }))
        });
        known.clone()
    }

    /// What pairs come to together.
    fn together(&self, s: usize, cells: &[(Cell, (u32, u32))], which: Which) -> [Option<State>; 2] {
        let mut out: [Option<State>; 2] = [None, None];
        for (cell, _) in cells {
            let states = states(self.factored[s].flows(*cell));
            for (sum, state) in out.iter_mut().zip(states) {
                let state = state.unwrap_or_default();
                *sum = Some(match sum.take() {
                    None => state,
                    Some(sum) => sum.with(&state, which),
                });
            }
        }
        out
    }
}

/// Whether a pair of groups is worth a look: on which sides something differs.
fn sides_touched(from: &Group<'_>, to: &Group<'_>) -> [bool; 2] {
    let facts = from.facts || to.facts;
    [facts || from.touched[0], facts || to.touched[1]]
}

/// Who stands for the destination: another pod than the source.
fn partner<'l, 'e>(
    src: &'l Like<'e>,
    dst: &'l Like<'e>,
    same_row: bool,
) -> Option<(&'l crate::reachability::factored::End<'e>, u32)> {
    if same_row && src.at == dst.at {
        return dst.second.as_ref().map(|(end, at)| (end, *at));
    }
    Some((&dst.end, dst.at))
}

fn kind(shift: &Shift) -> Kind {
    match (shift.opened.is_empty(), shift.closed.is_empty()) {
        (true, true) => Kind::Unknown,
        (false, true) if shift.before.is_empty() => Kind::Appears,
        (true, false) if shift.after.is_empty() => Kind::Disappears,
        _ => Kind::Changes,
    }
}

fn exposure(shift: &Shift, src: &Row<'_>, dst: &Row<'_>) -> Option<Exposure> {
    if shift.opened.is_empty() && shift.perhaps_opened.is_empty() {
        return None;
    }
    Some(match (src.namespace(), dst.namespace()) {
        (None, _) => Exposure::FromOutside,
        (_, None) => Exposure::ToOutside,
        (Some(a), Some(b)) if a == b => Exposure::SameNamespace,
        _ => Exposure::FromOtherNamespace,
    })
}

/// What a row of addresses has: in which direction, with whom, and the number of what happens.
type Seen = (bool, usize, usize);

/// Puts rows of addresses together that change alike; those that do not change go.
fn merge_outside(
    rows: Vec<Row<'_>>,
    mut changes: Vec<Change>,
    inside: usize,
) -> (Vec<Row<'_>>, Vec<Change>) {
    let mut numbers: HashMap<(Arc<Shifts>, bool), usize> = HashMap::new();
    let mut seen: Vec<Vec<Seen>> = vec![Vec::new(); rows.len() - inside];
    for change in &changes {
        for (own, other, out) in [(change.src, change.dst, true), (change.dst, change.src, false)] {
            if own >= inside {
                let next = numbers.len();
                let shift = (change.shift.clone(), change.partly);
                let number = *numbers.entry(shift).or_insert(next);
                seen[own - inside].push((out, other, number));
            }
        }
    }
    let mut kept: Vec<Row<'_>> = Vec::with_capacity(rows.len());
    let mut into: Vec<Option<usize>> = vec![None; rows.len()];
    let mut first: HashMap<(Family, &[Seen]), usize> = HashMap::new();
    let mut ranges: BTreeMap<usize, Vec<AddressRange>> = BTreeMap::new();
    for (row, content) in rows.into_iter().enumerate() {
        let Row::Outside(class) = &content else {
            into[row] = Some(kept.len());
            kept.push(content);
            continue;
        };
        let seen = &seen[row - inside];
        if seen.is_empty() {
            continue;
        }
        let next = kept.len();
        let at = *first.entry((class.family, seen)).or_insert(next);
        ranges.entry(at).or_default().extend(class.addresses.ranges());
        if at == next {
            into[row] = Some(at);
            kept.push(content);
        }
    }
    for (at, ranges) in ranges {
        if let Row::Outside(class) = &mut kept[at] {
            class.addresses = ranges.into_iter().collect();
        }
    }
    changes.retain_mut(|change| {
        let (Some(src), Some(dst)) = (into[change.src], into[change.dst]) else { return false };
        (change.src, change.dst) = (src, dst);
        true
    });
    (kept, changes)
}
