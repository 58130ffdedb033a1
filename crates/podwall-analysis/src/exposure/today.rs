//! Which pods of today are among those that are meant?
//!
//! Replicas have the same labels: a crowd is held against each (namespace, labels) once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::NamespaceScope;

use super::crowd::Crowd;

/// How many names of pods are kept.
const EXAMPLES: usize = 3;

/// Pods that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Today {
    /// How many.
    pub pods: usize,
    /// How many more there may be: the labels of their namespaces are not known.
    pub perhaps: usize,
    /// The first of them, by name.
    pub examples: Vec<Name>,
}

/// Pods of one namespace with the same labels, by name; never empty.
type Alike<'a> = Vec<&'a Pod>;

/// The pods that selectors can match.
pub(super) struct Census<'a> {
    cluster: &'a Cluster,
    shapes: Vec<Alike<'a>>,
    /// The first shape of each namespace, and the one after its last.
    namespaces: BTreeMap<&'a Arc<str>, Range<usize>>,
    /// The shape of each pod.
    shape_of: HashMap<&'a Name, usize>,
    /// Crowds that were asked for.
    known: HashMap<Crowd, Members>,
}

/// The shapes of a crowd, and how many pods they have.
#[derive(Default)]
struct Members {
    /// With whether they are certainly among it, ascending.
    shapes: Vec<(usize, bool)>,
    certain: usize,
    perhaps: usize,
}

impl<'a> Census<'a> {
    pub(super) fn of(cluster: &'a Cluster) -> Self {
        let mut by_labels: BTreeMap<(&Arc<str>, &Labels), Alike<'_>> = BTreeMap::new();
        for pod in cluster.pods.values().filter(|pod| pod.is_subject()) {
            by_labels.entry((&pod.name.namespace, &pod.labels)).or_default().push(pod);
        }
        let mut census = Self {
            cluster,
            shapes: Vec::new(),
            namespaces: BTreeMap::new(),
            shape_of: HashMap::new(),
            known: HashMap::new(),
        };
        for ((namespace, _), pods) in by_labels {
            let at = census.shapes.len();
            census.namespaces.entry(namespace).or_insert(at..at).end = at + 1;
            census.shape_of.extend(pods.iter().map(|pod| (&pod.name, at)));
            census.shapes.push(pods);
        }
        census
    }

    /// The pods of a crowd but for these.
    pub(super) fn of_crowd(&mut self, crowd: &Crowd, without: &[&Pod]) -> Today {
        if !self.known.contains_key(crowd) {
            self.known.insert(crowd.clone(), self.members(crowd));
        }
        let Some(members) = self.known.get(crowd) else { return Today::default() };
        let mut today =
            Today { pods: members.certain, perhaps: members.perhaps, examples: Vec::new() };
        let mut own: BTreeSet<&Name> = BTreeSet::new();
        for pod in without {
            let Some(shape) = self.shape_of.get(&pod.name) else { continue };
            let Ok(at) = members.shapes.binary_search_by_key(shape, |(its, _)| *its) else {
                continue;
            };
            let (_, certain) = members.shapes[at];
            *(if certain { &mut today.pods } else { &mut today.perhaps }) -= 1;
            own.insert(&pod.name);
        }
        let certain = members.shapes.iter().filter(|(_, certain)| *certain);
        let pods = certain.flat_map(|(shape, _)| &self.shapes[*shape]);
        let names = pods.map(|pod| &pod.name).filter(|name| !own.contains(name));
        today.examples = names.take(EXAMPLES).cloned().collect();
        today
    }

    fn members(&self, crowd: &Crowd) -> Members {
        let ranges: Vec<Range<usize>> = match &crowd.scope.namespaces {
            NamespaceScope::Own(name) => self.namespaces.get(name).cloned().into_iter().collect(),
            NamespaceScope::Matching(selector) => {
                let may_be = |name: &Arc<str>| {
                    let stated = self.cluster.namespaces.get(name).filter(|its| its.labels_known);
                    stated.is_none_or(|its| selector.matches(&its.labels))
                };
                let all = self.namespaces.iter().filter(|(name, _)| may_be(name));
                all.map(|(_, range)| range.clone()).collect()
            }
        };
        let mut members = Members::default();
        for shape in ranges.into_iter().flatten() {
            let pods = &self.shapes[shape];
            let among = pods.first().and_then(|pod| is_among(self.cluster, crowd, pod));
            let Some(certain) = among else { continue };
            *(if certain { &mut members.certain } else { &mut members.perhaps }) += pods.len();
            members.shapes.push((shape, certain));
        }
        members
    }
}

/// Whether a pod is among the crowd: certainly, perhaps (`Some(false)`), or not.
fn is_among(cluster: &Cluster, crowd: &Crowd, pod: &Pod) -> Option<bool> {
    let mut certain = true;
    for scope in std::iter::once(&crowd.scope).chain(&crowd.also) {
        if !scope.pods.matches(&pod.labels) {
            return None; // most
        }
        match selects(cluster, scope, pod) {
            Match::Yes => {}
            Match::No(_) => return None,
            Match::Unknown(_) => certain = false,
        }
    }
    for scope in &crowd.except {
        match selects(cluster, scope, pod) {
            Match::Yes => return None,
            Match::No(_) => {}
            Match::Unknown(_) => certain = false,
        }
    }
    Some(certain)
}
