//! Does a peer match a party, and which ports does a rule name?
//!
//! Three answers: yes, no with every reason, or unknown with every missing fact.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::{AddressSet, Family, IpBlock};
use crate::cluster::Cluster;
use crate::flow::{Flow, Party};
use crate::label::METADATA_NAME;
use crate::object::{Name, Namespace, Phase, Pod};
use crate::policy::{NamespaceScope, Peer, PodScope, Rule};
use crate::port::{PortMatch, PortRange, PortSet};
use crate::reason::{Hint, MissingFact, Reason, has};
use crate::selector::{Operator, Requirement};

/// Whether something matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It does.
    Yes,
    /// It does not, for these reasons.
    No(Vec<Reason>),
    /// It depends on these facts.
    Unknown(Vec<MissingFact>),
}

impl Match {
    /// Whether it certainly matches.
    pub fn is_yes(&self) -> bool {
        *self == Self::Yes
    }

    fn from_parts(reasons: Vec<Reason>, missing: Vec<MissingFact>) -> Self {
        if !reasons.is_empty() {
            Self::No(reasons)
        } else if !missing.is_empty() {
            Self::Unknown(missing)
        } else {
            Self::Yes
        }
    }
}

/// Whether a policy's subject selects a pod.
pub fn selects(cluster: &Cluster, subject: &PodScope, pod: &Pod) -> Match {
    match_pod(cluster, subject, pod)
}

/// Whether any of a rule's peers matches the party; no peers match anybody. Of several peers that
/// do not match, the one that fails by the least speaks for the rule.
pub fn match_peers(cluster: &Cluster, rule: &Rule, party: Party<'_>, family: Family) -> Match {
    let mut nearest = Match::Yes;
    for (i, peer) in rule.peers.iter().enumerate() {
        let this = match_peer(cluster, peer, party, family);
        nearest = match (this, nearest) {
            (Match::Yes, _) => return Match::Yes,
            (first, _) if i == 0 => first,
            (Match::No(new), Match::No(old)) => {
                Match::No(if new.len() < old.len() { new } else { old })
            }
            (Match::Unknown(new), Match::Unknown(old)) => {
                Match::Unknown(old.into_iter().chain(new).collect())
            }
            (unknown @ Match::Unknown(_), _) | (_, unknown) => unknown,
        };
    }
    nearest
}

/// Whether one peer matches the party.
pub fn match_peer(cluster: &Cluster, peer: &Peer, party: Party<'_>, family: Family) -> Match {
    match (peer, party) {
        (Peer::Pods(scope), Party::Pod(pod)) => match_pod(cluster, scope, pod),
        (Peer::Pods(_), _) => Match::No(vec![Reason::NotAPod { party: party.to_string() }]),
        (Peer::Block(_), Party::Pod(pod)) if pod.phase == Phase::Terminated => {
            Match::No(vec![Reason::Terminated { pod: pod.name.clone() }])
        }
        (Peer::Block(block), _) => match_block(cluster, block, party, family),
    }
}

fn match_pod(cluster: &Cluster, scope: &PodScope, pod: &Pod) -> Match {
    if pod.phase == Phase::Terminated {
        return Match::No(vec![Reason::Terminated { pod: pod.name.clone() }]);
    }
    if pod.host_network {
        return Match::No(vec![Reason::HostNetwork { pod: pod.name.clone() }]);
    }
    let mut reasons = Vec::new();
    let mut missing = Vec::new();
    let implied;
    let namespace = match cluster.namespaces.get(&pod.name.namespace) {
        Some(stated) => stated,
        None => {
            implied = Namespace::implied(pod.name.namespace.clone());
            &implied
        }
    };
    match &scope.namespaces {
        NamespaceScope::Own(own) if *own == pod.name.namespace => {}
        NamespaceScope::Own(own) => {
            reasons.push(Reason::OtherNamespace { pod: pod.name.clone(), own: own.clone() });
        }
        NamespaceScope::Matching(selector) => {
            let name = &pod.name.namespace;
            for wants in &selector.requirements {
                if !namespace.labels_known && *wants.key != *METADATA_NAME {
                    missing.push(MissingFact::NamespaceLabels {
                        namespace: name.clone(),
                        key: wants.key.clone(),
                    });
                } else if !wants.matches(&namespace.labels) {
                    reasons.push(Reason::NamespaceLabel {
                        namespace: name.clone(),
                        has: has(&namespace.labels, wants),
                        wants: wants.clone(),
                        hint: namespace_hint(wants, pod),
                    });
                }
            }
        }
    }
    reasons.extend(scope.pods.failing(&pod.labels).map(|wants| {
        Reason::PodLabel {
            pod: pod.name.clone(),
            has: has(&pod.labels, wants),
            wants: wants.clone(),
            hint: (asks_for_a_label(wants) && wants.matches(&namespace.labels))
                .then(|| Hint::OnNamespace(namespace.name.clone())),
        }
    }));
    Match::from_parts(reasons, missing)
}

