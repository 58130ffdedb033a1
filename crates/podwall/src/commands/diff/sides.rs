//! Which objects does each side have?
//!
//! ```text
//!   two sets    before: A   after: B      pods that a set lacks: --with, the cluster, the other set
//!   one set     before: the cluster       after: the cluster, and B applied over it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podwall_manifest::{Object, Typed};
use podwall_policy::cluster::Cluster;
use podwall_policy::entrance::{Gateway, Ingress, Route};
use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Namespace, Owner, Pod, Service};
use podwall_render::words::{count, some};

/// Labels that controllers put on pods, beside those of the template.
const OF_CONTROLLERS: [&str; 9] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
];

/// Names that are printed in a note.
const NAMES: usize = 4;

/// Whether a cluster has somebody to ask about.
pub(super) fn has_pods(cluster: &Cluster) -> bool {
    !cluster.pods.is_empty()
}

/// What leads to pods and is not the same on both sides. No policy asks for such objects, so that no
/// connection differs by them, and still they may open a pod to the outside: that has to be said. A side
/// without pods is borrowed ones, but no Services; then nothing can be compared.
pub(super) fn entrances(sides: &[Cluster; 2]) -> Option<String> {
    if !sides.iter().all(has_pods) {
        return None;
    }
    let [before, after] = sides.each_ref().map(leading_in);
    let differ: BTreeSet<String> = before
        .iter()
        .filter(|(name, what)| after.get(*name) != Some(*what))
        .map(|(name, _)| name.clone())
        .chain(after.keys().filter(|name| !before.contains_key(*name)).cloned())
        .collect();
    let names: Vec<String> = differ.into_iter().collect();
    (!names.is_empty()).then(|| {
        format!(
            "Services, Ingresses and Gateways are not compared, and these differ: {}; podwall \
             exposure of each side says what they open",
            some(&names, NAMES)
        )
    })
}

/// Services, Ingresses, Gateways and routes by kind and name, as they are but for where they stand.
fn leading_in(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for its in cluster.services.values() {
        let its = Service { source: None, ..its.clone() };
        out.insert(format!("Service {}", its.name), format!("{its:?}"));
    }
    let entrances = &cluster.entrances;
    for its in entrances.ingresses.values() {
        let mut its = Ingress { source: None, ..its.clone() };
        its.backends.iter_mut().for_each(|backend| backend.source = None);
        out.insert(format!("Ingress {}", its.name), format!("{its:?}"));
    }
    for its in entrances.gateways.values() {
        let its = Gateway { source: None, ..its.clone() };
        out.insert(format!("Gateway {}", its.name), format!("{its:?}"));
    }
    for its in entrances.routes.values() {
        let mut its = Route { source: None, ..its.clone() };
        its.backends.iter_mut().for_each(|backend| backend.source = None);
        out.insert(format!("{} {}", its.kind, its.name), format!("{its:?}"));
    }
    out
}

/// Gives a side what policies are asked of, where it does not have it itself.
pub(super) fn lend(to: &mut Cluster, from: &Cluster) {
    let own: BTreeSet<(Arc<str>, Name)> = to.workloads.keys().cloned().collect();
    for namespace in from.namespaces.values() {
        let stated = to.namespaces.get(&namespace.name).is_some_and(|its| its.labels_known);
        if !stated {
            to.put_namespace(namespace.clone());
        }
    }
    for node in from.nodes.values() {
        if !to.nodes.contains_key(&node.name) {
            to.put_node(node.clone());
        }
    }
    for pod in from.pods.values() {
        let of_own = pod.owner.as_ref().is_some_and(|owner| {
            let name = Name::new(pod.name.namespace.clone(), owner.name.clone());
            own.contains(&(owner.kind.clone(), name))
        });
        if !of_own && !to.pods.contains_key(&pod.name) {
            to.put_pod(pod.clone());
        }
    }
    for (key, workload) in &from.workloads {
        if !to.workloads.contains_key(key) {
            to.put_workload(workload.clone());
        }
    }
    for service in from.services.values() {
        if !to.services.contains_key(&service.name) {
            to.put_service(service.clone());
        }
    }
}

