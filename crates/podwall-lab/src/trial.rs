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

pub mod finding;
pub mod outside;
mod peer;
mod ways;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use podwall_analysis::error::AskError;
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::Verdict;
use podwall_policy::object::Pod;
use podwall_policy::port::Protocol;

use self::peer::{Target, Who};
use self::ways::Asked;
use crate::rpc::ProbeRequest;
use crate::serve::identity::Identity;

pub use self::finding::Finding;
pub use self::ways::Way;

/// The end at which a trial starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// Where its packets start.
    pub place: Identity,
    /// The address.
    pub address: IpAddr,
}

impl fmt::Display for End {
    /// As the command line takes it: `default/web`, `node-1`, `203.0.113.7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    /// Who is asked, as the command line takes it.
    pub dst: String,
    /// The address that is asked: a Service's own.
    pub dst_address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// The port that is asked; 0 for ICMP.
    pub port: u16,
    /// Where it may arrive, and what the engine says: one way, or one for each pod behind a
    /// Service.
    pub ways: Vec<Way>,
}

/// What the engine says of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It passes, whichever pod is picked.
    Allowed,
    /// It does not.
    Denied,
    /// A fact is missing.
    Unknown,
    /// It depends on the pod that a Service picks.
    Mixed,
    /// There is no pod behind what is asked.
    Nobody,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
            Self::Mixed => "mixed",
            Self::Nobody => "nobody",
        })
    }
}

impl Trial {
    /// What the engine says of all ways together.
    pub fn expected(&self) -> Expected {
        let has = |verdict| self.ways.iter().any(|way| way.verdict == verdict);
        match (has(Verdict::Allowed), has(Verdict::Denied), has(Verdict::Unknown)) {
            (_, _, true) => Expected::Unknown,
            (true, true, _) => Expected::Mixed,
            (true, false, _) => Expected::Allowed,
            (false, true, _) => Expected::Denied,
            (false, false, _) => Expected::Nobody,
        }
    }

    /// Every place that takes part.
    pub fn places(&self) -> impl Iterator<Item = &Identity> {
        std::iter::once(&self.src.place).chain(self.ways.iter().map(|way| &way.place))
    }
}

/// Why a probe could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A peer that is not there, or cannot be what it should be.
    #[error("{source}{}", hint(source))]
    Peer {
        /// What is wrong with it.
        #[from]
        source: AskError,
    },
    /// A peer that has no address to try.
    #[error("{who} has no address that packets could be sent to")]
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

fn hint(error: &AskError) -> String {
    error.hint().map_or_else(String::new, |hint| format!("; {hint}"))
}

/// Plans all trials of a request.
pub fn plan(
    cluster: &Cluster,
    externals: &[IpAddr],
    families: &[Family],
    request: &ProbeRequest,
) -> Result<Vec<Trial>, TrialError> {
    let protocols = protocols(request)?;
    let everybody = || -> Vec<Who<'_>> {
        let pods = cluster.pods.values().filter(|p| p.is_subject() && p.node.is_some());
        let outside = match request.outside {
            true => outside::addresses(cluster, externals, families),
            false => Vec::new(),
        };
        pods.map(Who::Pod).chain(outside.into_iter().map(Who::Outside)).collect()
    };
    let namespace = &request.namespace;
    let mut sources = Vec::new();
    for word in &request.sources {
        sources.extend(peer::sources(cluster, namespace, word, families)?);
    }
    let mut targets = Vec::new();
    for word in &request.destinations {
        targets.extend(peer::targets(cluster, namespace, word, families)?);
    }
    if request.sources.is_empty() {
        sources = everybody();
    }
    if request.destinations.is_empty() {
        targets = everybody().into_iter().map(Target::Itself).collect();
    }
    let ports = ports(cluster, &targets, request, protocols.as_deref());
    let mut trials = Vec::new();
    for src in &sources {
        for dst in targets.iter().filter(|dst| !dst.is_pointless(*src)) {
            for family in chosen_families(*src, *dst, families, request) {
                let asked = Asked::new(cluster, *src, *dst, family);
                trials.extend(ports.iter().filter_map(|(p, n)| trial(&asked, *p, *n)));
            }
        }
    }
    Ok(trials)
}

