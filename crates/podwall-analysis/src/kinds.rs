//! Which pairs of rows of a matrix are worth a look?
//!
//! ```text
//!   row ──▶ its pods that may differ: one, mostly ──▶ kind of the row
//!   kind ──▶ kinds that rules let it reach ──asked once──▶ nothing passes: no look at their rows
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};

use podwall_policy::object::Pod;

use crate::matrix::Row;
use crate::podclass::{Key, Keys};
use crate::reachability::factored::{Cell, End, Factored, Speaks};
use crate::reachability::reached::Reached;

/// Which rows are alike, so that most pairs of rows need no look.
pub(crate) struct Kinds {
    /// The kinds of rows that are like one pod or one address.
    simple: Vec<Option<u32>>,
    rows: BTreeMap<u32, Vec<usize>>,
    /// The other rows.
    special: Vec<usize>,
    /// Rows from here on are outside.
    inside: usize,
    /// Finds the kinds that are worth asking; those of `rows` in their order. Made when it is asked.
    finder: Option<Reached>,
    /// By kind of the source the kinds of destinations to which something may pass.
    reached: HashMap<u32, Vec<u32>>,
}

impl Kinds {
    /// The kinds of these rows.
    pub(crate) fn of(likes: &[Likes<'_>], inside: usize) -> Self {
        let simple: Vec<Option<u32>> = likes.iter().map(Likes::kind).collect();
        let mut rows: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        let mut special = Vec::new();
        for (row, kind) in simple.iter().enumerate() {
            match kind {
                Some(kind) => rows.entry(*kind).or_default().push(row),
                None => special.push(row),
            }
        }
        Self { simple, rows, special, inside, finder: None, reached: HashMap::new() }
    }

    /// The rows to which something may pass from a row, ascending, and all of which that cannot be
    /// told; notes which rows outside have a family in common with pods.
    pub(crate) fn worth_asking<'e>(
        &mut self,
        factored: &mut Factored<'e>,
        likes: &[Likes<'e>],
        src: usize,
        possible: &mut [bool],
    ) -> Vec<usize> {
        // Between others no policy of this cluster has a say.
        let end = if src < self.inside { self.simple.len() } else { self.inside };
        let Some(kind) = self.simple[src] else { return (0..end).collect() };
        if !self.reached.contains_key(&kind) {
            let reached = self.ask(factored, likes, src, possible);
            self.reached.insert(kind, reached);
        }
        let reached = self.reached.get(&kind).into_iter().flatten();
        let rows = reached.filter_map(|kind| self.rows.get(kind)).flatten();
        let mut found: Vec<usize> = rows.chain(&self.special).copied().collect();
        found.push(src); // its pods among each other
        found.retain(|row| *row < end);
        found.sort_unstable();
        found.dedup();
        found
    }

    fn ask<'e>(
        &mut self,
        factored: &mut Factored<'e>,
        likes: &[Likes<'e>],
        src: usize,
        possible: &mut [bool],
    ) -> Vec<u32> {
        let finder = match self.finder.take() {
            Some(finder) => finder,
            None => {
                let kinds: Vec<&[usize]> = self.rows.values().map(|rows| &rows[..]).collect();
                for row in possible_rows(likes, &kinds, |row| row >= self.inside) {
                    possible[row] = true;
                }
                let first = self.rows.values().filter_map(|rows| likes[*rows.first()?].first());
                Reached::of(factored, first)
            }
        };
        let mut reached = Vec::new();
        let kinds: Vec<(&u32, &Vec<usize>)> = self.rows.iter().collect();
        let place =
            self.simple[src].and_then(|own| kinds.iter().position(|(kind, _)| **kind == own));
        let worth = place.map(|place| finder.from(place)).unwrap_or_default();
        for (kind, rows) in worth.into_iter().filter_map(|at| kinds.get(at)) {
            let Some(dst) = rows.iter().copied().find(|row| *row != src) else { continue };
            if src >= self.inside && dst >= self.inside {
                continue;
            }
            let (Some(from), Some(to)) = (likes[src].first(), likes[dst].first()) else { continue };
            if factored.cell(from, to) > Cell::NOTHING {
                reached.push(**kind);
            }
        }
        self.finder = Some(finder);
        reached
    }
}

/// The rows outside that have a family in common with pods; `kinds` are rows that are alike.
pub(crate) fn possible_rows(
    likes: &[Likes<'_>],
    kinds: &[&[usize]],
    is_outside: impl Fn(usize) -> bool,
) -> Vec<usize> {
    let firsts = kinds.iter().filter_map(|rows| {
        let first = *rows.first()?;
        Some((*rows, is_outside(first), likes[first].first()?.speaks()))
    });
    let firsts: Vec<(&[usize], bool, Speaks)> = firsts.collect();
    let of_pods = firsts.iter().filter(|(_, outside, _)| !outside).map(|(.., speaks)| *speaks);
    let of_pods: HashSet<Speaks> = of_pods.collect();
    let possible = firsts
        .iter()
        .filter(|(_, outside, own)| *outside && of_pods.iter().any(|speaks| own.meets(*speaks)));
    possible.flat_map(|(rows, ..)| rows.iter().copied()).collect()
}

/// Calls with each pair of pods that may differ from the others.
pub(crate) fn pairs<'l, 'e>(
    src: &'l Likes<'e>,
    dst: &'l Likes<'e>,
    same: bool,
    mut each: impl FnMut(&'l End<'e>, &'l End<'e>),
) {
    // Only a node's own traffic tells pods by their nodes.
    let of = |likes: &'l Likes<'e>| {
        let nodes = src.uses_nodes || dst.uses_nodes;
        likes.at_nodes.as_ref().filter(|_| nodes).unwrap_or(&likes.anywhere)
    };
    for (i, from) in of(src).iter().enumerate() {
        for (j, to) in of(dst).iter().enumerate() {
            if !same || i != j {
                each(&from.end, &to.end);
            } else if let Some(second) = &to.second {
                each(&from.end, second);
            }
        }
    }
}

/// The ends of a row, one for each kind.
pub(crate) struct Likes<'e> {
    /// As traffic of other pods and of the outside tells them apart.
    anywhere: Vec<Like<'e>>,
    /// As traffic of nodes does, where that is another way.
    at_nodes: Option<Vec<Like<'e>>>,
    /// Whether some of its pods use their nodes' network.
    uses_nodes: bool,
}

/// Ends of a row that are alike.
struct Like<'e> {
    /// The first.
    end: End<'e>,
    /// The second, if there are two.
    second: Option<End<'e>>,
}

