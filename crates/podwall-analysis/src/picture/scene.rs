//! What is on one sheet: which boxes, and which few edges say all that passes between them?
//!
//! ```text
//!   rows ──view──▶ items: a workload, a whole namespace, addresses outside
//!   item × item ──▶ content; destinations that are asked alike by the same sources: one block
//!
//!        sources           destinations        a block is every source to every destination
//!        ┌ shop/web ┐        ┌ db/pg ┐
//!        └ all of ci┘──5432──└ db/my ┘         terms: the same sets in few words
//! ```
//!
//! Blocks are exact: each two items between which something passes are in one block of that content,
//! or both are free (marks on the boxes say it), and no other two are in any. Between items that are
//! namespaces the content says what passes between some of their workloads.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Content, Picture};

/// More terms than this on one side of a block are put into a set.
const MOST_TERMS: usize = 6;
/// Fewer workloads than this are not called "every workload".
const LEAST_SET: usize = 4;

/// A destination that has more contents than this is asked for all in one.
const MOST_CONTENTS: usize = 8;

/// Source, destination, and what passes.
type Cells = BTreeSet<(usize, usize, u32)>;

/// What is to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// By namespace: whether its workloads are boxes of their own.
    pub expanded: Vec<bool>,
    /// Only what passes from or to these rows, and who is concerned.
    pub focus: Option<Vec<usize>>,
}

/// One sheet.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// What stands on it: workloads and namespaces by name, then addresses outside.
    pub items: Vec<Item>,
    /// What blocks say; the first is nothing.
    pub contents: Vec<Content>,
    /// By item, what passes between its own rows: for one row between its pods.
    pub among: Vec<u32>,
    /// Everything that passes between items.
    pub blocks: Vec<Block>,
    /// Sets that terms speak of.
    pub sets: Vec<Set>,
}

/// A box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it stands for.
    pub what: Stands,
    /// Its rows.
    pub rows: Vec<usize>,
    /// The namespace in which it is a box of its own.
    pub within: Option<usize>,
    /// Whether nothing holds back what any of its rows sends, and what is sent to any.
    pub free: [bool; 2],
    /// Whether the sheet is about it; always true without a focus.
    pub focus: bool,
}

/// What an item stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stands {
    /// One row that is pods.
    Workload(usize),
    /// A namespace, by index.
    Space(usize),
    /// One row of addresses.
    Outside(usize),
}

/// Every source to every destination, but none to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What passes.
    pub content: u32,
    /// Items, ascending.
    pub sources: Vec<usize>,
    /// Items, ascending.
    pub destinations: Vec<usize>,
    /// The sources in few words.
    pub from: Vec<Term>,
    /// The destinations in few words.
    pub to: Vec<Term>,
}

/// Some items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Term {
    /// One.
    Item(usize),
    /// All items of a namespace, by index.
    Space(usize),
    /// Those of a set, by index.
    Set(usize),
}

/// Items that have a name in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Set {
    /// What it is called.
    pub called: Called,
    /// The items, ascending.
    pub items: Vec<usize>,
    /// Whether it is of sources; else of destinations.
    pub sends: bool,
}

/// What a set is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Called {
    /// Every item.
    Anyone,
    /// Every item that is pods.
    EveryWorkload,
    /// The same, but these.
    EveryWorkloadBut(Vec<usize>),
    /// Every workload that nothing holds back on this side.
    Free,
    /// Every address outside.
    EveryAddress,
    /// Just these.
    These,
}

/// A set of items as bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Bits(Vec<u64>);

impl Bits {
    fn none(many: usize) -> Self {
        Self(vec![0; many.div_ceil(64)])
    }

    fn of(many: usize, items: impl Iterator<Item = usize>) -> Self {
        let mut bits = Self::none(many);
        items.for_each(|item| bits.set(item));
        bits
    }

    fn set(&mut self, item: usize) {
        self.0[item / 64] |= 1 << (item % 64);
    }

    fn with(&self, item: usize) -> Self {
        let mut bits = self.clone();
        bits.set(item);
        bits
    }

    fn has(&self, item: usize) -> bool {
        self.0[item / 64] & (1 << (item % 64)) != 0
    }

