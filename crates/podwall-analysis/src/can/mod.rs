//! Can this peer reach that one?
//!
//! ```text
//!   peer ──▶ ends: pods, a node, classes of addresses      cases = ends × ends × families
//!   Service port ──▶ target port on each pod behind it; of a headless Service: the pods' own port
//!
//!   verdict   worst of pods and families (all must pass), best of ports and of addresses outside
//! ```
//!
//! A workload or a Service can be reached if each of its pods can, over each family that both ends
//! speak; the internet, if any of its addresses can; a Service asked without a port, if any of its
//! ports can. The cases say which did and which did not.

mod contribution;
mod targets;
#[cfg(test)]
mod tests;
mod together;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Evaluation, Verdict, evaluate};
use podwall_policy::explain::{Question, SideExplanation};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::{Exposure, Node, Pod, ServicePort};
use podwall_policy::policy::Policy;
use podwall_policy::port::{PortSet, Protocol};

pub use self::contribution::{Contribution, contributions};
pub use self::targets::service_port;
pub(crate) use self::targets::service_targets;
use self::targets::{Target, ends, targets};
use self::together::{merge, passes_of, verdict_of};
use crate::blocks::Blocks;
use crate::error::AskError;
use crate::outside;
use crate::peer::{Peer, backends};
use crate::podclass::{Key, Keys};

/// What is asked of a pair of peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The port; `None` asks whether anything passes.
    pub port: Option<PortAsk>,
    /// The protocol; TCP where only a port is asked for.
    pub protocol: Option<Protocol>,
    /// One address family only.
    pub family: Option<Family>,
}

/// A port as people ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortAsk {
    /// A number.
    Number(u16),
    /// A name of the destination: of its container ports, or of the Service's ports.
    Name(String),
}

impl fmt::Display for PortAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The answer. It owns nothing of the cluster.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// Who asks.
    pub src: Peer<'a>,
    /// Who is asked.
    pub dst: Peer<'a>,
    /// What was asked.
    pub ask: Ask,
    /// All cases together.
    pub verdict: Verdict,
    /// What passes in every case that must pass. For a Service the ports are those of its pods.
    pub passes: PortSet,
    /// Never empty; like ones are one.
    pub cases: Vec<Case<'a>>,
    /// The case that speaks for the verdict.
    pub deciding: usize,
    /// How the ports of a Service were translated; empty for other destinations, and where a number
    /// was asked of a headless Service, which translates none.
    pub translations: Vec<Translation<'a>>,
    /// What a reader should know about how the answer was found, in sentences.
    pub notes: Vec<String>,
}

/// One end of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// A pod.
    Pod(&'a Pod),
    /// A node.
    Node(&'a Node),
    /// Addresses that no policy can tell apart.
    Outside(outside::Class),
}

impl<'a> End<'a> {
    /// The end as the evaluator knows it.
    pub fn party(&self) -> Party<'a> {
        match self {
            Self::Pod(pod) => Party::Pod(pod),
            Self::Node(node) => Party::Node(node),
            Self::Outside(class) => Party::Address(class.example),
        }
    }
}

impl fmt::Display for End<'_> {
    /// `default/web`, `node n1`, `0.0.0.0/0 except 10.0.0.0/8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "{}", pod.name),
            Self::Node(node) => write!(f, "node {}", node.name),
            Self::Outside(class) => {
                let mut cidrs = outside::describe(&class.addresses);
                for single in ["/32", "/128"] {
                    if class.addresses.ranges().len() == 1
                        && let Some(address) = cidrs.strip_suffix(single)
                    {
                        cidrs = address.to_owned();
                    }
                }
                f.write_str(&cidrs)
            }
        }
    }
}

/// One flow that was put to the evaluator, and the like ones that need no asking.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// Who asks.
    pub src: End<'a>,
    /// Who is asked.
    pub dst: End<'a>,
    /// The family of the packets.
    pub family: Family,
    /// What was asked of the destination, after translation.
    pub question: Question,
    /// Index in [`Answer::translations`].
    pub translation: Option<usize>,
    /// How many pairs of pods the case stands for, at least 1.
    pub pairs: usize,
    /// The verdict.
    pub verdict: Verdict,
    /// Both sides.
    pub evaluation: Evaluation,
    /// Why, on the source's side.
    pub egress: SideExplanation,
    /// Why, on the destination's side.
    pub ingress: SideExplanation,
}