/// Whether the label may have been looked for on the wrong object, or under the wrong key.
fn namespace_hint(wants: &Requirement, pod: &Pod) -> Option<Hint> {
    let name = &pod.name.namespace;
    let means_the_name = Requirement {
        key: METADATA_NAME.into(),
        operator: wants.operator.clone(), // as if it asked for the label that is always there
    };
    if !asks_for_a_label(wants) || wants.operator == Operator::Exists {
        None
    } else if wants.matches(&pod.labels) {
        Some(Hint::OnPod(pod.name.clone()))
    } else if means_the_name.matches(&Namespace::implied(name.clone()).labels) {
        Some(Hint::NamespaceName(name.clone()))
    } else {
        None
    }
}

/// Whether a requirement can be met only by an object that has the label.
fn asks_for_a_label(wants: &Requirement) -> bool {
    matches!(wants.operator, Operator::Equals(_) | Operator::In(_) | Operator::Exists)
}

fn match_block(cluster: &Cluster, block: &IpBlock, party: Party<'_>, family: Family) -> Match {
    let no = |reason| Match::No(vec![reason]);
    if Family::of(block.cidr.addr()) != family {
        return no(Reason::OtherFamily { family, block: block.clone() });
    }
    if let Some(address) = party.address(family).or_else(|| node_address(cluster, party, family)) {
        return address_in_block(block, party, address);
    }
    // The address is not known, but its range may be: any address of the family, or the pod CIDR
    // of the pod's node.
    let range = match party {
        Party::Pod(pod) if !pod.host_network => pod_cidr(cluster, pod, family),
        _ => None,
    };
    let whole = AddressSet::from(range.unwrap_or_else(|| whole_family(block.cidr)));
    let covered = whole.intersection(&block.ranges());
    if covered == whole {
        return Match::Yes;
    }
    match (covered.is_empty(), range) {
        (true, Some(range)) => no(Reason::OutsideBlock {
            party: party.to_string(),
            address: range.to_string(),
            block: block.clone(),
        }),
        _ => Match::Unknown(vec![missing_address(party, family)]),
    }
}

fn address_in_block(block: &IpBlock, party: Party<'_>, address: IpAddr) -> Match {
    let party = match party {
        Party::Address(_) => address.to_string(),
        _ => party.to_string(),
    };
    if !block.cidr.contains(&address) {
        let address = address.to_string();
        return Match::No(vec![Reason::OutsideBlock { party, address, block: block.clone() }]);
    }
    match block.except.iter().find(|net| net.contains(&address)) {
        Some(net) => Match::No(vec![Reason::Excepted { party, address, except: *net }]),
        None => Match::Yes,
    }
}

/// The address of a hostNetwork pod that states none: its node's.
fn node_address(cluster: &Cluster, party: Party<'_>, family: Family) -> Option<IpAddr> {
    match party {
        Party::Pod(pod) if pod.host_network => {
            Party::Node(cluster.nodes.get(pod.node.as_ref()?)?).address(family)
        }
        _ => None,
    }
}

/// The pod CIDR of the pod's node, if both are known.
fn pod_cidr(cluster: &Cluster, pod: &Pod, family: Family) -> Option<IpNet> {
    let node = cluster.nodes.get(pod.node.as_ref()?)?;
    node.pod_cidrs.iter().copied().find(|net| Family::of(net.addr()) == family)
}

/// `0.0.0.0/0` or `::/0`.
fn whole_family(net: IpNet) -> IpNet {
    net.supernet().map_or(net, whole_family)
}

fn missing_address(party: Party<'_>, family: Family) -> MissingFact {
    match party {
        Party::Pod(pod) => MissingFact::PodAddress { pod: pod.name.clone(), family },
        Party::Node(node) => MissingFact::NodeAddress { node: node.name.clone() },
        // An address of the other family never gets here: flows have one family.
        Party::Address(address) => {
            MissingFact::PodAddress { pod: Name::new("", address.to_string()), family }
        }
    }
}

/// The ports that a rule names for flows to this destination, and the names that lead nowhere.
pub fn rule_ports(rule: &Rule, flow: &Flow<'_>) -> (PortSet, Vec<Reason>) {
    if rule.ports.is_empty() {
        return (PortSet::everything(), Vec::new());
    }
    let mut set = PortSet::empty();
    let mut unresolved = Vec::new();
    for spec in &rule.ports {
        let protocol = spec.protocol;
        match &spec.port {
            PortMatch::Any => set = set.union(&PortSet::range(protocol, PortRange::ALL)),
            PortMatch::Range(range) => set = set.union(&PortSet::range(protocol, *range)),
            PortMatch::Named(name) => {
                let pod = flow.dst.subject();
                let numbers: Vec<u16> =
                    pod.into_iter().flat_map(|p| p.named_port(name, protocol)).collect();
                if numbers.is_empty() {
                    unresolved.push(Reason::NoNamedPort {
                        party: flow.dst.to_string(),
                        name: name.clone(),
                        protocol,
                        declared: pod.map(|p| {
                            p.ports.iter().filter(|port| port.name.is_some()).cloned().collect()
                        }),
                    });
                }
                for number in numbers {
                    set = set.union(&PortSet::range(protocol, PortRange::one(number)));
                }
            }
        }
    }
    (set, unresolved)
}
