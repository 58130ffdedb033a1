//! Which pairs of rows may differ?
//!
//! ```text
//!   row ──▶ kind: its classes before and after, and what touches it
//!   kind × kind ──asked once──▶ nothing differs: no look at their rows
//! ```

use std::collections::{BTreeMap, HashMap};

use super::Row;
use super::compare::Comparison;
use super::rows::{Kind as RowKind, Members};

/// Rows that are alike, so that most pairs need no look.
pub(super) struct Kinds {
    /// By row; `None` for special ones.
    pub(super) of: Vec<Option<u32>>,
    list: Vec<(RowKind, Vec<usize>)>,
    /// The rows that are like no others.
    special: Vec<usize>,
    /// Rows from here on are outside.
    inside: usize,
    /// By kind of the source the kinds of destinations for which something differs.
    reached: HashMap<u32, Vec<u32>>,
}

impl Kinds {
    pub(super) fn of(members: &[Members<'_>], inside: usize) -> Self {
        let mut numbers: BTreeMap<RowKind, u32> = BTreeMap::new();
        let mut kinds = Self {
            of: Vec::with_capacity(members.len()),
            list: Vec::new(),
            special: Vec::new(),
            inside,
            reached: HashMap::new(),
        };
        for (row, members) in members.iter().enumerate() {
            let number = members.kind().map(|kind| {
                let next = u32::try_from(kinds.list.len()).unwrap_or(u32::MAX);
                *numbers.entry(kind).or_insert_with(|| {
                    kinds.list.push((kind, Vec::new()));
                    next
                })
            });
            match number.and_then(|number| kinds.list.get_mut(number as usize)) {
                Some((_, rows)) => rows.push(row),
                None => kinds.special.push(row),
            }
            kinds.of.push(number);
        }
        kinds
    }

    /// The rows for which something may differ if they are asked from a row, ascending.
    pub(super) fn worth_asking<'e>(
        &mut self,
        comparison: &mut Comparison<'e>,
        rows: &[Row<'_>],
        members: &[Members<'e>],
        src: usize,
    ) -> Vec<usize> {
        // Between addresses outside no policy has a say.
        let end = if src < self.inside { rows.len() } else { self.inside };
        let worth = |dst: usize| {
            let [from, to] = [&members[src], &members[dst]];
            from.facts() || to.facts() || from.touched()[0] || to.touched()[1]
        };
        let Some(number) = self.of[src] else {
            return (0..end).filter(|dst| worth(*dst)).collect();
        };
        if !self.reached.contains_key(&number) {
            let reached = self.ask(comparison, rows, members, src);
            self.reached.insert(number, reached);
        }
        let reached = self.reached.get(&number).into_iter().flatten();
        let like =
            reached.filter_map(|kind| self.list.get(*kind as usize)).flat_map(|(_, rows)| rows);
        let special = self.special.iter().filter(|dst| worth(**dst));
        let mut found: Vec<usize> = like.chain(special).copied().collect();
        if worth(src) {
            found.push(src); // its pods among each other
        }
        found.retain(|row| *row < end);
        found.sort_unstable();
        found.dedup();
        found
    }

    fn ask<'e>(
        &self,
        comparison: &mut Comparison<'e>,
        rows: &[Row<'_>],
        members: &[Members<'e>],
        src: usize,
    ) -> Vec<u32> {
        let (Some(from), mut reached) = (members[src].kind(), Vec::new()) else {
            return Vec::new();
        };
        for (number, (to, like)) in (0..).zip(&self.list) {
            if !(from.facts || to.facts || from.touched[0] || to.touched[1]) {
                continue;
            }
            let Some(dst) = like.iter().copied().find(|row| *row != src) else { continue };
            if src >= self.inside && dst >= self.inside {
                continue;
            }
            if comparison.change(rows, members, src, dst).is_some() {
                reached.push(number);
            }
        }
        reached
    }
}
