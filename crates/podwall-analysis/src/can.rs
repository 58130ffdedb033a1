//! Can this peer reach that one?
//!
//! ```text
//!   peer ──▶ ends: pods, a node, classes of addresses      cases = ends × ends × families
//!   Service port ──▶ target port on each pod behind it
//!
//!   verdict   worst of pods and families (all must pass), best of ports and of addresses outside
//! ```
//!
//! A workload or a Service can be reached if each of its pods can, over each family that both ends
//! speak; the internet, if any of its addresses can; a Service asked without a port, if any of its
//! ports can. The cases say which did and which did not.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use podwall_policy::address::{AddressSet, Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Evaluation, Verdict, evaluate};
use podwall_policy::explain::{Question, SideExplanation};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::{Exposure, Node, Pod, Service, ServicePort, TargetPort};
use podwall_policy::port::{PortRange, PortSet, Protocol};

use crate::combine::{best, worst};
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
    /// How the ports of a Service were translated; empty for other destinations.
    pub translations: Vec<Translation<'a>>,
    /// What a reader should know about how the answer was found, in sentences.
    pub notes: Vec<String>,
}

impl<'a> Answer<'a> {
    /// The case that speaks for the verdict.
    pub fn decisive(&self) -> Option<&Case<'a>> {
        self.cases.get(self.deciding)
    }

    /// The verdict over one address family; `None` if the ends have it not in common.
    pub fn family_verdict(&self, family: Family) -> Option<Verdict> {
        let cases = || self.cases.iter().filter(|case| case.family == family);
        cases().next().map(|_| verdict_of(cases()))
    }

    /// The addresses outside with a verdict, over all pods and ports by the rule in the module's
    /// head; empty where neither end is outside.
    pub fn outside(&self, verdict: Verdict) -> AddressSet {
        let mut ports: BTreeMap<Option<usize>, Vec<&Case<'_>>> = BTreeMap::new();
        for case in &self.cases {
            ports.entry(case.translation).or_default().push(case);
        }
        let mut sets: BTreeMap<Verdict, AddressSet> = BTreeMap::new();
        let union = |sets: &mut BTreeMap<Verdict, AddressSet>, verdict, set: &AddressSet| {
            let all = sets.entry(verdict).or_default();
            *all = all.union(set);
        };
        for cases in ports.values() {
            let of = |verdict| {
                let own = cases.iter().filter(|case| case.verdict == verdict);
                own.filter_map(|case| case.outside())
                    .fold(AddressSet::empty(), |all, set| all.union(set))
            };
            let (allowed, unknown, denied) =
                (of(Verdict::Allowed), of(Verdict::Unknown), of(Verdict::Denied));
            // Of several pods the worst counts.
            let unknown = unknown.difference(&denied);
            let allowed = allowed.difference(&denied).difference(&unknown);
            union(&mut sets, Verdict::Allowed, &allowed);
            union(&mut sets, Verdict::Unknown, &unknown);
            union(&mut sets, Verdict::Denied, &denied);
        }
        let of = |verdict| sets.get(&verdict).cloned().unwrap_or_default();
        // Of several ports the best counts.
        match verdict {
            Verdict::Allowed => of(Verdict::Allowed),
            Verdict::Unknown => of(Verdict::Unknown).difference(&of(Verdict::Allowed)),
            Verdict::Denied => of(Verdict::Denied)
                .difference(&of(Verdict::Allowed))
                .difference(&of(Verdict::Unknown)),
        }
    }

    /// Cases of which a reader would be told the same, those with the answer's verdict first.
    pub fn groups(&self) -> Vec<Vec<&Case<'a>>> {
        let mut groups: Vec<Vec<&Case<'a>>> = Vec::new();
        for case in &self.cases {
            match groups.iter_mut().find(|group| group[0].looks_like(case)) {
                Some(group) => group.push(case),
                None => groups.push(vec![case]),
            }
        }
        groups.sort_by_key(|group| group[0].verdict != self.verdict); // stable
        groups
    }
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

