//! Who is compared with whom?
//!
//! ```text
//!   workload   before  web-1 web-2        after  web-1 web-2 web-3
//!     group    web-1 ↔ web-1, web-2 ↔ web-2 if alike on both sides    one pair answers for all
//!     group    all of before ↔ web-3                                  pods without a namesake
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use podwall_policy::cluster::Cluster;
use podwall_policy::flow::Party;
use podwall_policy::object::{Owner, Phase, Pod};
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope};
use podwall_policy::selector::Selector;

use super::Row;
use super::spelling::Changed;
use crate::blocks::Blocks;
use crate::matrix::By;
use crate::outside;
use crate::podclass::{Key, Keys};
use crate::reachability::factored::{End, Factored};
use crate::reachability::{Reachability, side};

/// The rows of both sides, addresses from `.1` on; the blocks of both.
pub(super) fn rows<'a>(clusters: [&'a Cluster; 2], by: By) -> (Vec<Row<'a>>, usize, Blocks) {
    let mut found: BTreeMap<String, [Vec<&Pod>; 2]> = BTreeMap::new();
    for (s, cluster) in clusters.into_iter().enumerate() {
        for pod in cluster.pods.values().filter(|pod| pod.phase == Phase::Alive) {
            let label = match &pod.owner {
                Some(owner) if by == By::Workload => {
                    format!("{}/{}/{}", pod.name.namespace, owner.kind, owner.name)
                }
                _ => pod.name.to_string(),
            };
            found.entry(label).or_default()[s].push(pod);
        }
    }
    if by == By::Pod {
        found = replacements(found);
    }
    let mut rows: Vec<Row<'a>> = found
        .into_iter()
        .map(|(label, [before, after])| Row::Pods { label, before, after })
        .collect();
    let inside = rows.len();
    let blocks: BTreeSet<_> = clusters.into_iter().flat_map(outside::blocks).collect();
    let blocks: Vec<_> = blocks.into_iter().collect();
    let taken: BTreeSet<_> = clusters.into_iter().flat_map(outside::taken).collect();
    rows.extend(outside::classes(&blocks, &taken).into_iter().map(Row::Outside));
    (rows, inside, Blocks::new(blocks))
}

/// Pods of one side alone, and pods of the same workload on the other side alone, in order: a
/// cluster gives replicas other names when their template changes.
fn replacements(found: BTreeMap<String, [Vec<&Pod>; 2]>) -> BTreeMap<String, [Vec<&Pod>; 2]> {
    let mut out: BTreeMap<String, [Vec<&Pod>; 2]> = BTreeMap::new();
    let mut alone: BTreeMap<(&str, &Owner), [Vec<&Pod>; 2]> = BTreeMap::new();
    for (label, pods) in found {
        match pods.each_ref().map(|list| &list[..]) {
            [[pod], []] | [[], [pod]] if pod.owner.is_some() => {
                let Some(owner) = &pod.owner else { continue };
                let lists = alone.entry((&pod.name.namespace, owner)).or_default();
                for (list, pods) in lists.iter_mut().zip(pods) {
                    list.extend(pods);
                }
            }
            _ => drop(out.insert(label, pods)),
        }
    }
    for [before, after] in alone.into_values() {
        for at in 0..before.len().max(after.len()) {
            let pair = [before.get(at).copied(), after.get(at).copied()];
            let Some(name) = pair[1].or(pair[0]).map(|pod| pod.name.to_string()) else { continue };
            out.insert(name, pair.map(|pod| pod.into_iter().collect()));
        }
    }
    out
}

/// What else than policies tells the two sides apart.
pub(super) struct Facts<'a> {
    /// By side: policies that say something else than the other side's.
    pub(super) changed: [Changed; 2],
    /// Namespaces with other labels that some selector asks for, or that are known on one side only.
    namespaces: HashSet<&'a str>,
    /// Nodes differ, and what they isolate: that may concern everybody.
    everything: bool,
    /// Keys of labels that some selector of either side asks for.
    asked: HashSet<Arc<str>>,
    keys: [Keys; 2],
    at_nodes: [Keys; 2],
}

