//! What is there to draw of a cluster?
//!
//! ```text
//!   cluster (and an earlier one) ──▶ rows: workloads, addresses outside
//!                                    cells: row × row ──▶ number of a content, each once
//!                                    rules: whom each selects and whom it matches, as rows
//!        Picture ──view──▶ Scene: boxes, and what passes between them as few edges
//! ```
//!
//! A picture is the matrix with its contents numbered, so that a thousand workloads are a million
//! small numbers and not a million sets of ports. Of two clusters a content says what passed and
//! what passes. Nothing is decided here: cells are the matrix's, rules are matched by the
//! evaluator's own functions.

mod cells;
mod rules;
pub mod scene;

use std::collections::BTreeSet;

use podwall_policy::address::{AddressSet, Family};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Pod;
use podwall_policy::port::PortSet;

pub use self::rules::{PolicyFacts, RuleFacts};
use crate::matrix::{By, Connection, pod_label};
use crate::peer::Peer;

/// The most rows that a picture can have: cells are a square of them (100 MB).
pub const MOST_ROWS: usize = 5_000;

/// A cluster as it is drawn, or two of them.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Workloads (or pods) by namespace and name, then addresses outside.
    pub rows: Vec<Row>,
    /// The namespaces of the rows; those without pods are not there.
    pub spaces: Vec<Space>,
    /// What cells say; the first is nothing.
    pub contents: Vec<Content>,
    /// By source and destination: numbers of contents. A row's cell with itself is about its pods
    /// among each other.
    cells: Vec<u32>,
    /// Policies that select something, or could.
    pub policies: Vec<PolicyFacts>,
    /// Their rules.
    pub rules: Vec<RuleFacts>,
    /// Whether there are two clusters.
    pub compared: bool,
    /// The rows between which everything passes because nothing holds them back.
    pub free: Free,
}

/// One row, and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `NAMESPACE/KIND/NAME`, `NAMESPACE/POD`, or the addresses.
    pub label: String,
    /// What it is.
    pub what: What,
    /// Whether it was there before; always true where there is one cluster.
    pub before: bool,
    /// Whether it is there now.
    pub now: bool,
}

/// What a row is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Pods.
    Pods {
        /// Index of the namespace.
        space: usize,
        /// The workload's name, or the pod's.
        name: String,
        /// `Deployment`, …; `Pod` for one that stands alone.
        kind: String,
        /// How many they are (now, or before if there are none now).
        pods: usize,
        /// Labels of the first.
        labels: Vec<(String, String)>,
        /// Whether they use their node's network, which no policy isolates.
        host_network: bool,
    },
    /// Addresses that no rule tells apart.
    Outside {
        /// All of one family.
        family: Family,
        /// The addresses.
        addresses: AddressSet,
    },
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its name.
    pub name: String,
    /// Its rows, ascending.
    pub rows: Vec<usize>,
}

/// What passes from one row to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Content {
    /// Before; nothing where there is one cluster.
    pub before: Passing,
    /// Now.
    pub now: Passing,
}

/// What passes from one row to another in one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Passing {
    /// What certainly passes, between at least one pair of pods.
    pub passes: PortSet,
    /// Whether some pairs of pods let less pass.
    pub partly: bool,
    /// What depends on missing facts.
    pub open: PortSet,
    /// Those facts, in words; the addresses of the two ends are "the source's", "the destination's".
    pub missing: Vec<String>,
    /// What passes over each family, where that differs.
    pub families: Vec<(Family, PortSet)>,
}

/// Sources and destinations between which all passes, each to each. In a picture that is a mark on
/// the row and no line.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Free {
    /// By row: nothing holds back what it sends.
    pub out: Vec<bool>,
    /// By row: nothing holds back what is sent to it.
    pub into: Vec<bool>,
    /// The content between them; `None` where the marks would not be true of every pair.
    pub content: Option<u32>,
}

/// How a content differs from what was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Change {
    /// It does not, or there is one cluster.
    Same,
    /// Nothing passed, something does.
    Added,
    /// Something passed, nothing does.
    Removed,
    /// More passes, and nothing less.
    More,
    /// Less passes, and nothing more.
    Less,
    /// Other things pass.
    Other,
}

impl Passing {
    /// Whether nothing passes and nothing may.
    pub fn is_nothing(&self) -> bool {
        self.passes.is_empty()
            && self.open.is_empty()
            && self.families.iter().all(|f| f.1.is_empty())
    }

    /// What passes over any family, or may.
    pub fn at_most(&self) -> PortSet {
        let all = self.passes.union(&self.open);
        self.families.iter().fold(all, |all, (_, set)| all.union(set))
    }

    fn of(connection: Connection, src: &[&Pod], dst: &[&Pod]) -> Self {
        let Connection { passes, partly, open, missing, families, .. } = connection;
        let mut missing: Vec<String> =
            missing.iter().map(|fact| rules::fact(fact, src, dst)).collect();
        missing.sort();
        missing.dedup();
        Self { passes, partly, open, missing, families }
    }