/// What of an end the evaluator can tell apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum EndClass<'a> {
    Pod(Key<'a>),
    Node(&'a str),
    Outside(IpAddr),
}

/// A destination with its questions.
struct Target<'a> {
    end: End<'a>,
    questions: Vec<Question>,
    translation: Option<usize>,
}

impl Target<'_> {
    /// The questions as a key: equal classes may resolve a named target port to other numbers.
    fn numbers(&self) -> Vec<Option<(Protocol, Option<u16>)>> {
        let number = |question: &Question| match question {
            Question::Anything => None,
            Question::Port(protocol, port) => Some((*protocol, *port)),
        };
        self.questions.iter().map(number).collect()
    }
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
    let blocks = match (src, dst) {
        // Between two addresses outside no policy has a say, so no block tells them apart.
        (Peer::Outside { .. }, Peer::Outside { .. }) => Vec::new(),
        _ => outside::blocks(cluster),
    };
    let keys = Keys::new(cluster, blocks.clone());
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
            answers[t].push(first..cases.len());
            known.insert(like, first..cases.len());
        }
    }
    if cases.is_empty() {
        let (src, dst) = (src.to_string(), dst.to_string());
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
        notes: notes(src, dst),
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

/// The ends of a peer that is not a Service.
fn ends<'a>(cluster: &'a Cluster, peer: &Peer<'a>, blocks: &[IpBlock]) -> Vec<End<'a>> {
    match peer {
        Peer::Node(node) => vec![End::Node(node)],
        Peer::Outside { addresses, .. } => {
            let taken = outside::taken(cluster);
            let classes = outside::classes_within(blocks, addresses, &taken);
            classes.into_iter().map(End::Outside).collect()
        }
        _ => peer.pods(cluster).into_iter().map(End::Pod).collect(),
    }
}

fn targets<'a>(
    cluster: &'a Cluster,
    dst: &Peer<'a>,
    ask: &Ask,
    blocks: &[IpBlock],
) -> Result<Vec<Target<'a>>, AskError> {
    let question = match &ask.port {
        None => ask.protocol.map_or(Question::Anything, |p| Question::Port(p, None)),
        Some(PortAsk::Number(n)) => Question::Port(ask.protocol.unwrap_or(Protocol::TCP), Some(*n)),
        Some(PortAsk::Name(name)) => return named_targets(cluster, dst, ask, name),
    };
    let target = |end| Target { end, questions: vec![question], translation: None };
    Ok(ends(cluster, dst, blocks).into_iter().map(target).collect())
}

/// Targets for a container port's name: the pods that have it, each with its own numbers.
fn named_targets<'a>(
    cluster: &'a Cluster,
    dst: &Peer<'a>,
    ask: &Ask,
    name: &str,
) -> Result<Vec<Target<'a>>, AskError> {
    let pods = dst.pods(cluster);
    let numbers = |pod: &'a Pod| -> Vec<Question> {
        let protocols = ask.protocol.map_or(Protocol::WITH_PORTS.to_vec(), |p| vec![p]);
        // TCP first: a name that stands for several protocols means TCP unless one is asked for.
        protocols
            .into_iter()
            .map(|protocol| {
                pod.named_port(name, protocol)
                    .map(|port| Question::Port(protocol, Some(port)))
                    .collect::<Vec<_>>()
            })
            .find(|questions| !questions.is_empty())
            .unwrap_or_default()
    };
    let targets: Vec<Target<'a>> = pods
        .iter()
        .map(|pod| Target { end: End::Pod(pod), questions: numbers(pod), translation: None })
        .filter(|target| !target.questions.is_empty())
        .collect();
    if !targets.is_empty() {
        return Ok(targets);
    }
    let mut has: Vec<String> = pods
        .iter()
        .flat_map(|pod| &pod.ports)
        .filter_map(|p| Some(format!("{} ({} {})", p.name.as_ref()?, p.protocol, p.number)))
        .collect();
    has.sort();
    has.dedup();
    Err(AskError::NoNamedPort {
        destination: dst.to_string(),
        name: name.to_owned(),
        of: ask.protocol.map_or_else(String::new, |protocol| format!(" for {protocol}")),
        has,
    })
}