/// What is there after objects were applied, and how that was found, in sentences.
pub(super) fn apply(
    live: &Cluster,
    objects: &[Object],
    stated: &Cluster,
    prune: bool,
) -> (Cluster, Vec<String>) {
    let mut after = live.clone();
    let mut notes = Vec::new();
    let mut relabelled = Vec::new();
    let mut policies: BTreeSet<Name> = BTreeSet::new();
    for object in objects {
        match &object.typed {
            Typed::Policy(policy) => {
                policies.insert(policy.name.clone());
                after.put_policy((**policy).clone());
            }
            Typed::Namespace(namespace) => {
                let merged = match live.namespaces.get(&namespace.name) {
                    Some(own) if own.labels_known => merge(&own.labels, &namespace.labels),
                    _ => namespace.labels.clone(),
                };
                let source = namespace.source.clone();
                let name = namespace.name.clone();
                after.put_namespace(Namespace { source, ..Namespace::new(name, &merged) });
            }
            Typed::Node(node) => {
                if !live.nodes.contains_key(&node.name) {
                    after.put_node(node.clone());
                }
            }
            Typed::Entrance(entrance) => after.put_entrance((**entrance).clone()),
            Typed::Pod(pod) => after.put_pod(applied(live.pods.get(&pod.name), pod)),
            Typed::Service(service) => after.put_service((**service).clone()),
            Typed::Workload(workload) => {
                let is_its = |owner: &Owner| {
                    *owner.kind == *workload.kind && *owner.name == *workload.name.name
                };
                let of = |pods: &Cluster| -> Vec<Pod> {
                    let all = pods.pods.values();
                    all.filter(|pod| pod.name.namespace == workload.name.namespace)
                        .filter(|pod| pod.owner.as_ref().is_some_and(is_its))
                        .cloned()
                        .collect()
                };
                let (there, wanted) = (of(live), of(stated));
                let template = &workload.template;
                let like = |pod: &Pod| {
                    plain(&pod.labels) == plain(&template.labels)
                        && pod.ports == template.ports
                        && pod.host_network == template.host_network
                };
                if there.is_empty() {
                    wanted.into_iter().for_each(|pod| after.put_pod(pod));
                } else if !there.iter().all(like) {
                    // Other pods take their places, with addresses that nobody knows yet.
                    for pod in there {
                        after.put_pod(Pod {
                            labels: template.labels.clone(),
                            ports: template.ports.clone(),
                            host_network: template.host_network,
                            ips: Vec::new(),
                            node: None,
                            ..pod
                        });
                    }
                    let Name { namespace, name } = &workload.name;
                    relabelled.push(format!("{namespace}/{}/{name}", workload.kind));
                }
                after.put_workload((**workload).clone());
            }
        }
    }
    if !relabelled.is_empty() {
        notes.push(format!(
            "other labels or ports than now: {}; addresses of the pods that come are not known",
            some(&relabelled, NAMES)
        ));
    }
    let homes: BTreeSet<&Arc<str>> = policies.iter().map(|name| &name.namespace).collect();
    let not_stated = after
        .policies
        .keys()
        .filter(|(_, name)| homes.contains(&name.namespace) && !policies.contains(name));
    let others: Vec<_> = not_stated.cloned().collect();
    if prune {
        for key in &others {
            after.policies.remove(key);
        }
    } else if !others.is_empty() {
        let names: Vec<String> = others.iter().map(|(_, name)| name.to_string()).collect();
        let (policies, stay) = match others.len() {
            1 => ("policy".to_owned(), "stays"),
            number => (format!("{number} policies"), "stay"),
        };
        notes.push(format!(
            "{policies} of the same namespaces that the files do not have {stay}: {}; --prune takes \
             them out",
            some(&names, NAMES)
        ));
    }
    (after, notes)
}

/// A pod that is there and is applied again keeps its address and node.
fn applied(live: Option<&Pod>, pod: &Pod) -> Pod {
    let Some(live) = live else { return pod.clone() };
    Pod {
        ips: live.ips.clone(),
        node: live.node.clone(),
        phase: live.phase,
        owner: live.owner.clone(),
        ..pod.clone()
    }
}

/// Labels of a pod but for those of its controllers.
fn plain(labels: &Labels) -> Labels {
    labels.iter().filter(|(key, _)| !OF_CONTROLLERS.contains(key)).collect()
}

fn merge(own: &Labels, new: &Labels) -> Labels {
    own.iter().chain(new.iter()).collect()
}

/// "3 pods of lab demo".
pub(super) fn lent(cluster: &Cluster, whose: &str) -> String {
    format!("{} of {whose}", count(cluster.pods.len(), "pod"))
}
