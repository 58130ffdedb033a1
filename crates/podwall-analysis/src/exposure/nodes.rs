//! Whom do policies see behind a node that was asked, and what comes of it?
//!
//! ```text
//!   client ─▶ the pod's own node ─ destination NAT ─▶ forwarded: policies see the client
//!   client ─▶ another node ─ destination NAT, its own address put in the client's place ─▶
//!                the pod's node ─▶ policies see that other node
//! ```
//!
//! Policies act before a node puts its address in the client's place (corner case 50). So at the pod's
//! own node it is the client's address that decides, with `externalTrafficPolicy: Cluster`, too.

use podwall_policy::address::AddressSet;
use podwall_policy::flow::Party;
use podwall_policy::object::Pod;
use podwall_policy::policy::Direction;
use podwall_policy::port::{PortRange, PortSet, Protocol};

use super::paths::Outcome;
use super::{Exposed, Way, Who};
use crate::reachability::Reachability;

/// What comes of a path by the node that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtNodes {
    /// At the pod's own: the client's address decides.
    pub own: Outcome,
    /// At any other: that node's address decides.
    pub others: Outcome,
}

impl AtNodes {
    /// Whether the path works: a client chooses the node.
    pub(super) fn together(&self) -> Outcome {
        match (&self.own, &self.others) {
            (_, Outcome::Open(_)) => Outcome::Open(None),
            (Outcome::Open(clients), _) => Outcome::OwnNodeOnly(clients.clone()),
            (Outcome::Unknown(own), Outcome::Unknown(others)) => {
                let mut facts: Vec<String> = own.iter().chain(others).cloned().collect();
                facts.sort();
                facts.dedup();
                Outcome::Unknown(facts)
            }
            (Outcome::Unknown(facts), _) | (_, Outcome::Unknown(facts)) => {
                Outcome::Unknown(facts.clone())
            }
            _ => Outcome::Shut,
        }
    }
}

/// What comes of asking another node, whose address policies see: what is so for any other node, else
/// what is so for those that there are.
pub(super) fn asked_by_nodes(
    engine: &Reachability<'_>,
    workload: &Exposed<'_>,
    pods: &[&Pod],
    targets: &[(Protocol, u16)],
) -> Outcome {
    if workload.host_network {
        return Outcome::Open(None);
    }
    let mut missing: Vec<String> = Vec::new();
    for way in incoming(workload).filter(|way| way.who == Who::Node) {
        if contains(&passes(way), targets) {
            return Outcome::Open(None);
        }
        if contains(&way.open, targets) {
            missing.extend(way.missing.iter().map(super::fact));
        }
    }
    // A rule may name the addresses of nodes that there are, and so no other's. Pods of a workload are
    // alike but for their own node: of two nodes each is another to one of them.
    if !engine.cluster().nodes.is_empty() {
        missing.clear();
        let first = pods.first();
        let second = pods.iter().find(|pod| first.is_some_and(|first| first.node != pod.node));
        for pod in first.into_iter().chain(second) {
            let others = engine.cluster().nodes.values();
            for node in others.filter(|node| pod.node.as_ref() != Some(&node.name)) {
                let passage = engine.passage(Party::Node(node), Party::Pod(pod));
                let some = passage.families.iter().any(|(_, set)| contains(set, targets));
                if some || contains(&passage.passes, targets) {
                    return Outcome::Open(None);
                }
                if contains(&passage.open, targets) {
                    missing.extend(passage.missing.iter().map(ToString::to_string));
                }
            }
        }
        missing.sort();
        missing.dedup();
    }
    if missing.is_empty() { Outcome::Shut } else { Outcome::Unknown(missing) }
}

/// Whether one of these ports is in the set.
pub(super) fn contains(set: &PortSet, targets: &[(Protocol, u16)]) -> bool {
    targets.iter().any(|(protocol, port)| {
        let one = PortSet::range(*protocol, PortRange::one(*port));
        one.difference(set).is_empty()
    })
}

/// What a way lets pass over any family.
fn passes(way: &Way) -> PortSet {
    way.families.iter().fold(way.ports.clone(), |all, (_, set)| all.union(set))
}

fn incoming<'w>(workload: &'w Exposed<'_>) -> impl Iterator<Item = &'w Way> {
    workload.ways.iter().filter(|way| way.direction == Direction::Ingress)
}

/// A path on which policies see the client's address.
pub(super) fn asked_by_clients(
    workload: &Exposed<'_>,
    targets: &[(Protocol, u16)],
    clients: &AddressSet,
) -> Outcome {
    if workload.host_network {
        return Outcome::Open(None);
    }
    let mut open = AddressSet::empty();
    let mut missing: Vec<String> = Vec::new();
    for way in incoming(workload) {
        let Who::Outside(addresses) = &way.who else { continue };
        let among = addresses.intersection(clients);
        if among.is_empty() {
            continue;
        }
        if contains(&passes(way), targets) {
            open = open.union(&among);
        } else if contains(&way.open, targets) {
            missing.extend(way.missing.iter().map(ToString::to_string));
        }
    }
    if !open.is_empty() {
        let anybody = *clients == AddressSet::everything();
        let all =
            clients.is_within(&open) || (anybody && crate::outside::public().is_within(&open));
        return Outcome::Open((!all).then_some(open));
    }
    if missing.is_empty() { Outcome::Shut } else { Outcome::Unknown(missing) }
}
