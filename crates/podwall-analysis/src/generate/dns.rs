//! Whom do pods ask for names?
//!
//! Policies see pods, so the resolver is known by its pods' labels, and its port is the pods', not the
//! Service's. Beside a cache on each node (`node-local-dns`) pods ask its address instead, or the
//! Service's address, which the cache answers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use podwall_manifest::flows::SeenPorts;
use podwall_policy::object::Service;
use podwall_policy::policy::Direction;
use podwall_policy::port::{PortRange, PortSet, Protocol};

use super::links::{Links, behind, single};
use super::places::Places;
use super::{End, Options, SYSTEM};

/// Names of the Service in front of the cluster's resolver.
const SERVICES: [&str; 4] = ["kube-dns", "coredns", "dns-default", "rke2-coredns-rke2-coredns"];

/// The address on which the cache of a node listens unless it is told another (its manifest in
/// kubernetes/kubernetes, `cluster/addons/dns/nodelocaldns`).
const NODE_LOCAL: [u8; 4] = [169, 254, 20, 10];

/// Lets all that open connections ask for names; who the resolvers are.
pub(super) fn add(
    places: &Places<'_>,
    links: &mut Links,
    namespaces: &BTreeSet<Arc<str>>,
    options: &Options,
) -> Vec<String> {
    if !options.directions.contains(&Direction::Egress) {
        return Vec::new();
    }
    let resolvers = resolvers(places);
    let askers: BTreeSet<usize> = links
        .list()
        .filter_map(|link| match link.src {
            End::Unit(unit) => Some(unit),
            _ => None,
        })
        .filter(|unit| namespaces.contains(&places.units[*unit].namespace))
        .collect();
    for asker in askers {
        for (end, ports) in &resolvers {
            if *end == End::Unit(asker) {
                continue;
            }
            let link = links.between(End::Unit(asker), *end);
            link.dns = ports.difference(&link.seen);
        }
    }
    let named = |(end, _): &(End, PortSet)| match end {
        End::Unit(unit) => places.units[*unit].label.clone(),
        End::Node(address) => address.to_string(),
        End::Net(net) => net.addr().to_string(),
    };
    resolvers.iter().map(named).collect()
}

fn resolvers(places: &Places<'_>) -> Vec<(End, PortSet)> {
    let mut found: Vec<(End, PortSet)> = Vec::new();
    let mut put = |end: End, ports: PortSet| match found.iter_mut().find(|(known, _)| *known == end)
    {
        Some((_, all)) => *all = all.union(&ports),
        None => found.push((end, ports)),
    };
    let services = places.cluster.services.values();
    let services: Vec<&Service> =
        services.filter(|service| SERVICES.contains(&&*service.name.name)).collect();
    for service in &services {
        for protocol in [Protocol::UDP, Protocol::TCP] {
            let asked = SeenPorts::Ports(protocol, PortRange::one(53));
            for (end, ports) in behind(places, service, asked).unwrap_or_default() {
                put(end, ports);
            }
        }
    }
    let dns = PortSet::range(Protocol::UDP, PortRange::one(53))
        .union(&PortSet::range(Protocol::TCP, PortRange::one(53)));
    for (at, unit) in places.units.iter().enumerate() {
        let labels = &unit.pods[0].labels;
        let labelled = ["kube-dns", "coredns"].contains(&labels.get("k8s-app").unwrap_or_default())
            || labels.get("app.kubernetes.io/name") == Some("coredns");
        if labelled && &*unit.namespace == SYSTEM && services.is_empty() {
            put(End::Unit(at), dns.clone());
        }
    }
    let cached = places.cluster.pods.values().any(|pod| {
        &*pod.name.namespace == SYSTEM && pod.labels.get("k8s-app") == Some("node-local-dns")
    });
    if cached {
        let addresses = services.iter().flat_map(|service| &service.cluster_ips).copied();
        for address in [IpAddr::from(NODE_LOCAL)].into_iter().chain(addresses) {
            put(End::Net(single(address)), dns.clone());
        }
    }
    found
}
