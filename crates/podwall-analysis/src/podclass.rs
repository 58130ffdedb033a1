//! Which pods can no policy tell apart?
//!
//! Ten replicas have equal labels, ports and node traits, and their addresses lie in the same
//! blocks: one question to the evaluator answers for all of them. The key holds every fact of a pod
//! that a policy can ask for, and nothing else.

use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::flow::Party;
use podwall_policy::label::Labels;
use podwall_policy::object::{Phase, Pod};
use podwall_policy::port::ContainerPort;

use crate::blocks::Blocks;

/// Two pods with equal keys get equal answers, but for flows between a pod and itself, and for the
/// names in missing facts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key<'a> {
    namespace: &'a str,
    labels: &'a Labels,
    host_network: bool,
    phase: bool,
    /// Only where the node can matter: traffic from a node, or an address that is still open.
    node: Option<&'a str>,
    named_ports: Vec<&'a ContainerPort>,
    families: [Address; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Address {
    /// The pod has no address of the family.
    None,
    /// It may get one.
    Open,
    /// The blocks that its address lies in.
    In(Vec<u32>),
}

impl Key<'_> {
    /// Whether the pods are alike but for their labels and their namespace's.
    pub(crate) fn is_like_but_for_labels(&self, other: &Self) -> bool {
        let nothing = Labels::default();
        let plain = |key: &Self| Key { labels: &nothing, ..key.clone() };
        plain(self) == plain(other)
    }

    /// The key of a pod whose node does not matter.
    pub(crate) fn without_node(self) -> Self {
        Self { node: None, ..self }
    }
}

/// What of a cluster decides how pods are told apart.
pub(crate) struct Keys {
    /// Every ipBlock of every policy.
    blocks: Blocks,
    /// Whether a pod can be asked from a node's address, so that its own node matters.
    node_traffic: bool,
}

impl Keys {
    pub(crate) fn new(cluster: &Cluster, blocks: Blocks) -> Self {
        let node_traffic = cluster.pods.values().any(|pod| pod.host_network);
        Self { blocks, node_traffic }
    }

    /// For pods of which none is asked from a node's address.
    pub(crate) fn without_nodes(blocks: Blocks) -> Self {
        Self { blocks, node_traffic: false }
    }

    /// Whether pods of different nodes have different keys.
    pub(crate) fn tells_nodes(&self) -> bool {
        self.node_traffic
    }

    /// The pod's key. `node_traffic` says that the other end is a node.
    pub(crate) fn key<'a>(&self, pod: &'a Pod, node_traffic: bool) -> Key<'a> {
        let families = Family::BOTH.map(|family| match pod.ip(family) {
            Some(ip) => Address::In(self.blocks.of(ip)),
            None if Party::Pod(pod).speaks(family) => Address::Open,
            None => Address::None,
        });
        let node_matters = node_traffic || self.node_traffic || pod.ips.is_empty();
        Key {
            namespace: &pod.name.namespace,
            labels: &pod.labels,
            host_network: pod.host_network,
            phase: pod.phase == Phase::Terminated,
            node: pod.node.as_deref().filter(|_| node_matters),
            named_ports: pod.ports.iter().filter(|port| port.name.is_some()).collect(),
            families,
        }
    }
}
