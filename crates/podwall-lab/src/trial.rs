//! Which packets are to be tried, and what does the engine say of each beforehand?
//!
//! ```text
//!   request ──▶ sources × destinations × ports ──▶ Trial: who, whom, what, expected verdict
//!                                                     │ packets (probe)
//!                                                     ▼
//!                                        Finding: what packets did; does it agree?
//! ```
//!
//! The expectation comes from the reference evaluator, never from the tables in force: a mistake of
//! the compiler or of the data plane shows as a disagreement.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podwall_policy::address::{AddressSet, Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Verdict, evaluate};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::{Name, Phase, Pod};
use podwall_policy::policy::{Direction, Peer};
use podwall_policy::port::Protocol;
use serde::{Deserialize, Serialize};

use crate::plan;
use crate::rpc::ProbeRequest;
use crate::serve::identity::Identity;

/// The address that stands for "the internet" where no policy names another one: documentation
/// ranges (RFC 5737, RFC 3849), so nobody's.
pub const INTERNET: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 7)),
];

/// One end of a trial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// Where its packets start or arrive.
    pub place: Identity,
    /// The address.
    pub address: IpAddr,
}

impl std::fmt::Display for End {
    /// As the command line takes it: `default/web`, `node-1`, `203.0.113.7`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Identity::Pod(name) => write!(f, "{name}"),
            Identity::Node(name) => write!(f, "{name}"),
            Identity::Outside => write!(f, "{}", self.address),
        }
    }
}

/// One packet to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Who sends.
    pub src: End,
    /// Who is asked.
    pub dst: End,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port; 0 for ICMP.
    pub port: u16,
    /// What the engine says.
    pub expected: Verdict,
    /// Whether the destination serves the port: else a refusal is the sign that packets arrive.
    pub served: bool,
}

