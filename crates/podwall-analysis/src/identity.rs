//! By which labels are these pods told from all others of their namespace?
//!
//! ```text
//!   api-7d4f-x   app=api tier=back pod-template-hash=7d4f
//!   api-7d4f-y   app=api tier=back pod-template-hash=7d4f   ──▶  app=api
//!   web-66b1-z   app=web tier=back pod-template-hash=66b1
//! ```
//!
//! The fewest labels, those first that people choose to name things by. Labels that a controller
//! gives to each generation or each replica are of no use: the next rollout has others.

use podwall_policy::cluster::Cluster;
use podwall_policy::label::{Labels, METADATA_NAME};
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::{NamespaceScope, Peer, PodScope};
use podwall_policy::selector::Selector;

/// Labels that controllers and installers make up, and that are others after the next roll-out:
/// never part of a policy. `k8s.io/api/apps/v1/types.go`, `batch/v1/types.go`, Helm's conventions.
const MADE_UP: [&str; 17] = [
    "pod-template-hash",
    "rollouts-pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "deployment",
    "deploymentconfig",
    "helm.sh/chart",
    "chart",
    "heritage",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "service.istio.io/canonical-revision",
];

/// Labels of a Job's pods that differ from run to run where a CronJob makes the Jobs.
const OF_A_RUN: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// Labels that name what a pod is, the best first.
const NAMING: [&str; 11] = [
    "app.kubernetes.io/name",
    "app",
    "k8s-app",
    "name",
    "app.kubernetes.io/component",
    "component",
    "app.kubernetes.io/instance",
    "tier",
    "role",
    "service",
    "release",
];

/// Labels that tell one variant of a thing from another, and mean nothing without its name: the next
/// `version: v3` may be of another workload.
const VARIANT: [&str; 3] = ["version", "track", "revision"];

/// How many labels together are tried before all are taken.
const TOGETHER: usize = 3;

/// What tells pods from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Labels that all of the pods have.
    pub selector: Selector,
    /// Pods of the namespace that have them too, by name: nothing tells these apart.
    pub also: Vec<Name>,
}

/// Whether a controller makes the label up, so that it says nothing of what the pod is.
pub fn is_made_up(key: &str) -> bool {
    MADE_UP.contains(&key)
}

/// Whether the label is another one for each run of a CronJob.
pub(crate) fn is_of_a_run(key: &str) -> bool {
    OF_A_RUN.contains(&key)
}

/// The place of a label among those by which people name pods; lower is better.
pub(crate) fn naming(key: &str) -> usize {
    NAMING.iter().position(|its| *its == key).unwrap_or(NAMING.len())
}

/// Whether the label says which variant of something it is, and not of what.
fn is_variant(key: &str) -> bool {
    VARIANT.contains(&key)
}

/// Labels that were chosen out of `all`, with one that names the thing where they name a variant alone.
pub(crate) fn with_name<'l>(
    mut chosen: Vec<(&'l str, &'l str)>,
    all: &[(&'l str, &'l str)],
) -> Vec<(&'l str, &'l str)> {
    if !chosen.is_empty() && chosen.iter().all(|(key, _)| is_variant(key)) {
        let names = all.iter().filter(|(key, _)| !is_variant(key));
        let name = names.min_by_key(|(key, _)| (naming(key), key.len(), key.to_string()));
        chosen.splice(..0, name.copied());
    }
    chosen
}

/// The labels of a pod that its next generation has too: those that people gave it.
pub fn lasting(pod: &Pod) -> Labels {
    let runs = pod.owner.as_ref().is_some_and(|owner| &*owner.kind == "CronJob");
    pod.labels.iter().filter(|(key, _)| !(is_made_up(key) || (runs && is_of_a_run(key)))).collect()
}

/// What tells these pods from the others of their namespace; all must be of one.
pub fn identity(cluster: &Cluster, pods: &[&Pod]) -> Identity {
    let Some(first) = pods.first() else {
        return Identity { selector: Selector::everything(), also: Vec::new() };
    };
    let lasting = lasting(first);
    let mut common: Vec<(&str, &str)> = lasting
        .iter()
        .filter(|(key, value)| pods.iter().all(|pod| pod.labels.get(key) == Some(value)))
        .collect();
    common.sort_by_key(|(key, _)| (is_variant(key), naming(key), key.len(), key.to_string()));
    let namespace = &first.name.namespace;
    let others: Vec<&Pod> = cluster
        .pods_of(namespace)
        .filter(|pod| pod.is_subject())
        .filter(|pod| !pods.iter().any(|own| own.name == pod.name))
        .collect();
    let has = |pod: &Pod, labels: &[(&str, &str)]| {
        labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    };
    let tells = |labels: &[(&str, &str)]| !others.iter().any(|pod| has(pod, labels));
    let chosen = (1..=TOGETHER.min(common.len()))
        .find_map(|size| combinations(&common, size).find(|labels| tells(labels)))
        .unwrap_or_else(|| fewest(&common, &others, has));
    let chosen = with_name(chosen, &common);
    let also = others.iter().filter(|pod| has(pod, &chosen)).map(|pod| pod.name.clone()).collect();
    Identity { selector: Selector::labels(chosen), also }
}