impl<'a> Facts<'a> {
    pub(super) fn of(clusters: [&'a Cluster; 2], blocks: &Blocks) -> Self {
        let [before, after] = clusters;
        let (mut of_pods, mut of_namespaces) = (HashSet::new(), HashSet::new());
        for cluster in clusters {
            asked(cluster, &mut of_pods, &mut of_namespaces);
        }
        let differs = |name: &&str| {
            let of = clusters.map(|cluster| cluster.namespaces.get(*name));
            let [Some(before), Some(after)] = of else { return true };
            // Labels that no policy asks for decide nothing.
            before.labels_known != after.labels_known
                || of_namespaces.iter().any(|key| before.labels.get(key) != after.labels.get(key))
        };
        let names = before.namespaces.keys().chain(after.namespaces.keys()).map(|name| &**name);
        let nodes = |cluster: &'a Cluster| -> Vec<_> {
            let of = cluster.nodes.values();
            of.map(|its| (&its.name, &its.labels, &its.addresses, &its.pod_cidrs)).collect()
        };
        Self {
            changed: super::spelling::changed(before, after),
            namespaces: names.filter(differs).collect(),
            asked: of_pods,
            everything: nodes(before) != nodes(after) || before.strangers != after.strangers,
            keys: [0, 1].map(|_| Keys::without_nodes(blocks.clone())),
            at_nodes: clusters.map(|cluster| Keys::new(cluster, blocks.clone())),
        }
    }
}

impl Facts<'_> {
    /// Whether something of two pods differs that policies could ask for.
    fn differ(&self, pods: [&Pod; 2], keys: [&Key<'_>; 2]) -> bool {
        let label = |key: &Arc<str>| pods[0].labels.get(key) != pods[1].labels.get(key);
        self.everything
            || self.namespaces.contains(&*pods[0].name.namespace)
            || !keys[0].is_like_but_for_labels(keys[1])
            || (pods[0].labels != pods[1].labels && self.asked.iter().any(label))
    }
}

/// Adds the keys of labels that a cluster's policies ask for: of pods, of namespaces.
fn asked(cluster: &Cluster, pods: &mut HashSet<Arc<str>>, namespaces: &mut HashSet<Arc<str>>) {
    let add = |keys: &mut HashSet<Arc<str>>, selector: &Selector| {
        for requirement in &selector.requirements {
            if !keys.contains(&requirement.key) {
                keys.insert(requirement.key.clone());
            }
        }
    };
    let mut add = |scope: &PodScope| {
        add(pods, &scope.pods);
        if let NamespaceScope::Matching(selector) = &scope.namespaces {
            add(namespaces, selector);
        }
    };
    for policy in cluster.policies.values().filter(|policy| !policy.dry_run) {
        add(&policy.subject);
        let rules = Direction::BOTH.into_iter().filter_map(|direction| policy.rules(direction));
        for peer in rules.flatten().flat_map(|rule| &rule.peers) {
            if let Peer::Pods(scope) = peer {
                add(scope);
            }
        }
    }
}

/// Pods of one row that change alike.
pub(super) struct Group<'e> {
    /// Before, after: several only for pods without a namesake, none if the row is not there.
    pub(super) likes: [Vec<Like<'e>>; 2],
    /// Whether something that decides for it as the source, as the destination differs.
    pub(super) touched: [bool; 2],
    /// Whether something of the pods themselves differs.
    pub(super) facts: bool,
}

/// Pods of one side that are alike.
pub(super) struct Like<'e> {
    /// The first.
    pub(super) end: End<'e>,
    /// Its place in the row's list.
    pub(super) at: u32,
    /// The second, if there are two.
    pub(super) second: Option<(End<'e>, u32)>,
}

/// The groups of a row.
pub(super) struct Members<'e> {
    /// As traffic of other pods and of the outside tells them apart.
    anywhere: Vec<Group<'e>>,
    /// As traffic of nodes does, where that is another way.
    at_nodes: Option<Vec<Group<'e>>>,
    uses_nodes: bool,
}