fn trial(asked: &Asked<'_>, protocol: Protocol, port: u16) -> Option<Trial> {
    let protocol = match (protocol, asked.family) {
        (Protocol::ICMP | Protocol::ICMPV6, Family::V4) => Protocol::ICMP,
        (Protocol::ICMP | Protocol::ICMPV6, Family::V6) => Protocol::ICMPV6,
        (other, _) => other,
    };
    if asked.stays(protocol, port) {
        return None;
    }
    Some(Trial {
        src: asked.src.end(asked.family)?,
        dst: asked.dst.name(asked.family)?,
        dst_address: asked.dst.address(asked.family)?,
        protocol,
        port,
        ways: asked.ways(protocol, port),
    })
}

/// The families to try: those asked for, else the first that both ends have.
fn chosen_families(
    src: Who<'_>,
    dst: Target<'_>,
    families: &[Family],
    request: &ProbeRequest,
) -> Vec<Family> {
    let both = |f: &Family| src.end(*f).is_some() && dst.address(*f).is_some();
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
/// offers. Ports without a protocol mean TCP.
fn ports(
    cluster: &Cluster,
    targets: &[Target<'_>],
    request: &ProbeRequest,
    protocols: Option<&[Protocol]>,
) -> BTreeSet<(Protocol, u16)> {
    let wanted = |p: Protocol| protocols.is_none_or(|list| list.contains(&p));
    let mut out: BTreeSet<(Protocol, u16)> = if request.ports.is_empty() {
        let mut all: Vec<_> = targets.iter().flat_map(|t| offered(cluster, *t)).collect();
        if all.is_empty() {
            all = cluster.pods.values().flat_map(declared).collect();
        }
        all.into_iter().filter(|(p, _)| wanted(*p)).collect()
    } else {
        let default = [Protocol::TCP];
        let list = protocols.unwrap_or(&default);
        let pairs = |port: &u16| {
            list.iter().filter(|p| p.has_ports()).map(|p| (*p, *port)).collect::<Vec<_>>()
        };
        request.ports.iter().flat_map(pairs).collect()
    };
    if protocols.is_some_and(|list| list.contains(&Protocol::ICMP)) {
        out.insert((Protocol::ICMP, 0));
    }
    out
}

/// The ports of a destination; a node's are the node ports. Outside has none of its own.
fn offered(cluster: &Cluster, target: Target<'_>) -> Vec<(Protocol, u16)> {
    match target {
        Target::Itself(Who::Pod(pod)) => declared(pod),
        Target::Itself(Who::Node(_)) => {
            let ports = cluster.services.values().flat_map(|service| &service.ports);
            ports.filter_map(|p| Some((p.protocol, p.node_port?))).collect()
        }
        Target::Itself(Who::Outside(_)) => Vec::new(),
        Target::Service(service) => service.ports.iter().map(|p| (p.protocol, p.port)).collect(),
    }
}

/// What a pod serves; one that declares nothing serves 80 (see [`crate::serve::Served::of_pod`]),
/// of which TCP is what people expect.
fn declared(pod: &Pod) -> Vec<(Protocol, u16)> {
    if pod.ports.is_empty() {
        return vec![(Protocol::TCP, 80)];
    }
    pod.ports.iter().map(|p| (p.protocol, p.number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trial from `default/a` to pods of the default namespace.
    pub(super) fn mk_trial(ways: &[(&str, Verdict)]) -> Trial {
        let way = |(name, verdict): &(&str, Verdict)| Way {
            place: Identity::pod("default", *name),
            verdict: *verdict,
            served: true,
        };
        Trial {
            src: End { place: Identity::pod("default", "a"), address: outside::INTERNET[0] },
            dst: "default/b".to_owned(),
            dst_address: outside::INTERNET[0],
            protocol: Protocol::TCP,
            port: 80,
            ways: ways.iter().map(way).collect(),
        }
    }
}