/// How one port of a Service leads to pods.
#[derive(Clone, Debug)]
pub struct Translation<'a> {
    /// The Service's port.
    pub port: &'a ServicePort,
    /// The verdict on this port.
    pub verdict: Verdict,
    /// The pods, and the port on each.
    pub backends: Vec<(&'a Pod, u16, Verdict)>,
    /// Pods that the Service selects but that do not have the named target port.
    pub without: Vec<&'a Pod>,
}

/// How many rules that do not match all cases together tell of, about.
const MISSES: usize = 100_000;

/// Of so many each case tells, if it has them.
const FEWEST_MISSES: usize = 20;

/// What of an end the evaluator can tell apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum EndClass<'a> {
    Pod(Key<'a>),
    Node(&'a str),
    Outside(IpAddr),
}

/// Answers whether `src` can reach `dst`.
///
/// # Errors
/// If the question has no answer: see [`AskError`].
pub fn can<'a>(
    cluster: &'a Cluster,
    src: &Peer<'a>,
    dst: &Peer<'a>,
    ask: &Ask,
) -> Result<Answer<'a>, AskError> {
    if let (Some(protocol), Some(_)) = (ask.protocol, &ask.port)
        && !protocol.has_ports()
    {
        return Err(AskError::PortlessProtocol { protocol: protocol.to_string() });
    }
    if let Peer::Service(service) = src {
        let pods = backends(cluster, service).iter().map(|pod| pod.name.clone()).collect();
        return Err(AskError::ServiceSource { service: service.name.clone(), pods });
    }
    // Blocks of policies that select neither end tell no addresses apart.
    let pods: Vec<&Pod> = [src, dst].iter().flat_map(|peer| peer.pods(cluster)).collect();
    let selects_one = |policy: &&Policy| {
        pods.iter().any(|pod| !matches!(selects(cluster, &policy.subject, pod), Match::No(_)))
    };
    let outside = [src, dst].iter().any(|peer| matches!(peer, Peer::Outside { .. }));
    let blocks = match outside {
        true => outside::blocks_of(cluster.policies.values().filter(selects_one)),
        false => Vec::new(),
    };
    let keys = Keys::new(cluster, Blocks::new(outside::blocks(cluster)));
    let sources = ends(cluster, src, &blocks);
    let (targets, mut translations) = match dst {
        Peer::Service(service) => service_targets(cluster, service, ask)?,
        _ => (targets(cluster, dst, ask, &blocks)?, Vec::new()),
    };

    let several = sources.len() > 1 && targets.len() > 1;
    let node_traffic = [src, dst].iter().any(|peer| matches!(peer, Peer::Node(_)));
    let class = |end: &End<'a>| match end {
        End::Pod(pod) => EndClass::Pod(keys.key(pod, node_traffic)),
        End::Node(node) => EndClass::Node(&node.name),
        End::Outside(class) => EndClass::Outside(class.example),
    };
    let source_classes: Vec<_> = sources.iter().map(class).collect();
    let target_classes: Vec<_> = targets.iter().map(|target| class(&target.end)).collect();
    let misses = (MISSES / (sources.len() * targets.len()).max(1)).max(FEWEST_MISSES);
    let mut untold = false;
    let mut cases: Vec<Case<'a>> = Vec::new();
    let mut known: HashMap<_, Range<usize>> = HashMap::new();
    // For each target the cases that answer for it.
    let mut answers: Vec<Vec<Range<usize>>> = vec![Vec::new(); targets.len()];
    for (source, source_class) in sources.iter().zip(&source_classes) {
        for (t, target) in targets.iter().enumerate() {
            let same = source.party() == target.end.party();
            if same && several {
                continue; // a workload to itself is about its pods among each other
            }
            let classes = (source_class, &target_classes[t]);
            let like = (classes, target.translation, target.numbers(), same);
            if let Some(range) = known.get(&like) {
                cases[range.clone()].iter_mut().for_each(|case| case.pairs += 1);
                answers[t].push(range.clone());
                continue;
            }
            let first = cases.len();
            ask_pair(cluster, source, target, ask, &mut cases);
            cases[first..].iter_mut().for_each(|case| untold |= case.tell_nearest(misses));
            answers[t].push(first..cases.len());
            known.insert(like, first..cases.len());
        }
    }
    if cases.is_empty() {
        let outside = [src, dst].iter().all(|peer| matches!(peer, Peer::Outside { .. }));
        let (src, dst) = (src.to_string(), dst.to_string());
        if outside {
            return Err(AskError::BothOutside { src, dst });
        }
        return Err(AskError::NoFamily { src, dst, family: ask.family });
    }
    let verdict = verdict_of(&cases);
    let passes = passes_of(&cases);
    for (i, translation) in translations.iter_mut().enumerate() {
        translation.verdict = verdict_of(cases.iter().filter(|c| c.translation == Some(i)));
        // Targets were made in the order of the backends.
        let own = targets.iter().zip(&answers).filter(|(t, _)| t.translation == Some(i));
        for ((_, _, verdict), (_, ranges)) in translation.backends.iter_mut().zip(own) {
            *verdict = verdict_of(ranges.iter().flat_map(|range| &cases[range.clone()]));
        }
    }
    let cases = merge(cases);
    let mut notes = notes(src, dst, ask);
    if untold {
        notes.push(format!(
            "of the rules that do not match, each case tells of the {misses} that lack least"
        ));
    }
    let deciding = cases.iter().position(|case| case.verdict == verdict).unwrap_or(0);
    Ok(Answer {
        src: src.clone(),
        dst: dst.clone(),
        ask: ask.clone(),
        verdict,
        passes,
        cases,
        deciding,
        translations,
        notes,
    })
}

