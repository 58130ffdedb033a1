//! Who is meant by a word of `lab probe`?
//!
//! ```text
//!   web, shop/web              a pod            svc/web, shop/svc/web, 10.96.0.11    a Service
//!   deploy/web, shop/deploy/…  its pods         node-1, 172.18.0.2                   a node
//!   203.0.113.7, internet      outside
//! ```
//!
//! The words are those of `podwall can`, and nodes by their names.

use std::net::IpAddr;

use podwall_analysis::error::AskError;
use podwall_analysis::peer::{self, Peer};
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::flow::Party;
use podwall_policy::object::{Node, Pod, Service};
use podwall_policy::port::Protocol;

use super::outside::{INTERNET, usable};
use super::{End, TrialError};
use crate::serve::identity::Identity;
use crate::services;

/// Who sends, or is asked by its own address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Who<'a> {
    Pod(&'a Pod),
    Node(&'a Node),
    Outside(IpAddr),
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target<'a> {
    Itself(Who<'a>),
    /// A Service with an address of its own.
    Service(&'a Service),
}

impl<'a> Who<'a> {
    pub(super) fn party(self) -> Party<'a> {
        match self {
            Self::Pod(pod) => Party::Pod(pod),
            Self::Node(node) => Party::Node(node),
            Self::Outside(address) => Party::Address(address),
        }
    }

    /// Where its packets start and arrive; `None` for a pod without a node.
    pub(super) fn place(self) -> Option<Identity> {
        Some(match self {
            Self::Pod(pod) if pod.host_network => Identity::Node(pod.node.clone()?),
            Self::Pod(pod) => Identity::Pod(pod.name.clone()),
            Self::Node(node) => Identity::Node(node.name.clone()),
            Self::Outside(_) => Identity::Outside,
        })
    }

    /// The node on which its packets start.
    pub(super) fn node(self) -> Option<&'a str> {
        match self {
            Self::Pod(pod) => pod.node.as_deref(),
            Self::Node(node) => Some(&*node.name),
            Self::Outside(_) => None,
        }
    }

    pub(super) fn end(self, family: Family) -> Option<End> {
        Some(End { place: self.place()?, address: self.party().address(family)? })
    }

    pub(super) fn serves(self, protocol: Protocol, port: u16) -> bool {
        match self {
            _ if !protocol.has_ports() => true,
            Self::Pod(pod) if pod.ports.is_empty() => port == 80,
            Self::Pod(pod) => pod.ports.iter().any(|p| (p.protocol, p.number) == (protocol, port)),
            Self::Node(_) => false,
            Self::Outside(_) => true,
        }
    }
}

impl<'a> Target<'a> {
    /// The address that packets are sent to.
    pub(super) fn address(self, family: Family) -> Option<IpAddr> {
        match self {
            Self::Itself(who) => who.party().address(family),
            Self::Service(service) => {
                service.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family)
            }
        }
    }

    /// As the command line takes it.
    pub(super) fn name(self, family: Family) -> Option<String> {
        match self {
            Self::Itself(who) => Some(who.end(family)?.to_string()),
            Self::Service(Service { name, .. }) => {
                Some(format!("{}/svc/{}", name.namespace, name.name))
            }
        }
    }

    /// Whether there is nothing to learn from packets of this source. Two addresses outside are
    /// "the same": what passes between them is nobody's business here. A Service's address leads
    /// nowhere from outside. A node's way to itself may be by a node port.
    pub(super) fn is_pointless(self, src: Who<'_>) -> bool {
        match (src, self) {
            (Who::Outside(_), Self::Itself(Who::Outside(_)) | Self::Service(_)) => true,
            (Who::Pod(_), Self::Itself(who)) => src == who,
            _ => false,
        }
    }
}

/// The sources that a word means.
pub(super) fn sources<'a>(
    cluster: &'a Cluster,
    namespace: &str,
    word: &str,
    families: &[Family],
) -> Result<Vec<Who<'a>>, TrialError> {
    let of = |target| match target {
        Target::Itself(who) => Ok(who),
        Target::Service(service) => Err(TrialError::from(AskError::ServiceSource {
            service: service.name.clone(),
            pods: services::backends(cluster, service).map(|pod| pod.name.clone()).collect(),
        })),
    };
    targets(cluster, namespace, word, families)?.into_iter().map(of).collect()
}

/// All that a word means.
pub(super) fn targets<'a>(
    cluster: &'a Cluster,
    namespace: &str,
    word: &str,
    families: &[Family],
) -> Result<Vec<Target<'a>>, TrialError> {
    let peer = match peer::resolve(cluster, word, namespace) {
        Ok(peer) => peer,
        Err(error) => match cluster.nodes.get(word) {
            Some(node) => Peer::Node(node),
            None => return Err(error.into()),
        },
    };
    let pods = |pods: Vec<&'a Pod>| -> Vec<Target<'a>> {
        let there = pods.into_iter().filter(|pod| pod.node.is_some() && !pod.ips.is_empty());
        there.map(|pod| Target::Itself(Who::Pod(pod))).collect()
    };
    let found = match peer {
        Peer::Pod(_) | Peer::Workload(_) => pods(peer.pods(cluster)),
        // Without an address of its own a Service is the pods that its name leads to.
        Peer::Service(service) if service.headless => pods(peer.pods(cluster)),
        Peer::Service(service) if service.cluster_ips.is_empty() => Vec::new(),
        Peer::Service(service) => vec![Target::Service(service)],
        Peer::Node(node) => vec![Target::Itself(Who::Node(node))],
        Peer::Outside { ref addresses, .. } => {
            let some = families.iter().filter_map(|family| {
                let internet = INTERNET.into_iter().find(|ip| Family::of(*ip) == *family)?;
                if addresses.contains(internet) {
                    return Some(internet);
                }
                let mut ranges = addresses.ranges().iter();
                let range = ranges.find(|range| Family::of(range.first()) == *family)?;
                Some(usable(range.first(), range.last()))
            });
            some.map(|address| Target::Itself(Who::Outside(address))).collect()
        }
    };
    if found.is_empty() {
        return Err(TrialError::NoAddress { who: peer.to_string() });
    }
    Ok(found)
}