    /// What passes between some of several pairs.
    fn or(&self, other: &Self) -> Self {
        let passes = self.passes.union(&other.passes);
        let open = self.open.union(&other.open).difference(&passes);
        let mut missing = [&self.missing[..], &other.missing[..]].concat();
        missing.sort();
        missing.dedup();
        let mut families = self.families.clone();
        for (family, set) in &other.families {
            match families.iter_mut().find(|(of, _)| of == family) {
                Some((_, all)) => *all = all.union(set),
                None => families.push((*family, set.clone())),
            }
        }
        families.sort_by_key(|(family, _)| *family);
        Self { passes, partly: true, open, missing, families }
    }
}

impl Content {
    /// Whether nothing passes, now or before.
    pub fn is_nothing(&self) -> bool {
        self.before.is_nothing() && self.now.is_nothing()
    }

    /// How it differs.
    pub fn change(&self, compared: bool) -> Change {
        if !compared || self.before == self.now {
            return Change::Same;
        }
        if self.before.is_nothing() {
            return Change::Added;
        }
        if self.now.is_nothing() {
            return Change::Removed;
        }
        let (before, now) = (self.before.at_most(), self.now.at_most());
        match (now.difference(&before).is_empty(), before.difference(&now).is_empty()) {
            (false, true) => Change::More,
            (true, false) => Change::Less,
            _ => Change::Other,
        }
    }

    fn or(&self, other: &Self) -> Self {
        let or = |a: &Passing, b: &Passing| match (a.is_nothing(), b.is_nothing()) {
            (true, true) => Passing::default(),
            _ => a.or(b),
        };
        Self { before: or(&self.before, &other.before), now: or(&self.now, &other.now) }
    }
}

impl Row {
    /// Index of its namespace; `None` outside.
    pub fn space(&self) -> Option<usize> {
        match &self.what {
            What::Pods { space, .. } => Some(*space),
            What::Outside { .. } => None,
        }
    }
}

impl Picture {
    /// The number of what passes from one row to another.
    pub fn cell(&self, src: usize, dst: usize) -> u32 {
        self.cells[src * self.rows.len() + dst]
    }

    /// What passes from one row to another.
    pub fn content(&self, src: usize, dst: usize) -> &Content {
        &self.contents[self.cell(src, dst) as usize]
    }

    /// The rows that a peer is, ascending: those of its pods, or of addresses that it shares.
    pub fn rows_of(&self, cluster: &Cluster, peer: &Peer<'_>, by: By) -> Vec<usize> {
        let labels: BTreeSet<String> =
            peer.pods(cluster).into_iter().map(|pod| pod_label(pod, by)).collect();
        let is = |row: &Row| match (&row.what, peer) {
            (What::Outside { addresses: own, .. }, Peer::Outside { addresses, .. }) => {
                !own.intersection(addresses).is_empty()
            }
            _ => labels.contains(&row.label),
        };
        (0..self.rows.len()).filter(|row| is(&self.rows[*row])).collect()
    }

    /// Whether a cell is said by the marks of its ends.
    pub fn is_free(&self, src: usize, dst: usize) -> bool {
        self.free.out[src] && self.free.into[dst] && self.free.content == Some(self.cell(src, dst))
    }
}

/// The picture of a cluster; with `before`, of what changed since.
///
/// # Errors
/// The number of rows, if there are more than [`MOST_ROWS`].
pub fn picture(now: &Cluster, before: Option<&Cluster>, by: By) -> Result<Picture, usize> {
    let mut picture = cells::fill(now, before, by)?;
    rules::fill(&mut picture, now, before, by);
    picture.free = free(&picture);
    Ok(picture)
}

/// Who is held back by nothing. The marks stand for all pairs of them or for none.
fn free(picture: &Picture) -> Free {
    let rows = &picture.rows;
    let whole = |passing: &Passing| passing.passes.is_everything() && !passing.partly;
    let everything =
        |content: &Content| whole(&content.now) && (!picture.compared || whole(&content.before));
    let mut free = Free::default();
    for side in [true, false] {
        let unselected: Vec<bool> = (0..rows.len())
            .map(|row| {
                rows[row].space().is_some()
                    && rows[row].now
                    && rows[row].before
                    && !picture.policies.iter().any(|p| p.speaks(side) && p.subject[row])
            })
            .collect();
        *(if side { &mut free.out } else { &mut free.into }) = unselected;
    }
    let pods = |list: &[bool]| (0..list.len()).filter(|row| list[*row]).collect::<Vec<usize>>();
    let (out, into) = (pods(&free.out), pods(&free.into));
    if out.is_empty() && into.is_empty() {
        return free;
    }
    for row in (0..rows.len()).filter(|row| rows[*row].space().is_none()) {
        free.out[row] =
            !into.is_empty() && into.iter().all(|dst| everything(picture.content(row, *dst)));
        free.into[row] =
            !out.is_empty() && out.iter().all(|src| everything(picture.content(*src, row)));
    }
    let between = out.iter().flat_map(|src| into.iter().map(move |dst| (*src, *dst)));
    let mut between = between.filter(|(src, dst)| src != dst);
    let outside = pods(&free.out).into_iter().find(|row| rows[*row].space().is_none());
    let sample = between.clone().next().or_else(|| Some((outside?, *into.first()?)));
    let sample = sample.or_else(|| {
        let outside = (0..rows.len()).find(|row| rows[*row].space().is_none() && free.into[*row]);
        Some((*out.first()?, outside?))
    });
    if between.all(|(src, dst)| everything(picture.content(src, dst))) {
        free.content = sample.map(|(src, dst)| picture.cell(src, dst));
    }
    free
}
