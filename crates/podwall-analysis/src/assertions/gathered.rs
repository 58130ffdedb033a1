//! What do the pairs that do not bear an assertion out come to?
//!
//! ```text
//!   Raw pairs ── alike: same kind, same workloads, same ports ──▶ one Finding, explained, and how many more
//! ```
//!
//! Asking is cheap and explaining is not, so only the first pair of each kind is explained.

use std::collections::HashMap;
use std::mem::discriminant;

use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::evaluate;
use podwall_policy::explain::Question;
use podwall_policy::flow::Flow;
use podwall_policy::port::{PortSet, Protocol};
use podwall_policy::reason::MissingFact;
use rustc_hash::FxHashSet;

use super::ask::EndKey;
use super::group::{Wanted, every_port};
use super::{Finding, Pair, Status};
use crate::can::{Case, End};

/// One thing that an assertion asks of two ends.
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    /// Who sends.
    pub src: End<'a>,
    /// Who is asked.
    pub dst: End<'a>,
    /// Over which family.
    pub family: Family,
    /// The ports in question.
    pub ports: PortSet,
    /// Whether it should pass.
    pub passes: bool,
    /// Whether one of the ports is enough.
    pub any: bool,
}

/// What the two ends come to in one walk.
pub(super) enum Raw<'a> {
    Pair { kind: Kind, src: End<'a>, dst: End<'a>, family: Family, ports: PortSet },
    Finding(Box<Finding<'a>>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Passes,
    Stopped,
    Missing(Vec<MissingFact>),
}

/// What a walk gathers.
#[derive(Default)]
pub(super) struct Walk<'a> {
    pub(super) raw: Vec<Raw<'a>>,
    /// Pairs and pods that were asked about, whether packets between them are possible or not.
    pub(super) asked: usize,
    pub(super) flows: usize,
    /// The questions themselves, where somebody wants them.
    pub(super) packets: Option<Vec<Packet<'a>>>,
    /// The kinds of pairs, where somebody wants them; a pod of which only is asked whether it is
    /// isolated stands beside nobody.
    pub(super) pairs: Option<FxHashSet<(EndKey, EndKey)>>,
    /// Only the status is wanted: one thing of each kind will do.
    pub(super) brief: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn note(
        &mut self,
        src: &End<'a>,
        dst: &End<'a>,
        family: Family,
        wanted: &Wanted,
        passes: bool,
    ) {
        self.flows += 1;
        if let Some(packets) = &mut self.packets {
            packets.push(Packet {
                src: src.clone(),
                dst: dst.clone(),
                family,
                ports: wanted.ports.clone(),
                passes,
                any: wanted.any,
            });
        }
    }

    pub(super) fn add(
        &mut self,
        kind: Kind,
        src: &End<'a>,
        dst: &End<'a>,
        family: Family,
        ports: PortSet,
    ) {
        let known = |raw: &Raw<'_>| match raw {
            Raw::Pair { kind: known, .. } => discriminant(known) == discriminant(&kind),
            Raw::Finding(_) => false,
        };
        if !(self.brief && self.raw.iter().any(known)) {
            self.raw.push(Raw::Pair { kind, src: src.clone(), dst: dst.clone(), family, ports });
        }
    }

    /// Whether nothing that comes could change the status.
    pub(super) fn is_decided(&self) -> bool {
        self.brief && self.raw.iter().any(|raw| raw.status() == Status::Fails)
    }

    /// As this one, with nothing in it yet.
    pub(super) fn alike(&self) -> Self {
        let pairs = self.pairs.as_ref().map(|_| FxHashSet::default());
        Self { pairs, brief: self.brief, ..Self::default() }
    }

    /// Takes in what came of one of so many that are alike.
    pub(super) fn absorb(&mut self, one: Self, many: usize) {
        self.asked += one.asked * many;
        self.flows += one.flows * many;
        self.raw.extend(one.raw);
        if let (Some(pairs), Some(more)) = (&mut self.pairs, one.pairs) {
            pairs.extend(more);
        }
    }
}

impl Raw<'_> {
    /// What it makes of its assertion.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Pair { kind: Kind::Missing(_), .. } => Status::Unknown,
            Self::Pair { .. } => Status::Fails,
            Self::Finding(finding) => finding.status(),
        }
    }
}

/// Puts like pairs together and explains the first of each kind.
pub(super) fn findings<'a>(cluster: &Cluster, raw: Vec<Raw<'a>>) -> Vec<Finding<'a>> {
    struct Like<'a> {
        kind: Kind,
        src: End<'a>,
        dst: End<'a>,
        family: Family,
        ports: PortSet,
        more: usize,
    }
    let mut out = Vec::new();
    let mut likes: Vec<Like<'a>> = Vec::new();
    let mut index: HashMap<(Kind, String, String, PortSet), usize> = HashMap::new();
    for raw in raw {
        match raw {
            Raw::Finding(finding) => out.push(*finding),
            Raw::Pair { kind, src, dst, family, ports } => {
                let key = (kind.clone(), whose(&src), whose(&dst), ports.clone());
                match index.get(&key) {
                    Some(at) => {
                        let like: &mut Like<'a> = &mut likes[*at];
                        let outside = join(&mut like.src, &src) | join(&mut like.dst, &dst);
                        let same =
                            src.party() == like.src.party() && dst.party() == like.dst.party();
                        like.more += usize::from(!outside && !same);
                    }
                    None => {
                        index.insert(key, likes.len());
                        likes.push(Like { kind, src, dst, family, ports, more: 0 });
                    }
                }
            }
        }
    }
    for like in likes {
        let question = question(&like.ports);
        let flow = Flow { src: like.src.party(), dst: like.dst.party(), family: like.family };
        let evaluation = evaluate(cluster, &flow);
        let case = Case {
            src: like.src,
            dst: like.dst,
            family: like.family,
            question,
            translation: None,
            pairs: like.more + 1,
            verdict: evaluation.answer(question),
            egress: evaluation.egress.explain(question),
            ingress: evaluation.ingress.explain(question),
            evaluation,
        };
        let pair = Pair { case, ports: like.ports, more: like.more };
        out.push(match like.kind {
            Kind::Passes => Finding::Passes(pair),
            Kind::Stopped => Finding::Stopped(pair),
            Kind::Missing(facts) => Finding::Missing { pair, facts },
        });
    }
    out
}

/// Pods of one workload are told together.
fn whose(end: &End<'_>) -> String {
    match end {
        End::Pod(pod) => match &pod.owner {
            Some(owner) => format!("{}/{}/{}", pod.name.namespace, owner.kind, owner.name),
            None => pod.name.to_string(),
        },
        End::Node(node) => format!("node {}", node.name),
        End::Outside(_) => "outside".to_owned(),
    }
}

/// Adds the addresses of one end to another; whether there were any.
fn join(into: &mut End<'_>, from: &End<'_>) -> bool {
    match (into, from) {
        (End::Outside(into), End::Outside(from)) => {
            into.addresses = into.addresses.union(&from.addresses);
            true
        }
        _ => false,
    }
}

/// A question that stands for a set of ports: its first, or whether anything passes.
fn question(ports: &PortSet) -> Question {
    if *ports == every_port() {
        return Question::Anything;
    }
    match ports.iter().next() {
        Some((protocol, range)) if range.last - range.first >= u16::MAX - 1 => {
            Question::Port(protocol, None)
        }
        Some((protocol, range)) => Question::Port(protocol, Some(range.first)),
        None => Question::Port(Protocol::ICMP, None),
    }
}