fn ask_pair<'a>(
    cluster: &Cluster,
    src: &End<'a>,
    target: &Target<'a>,
    ask: &Ask,
    cases: &mut Vec<Case<'a>>,
) {
    for flow in Flow::between(src.party(), target.end.party()) {
        if ask.family.is_some_and(|family| family != flow.family) {
            continue;
        }
        let evaluation = evaluate(cluster, &flow);
        for question in &target.questions {
            let question = match question {
                Question::Port(Protocol::ICMP, port) if flow.family == Family::V6 => {
                    Question::Port(Protocol::ICMPV6, *port)
                }
                other => *other,
            };
            cases.push(Case {
                src: src.clone(),
                dst: target.end.clone(),
                family: flow.family,
                question,
                translation: target.translation,
                pairs: 1,
                verdict: evaluation.answer(question),
                egress: evaluation.egress.explain(question),
                ingress: evaluation.ingress.explain(question),
                evaluation: evaluation.clone(),
            });
        }
    }
}

fn notes(src: &Peer<'_>, dst: &Peer<'_>, ask: &Ask) -> Vec<String> {
    let mut notes = Vec::new();
    if let Peer::Service(service) = dst {
        notes.extend(targets::headless_note(service, ask));
    }
    if let (Peer::Outside { .. }, Peer::Service(service)) = (src, dst) {
        match service.exposure {
            Exposure::Cluster => notes.push(format!(
                "Service {} is not exposed outside (type ClusterIP): the answer is about policies \
                 only",
                service.name
            )),
            Exposure::Node { local: false } => notes.push(
                "externalTrafficPolicy is Cluster: a client that asks another node than the pod's \
                 own comes with that node's address, and no ipBlock of clients matches that"
                    .to_owned(),
            ),
            Exposure::Node { local: true } => {}
        }
    }
    for peer in [src, dst] {
        if let Peer::Workload(workload) = peer
            && workload.template
        {
            notes.push(format!("{peer} has no pods now: the answer is for its template"));
        }
    }
    notes
}
