//! Through what can the outside reach these pods, and do their policies let it?
//!
//! ```text
//!   pods of one question ─▶ the Services that select them ─▶ NodePort, LoadBalancer, Ingress, Gateway …
//! ```
//!
//! A question about addresses asks whom policies see as addresses. Through a Service or a controller
//! they see somebody else, so the answer to "can the internet" lies here, too.

use std::collections::BTreeSet;

use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::Direction;

use super::ask::{Asker, Shape};
use super::paths::{Path, paths};
use super::{Exposed, label, together};
use crate::peer::backends;
use crate::reachability::Reachability;

/// The paths from outside into these pods of one workload, those that work first.
pub fn paths_into(cluster: &Cluster, pods: &[&Pod]) -> Vec<Path> {
    let Some(first) = pods.first() else { return Vec::new() };
    let behind = |service: &&podwall_policy::object::Service| {
        let own = |pod: &&Pod| pods.iter().any(|its| its.name == pod.name);
        service.name.namespace == first.name.namespace && backends(cluster, service).iter().any(own)
    };
    let services: BTreeSet<&Name> =
        cluster.services.values().filter(behind).map(|service| &service.name).collect();
    if services.is_empty() {
        return Vec::new();
    }
    let engine = Reachability::of(cluster);
    let mut asker = Asker::new(&engine);
    let mut shapes: Vec<Shape<'_>> = Vec::new();
    let mut ways = Vec::new();
    for pod in pods {
        let shape = Shape::of(pod);
        if !shapes.contains(&shape) {
            ways.push(asker.ways(pod, Direction::Ingress));
            shapes.push(shape);
        }
    }
    let ways = together(&ways.iter().collect::<Vec<_>>());
    let host_network = pods.iter().all(|pod| pod.host_network);
    let workload =
        Exposed { label: label(first), pods: pods.to_vec(), host_network, ways, paths: Vec::new() };
    let mut workloads = [workload];
    paths(&engine, &mut workloads, &[], Some(&services));
    let [workload] = workloads;
    workload.paths
}