/// "TCP 80 (http)".
pub fn service_port(port: &ServicePort) -> String {
    let name = port.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    format!("{} {}{name}", port.protocol, port.port)
}

type ServiceTargets<'a> = (Vec<Target<'a>>, Vec<Translation<'a>>);

/// A Service's pods, each with the port that it translates to.
fn service_targets<'a>(
    cluster: &'a Cluster,
    service: &'a Service,
    ask: &Ask,
) -> Result<ServiceTargets<'a>, AskError> {
    let nowhere = |why: String| Err(AskError::NoBackends { service: service.name.clone(), why });
    let asked: Vec<&ServicePort> = asked_ports(service, ask)?;
    let pods = backends(cluster, service);
    if pods.is_empty() {
        return match &service.selector {
            None => nowhere("it has no selector, its endpoints are kept by hand".to_owned()),
            Some(selector) => nowhere(format!(
                "no running pod in namespace {} has the labels {selector}",
                service.name.namespace
            )),
        };
    }
    let mut targets = Vec::new();
    let mut translations = Vec::new();
    for port in asked {
        let index = translations.len();
        let mut translation = Translation {
            port,
            verdict: Verdict::Unknown,
            backends: Vec::new(),
            without: Vec::new(),
        };
        for pod in &pods {
            let number = match &port.target {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(name) => pod.named_port(name, port.protocol).next(),
            };
            let Some(number) = number else {
                translation.without.push(pod);
                continue;
            };
            translation.backends.push((pod, number, Verdict::Unknown));
            targets.push(Target {
                end: End::Pod(pod),
                questions: vec![Question::Port(port.protocol, Some(number))],
                translation: Some(index),
            });
        }
        if !translation.backends.is_empty() {
            translations.push(translation);
        }
    }
    if targets.is_empty() {
        return nowhere(
            "none of its pods has a container port with the name that targetPort gives".to_owned(),
        );
    }
    Ok((targets, translations))
}

fn asked_ports<'a>(service: &'a Service, ask: &Ask) -> Result<Vec<&'a ServicePort>, AskError> {
    // Only a number needs the default: without a port all are meant, and a name says its protocol.
    let protocol = match &ask.port {
        Some(PortAsk::Number(_)) => Some(ask.protocol.unwrap_or(Protocol::TCP)),
        _ => ask.protocol,
    };
    let ports: Vec<&ServicePort> = service
        .ports
        .iter()
        .filter(|port| protocol.is_none_or(|protocol| port.protocol == protocol))
        .filter(|port| match &ask.port {
            None => true,
            Some(PortAsk::Number(number)) => port.port == *number,
            Some(PortAsk::Name(name)) => port.name.as_deref() == Some(&**name),
        })
        .collect();
    if ports.is_empty() {
        let asked = [protocol.map(|p| p.to_string()), ask.port.as_ref().map(ToString::to_string)];
        return Err(AskError::NoServicePort {
            service: service.name.clone(),
            asked: asked.into_iter().flatten().collect::<Vec<_>>().join(" "),
            has: service.ports.iter().map(service_port).collect(),
        });
    }
    Ok(ports)
}

/// What a pair of ends comes to when looked at alone: the name of a pod, or nothing for addresses,
/// which are alternatives to each other.
type PairKey = (Option<usize>, String, String);

fn pair_key(case: &Case<'_>) -> PairKey {
    let of = |end: &End<'_>| match end {
        End::Outside(_) => String::new(),
        other => other.to_string(),
    };
    (case.translation, of(&case.src), of(&case.dst))
}

fn is_outside(case: &Case<'_>) -> bool {
    [&case.src, &case.dst].iter().any(|end| matches!(end, End::Outside(_)))
}