/// All labels are needed, or none helps: those that take nobody out are left out again.
fn fewest<'l>(
    common: &[(&'l str, &'l str)],
    others: &[&Pod],
    has: impl Fn(&Pod, &[(&str, &str)]) -> bool,
) -> Vec<(&'l str, &'l str)> {
    let caught = |labels: &[(&str, &str)]| others.iter().filter(|pod| has(pod, labels)).count();
    let least = caught(common);
    let mut kept = common.to_vec();
    // Those that name least go first; one stays, so that pods to come are not all caught.
    for index in (0..common.len()).rev() {
        if kept.len() > 1 {
            let label = kept.remove(index);
            if caught(&kept) > least {
                kept.insert(index, label);
            }
        }
    }
    kept
}

/// All ways to take so many of a list, in the list's order.
fn combinations<'l, T: Copy>(list: &'l [T], size: usize) -> impl Iterator<Item = Vec<T>> + 'l {
    let mut at: Option<Vec<usize>> = (size <= list.len()).then(|| (0..size).collect());
    std::iter::from_fn(move || {
        let now = at.clone()?;
        at = (0..size).rev().find(|i| now[*i] < list.len() - size + i).map(|i| {
            let next = now[i] + 1;
            let tail = (0..size - i).map(|step| next + step);
            now[..i].iter().copied().chain(tail).collect()
        });
        Some(now.iter().map(|i| list[*i]).collect())
    })
}

/// A peer that matches what a selector matches in a namespace, as a policy of `own` writes it.
pub fn peer_in(own: &str, namespace: &str, pods: Selector) -> Peer {
    let namespaces = if own == namespace {
        NamespaceScope::Own(own.into())
    } else {
        NamespaceScope::Matching(Selector::labels([(METADATA_NAME, namespace)]))
    };
    Peer::Pods(PodScope { namespaces, pods })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pods: &[(&str, &[(&str, &str)])], own: &[&str]) -> (String, Vec<String>) {
        let mut cluster = Cluster::default();
        for (name, labels) in pods {
            cluster.put_pod(Pod::new("shop", *name, labels.iter().copied().collect()));
        }
        let own: Vec<&Pod> =
            own.iter().map(|pod| &cluster.pods[&Name::new("shop", *pod)]).collect();
        let identity = identity(&cluster, &own);
        (identity.selector.to_string(), identity.also.iter().map(|n| n.name.to_string()).collect())
    }

    #[test]
    fn one_label_that_names_is_enough_and_made_up_ones_are_none() {
        let pods: &[(&str, &[(&str, &str)])] = &[
            ("api-1", &[("aaa", "x"), ("app", "api"), ("pod-template-hash", "1")]),
            ("api-2", &[("aaa", "x"), ("app", "api"), ("pod-template-hash", "1")]),
            ("web-1", &[("aaa", "y"), ("app", "web"), ("pod-template-hash", "2")]),
        ];
        assert_eq!(of(pods, &["api-1", "api-2"]), ("app=api".into(), vec![]));
        assert_eq!(of(pods, &["api-1"]), ("app=api".into(), vec!["api-2".into()]));
    }

    #[test]
    fn as_many_labels_as_it_takes() {
        let pods: &[(&str, &[(&str, &str)])] = &[
            ("a", &[("app", "x"), ("tier", "1"), ("z", "q"), ("color", "blue")]),
            ("b", &[("app", "x"), ("tier", "2"), ("z", "q"), ("color", "blue")]),
            ("c", &[("app", "y"), ("tier", "1"), ("z", "q"), ("color", "blue")]),
        ];
        assert_eq!(of(pods, &["a"]).0, "app=x,tier=1");
        assert_eq!(of(pods, &["b"]).0, "tier=2");
        assert_eq!(of(pods, &["a", "b"]).0, "app=x");
        assert_eq!(of(pods, &["a", "c"]).0, "tier=1");
        // Nothing tells it from another: the label that narrows most stays, and who is caught is said.
        let twins: &[(&str, &[(&str, &str)])] = &[
            ("a", &[("app", "x"), ("z", "q")]),
            ("b", &[("app", "x"), ("z", "q")]),
            ("c", &[("app", "y"), ("z", "q")]),
            ("bare", &[]),
        ];
        assert_eq!(of(twins, &["a"]), ("app=x".into(), vec!["b".into()]));
        assert_eq!(of(twins, &["bare"]).1, ["a", "b", "c"]);
    }

    /// `--fix` named reviews-v3 by `version: v3`, which the v3 of any other workload has as well.
    #[test]
    fn a_version_never_stands_alone() {
        let pods: &[(&str, &[(&str, &str)])] = &[
            ("reviews-v2", &[("app", "reviews"), ("version", "v2")]),
            ("reviews-v3", &[("app", "reviews"), ("version", "v3")]),
            ("ratings-v1", &[("app", "ratings"), ("version", "v1")]),
        ];
        assert_eq!(of(pods, &["reviews-v3"]).0, "app=reviews,version=v3");
        assert_eq!(of(pods, &["ratings-v1"]).0, "app=ratings");
        assert_eq!(of(&[("only", &[("version", "v1")])], &["only"]).0, "version=v1");
    }

    #[test]
    fn combinations_come_in_order_and_all() {
        let all: Vec<Vec<u8>> = combinations(&[1, 2, 3, 4], 2).collect();
        assert_eq!(all, [[1, 2], [1, 3], [1, 4], [2, 3], [2, 4], [3, 4]]);
        assert_eq!(combinations(&[1, 2], 3).count(), 0);
        assert_eq!(combinations(&[1, 2, 3], 3).count(), 1);
    }
}