    fn holds(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(own, other)| other & !own == 0)
    }

    fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(own, other)| own & other != 0)
    }

    fn without(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, other)| own & !other).collect())
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn items(&self) -> Vec<usize> {
        (0..self.0.len() * 64).filter(|item| self.has(*item)).collect()
    }
}

impl View {
    /// Every workload is a box.
    pub fn everything(picture: &Picture) -> Self {
        Self { expanded: vec![true; picture.spaces.len()], focus: None }
    }

    /// Every namespace is a box.
    pub fn overview(picture: &Picture) -> Self {
        Self { expanded: vec![false; picture.spaces.len()], focus: None }
    }

    /// One namespace, and who has to do with it.
    pub fn namespace(picture: &Picture, space: usize) -> Self {
        let expanded = (0..picture.spaces.len()).map(|own| own == space).collect();
        Self { expanded, focus: Some(picture.spaces[space].rows.clone()) }
    }

    /// Some rows, and who has to do with them; the others as workloads where they are few.
    pub fn rows(picture: &Picture, rows: Vec<usize>, most: usize) -> Self {
        let concerned = |row: &usize| {
            let passes = |a: usize, b: usize| picture.cell(a, b) != 0 && !picture.is_free(a, b);
            rows.iter().any(|own| own == row || passes(*own, *row) || passes(*row, *own))
        };
        let all: BTreeSet<usize> = (0..picture.rows.len()).filter(concerned).collect();
        let own: BTreeSet<usize> =
            rows.iter().filter_map(|row| picture.rows[*row].space()).collect();
        let few = all.len() <= most;
        let expanded = picture
            .spaces
            .iter()
            .enumerate()
            .map(|(space, its)| {
                few && its.rows.iter().any(|row| all.contains(row)) || own.contains(&space)
            })
            .collect();
        Self { expanded, focus: Some(rows) }
    }
}

impl Scene {
    /// The sheet that a view shows.
    pub fn of(picture: &Picture, view: &View) -> Self {
        let (items, of_row) = items(picture, view);
        let mut scene = Self { items, contents: vec![Content::default()], ..Self::default() };
        let cells = scene.cells(picture, &of_row);
        let cells = scene.leave_out(view, cells);
        let blocks = blocks(scene.items.len(), &cells, &scene);
        for (content, sources, destinations) in blocks {
            let from = scene.terms(&sources, true);
            let to = scene.terms(&destinations, false);
            let (sources, destinations) = (sources.items(), destinations.items());
            scene.blocks.push(Block { content, sources, destinations, from, to });
        }
        scene
    }

    /// What passes between each two items, where anything does. Between workloads that is one
    /// content, between namespaces each that there is, so that what all namespaces may is said
    /// once; for a destination that has very many all in one.
    fn cells(&mut self, picture: &Picture, of_row: &[usize]) -> Cells {
        let many = picture.rows.len();
        let mut found: BTreeMap<(usize, usize), BTreeMap<u32, usize>> = BTreeMap::new();
        for src in 0..many {
            let mut line: FxHashMap<(usize, u32), usize> = FxHashMap::default();
            let from = of_row[src];
            for (dst, to) in of_row.iter().copied().enumerate() {
                let cell = picture.cell(src, dst);
                let itself = src == dst && self.items[from].rows.len() > 1;
                if cell == 0 || itself || picture.is_free(src, dst) {
                    continue;
                }
                if self.items[from].focus || self.items[to].focus {
                    *line.entry((to, cell)).or_default() += 1;
                }
            }
            for ((to, cell), pairs) in line {
                *found.entry((from, to)).or_default().entry(cell).or_default() += pairs;
            }
        }
        let mut kinds: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
        for ((_, to), contents) in found.iter().filter(|((from, to), _)| from != to) {
            kinds.entry(*to).or_default().extend(contents.keys());
        }
        let mut numbers: FxHashMap<Content, u32> = FxHashMap::default();
        let mut cells = Cells::new();
        for ((from, to), contents) in found {
            let (a, b) = (self.items[from].rows.len(), self.items[to].rows.len());
            let possible = if from == to && a > 1 { a * (a - 1) } else { a * b };
            let each = contents.iter().map(|(content, pairs)| {
                let content = picture.contents[*content as usize].clone();
                if *pairs == possible { content } else { content.or(&content) }
            });
            let kinds = kinds.get(&to).map_or(0, BTreeSet::len);
            let contents: Vec<Content> = if from == to || kinds > MOST_CONTENTS {
                each.reduce(|a, b| a.or(&b)).into_iter().collect()
            } else {
                each.collect()
            };
            for content in contents {
                let next = u32::try_from(self.contents.len()).unwrap_or(u32::MAX);
                let number = *numbers.entry(content.clone()).or_insert_with(|| {
                    self.contents.push(content);
                    next
                });
                cells.insert((from, to, number));
            }
        }
        cells
    }