/// The verdict of several cases, by the rule in the module's head.
fn verdict_of<'c, 'a: 'c>(cases: impl IntoIterator<Item = &'c Case<'a>>) -> Verdict {
    let mut pairs: BTreeMap<PairKey, Vec<&Case<'_>>> = BTreeMap::new();
    for case in cases {
        pairs.entry(pair_key(case)).or_default().push(case);
    }
    let mut ports: BTreeMap<Option<usize>, Vec<Verdict>> = BTreeMap::new();
    for ((translation, ..), cases) in pairs {
        let verdicts = cases.iter().map(|case| case.verdict);
        let verdict = if cases.iter().any(|case| is_outside(case)) {
            best(verdicts)
        } else {
            worst(verdicts)
        };
        ports.entry(translation).or_default().push(verdict);
    }
    best(ports.into_values().map(worst))
}

/// Everything that a question asks for.
fn asked(question: Question) -> PortSet {
    match question {
        Question::Anything => PortSet::everything(),
        Question::Port(protocol, port) => {
            PortSet::range(protocol, port.map_or(PortRange::ALL, PortRange::one))
        }
    }
}

/// What passes, by the same rule.
fn passes_of(cases: &[Case<'_>]) -> PortSet {
    let mut pairs: BTreeMap<PairKey, PortSet> = BTreeMap::new();
    for case in cases {
        let passes = case.passes();
        pairs
            .entry(pair_key(case))
            .and_modify(|set| {
                *set =
                    if is_outside(case) { set.union(&passes) } else { set.intersection(&passes) };
            })
            .or_insert(passes);
    }
    let mut ports: BTreeMap<Option<usize>, PortSet> = BTreeMap::new();
    for ((translation, ..), set) in pairs {
        ports.entry(translation).and_modify(|all| *all = all.intersection(&set)).or_insert(set);
    }
    ports.into_values().fold(PortSet::empty(), |all, set| all.union(&set))
}

/// Puts classes of addresses together where a reader would see no difference.
fn merge(cases: Vec<Case<'_>>) -> Vec<Case<'_>> {
    let mut out: Vec<Case<'_>> = Vec::new();
    for case in cases {
        if !is_outside(&case) {
            out.push(case);
            continue;
        }
        match out.iter_mut().find(|other| {
            is_outside(other)
                && other.family == case.family
                && other.question == case.question
                && pair_key(other) == pair_key(&case)
                && other.looks_like(&case)
        }) {
            None => out.push(case),
            Some(other) => {
                for (into, from) in [(&mut other.src, case.src), (&mut other.dst, case.dst)] {
                    if let (End::Outside(into), End::Outside(from)) = (into, from) {
                        into.addresses = into.addresses.union(&from.addresses);
                    }
                }
            }
        }
    }
    out
}

impl Case<'_> {
    /// What passes, within what was asked.
    pub fn passes(&self) -> PortSet {
        self.evaluation.allowed().intersection(&asked(self.question))
    }

    /// The addresses of the end that is outside; of the source, if both are.
    pub fn outside(&self) -> Option<&AddressSet> {
        [&self.src, &self.dst].into_iter().find_map(|end| match end {
            End::Outside(class) => Some(&class.addresses),
            _ => None,
        })
    }

    /// Whether a reader would be told the same of both: the same verdict by the same rules, and the
    /// same kinds of near misses.
    pub fn looks_like(&self, other: &Self) -> bool {
        self.verdict == other.verdict
            && self.translation == other.translation
            && self.evaluation.allowed() == other.evaluation.allowed()
            && self.evaluation.egress.exempt == other.evaluation.egress.exempt
            && self.evaluation.ingress.exempt == other.evaluation.ingress.exempt
            && shape(&self.egress) == shape(&other.egress)
            && shape(&self.ingress) == shape(&other.ingress)
    }
}

/// What a reader sees of one side, but for the names in reasons.
fn shape(side: &SideExplanation) -> impl PartialEq + '_ {
    let misses: Vec<_> = side
        .near_misses
        .iter()
        .map(|miss| {
            let kinds: Vec<_> = miss.reasons.iter().map(std::mem::discriminant).collect();
            (&miss.rule, kinds)
        })
        .collect();
    let undecided: Vec<_> = side.undecided.iter().map(|(rule, _)| rule).collect();
    (side.verdict, &side.allowed_by, &side.denied_by, undecided, misses)
}