impl<'e> Members<'e> {
    pub(super) fn of(
        factored: &mut [Factored<'e>; 2],
        engines: &'e [Arc<Reachability<'e>>; 2],
        facts: &Facts<'e>,
        row: &Row<'e>,
    ) -> Self {
        match row {
            Row::Outside(class) => {
                let likes = factored
                    .each_mut()
                    .map(|its| vec![Like { end: its.outside(class.example), at: 0, second: None }]);
                let touched = [facts.everything; 2];
                let group = Group { likes, touched, facts: facts.everything };
                Self { anywhere: vec![group], at_nodes: None, uses_nodes: false }
            }
            Row::Pods { before, after, .. } => {
                let pods = [&before[..], &after[..]];
                let tells = facts.at_nodes.iter().any(Keys::tells_nodes);
                Self {
                    anywhere: groups(factored, engines, facts, &facts.keys, pods),
                    at_nodes: tells
                        .then(|| groups(factored, engines, facts, &facts.at_nodes, pods)),
                    uses_nodes: pods.iter().any(|its| its.iter().any(|pod| pod.host_network)),
                }
            }
        }
    }

    /// The groups, as somebody who uses nodes' addresses or not tells them apart.
    pub(super) fn groups(&self, other: &Self) -> &[Group<'e>] {
        let nodes = self.uses_nodes || other.uses_nodes;
        self.at_nodes.as_deref().filter(|_| nodes).unwrap_or(&self.anywhere)
    }

    /// What all that can be said of the row depends on, if it is one group and nothing of it is
    /// special: its kinds on both sides, `None` where it is not there, and what touches it.
    pub(super) fn kind(&self) -> Option<Kind> {
        let [group] = &self.anywhere[..] else { return None };
        if self.uses_nodes {
            return None;
        }
        let mut kinds = [None; 2];
        for (kind, likes) in kinds.iter_mut().zip(&group.likes) {
            match &likes[..] {
                [] => {}
                [one] => *kind = Some(one.end.kind()?),
                _ => return None,
            }
        }
        Some(Kind { kinds, touched: group.touched, facts: group.facts })
    }

    /// Whether something that decides for it as the source, as the destination differs.
    pub(super) fn touched(&self) -> [bool; 2] {
        [0, 1].map(|d| self.all().any(|group| group.touched[d]))
    }

    /// Whether something of its pods differs.
    pub(super) fn facts(&self) -> bool {
        self.all().any(|group| group.facts)
    }

    fn all(&self) -> impl Iterator<Item = &Group<'e>> {
        self.anywhere.iter().chain(self.at_nodes.iter().flatten())
    }
}

/// See [`Members::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Kind {
    kinds: [Option<u32>; 2],
    pub(super) touched: [bool; 2],
    pub(super) facts: bool,
}