    /// With a focus, takes away items that have nothing to do with it.
    fn leave_out(&mut self, view: &View, cells: Cells) -> Cells {
        let used: BTreeSet<usize> = cells.iter().flat_map(|(a, b, _)| [*a, *b]).collect();
        let stays =
            |item: usize| view.focus.is_none() || self.items[item].focus || used.contains(&item);
        let kept: Vec<usize> = (0..self.items.len()).filter(|item| stays(*item)).collect();
        let mut to = vec![None; self.items.len()];
        kept.iter().enumerate().for_each(|(new, old)| to[*old] = Some(new));
        self.items = kept.iter().map(|item| self.items[*item].clone()).collect();
        self.among = vec![0; self.items.len()];
        let mut out = Cells::new();
        for (from, dst, content) in cells {
            let (Some(from), Some(dst)) = (to[from], to[dst]) else { continue };
            if from == dst {
                self.among[from] = content;
            } else {
                out.insert((from, dst, content));
            }
        }
        out
    }

    fn is_workload(&self, item: usize) -> bool {
        !matches!(self.items[item].what, Stands::Outside(_))
    }

    /// A set of items in few words.
    fn terms(&mut self, set: &Bits, sends: bool) -> Vec<Term> {
        let many = self.items.len();
        let all = |wanted: &dyn Fn(usize) -> bool| Bits::of(many, (0..many).filter(|i| wanted(*i)));
        let workloads = all(&|item| self.is_workload(item));
        let addresses = all(&|item| !self.is_workload(item));
        let free =
            all(&|item| self.is_workload(item) && self.items[item].free[usize::from(!sends)]);
        let mut rest = set.clone();
        let mut found: Vec<(Called, Bits)> = Vec::new();
        if workloads.count() > 1 && addresses.count() > 0 && set.items().len() == many {
            found.push((Called::Anyone, set.clone()));
        } else {
            let lacking = workloads.without(set);
            if set.holds(&workloads) && workloads.count() >= LEAST_SET {
                found.push((Called::EveryWorkload, workloads.clone()));
            } else if set.holds(&free) && free.count() >= LEAST_SET && self.spaces_of(&free) > 1 {
                found.push((Called::Free, free));
            } else if workloads.count() >= 2 * LEAST_SET && lacking.count() <= workloads.count() / 8
            {
                let but = Called::EveryWorkloadBut(lacking.items());
                found.push((but, workloads.without(&lacking)));
            }
            if set.holds(&addresses) && addresses.count() > 1 {
                found.push((Called::EveryAddress, addresses));
            }
        }
        for (_, items) in &found {
            rest = rest.without(items);
        }
        let mut terms = Vec::new();
        let within: BTreeMap<usize, Bits> = self.spaces();
        for (space, its) in within {
            if its.count() > 1 && set.holds(&its) && rest.meets(&its) {
                rest = rest.without(&its);
                terms.push(Term::Space(space));
            }
        }
        let single = rest.items();
        if terms.len() + single.len() > MOST_TERMS && single.len() > 2 {
            found.push((Called::These, rest));
        } else {
            terms.extend(single.into_iter().map(Term::Item));
        }
        for (called, items) in found {
            let new = Set { called, items: items.items(), sends };
            let at = self.sets.iter().position(|set| *set == new).unwrap_or_else(|| {
                self.sets.push(new);
                self.sets.len() - 1
            });
            terms.push(Term::Set(at));
        }
        terms.sort_unstable();
        terms
    }

