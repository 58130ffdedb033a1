//! What stands behind a Service?

use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Phase, Pod, Service, ServicePort, TargetPort};

/// The endpoints of one port: address, port and node of each running pod that the selector
/// matches, by pod name.
pub fn endpoints(
    cluster: &Cluster,
    service: &Service,
    port: &ServicePort,
) -> Vec<(IpAddr, u16, Arc<str>)> {
    let of = |(pod, number): (&Pod, u16)| {
        let node = pod.node.clone()?;
        Some(pod.ips.iter().map(|ip| (*ip, number, Arc::clone(&node))).collect::<Vec<_>>())
    };
    targets(cluster, service, port).filter_map(of).flatten().collect()
}

/// The running pods behind one port, with the port of each, by name. A `targetPort` name that a pod
/// does not have leaves the pod out.
pub fn targets<'a>(
    cluster: &'a Cluster,
    service: &'a Service,
    port: &'a ServicePort,
) -> impl Iterator<Item = (&'a Pod, u16)> {
    backends(cluster, service).filter_map(|pod| {
        let number = match &port.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => pod.named_port(name, port.protocol).next(),
        };
        Some((pod, number?))
    })
}

/// The running pods of a Service, by name.
pub fn backends<'a>(cluster: &'a Cluster, service: &'a Service) -> impl Iterator<Item = &'a Pod> {
    cluster.pods.values().filter(move |pod| {
        let Some(selector) = &service.selector else { return false };
        pod.phase == Phase::Alive
            && pod.name.namespace == service.name.namespace
            && selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
    })
}
