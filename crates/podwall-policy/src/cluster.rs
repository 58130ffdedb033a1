//! What is known of the cluster, found by name?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::address::AddressSet;
use crate::entrance::{Entrance, Entrances};
use crate::object::{Name, Namespace, Node, Pod, Service, Workload};
use crate::policy::{Policy, Tier};

/// Everything that is known, by name. Whoever builds it owns it; evaluators only read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Stated and implied namespaces.
    pub namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Nodes.
    pub nodes: BTreeMap<Arc<str>, Node>,
    /// Pods, those made from workloads included.
    pub pods: BTreeMap<Name, Pod>,
    /// Services.
    pub services: BTreeMap<Name, Service>,
    /// Workloads by kind and name.
    pub workloads: BTreeMap<(Arc<str>, Name), Workload>,
    /// Policies by tier and name.
    pub policies: BTreeMap<(Tier, Name), Policy>,
    /// What nodes isolate until they know whose it is, by node; no entry: nothing. Their ranges do
    /// not overlap.
    pub strangers: BTreeMap<Arc<str>, Strangers>,
    /// What leads to Services from outside; no policy sees it.
    pub entrances: Entrances,
}

/// Addresses of a node's pods that are isolated in both directions until a pod is known to have
/// them: a new pod's address is known only after its containers run.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Strangers {
    /// Where the node's pods get their addresses from, mostly its `spec.podCIDRs`.
    pub ranges: AddressSet,
    /// Addresses in them that are no pod's, and let go.
    pub released: BTreeSet<IpAddr>,
    /// Addresses, wherever they lie, that were given to pods of which nothing else is known yet.
    pub nameless: BTreeSet<IpAddr>,
}

impl Cluster {
    /// Adds or replaces a namespace.
    pub fn put_namespace(&mut self, namespace: Namespace) {
        self.namespaces.insert(namespace.name.clone(), namespace);
    }

    /// Adds or replaces a node.
    pub fn put_node(&mut self, node: Node) {
        self.nodes.insert(node.name.clone(), node);
    }

    /// The pods of a namespace, by name; in time that goes with these alone.
    pub fn pods_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Pod> {
        // No name is empty, so this is before the first.
        let from = self.pods.range(Name::new(namespace.clone(), "")..);
        let within = from.take_while(move |(name, _)| name.namespace == *namespace);
        within.map(|(_, pod)| pod)
    }

    /// Adds or replaces a pod, and implies its namespace.
    pub fn put_pod(&mut self, pod: Pod) {
        self.imply(&pod.name.namespace.clone());
        self.pods.insert(pod.name.clone(), pod);
    }

    /// Adds or replaces a Service, and implies its namespace.
    pub fn put_service(&mut self, service: Service) {
        self.imply(&service.name.namespace.clone());
        self.services.insert(service.name.clone(), service);
    }

    /// Adds or replaces what leads to Services.
    pub fn put_entrance(&mut self, entrance: Entrance) {
        let all = &mut self.entrances;
        match entrance {
            Entrance::Ingress(it) => drop(all.ingresses.insert(it.name.clone(), it)),
            Entrance::Gateway(it) => drop(all.gateways.insert(it.name.clone(), it)),
            Entrance::Route(it) => drop(all.routes.insert((it.kind.clone(), it.name.clone()), it)),
            Entrance::Grant(it) => drop(all.grants.insert(it.name.clone(), it)),
            Entrance::Class(it) => drop(all.classes.insert((it.kind, it.name.clone()), it)),
        }
    }

    /// Adds or replaces a workload, and implies its namespace. Its pods are not made here.
    pub fn put_workload(&mut self, workload: Workload) {
        self.imply(&workload.name.namespace.clone());
        self.workloads.insert((workload.kind.clone(), workload.name.clone()), workload);
    }

    /// Adds or replaces a policy, and implies its namespace.
    pub fn put_policy(&mut self, policy: Policy) {
        if !policy.name.namespace.is_empty() {
            self.imply(&policy.name.namespace.clone());
        }
        self.policies.insert((policy.tier, policy.name.clone()), policy);
    }

    /// The running pod that has this address. Of two that claim it (an address is used again before
    /// the API shows the deletion) the one with the greater name is taken, so that the answer does
    /// not depend on order; a live source resolves this by start time before it gets here.
    pub fn pod_by_ip(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.values().rev().find(|pod| pod.is_subject() && pod.ips.contains(&address))
    }

    /// The node that has this address.
    pub fn node_by_ip(&self, address: IpAddr) -> Option<&Node> {
        self.nodes.values().find(|node| node.addresses.contains(&address))
    }

    /// The node that isolates this address because nobody knows whose it is. The node's own
    /// addresses are known, those of its bridge as far as they are stated.
    pub fn stranger_on(&self, address: IpAddr) -> Option<&Arc<str>> {
        let mut nodes = self.strangers.iter();
        if let Some((node, _)) = nodes.find(|(_, its)| its.nameless.contains(&address)) {
            return self.pod_by_ip(address).is_none().then_some(node);
        }
        let mut nodes = self.strangers.iter();
        let (node, _) = nodes.find(|(_, its)| its.ranges.contains(address))?;
        let its_own = self.nodes.get(node).is_some_and(|node| node.addresses.contains(&address));
        let released = self.strangers.get(node)?.released.contains(&address);
        (!its_own && !released && self.pod_by_ip(address).is_none()).then_some(node)
    }

    /// Whether an address was given to a pod of a node of which nothing else is known.
    pub fn is_nameless(&self, node: &str, address: IpAddr) -> bool {
        self.strangers.get(node).is_some_and(|its| its.nameless.contains(&address))
    }

    fn imply(&mut self, namespace: &Arc<str>) {
        if !self.namespaces.contains_key(namespace) {
            self.put_namespace(Namespace::implied(namespace.clone()));
        }
    }
}