    /// The items of each namespace whose workloads are boxes.
    fn spaces(&self) -> BTreeMap<usize, Bits> {
        let many = self.items.len();
        let mut spaces: BTreeMap<usize, Bits> = BTreeMap::new();
        for (at, item) in self.items.iter().enumerate() {
            if let Some(space) = item.within {
                spaces.entry(space).or_insert_with(|| Bits::none(many)).set(at);
            }
        }
        spaces
    }

    fn spaces_of(&self, set: &Bits) -> usize {
        let of = |item: &Item| item.rows.first().copied().map(|_| item.within);
        let all: FxHashSet<_> = set.items().into_iter().map(|item| of(&self.items[item])).collect();
        if all.len() == 1 && all.contains(&Some(None)) { set.count() } else { all.len() }
    }
}

fn items(picture: &Picture, view: &View) -> (Vec<Item>, Vec<usize>) {
    let focus: Option<FxHashSet<usize>> =
        view.focus.as_ref().map(|rows| rows.iter().copied().collect());
    let mut of_row = vec![0; picture.rows.len()];
    let mut items: Vec<Item> = Vec::new();
    for (row, its) in picture.rows.iter().enumerate() {
        let what = match its.space() {
            None => Stands::Outside(row),
            Some(space) if view.expanded.get(space) == Some(&true) => Stands::Workload(row),
            Some(space) => Stands::Space(space),
        };
        if let Some(last) = items.last_mut().filter(|last| last.what == what) {
            last.rows.push(row);
        } else {
            let within = match what {
                Stands::Workload(_) => its.space(),
                _ => None,
            };
            items.push(Item { what, rows: vec![row], within, free: [false; 2], focus: true });
        }
        of_row[row] = items.len() - 1;
    }
    for item in &mut items {
        let marks = picture.free.content.is_some();
        item.free = [&picture.free.out, &picture.free.into]
            .map(|side| marks && item.rows.iter().all(|row| side[*row]));
        item.focus = focus.as_ref().is_none_or(|f| item.rows.iter().any(|row| f.contains(row)));
    }
    (items, of_row)
}

/// Destinations that are asked with one content by the same sources, together. Whether an item is
/// among its own sources says nothing, so it is counted in where that brings more together.
fn blocks(many: usize, cells: &Cells, scene: &Scene) -> Vec<(u32, Bits, Bits)> {
    let mut asked: BTreeMap<(usize, u32), Bits> = BTreeMap::new();
    for (src, dst, content) in cells {
        asked.entry((*dst, *content)).or_insert_with(|| Bits::none(many)).set(*src);
    }
    let mut votes: FxHashMap<(u32, Bits), usize> = FxHashMap::default();
    for ((dst, content), sources) in &asked {
        *votes.entry((*content, sources.clone())).or_default() += 1;
        *votes.entry((*content, sources.with(*dst))).or_default() += 1;
    }
    let workloads = Bits::of(many, (0..many).filter(|item| scene.is_workload(*item)));
    let spaces = scene.spaces();
    let mut blocks: BTreeMap<(u32, Bits), Bits> = BTreeMap::new();
    for ((dst, content), sources) in asked {
        let with = sources.with(dst);
        let count = |bits: &Bits| votes.get(&(content, bits.clone())).copied().unwrap_or_default();
        let completes = with.holds(&workloads)
            || scene.items[dst]
                .within
                .and_then(|s| spaces.get(&s))
                .is_some_and(|its| its.count() > 1 && with.holds(its));
        let (own, other) = (count(&with), count(&sources));
        let key = if own > other || (own == other && completes) { with } else { sources };
        blocks.entry((content, key)).or_insert_with(|| Bits::none(many)).set(dst);
    }
    let mut list: Vec<_> = blocks.into_iter().map(|((c, from), to)| (c, from, to)).collect();
    list.sort_by_key(|(content, from, to)| (to.items(), *content, from.items()));
    list
}

#[cfg(test)]
mod tests;
