//! Which pods of today are among those that are meant?
//!
//! Replicas have the same labels: a crowd is held against each (namespace, labels) once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::{Name, Pod};

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

/// Pods of one namespace with the same labels, by name.
type Alike<'a> = Vec<&'a Pod>;

/// A shape of pods, and whether they are certainly among a crowd.
type Member<'a> = (&'a Arc<str>, &'a Labels, bool);

/// The pods that selectors can match.
pub(super) struct Census<'a> {
    cluster: &'a Cluster,
    shapes: BTreeMap<(&'a Arc<str>, &'a Labels), Alike<'a>>,
    /// The shapes of each crowd that was asked for, and whether they are certain.
    known: HashMap<Crowd, Vec<Member<'a>>>,
}

impl<'a> Census<'a> {
    pub(super) fn of(cluster: &'a Cluster) -> Self {
        let mut shapes: BTreeMap<(&Arc<str>, &Labels), Alike<'_>> = BTreeMap::new();
        for pod in cluster.pods.values().filter(|pod| pod.is_subject()) {
            shapes.entry((&pod.name.namespace, &pod.labels)).or_default().push(pod);
        }
        Self { cluster, shapes, known: HashMap::new() }
    }

    /// The pods of a crowd but for these.
    pub(super) fn of_crowd(&mut self, crowd: &Crowd, without: &[&Pod]) -> Today {
        let Self { cluster, shapes, known } = self;
        if !known.contains_key(crowd) {
            let of = |((namespace, labels), pods): (&(&'a Arc<str>, &'a Labels), &Alike<'a>)| {
                Some((*namespace, *labels, is_among(cluster, crowd, pods.first()?)?))
            };
            known.insert(crowd.clone(), shapes.iter().filter_map(of).collect());
        }
        let mut today = Today::default();
        let own: std::collections::BTreeSet<&Name> = without.iter().map(|pod| &pod.name).collect();
        for (namespace, labels, certain) in known.get(crowd).into_iter().flatten() {
            let pods = shapes.get(&(*namespace, *labels)).into_iter().flatten();
            let others = pods.filter(|pod| !own.contains(&pod.name));
            for pod in others {
                if *certain {
                    today.pods += 1;
                    if today.examples.len() < EXAMPLES {
                        today.examples.push(pod.name.clone());
                    }
                } else {
                    today.perhaps += 1;
                }
            }
        }
        today
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
