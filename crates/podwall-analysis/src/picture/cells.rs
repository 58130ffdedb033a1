//! What passes between each two rows, of one cluster or of two?
//!
//! ```text
//!   cluster ──▶ rows of one kind ── asked once for each two kinds ──▶ numbers of contents
//!   number before, number now ──▶ number of both
//! ```
//!
//! Both clusters have the same rows, so that addresses outside are cut where either cuts them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use podwall_policy::address::{AddressRange, Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Pod;
use rustc_hash::FxHashMap;

use super::{Content, MOST_ROWS, Passing, Picture, Row, Space, What};
use crate::blocks::Blocks;
use crate::kinds::{Likes, possible_rows};
use crate::matrix::{self, By, Row as MatrixRow, between, pod_rows};
use crate::outside::{self, Class, describe};
use crate::podclass::Keys;
use crate::reachability::Reachability;
use crate::reachability::factored::Factored;
use crate::reachability::reached::Reached;

/// The rows of a cluster, by number; `None` for those that only the other has.
type Rows<'a> = Vec<Option<MatrixRow<'a>>>;

/// Numbers of things, from 0.
struct Numbered<T> {
    list: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T: Clone + Eq + Hash> Numbered<T> {
    fn starting_with(first: T) -> Self {
        let mut new = Self { list: Vec::new(), numbers: HashMap::new() };
        new.number(first);
        new
    }

    fn number(&mut self, thing: T) -> u32 {
        if let Some(number) = self.numbers.get(&thing) {
            return *number;
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(thing.clone());
        self.numbers.insert(thing, number);
        number
    }
}

/// One cluster's cells.
struct Filled {
    cells: Vec<u32>,
    passings: Vec<Passing>,
    /// Rows that have a family in common with any other.
    possible: Vec<bool>,
}

/// A picture without rules.
pub(super) fn fill(now: &Cluster, before: Option<&Cluster>, by: By) -> Result<Picture, usize> {
    let clusters = || before.into_iter().chain([now]);
    let blocks: BTreeSet<IpBlock> = clusters().flat_map(outside::blocks).collect();
    let blocks: Vec<IpBlock> = blocks.into_iter().collect();
    let taken = clusters().flat_map(outside::taken).collect();
    let classes = outside::classes(&blocks, &taken);
    let (rows, of_now, of_before) = rows(now, before, by, &classes);
    let many = rows.len();
    if many > MOST_ROWS {
        return Err(many);
    }
    let now = ask_all(now, &of_now, &blocks);
    let (mut cells, mut possible, contents) = match before {
        None => {
            let content = |now: Passing| Content { before: Passing::default(), now };
            (now.cells, now.possible, now.passings.into_iter().map(content).collect())
        }
        Some(before) => {
            let before = ask_all(before, &of_before, &blocks);
            let possible = before.possible.iter().zip(&now.possible).map(|(a, b)| *a || *b);
            let possible = possible.collect();
            let (cells, contents) = both(&before, &now);
            (cells, possible, contents)
        }
    };
    let mut rows = rows;
    merge_outside(&mut rows, &mut cells, &mut possible);
    let mut picture =
        Picture { rows, contents, cells, compared: before.is_some(), ..Picture::default() };
    picture.spaces = spaces(&mut picture.rows);
    Ok(picture)
}

/// The rows of both clusters, and which of them each has.
fn rows<'a>(
    now: &'a Cluster,
    before: Option<&'a Cluster>,
    by: By,
    classes: &[Class],
) -> (Vec<Row>, Rows<'a>, Rows<'a>) {
    let mut all: BTreeMap<String, [Option<MatrixRow<'a>>; 2]> = BTreeMap::new();
    for (side, cluster) in [Some(now), before].into_iter().enumerate() {
        for row in cluster.map(|cluster| pod_rows(cluster, by)).unwrap_or_default() {
            let MatrixRow::Pods { label, .. } = &row else { continue };
            let label = label.clone();
            all.entry(label).or_default()[side] = Some(row);
        }
    }
    let (mut rows, mut of_now, mut of_before) = (Vec::new(), Vec::new(), Vec::new());
    for (label, [in_now, in_before]) in all {
        let pods = |row: &Option<MatrixRow<'a>>| match row {
            Some(MatrixRow::Pods { pods, .. }) => pods.clone(),
            _ => Vec::new(),
        };
        let mut its = pods(&in_now);
        if its.is_empty() {
            its = pods(&in_before);
        }
        let Some(first) = its.first() else { continue };
        let (kind, name) = match &first.owner {
            Some(owner) if by == By::Workload => (owner.kind.to_string(), owner.name.to_string()),
            _ => ("Pod".to_owned(), first.name.name.to_string()),
        };
        let text = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        rows.push(Row {
            label,
            what: What::Pods {
                space: 0,
                name,
                kind,
                pods: its.len(),
                labels: first.labels.iter().map(text).collect(),
                host_network: its.iter().all(|pod| pod.host_network),
            },
            before: before.is_none() || in_before.is_some(),
            now: in_now.is_some(),
        });
        of_now.push(in_now);
        of_before.push(in_before);
    }
    for class in classes {
        rows.push(Row {
            label: describe(&class.addresses),
            what: What::Outside { family: class.family, addresses: class.addresses.clone() },
            before: true,
            now: true,
        });
        of_now.push(Some(MatrixRow::Outside(class.clone())));
        of_before.push(Some(MatrixRow::Outside(class.clone())));
    }
    (rows, of_now, of_before)
}

/// Asks for each two kinds of rows once, and for rows that have no kind one by one.
fn ask_all(cluster: &Cluster, rows: &Rows<'_>, blocks: &[IpBlock]) -> Filled {
    let engine = Reachability::of(cluster);
    let mut factored = Factored::new(&engine);
    let blocks = Blocks::new(blocks.to_vec());
    let at_nodes = Keys::new(cluster, blocks.clone());
    let anywhere = Keys::without_nodes(blocks);
    let there: Vec<usize> = (0..rows.len()).filter(|row| rows[*row].is_some()).collect();
    let given: Vec<&MatrixRow<'_>> = rows.iter().flatten().collect();
    let likes: Vec<Likes<'_>> =
        given.iter().map(|row| Likes::of(&mut factored, row, &anywhere, &at_nodes)).collect();
    let mut kinds: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let mut special = Vec::new();
    for (index, its) in likes.iter().enumerate() {
        match its.kind() {
            Some(kind) => kinds.entry(kind).or_default().push(index),
            None => special.push(index),
        }
    }
    let many = rows.len();
    let mut filled =
        Filled { cells: vec![0; many * many], passings: Vec::new(), possible: vec![false; many] };
    let mut passings = Numbered::starting_with(Passing::default());
    let is_outside = |index: usize| matches!(given[index], MatrixRow::Outside(_));
    let firsts = kinds.values().filter_map(|rows| likes[*rows.first()?].first());
    let finder = Reached::of(&factored, firsts);
    let mut ask = |src: usize, dst: usize, possible: &mut Vec<bool>| -> u32 {
        let (sum, can) = between(&mut factored, &likes, src, dst, None);
        possible[there[src]] |= can;
        possible[there[dst]] |= can;
        let found = sum.filter(|c| c.passes_any() || !c.open.is_empty());
        found.map_or(0, |connection| {
            passings.number(Passing::of(connection, pods(given[src]), pods(given[dst])))
        })
    };
    let kinds: Vec<&Vec<usize>> = kinds.values().collect();
    let rows: Vec<&[usize]> = kinds.iter().map(|rows| &rows[..]).collect();
    for row in possible_rows(&likes, &rows, is_outside) {
        filled.possible[there[row]] = true;
    }
    for (number, from) in kinds.iter().enumerate() {
        for to in finder.from(number).into_iter().filter_map(|number| kinds.get(number)) {
            let Some(src) = from.first().copied() else { continue };
            let Some(dst) = to.iter().copied().find(|dst| *dst != src) else { continue };
            if is_outside(src) && is_outside(dst) {
                continue;
            }
            let number = ask(src, dst, &mut filled.possible);
            if number != 0 {
                for src in *from {
                    let line = there[*src] * many;
                    to.iter().for_each(|dst| filled.cells[line + there[*dst]] = number);
                }
            }
        }
    }
    for one in special {
        for other in 0..given.len() {
            if !(is_outside(one) && is_outside(other)) {
                filled.cells[there[one] * many + there[other]] =
                    ask(one, other, &mut filled.possible);
                filled.cells[there[other] * many + there[one]] =
                    ask(other, one, &mut filled.possible);
            }
        }
    }
    for (row, at) in there.iter().enumerate().filter(|(row, _)| !is_outside(*row)) {
        filled.cells[at * many + at] = ask(row, row, &mut filled.possible);
    }
    filled.passings = passings.list;
    filled
}

fn pods<'r, 'a>(row: &'r MatrixRow<'a>) -> &'r [&'a Pod] {
    match row {
        matrix::Row::Pods { pods, .. } => pods,
        matrix::Row::Outside(_) => &[],
    }
}