impl<'e> Likes<'e> {
    /// The first of its ends.
    pub(crate) fn first(&self) -> Option<&End<'e>> {
        self.anywhere.first().map(|like| &like.end)
    }

    /// The kind of all its pods, if they are alike and nothing of them is special.
    pub(crate) fn kind(&self) -> Option<u32> {
        match &self.anywhere[..] {
            [one] if !self.uses_nodes => one.end.kind(),
            _ => None,
        }
    }

    /// The ends of a row.
    pub(crate) fn of(
        factored: &mut Factored<'e>,
        row: &Row<'e>,
        anywhere: &Keys,
        at_nodes: &Keys,
    ) -> Self {
        match row {
            Row::Outside(class) => {
                let end = factored.outside(class.example);
                let anywhere = vec![Like { end, second: None }];
                Self { anywhere, at_nodes: None, uses_nodes: false }
            }
            Row::Pods { pods, .. } => Self {
                anywhere: alike(factored, pods, anywhere),
                at_nodes: at_nodes.tells_nodes().then(|| alike(factored, pods, at_nodes)),
                uses_nodes: pods.iter().any(|pod| pod.host_network),
            },
        }
    }
}

fn alike<'e>(factored: &mut Factored<'e>, pods: &[&'e Pod], keys: &Keys) -> Vec<Like<'e>> {
    if let [pod] = pods {
        return vec![Like { end: factored.pod(pod), second: None }];
    }
    let mut out: Vec<Like<'e>> = Vec::new();
    let mut index: HashMap<Key<'e>, usize> = HashMap::new();
    for pod in pods {
        let next = out.len();
        let at = *index.entry(keys.key(pod, false)).or_insert(next);
        if at == next {
            out.push(Like { end: factored.pod(pod), second: None });
        } else if out[at].second.is_none() {
            out[at].second = Some(factored.pod(pod));
        }
    }
    out
}
