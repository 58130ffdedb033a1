//! Who talks to whom?
//!
//! ```text
//!   Party::Pod      a pod, by its address of the flow's family if that is known
//!   Party::Node     a node, and hostNetwork pods on it
//!   Party::Address  anything else: outside the cluster
//! ```
//!
//! A flow is what a policy sees: after destination NAT (a Service address is already a pod) and
//! before source NAT.

use std::fmt;
use std::net::IpAddr;

use crate::address::Family;
use crate::cluster::Cluster;
use crate::object::{Node, Pod};

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party<'a> {
    /// A pod. A hostNetwork pod counts as its node, a terminated one as nobody.
    Pod(&'a Pod),
    /// A node itself.
    Node(&'a Node),
    /// An address that is neither a pod's nor a node's first of its family.
    Address(IpAddr),
}

/// Traffic from one party to another, in one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<'a> {
    /// Who opens the connection.
    pub src: Party<'a>,
    /// Who is asked.
    pub dst: Party<'a>,
    /// The family of the packets.
    pub family: Family,
}

impl<'a> Party<'a> {
    /// Who has this address: a running pod, else a node, else somebody outside. A further address
    /// of a node stays an address, because that is what rules see of it. The flow's family is the
    /// address's, whatever other addresses the party has.
    pub fn at(cluster: &'a Cluster, address: IpAddr) -> Self {
        if let Some(pod) = cluster.pod_by_ip(address) {
            return Self::Pod(pod);
        }
        match cluster.node_by_ip(address).map(Self::Node) {
            Some(node) if node.address(Family::of(address)) == Some(address) => node,
            _ => Self::Address(address),
        }
    }

    /// The pod, if policies can select this party and selector peers can match it.
    pub fn subject(self) -> Option<&'a Pod> {
        match self {
            Self::Pod(pod) if pod.is_subject() => Some(pod),
            _ => None,
        }
    }

    /// The party's address in a family, if it is known; of several that a node has, the first.
    pub fn address(self, family: Family) -> Option<IpAddr> {
        match self {
            Self::Pod(pod) => pod.ip(family),
            Self::Node(node) => node.addresses.iter().copied().find(|a| Family::of(*a) == family),
            Self::Address(address) => (Family::of(address) == family).then_some(address),
        }
    }

    /// Whether packets of this family can leave or reach the party. A pod that states no address
    /// at all may get one of either family.
    pub fn speaks(self, family: Family) -> bool {
        let unstated = match self {
            Self::Pod(pod) => pod.ips.is_empty(),
            Self::Node(node) => node.addresses.is_empty(),
            Self::Address(_) => false,
        };
        unstated || self.address(family).is_some()
    }

    /// Whether the facts name at least one address of the party.
    fn states_address(self) -> bool {
        Family::BOTH.into_iter().any(|family| self.address(family).is_some())
    }
}

impl<'a> Flow<'a> {
    /// The flows that are possible between two parties: one a family that both speak. Where
    /// neither states an address only IPv4 is taken, as most clusters have it; empty where they
    /// have no family in common.
    pub fn between(src: Party<'a>, dst: Party<'a>) -> Vec<Self> {
        let families: &[Family] = if src.states_address() || dst.states_address() {
            &Family::BOTH
        } else {
            &[Family::V4]
        };
        families
            .iter()
            .filter(|family| src.speaks(**family) && dst.speaks(**family))
            .map(|family| Self { src, dst, family: *family })
            .collect()
    }
}

impl fmt::Display for Party<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "pod {}", pod.name),
            Self::Node(node) => write!(f, "node {}", node.name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}