/// What packets did in one trial, and what the engine had said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Who sent.
    pub src: String,
    /// Who was asked.
    pub dst: String,
    /// The source's address.
    #[serde(rename = "srcAddress")]
    pub src_address: IpAddr,
    /// The destination's address.
    #[serde(rename = "dstAddress")]
    pub dst_address: IpAddr,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`.
    pub protocol: String,
    /// Destination port; 0 for ICMP.
    pub port: u16,
    /// `allowed`, `denied` or `unknown`.
    pub engine: String,
    /// `answered`, `refused`, `dropped`, `unanswered`, `unreachable` or `error`.
    pub packets: String,
    /// More about what packets did: who answered, what was missing.
    pub detail: String,
    /// Whether they agree.
    pub agrees: bool,
}

/// Why a probe could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A peer that is not there.
    #[error("there is no {word:?} in the lab; {known}")]
    NoPeer {
        /// What was asked for.
        word: String,
        /// What may have been meant, or which pods there are.
        known: String,
    },
    /// A peer that has no address to try.
    #[error("{who} has no address of the lab's families")]
    NoAddress {
        /// Who.
        who: String,
    },
    /// A protocol that cannot be tried.
    #[error("{word:?} is not a protocol that can be tried; take TCP, UDP, SCTP or ICMP")]
    Protocol {
        /// What was asked for.
        word: String,
    },
}

/// How many pods a message names.
const FEW: usize = 8;

/// Plans all trials of a request.
pub fn plan(
    cluster: &Cluster,
    externals: &[IpAddr],
    families: &[Family],
    request: &ProbeRequest,
) -> Result<Vec<Trial>, TrialError> {
    let protocols = protocols(request)?;
    let outside = outside_addresses(cluster, externals, families);
    let everybody = |out: bool| -> Vec<Who<'_>> {
        let pods = cluster.pods.values().filter(|p| p.is_subject() && p.node.is_some());
        let pods = pods.map(Who::Pod);
        let outside = outside.iter().filter(|_| out).map(|a| Who::Outside(*a));
        pods.chain(outside).collect()
    };
    let named = |words: &[String]| -> Result<Vec<Who<'_>>, TrialError> {
        if words.is_empty() {
            return Ok(everybody(request.outside));
        }
        let found: Result<Vec<Vec<Who<'_>>>, TrialError> =
            words.iter().map(|w| who(cluster, &request.namespace, w, families)).collect();
        Ok(found?.concat())
    };
    let sources = named(&request.sources)?;
    let destinations = named(&request.destinations)?;
    let ports = ports(cluster, &destinations, request, protocols.as_deref());
    let mut trials = Vec::new();
    for src in &sources {
        for dst in &destinations {
            if src.is_same(dst) {
                continue;
            }
            for family in chosen_families(*src, *dst, families, request) {
                let (Some(from), Some(to)) = (src.end(family), dst.end(family)) else { continue };
                let flow = Flow { src: src.party(), dst: dst.party(), family };
                let evaluation = evaluate(cluster, &flow);
                for (protocol, port) in &ports {
                    let protocol = match (*protocol, family) {
                        (Protocol::ICMP | Protocol::ICMPV6, Family::V4) => Protocol::ICMP,
                        (Protocol::ICMP | Protocol::ICMPV6, Family::V6) => Protocol::ICMPV6,
                        (other, _) => other,
                    };
                    trials.push(Trial {
                        src: from.clone(),
                        dst: to.clone(),
                        protocol,
                        port: *port,
                        expected: evaluation.verdict(protocol, *port),
                        served: dst.serves(protocol, *port),
                    });
                }
            }
        }
    }
    Ok(trials)
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who<'a> {
    Pod(&'a Pod),
    Node(&'a podwall_policy::object::Node),
    Outside(IpAddr),
}

impl<'a> Who<'a> {
    fn party(self) -> Party<'a> {
        match self {
            Self::Pod(pod) => Party::Pod(pod),
            Self::Node(node) => Party::Node(node),
            Self::Outside(address) => Party::Address(address),
        }
    }

    fn end(self, family: Family) -> Option<End> {
        let place = match self {
            Self::Pod(pod) if pod.host_network => Identity::Node(pod.node.clone()?),
            Self::Pod(pod) => Identity::Pod(pod.name.clone()),
            Self::Node(node) => Identity::Node(node.name.clone()),
            Self::Outside(_) => Identity::Outside,
        };
        Some(End { place, address: self.party().address(family)? })
    }

    /// Two addresses outside are "the same": what passes between them is nobody's business here.
    fn is_same(self, other: &Self) -> bool {
        matches!((self, other), (Self::Outside(_), Self::Outside(_))) || self == *other
    }

    fn serves(self, protocol: Protocol, port: u16) -> bool {
        match self {
            _ if !protocol.has_ports() => true,
            Self::Pod(pod) if pod.ports.is_empty() => port == 80,
            Self::Pod(pod) => pod.ports.iter().any(|p| (p.protocol, p.number) == (protocol, port)),
            Self::Node(_) => false,
            Self::Outside(_) => true,
        }
    }
}

/// The parties that a word means: `POD`, `NAMESPACE/POD`, a node, an address, `internet`.
fn who<'a>(
    cluster: &'a Cluster,
    namespace: &str,
    word: &str,
    families: &[Family],
) -> Result<Vec<Who<'a>>, TrialError> {
    if word == "internet" {
        return Ok(INTERNET
            .into_iter()
            .filter(|a| families.contains(&Family::of(*a)))
            .map(Who::Outside)
            .collect());
    }
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(vec![match Party::at(cluster, address) {
            Party::Pod(pod) => Who::Pod(pod),
            Party::Node(node) => Who::Node(node),
            Party::Address(address) => Who::Outside(address),
        }]);
    }
    let (ns, name) = word.split_once('/').unwrap_or((namespace, word));
    if let Some(pod) = cluster.pods.get(&Name::new(ns, name)) {
        if pod.phase == Phase::Alive && !pod.ips.is_empty() {
            return Ok(vec![Who::Pod(pod)]);
        }
        return Err(TrialError::NoAddress { who: format!("pod {}", pod.name) });
    }
    if let Some(node) = cluster.nodes.get(word) {
        return Ok(vec![Who::Node(node)]);
    }
    // NAMESPACE/KIND/NAME, or KIND/NAME of the default namespace: the workload's pods.
    let parts: Vec<&str> = word.split('/').collect();
    let (ns, kind, name) = match parts[..] {
        [ns, kind, name] => (ns, kind, name),
        [kind, name] => (namespace, kind, name),
        _ => ("", "", ""),
    };
    let pods: Vec<Who<'a>> = cluster
        .pods
        .values()
        .filter(|p| *p.name.namespace == *ns)
        .filter(|p| {
            p.owner.as_ref().is_some_and(|o| o.kind.eq_ignore_ascii_case(kind) && *o.name == *name)
        })
        .map(Who::Pod)
        .collect();
    if !pods.is_empty() {
        return Ok(pods);
    }
    let mut known: Vec<String> = cluster.pods.keys().map(ToString::to_string).collect();
    let names: Vec<&str> = match word.contains('/') {
        true => known.iter().map(String::as_str).collect(),
        false => {
            let here = cluster.pods.keys().filter(|name| *name.namespace == *namespace);
            here.map(|name| &*name.name).collect()
        }
    };
    let known = match podwall_manifest::nearest(word, &names) {
        Some(near) => format!("did you mean {near}?"),
        None => {
            let more = known.len().saturating_sub(FEW);
            known.truncate(FEW);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("pods are {}{more}", known.join(", "))
        }
    };
    Err(TrialError::NoPeer { word: word.to_owned(), known })
}

/// The families to try: those asked for, else the first that both ends have.
fn chosen_families(
    src: Who<'_>,
    dst: Who<'_>,
    families: &[Family],
    request: &ProbeRequest,
) -> Vec<Family> {
    let both = |f: &Family| src.end(*f).is_some() && dst.end(*f).is_some();
    let possible: Vec<Family> = families.iter().copied().filter(both).collect();
    match request.family {
        Some(asked) => possible.into_iter().filter(|f| asked.has(*f)).collect(),
        None => possible.into_iter().take(1).collect(),
    }
}

fn protocols(request: &ProbeRequest) -> Result<Option<Vec<Protocol>>, TrialError> {
    if request.protocols.is_empty() {
        return Ok(None);
    }
    let of = |word: &String| {
        let upper = word.to_ascii_uppercase();
        match upper.as_str() {
            "ICMP" | "ICMPV6" | "PING" => Ok(Protocol::ICMP),
            _ => Protocol::from_api(&upper)
                .ok_or_else(|| TrialError::Protocol { word: word.clone() }),
        }
    };
    request.protocols.iter().map(of).collect::<Result<Vec<_>, _>>().map(Some)
}

/// The (protocol, port) pairs to try: those asked for, else all that any of the destinations
/// serves. Ports without a protocol mean TCP.
fn ports(
    cluster: &Cluster,
    destinations: &[Who<'_>],
    request: &ProbeRequest,
    protocols: Option<&[Protocol]>,
) -> BTreeSet<(Protocol, u16)> {
    let wanted = |p: Protocol| protocols.is_none_or(|list| list.contains(&p));
    let icmp = protocols.is_some_and(|list| list.contains(&Protocol::ICMP));
    let mut out: BTreeSet<(Protocol, u16)> = if request.ports.is_empty() {
        let named = destinations.iter().filter_map(|who| match who {
            Who::Pod(pod) => Some(*pod),
            Who::Node(_) | Who::Outside(_) => None,
        });
        let pods: Vec<&Pod> = named.collect();
        let pods = if pods.is_empty() { cluster.pods.values().collect() } else { pods };
        pods.into_iter().flat_map(declared).filter(|(p, _)| wanted(*p)).collect()
    } else {
        let default = [Protocol::TCP];
        let list = protocols.unwrap_or(&default);
        let pairs = |port: &u16| {
            list.iter().filter(|p| p.has_ports()).map(|p| (*p, *port)).collect::<Vec<_>>()
        };
        request.ports.iter().flat_map(pairs).collect()
    };
    if icmp {
        out.insert((Protocol::ICMP, 0));
    }
    out
}

/// What a pod serves; one that declares nothing serves 80 (see [`crate::serve::Served::of_pod`]),
/// of which TCP is what people expect.
fn declared(pod: &Pod) -> Vec<(Protocol, u16)> {
    if pod.ports.is_empty() {
        return vec![(Protocol::TCP, 80)];
    }
    pod.ports.iter().map(|p| (p.protocol, p.number)).collect()
}

/// Addresses outside of the cluster that can make a difference: one for each block that policies
/// name and for each exception, those asked for, and one for the rest of the world.
pub fn outside_addresses(
    cluster: &Cluster,
    externals: &[IpAddr],
    families: &[Family],
) -> Vec<IpAddr> {
    let mut chosen: BTreeSet<IpAddr> = externals.iter().copied().chain(INTERNET).collect();
    let rules = cluster
        .policies
        .values()
        .flat_map(|policy| Direction::BOTH.into_iter().filter_map(|d| policy.rules(d)).flatten());
    let blocks: BTreeSet<&IpBlock> = rules
        .flat_map(|rule| &rule.peers)
        .filter_map(|peer| match peer {
            Peer::Block(block) => Some(block),
            Peer::Pods(_) => None,
        })
        .collect();
    let inside = cluster_addresses();
    for block in blocks {
        let holes = block.except.iter().map(|net| AddressSet::from(*net));
        for set in std::iter::once(block.ranges()).chain(holes) {
            let free = set.difference(&inside);
            if !chosen.iter().any(|address| free.contains(*address)) {
                chosen
                    .extend(free.ranges().first().map(|range| usable(range.first(), range.last())));
            }
        }
    }
    chosen.retain(|a| families.contains(&Family::of(*a)) && !inside.contains(*a));
    chosen.into_iter().collect()
}

/// The second address of a range that has one: the first may be a network's own.
fn usable(first: IpAddr, last: IpAddr) -> IpAddr {
    let next = match first {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().saturating_add(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().saturating_add(1)).into(),
    };
    if next <= last { next } else { first }
}

/// Pods, Services and nodes; and what is nobody's on any network.
fn cluster_addresses() -> AddressSet {
    let reserved = [
        "10.244.0.0/16",
        "10.96.0.0/12",
        "172.18.0.0/16",
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.1.0/24",
        "224.0.0.0/3",
        "fd00:10:244::/48",
        "fd00:10:96::/112",
        "fd00:172:18::/64",
        "::/127",
        "fe80::/10",
        "ff00::/8",
        "::ffff:0:0/96",
    ];
    debug_assert_eq!(plan::cluster_cidrs(plan::Families::Dual).len(), 2);
    reserved
        .iter()
        .filter_map(|net| net.parse().ok())
        .fold(AddressSet::empty(), |set, net: ipnet::IpNet| set.union(&AddressSet::from(net)))
}

impl Finding {
    /// Puts a trial and what packets did side by side. `passed` is `None` where packets told
    /// nothing: an error, or no answer from somebody who should.
    pub fn new(trial: &Trial, packets: &str, passed: Option<bool>, detail: String) -> Self {
        let agrees = match (trial.expected, passed) {
            (Verdict::Allowed, Some(passed)) => passed,
            (Verdict::Denied, Some(passed)) => !passed,
            (Verdict::Unknown, _) | (_, None) => false,
        };
        Self {
            src: trial.src.to_string(),
            dst: trial.dst.to_string(),
            src_address: trial.src.address,
            dst_address: trial.dst.address,
            protocol: match trial.protocol {
                Protocol::ICMPV6 => "ICMP".to_owned(),
                other => other.to_string(),
            },
            port: trial.port,
            engine: match trial.expected {
                Verdict::Allowed => "allowed",
                Verdict::Denied => "denied",
                Verdict::Unknown => "unknown",
            }
            .to_owned(),
            packets: packets.to_owned(),
            detail,
            agrees,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_policy::policy::{Policy, Rule};
    use podwall_policy::selector::Selector;

    fn mk_cluster(blocks: &[(&str, &[&str])]) -> Cluster {
        let mut cluster = Cluster::default();
        let mut policy = Policy::network_policy("default", "p", Selector::everything());
        let peers = blocks
            .iter()
            .map(|(cidr, except)| {
                let except: Vec<ipnet::IpNet> = except.iter().map(|e| e.parse().unwrap()).collect();
                Peer::Block(IpBlock::new(cidr.parse().unwrap(), except))
            })
            .collect();
        policy.ingress = Some(vec![Rule::allow(peers, Vec::new())]);
        cluster.put_policy(policy);
        cluster
    }

    #[test]
    fn every_block_and_every_exception_has_an_address_that_tells_it_apart() {
        let cluster = mk_cluster(&[
            ("192.168.1.100/32", &[]),
            ("10.0.0.0/24", &[]),
            ("0.0.0.0/0", &["8.8.0.0/16"]),
            ("10.244.0.0/16", &[]),
        ]);
        let text: Vec<String> =
            outside_addresses(&cluster, &["9.9.9.9".parse().unwrap()], &Family::BOTH)
                .iter()
                .map(ToString::to_string)
                .collect();
        assert_eq!(
            text,
            ["8.8.0.1", "9.9.9.9", "10.0.0.1", "192.168.1.100", "203.0.113.7", "2001:db8:113::7"]
        );
    }

    #[test]
    fn findings_agree_only_when_packets_said_so() {
        let end = |name: &str| End { place: Identity::pod("default", name), address: INTERNET[0] };
        let mk = |expected| Trial {
            src: end("a"),
            dst: end("b"),
            protocol: Protocol::TCP,
            port: 80,
            expected,
            served: true,
        };
        let table = [
            (Verdict::Allowed, Some(true), true),
            (Verdict::Allowed, Some(false), false),
            (Verdict::Denied, Some(false), true),
            (Verdict::Denied, Some(true), false),
            (Verdict::Denied, None, false),
            (Verdict::Unknown, Some(true), false),
        ];
        for (expected, passed, agrees) in table {
            let finding = Finding::new(&mk(expected), "x", passed, String::new());
            assert_eq!(finding.agrees, agrees, "{expected:?} {passed:?}");
        }
    }
}