/// Cells of two clusters as one.
fn both(before: &Filled, now: &Filled) -> (Vec<u32>, Vec<Content>) {
    let mut contents = Numbered::starting_with(Content::default());
    let mut known: FxHashMap<(u32, u32), u32> = FxHashMap::default();
    let cells = before
        .cells
        .iter()
        .zip(&now.cells)
        .map(|(before_cell, now_cell)| {
            *known.entry((*before_cell, *now_cell)).or_insert_with(|| {
                contents.number(Content {
                    before: before.passings[*before_cell as usize].clone(),
                    now: now.passings[*now_cell as usize].clone(),
                })
            })
        })
        .collect();
    (cells, contents.list)
}

/// Puts rows of addresses together that have the same cells, as the matrix does, and takes those
/// away that have no family in common with anybody.
fn merge_outside(rows: &mut Vec<Row>, cells: &mut Vec<u32>, possible: &mut [bool]) {
    let many = rows.len();
    let mut first: HashMap<(Family, Vec<u32>), usize> = HashMap::new();
    let mut merged: BTreeMap<usize, Vec<AddressRange>> = BTreeMap::new();
    let mut kept = vec![true; many];
    for (at, row) in rows.iter().enumerate() {
        let What::Outside { family, addresses } = &row.what else { continue };
        let line = cells[at * many..(at + 1) * many].iter();
        let column = (0..many).map(|src| cells[src * many + at]);
        let seen: Vec<u32> = line.copied().chain(column).collect();
        let into = *first.entry((*family, seen)).or_insert(at);
        kept[at] = into == at && possible[at];
        merged.entry(into).or_default().extend(addresses.ranges());
    }
    for (at, ranges) in merged {
        if let What::Outside { addresses, .. } = &mut rows[at].what {
            *addresses = ranges.into_iter().collect();
            rows[at].label = describe(addresses);
        }
    }
    let stay: Vec<usize> = (0..many).filter(|row| kept[*row]).collect();
    let pairs = stay.iter().flat_map(|src| stay.iter().map(move |dst| src * many + dst));
    *cells = pairs.map(|at| cells[at]).collect();
    let mut kept = kept.into_iter();
    rows.retain(|_| kept.next().unwrap_or(false));
}

/// The namespaces of the rows, which come by namespace.
fn spaces(rows: &mut [Row]) -> Vec<Space> {
    let mut spaces: Vec<Space> = Vec::new();
    for (at, row) in rows.iter_mut().enumerate() {
        let What::Pods { space, .. } = &mut row.what else { continue };
        let name = row.label.split('/').next().unwrap_or_default();
        if spaces.last().is_none_or(|last| last.name != name) {
            spaces.push(Space { name: name.to_owned(), rows: Vec::new() });
        }
        *space = spaces.len() - 1;
        if let Some(last) = spaces.last_mut() {
            last.rows.push(at);
        }
    }
    spaces
}