fn notes(src: &Peer<'_>, dst: &Peer<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Peer::Outside { .. }, Peer::Service(service)) = (src, dst) {
        match service.exposure {
            Exposure::Cluster => notes.push(format!(
                "Service {} is not exposed outside (type ClusterIP): the answer is about policies \
                 only",
                service.name
            )),
            Exposure::Node { local: false } => notes.push(
                "externalTrafficPolicy is Cluster: the pod may see a node's address instead of \
                 the client's, and no ipBlock of clients matches that"
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::resolve;
    use podwall_policy::label::Labels;
    use podwall_policy::object::Name;
    use podwall_policy::policy::{Peer as RulePeer, Policy, Rule};
    use podwall_policy::port::{ContainerPort, PortMatch, PortSpec};
    use podwall_policy::selector::Selector;

    /// `client`, and `web-1` and `web-2` that call their port http and listen on 8080 and 9090,
    /// behind Service `web`.
    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        cluster.put_pod(Pod::new("default", "client", Labels::default()));
        for (name, number) in [("web-1", 8080), ("web-2", 9090)] {
            let labels = [("app", "web"), ("pod", name)].into_iter().collect();
            let mut pod = Pod::new("default", name, labels);
            let name = Some("http".into());
            pod.ports.push(ContainerPort { name, number, protocol: Protocol::TCP });
            cluster.put_pod(pod);
        }
        let port = |port, target| ServicePort {
            name: None,
            protocol: Protocol::TCP,
            port,
            target,
            node_port: None,
        };
        cluster.put_service(Service {
            name: Name::new("default", "web"),
            selector: Some([("app", "web")].into_iter().collect()),
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            headless: false,
            exposure: Exposure::Cluster,
            ports: vec![port(80, TargetPort::Name("http".into())), port(81, TargetPort::Number(7))],
            source: None,
        });
        cluster
    }

    fn shut(cluster: &mut Cluster, pod: &str, but: &[u16]) {
        let mut policy = Policy::network_policy("default", pod, Selector::labels([("pod", pod)]));
        let ports = but.iter().map(|port| PortSpec {
            protocol: Protocol::TCP,
            port: PortMatch::Range(PortRange::one(*port)),
        });
        policy.ingress = Some(ports.map(|port| Rule::allow(Vec::new(), vec![port])).collect());
        cluster.put_policy(policy);
    }

    fn ask(cluster: &Cluster, src: &str, dst: &str, port: Option<PortAsk>) -> Verdict {
        let src = resolve(cluster, src, "default").unwrap();
        let dst = resolve(cluster, dst, "default").unwrap();
        can(cluster, &src, &dst, &Ask { port, ..Ask::default() }).unwrap().verdict
    }

    #[test]
    fn a_service_port_is_translated_on_each_pod() {
        let mut cluster = cluster();
        shut(&mut cluster, "web-1", &[8080]);
        shut(&mut cluster, "web-2", &[9090]);
        let (src, dst) =
            (resolve(&cluster, "client", "default"), resolve(&cluster, "10.96.0.1", ""));
        let port = Some(PortAsk::Number(80));
        let answer =
            can(&cluster, &src.unwrap(), &dst.unwrap(), &Ask { port, ..Ask::default() }).unwrap();
        let backends: Vec<_> = answer.translations[0]
            .backends
            .iter()
            .map(|(pod, port, verdict)| (&*pod.name.name, *port, *verdict))
            .collect();
        let allowed = Verdict::Allowed;
        assert_eq!(backends, [("web-1", 8080, allowed), ("web-2", 9090, allowed)]);
        assert_eq!(answer.verdict, allowed);
        assert_eq!(answer.passes.to_string(), "nothing", "no port is open on both pods");
    }

    #[test]
    fn one_pod_that_is_shut_closes_the_service() {
        let mut cluster = cluster();
        shut(&mut cluster, "web-2", &[]);
        let port = |number| Some(PortAsk::Number(number));
        assert_eq!(ask(&cluster, "client", "svc/web", port(80)), Verdict::Denied);
        assert_eq!(ask(&cluster, "client", "web-1", port(8080)), Verdict::Allowed);
    }

    #[test]
    fn without_a_port_one_open_port_of_a_service_is_enough() {
        let mut cluster = cluster();
        for pod in ["web-1", "web-2"] {
            shut(&mut cluster, pod, &[7]);
        }
        assert_eq!(ask(&cluster, "client", "svc/web", None), Verdict::Allowed);
        assert_eq!(ask(&cluster, "client", "svc/web", Some(PortAsk::Number(80))), Verdict::Denied);
        let name = Some(PortAsk::Name("http".into()));
        assert_eq!(ask(&cluster, "client", "web-1", name), Verdict::Denied);
    }

    #[test]
    fn the_internet_is_reached_if_any_address_of_it_is() {
        let mut cluster = cluster();
        let mut policy = Policy::network_policy("default", "out", Selector::everything());
        let block =
            IpBlock::new("192.0.2.0/24".parse().unwrap(), ["192.0.2.128/25".parse().unwrap()]);
        policy.egress = Some(vec![Rule::allow(vec![RulePeer::Block(block)], Vec::new())]);
        cluster.put_policy(policy);
        let (src, dst) =
            (resolve(&cluster, "client", "default"), resolve(&cluster, "internet", ""));
        let answer = can(&cluster, &src.unwrap(), &dst.unwrap(), &Ask::default()).unwrap();
        assert_eq!(answer.verdict, Verdict::Allowed);
        assert_eq!(outside::cidrs(&answer.outside(Verdict::Allowed)), ["192.0.2.0/25"]);
        let denied = answer.outside(Verdict::Denied);
        assert!(denied.contains("192.0.2.200".parse().unwrap()));
        assert!(denied.contains("2001:db8::1".parse().unwrap()));
        assert_eq!(ask(&cluster, "client", "192.0.2.200", None), Verdict::Denied);
    }

    #[test]
    fn questions_without_an_answer_are_refused_in_words() {
        let cluster = cluster();
        let error = |src: &str, dst: &str, ask: Ask| {
            let src = resolve(&cluster, src, "default").unwrap();
            let dst = resolve(&cluster, dst, "default").unwrap();
            can(&cluster, &src, &dst, &ask).unwrap_err().to_string()
        };
        let port = |port| Ask { port: Some(port), ..Ask::default() };
        let icmp = Ask { protocol: Some(Protocol::ICMP), ..port(PortAsk::Number(1)) };
        assert_eq!(error("client", "web-1", icmp), "ICMP has no ports");
        assert_eq!(
            error("client", "web-1", port(PortAsk::Name("htpp".into()))),
            "default/web-1 has no port named \"htpp\""
        );
        assert_eq!(
            error("client", "svc/web", port(PortAsk::Number(443))),
            "Service default/web has no port TCP 443"
        );
        assert!(error("svc/web", "client", Ask::default()).contains("opens no connections"));
        let v6 = Ask { family: Some(Family::V6), ..Ask::default() };
        assert!(error("client", "192.0.2.1", v6).contains("no IPv6 address in common"));
    }

    #[test]
    fn alike_pods_are_asked_once_and_counted() {
        let mut cluster = cluster();
        for i in 0..50 {
            let mut pod = Pod::new("default", format!("r-{i}"), Labels::default());
            let name = "r".into();
            pod.owner = Some(podwall_policy::object::Owner { kind: "ReplicaSet".into(), name });
            cluster.put_pod(pod);
        }
        let src = resolve(&cluster, "rs/r", "default").unwrap();
        let dst = resolve(&cluster, "web-1", "default").unwrap();
        let answer = can(&cluster, &src, &dst, &Ask::default()).unwrap();
        assert_eq!(answer.cases.iter().map(|case| case.pairs).collect::<Vec<_>>(), [50]);
    }
}
