//! How does a rule name the two ends of a question?
//!
//! ```text
//!   shop/Deployment/web     podSelector: app=web              (and who has these labels besides)
//!   10.0.0.7, internet      ipBlock 10.0.0.7/32, 0.0.0.0/0
//!   node n1, a pod on it    ipBlock of each of the node's addresses
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podwall_policy::address::{AddressRange, Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::explain::Question;
use podwall_policy::object::Pod;
use podwall_policy::policy::Peer as RulePeer;
use podwall_policy::port::{PortMatch, PortRange, PortSpec};
use podwall_policy::selector::Selector;

use crate::can::Answer;
use crate::identity::{identity, peer_in};
use crate::peer::Peer;

/// The pods of one namespace that a peer stands for.
#[derive(Clone, Debug)]
pub(super) struct Group<'a> {
    pub(super) namespace: Arc<str>,
    pub(super) pods: Vec<&'a Pod>,
    /// What tells them from the rest of their namespace.
    pub(super) selector: Selector,
}

/// An end as rules can name it.
#[derive(Clone, Debug, Default)]
pub(super) struct End<'a> {
    /// Pods that have a network of their own.
    pub(super) pods: Option<Group<'a>>,
    /// Everybody else.
    pub(super) blocks: Vec<IpBlock>,
    /// Who cannot be named, and why.
    pub(super) nameless: Vec<String>,
}

impl<'a> End<'a> {
    /// The end of a question about one family, or about both: a block of the other would open what
    /// nobody asked for.
    pub(super) fn of(cluster: &'a Cluster, peer: &Peer<'a>, family: Option<Family>) -> Self {
        let mut end = Self::default();
        match peer {
            Peer::Outside { addresses, .. } => {
                let nets = addresses.ranges().iter().flat_map(AddressRange::cidrs);
                end.blocks = nets.map(|net| IpBlock::new(net, [])).collect();
            }
            Peer::Node(node) => end.node(&node.name, &node.addresses),
            Peer::Pod(_) | Peer::Workload(_) | Peer::Service(_) => {
                let (own, host): (Vec<&Pod>, Vec<&Pod>) =
                    peer.pods(cluster).into_iter().partition(|pod| !pod.host_network);
                for pod in host {
                    let node = pod.node.as_ref().and_then(|node| cluster.nodes.get(node));
                    match node {
                        Some(node) => end.node(&node.name, &node.addresses),
                        None => end.nameless.push(format!(
                            "{} uses its node's network, and its node is not known: only an \
                             ipBlock of the node's address would match it",
                            pod.name
                        )),
                    }
                }
                end.pods = own.first().map(|first| Group {
                    namespace: first.name.namespace.clone(),
                    selector: identity(cluster, &own).selector,
                    pods: own.clone(),
                });
            }
        }
        end.blocks.retain(|block| family.is_none_or(|its| its == Family::of(block.cidr.addr())));
        end.blocks.dedup();
        end.nameless.dedup();
        end
    }

    fn node(&mut self, name: &str, addresses: &[IpAddr]) {
        if addresses.is_empty() {
            self.nameless.push(format!("node {name} states no address that an ipBlock could name"));
        }
        let single = addresses.iter().map(|address| IpBlock::new(IpNet::from(*address), []));
        self.blocks.extend(single);
    }

    /// The end as the peers of a rule of a policy in namespace `own`.
    pub(super) fn peers(&self, own: &str) -> Vec<RulePeer> {
        let pods = self.pods.iter().map(|of| peer_in(own, &of.namespace, of.selector.clone()));
        pods.chain(self.blocks.iter().cloned().map(RulePeer::Block)).collect()
    }
}

/// The ports that were asked about, as a rule names them; `None` if only every port of every
/// protocol would do: nothing was asked for, or a protocol that rules cannot name.
pub(super) fn ports(answer: &Answer<'_>) -> Option<Vec<PortSpec>> {
    let mut specs = Vec::new();
    for case in &answer.cases {
        let Question::Port(protocol, port) = case.question else { return None };
        if !protocol.has_ports() {
            return None;
        }
        let port = port.map_or(PortMatch::Any, |port| PortMatch::Range(PortRange::one(port)));
        specs.push(PortSpec { protocol, port });
    }
    specs.sort();
    specs.dedup();
    Some(specs)
}

/// A name for an end that can stand in a policy's name.
pub(super) fn short_name(peer: &Peer<'_>) -> String {
    let name = match peer {
        Peer::Pod(pod) => pod.owner.as_ref().map_or(&*pod.name.name, |owner| &*owner.name),
        Peer::Workload(workload) => &workload.name.name,
        Peer::Service(service) => &service.name.name,
        Peer::Node(node) => &node.name,
        Peer::Outside { text, .. } => text,
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(plain).take(40).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "peer".to_owned() } else { name.to_owned() }
}