fn groups<'e>(
    factored: &mut [Factored<'e>; 2],
    engines: &'e [Arc<Reachability<'e>>; 2],
    facts: &Facts<'e>,
    keys: &[Keys; 2],
    pods: [&[&'e Pod]; 2],
) -> Vec<Group<'e>> {
    let mut out: Vec<Group<'e>> = Vec::new();
    let mut index: HashMap<[Key<'e>; 2], usize> = HashMap::new();
    let mut alone: [Vec<(u32, &'e Pod)>; 2] = [Vec::new(), Vec::new()];
    for (places, pair) in namesakes(pods) {
        let [Some(before), Some(after)] = pair else {
            for (s, pod) in pair.into_iter().enumerate() {
                alone[s].extend(pod.map(|pod| (places[s], pod)));
            }
            continue;
        };
        let key = [keys[0].key(before, false), keys[1].key(after, false)];
        let next = out.len();
        let at = *index.entry(key.clone()).or_insert(next);
        let both = [before, after];
        if at == next {
            let likes = [0, 1]
                .map(|s| vec![Like { end: factored[s].pod(both[s]), at: places[s], second: None }]);
            let differ = facts.differ(both, [&key[0], &key[1]]);
            let touched = touched(engines, facts, both, differ);
            out.push(Group { likes, touched, facts: differ });
            continue;
        }
        for s in [0, 1] {
            let like = &mut out[at].likes[s][0];
            if like.second.is_none() {
                like.second = Some((factored[s].pod(both[s]), places[s]));
            }
        }
    }
    if alone.iter().all(Vec::is_empty) {
        return out;
    }
    // Pods without a namesake stand against those of the other side that have none either, else
    // against all of them.
    let likes = [0, 1].map(|s| {
        if alone[s].is_empty() {
            let all: Vec<(u32, &Pod)> = (0..).zip(pods[s].iter().copied()).collect();
            alike(&mut factored[s], &keys[s], &all)
        } else {
            alike(&mut factored[s], &keys[s], &alone[s])
        }
    });
    let (mut touched, mut differ) = ([true; 2], true);
    if let [[before], [after]] = likes.each_ref().map(|list| &list[..]) {
        // Replicas with other names than before, as a cluster gives them, are no change.
        let pod = |s: usize, like: &Like<'_>| pods[s].get(like.at as usize).copied();
        if let (Some(before), Some(after)) = (pod(0, before), pod(1, after)) {
            let key = [keys[0].key(before, false), keys[1].key(after, false)];
            differ = facts.differ([before, after], [&key[0], &key[1]]);
            touched = self::touched(engines, facts, [before, after], differ);
        }
    }
    out.push(Group { likes, touched, facts: differ });
    out
}

/// Which policies that say something else select one of the pods.
fn touched(
    engines: &[Arc<Reachability<'_>>; 2],
    facts: &Facts<'_>,
    pods: [&Pod; 2],
    differ: bool,
) -> [bool; 2] {
    let mut touched = [differ; 2];
    for ((engine, changed), pod) in engines.iter().zip(&facts.changed).zip(pods) {
        if changed.is_empty() || touched == [true; 2] {
            continue;
        }
        for policy in engine.policies_of(pod) {
            for direction in Direction::BOTH {
                touched[side(direction)] |= changed.has(policy, direction);
            }
        }
    }
    touched
}

fn alike<'e>(factored: &mut Factored<'e>, keys: &Keys, pods: &[(u32, &'e Pod)]) -> Vec<Like<'e>> {
    let mut out: Vec<Like<'e>> = Vec::new();
    let mut index: HashMap<Key<'e>, usize> = HashMap::new();
    for (place, pod) in pods {
        let next = out.len();
        let at = *index.entry(keys.key(pod, false)).or_insert(next);
        if at == next {
            out.push(Like { end: factored.pod(pod), at: *place, second: None });
        } else if out[at].second.is_none() {
            out[at].second = Some((factored.pod(pod), *place));
        }
    }
    out
}

/// Pods of one name on both sides, and those without; with their places in the lists.
fn namesakes<'p>(pods: [&[&'p Pod]; 2]) -> Vec<([u32; 2], [Option<&'p Pod>; 2])> {
    let mut out = Vec::with_capacity(pods[0].len().max(pods[1].len()));
    let (mut i, mut j) = (0, 0);
    loop {
        let pair = [pods[0].get(i).copied(), pods[1].get(j).copied()];
        let order = match pair {
            [None, None] => return out,
            [Some(_), None] => std::cmp::Ordering::Less,
            [None, Some(_)] => std::cmp::Ordering::Greater,
            [Some(before), Some(after)] => before.name.cmp(&after.name),
        };
        let places = [i, j].map(|at| u32::try_from(at).unwrap_or(u32::MAX));
        match order {
            std::cmp::Ordering::Less => out.push((places, [pair[0], None])),
            std::cmp::Ordering::Greater => out.push((places, [None, pair[1]])),
            std::cmp::Ordering::Equal => out.push((places, pair)),
        }
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
}

/// Whom a place of a row names.
pub(super) fn party<'a>(row: &Row<'a>, s: usize, at: u32) -> Option<Party<'a>> {
    match row {
        Row::Outside(class) => Some(Party::Address(class.example)),
        Row::Pods { before, after, .. } => {
            let pods = if s == 0 { before } else { after };
            pods.get(usize::try_from(at).ok()?).map(|pod| Party::Pod(pod))
        }
    }
}
