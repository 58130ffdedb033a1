//! Of whom is asked what?
//!
//! ```text
//!   peer ──▶ ends      Service port 80 ──targetPort http──▶ web-1 8080, web-2 9090
//!   port name ──▶ the numbers that it stands for on each destination pod
//! ```

use podwall_policy::address::IpBlock;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::Verdict;
use podwall_policy::explain::Question;
use podwall_policy::object::{Pod, Service, ServicePort, TargetPort};
use podwall_policy::port::Protocol;

use super::{Ask, End, PortAsk, Translation};
use crate::error::AskError;
use crate::outside;
use crate::peer::{Peer, backends};

/// A destination with its questions.
pub(crate) struct Target<'a> {
    pub(crate) end: End<'a>,
    pub(crate) questions: Vec<Question>,
    pub(super) translation: Option<usize>,
}

impl Target<'_> {
    /// The questions as a key: equal classes may resolve a named target port to other numbers.
    pub(super) fn numbers(&self) -> Vec<Option<(Protocol, Option<u16>)>> {
        let number = |question: &Question| match question {
            Question::Anything => None,
            Question::Port(protocol, port) => Some((*protocol, *port)),
        };
        self.questions.iter().map(number).collect()
    }
}

/// The ends of a peer that is not a Service.
pub(super) fn ends<'a>(cluster: &'a Cluster, peer: &Peer<'a>, blocks: &[IpBlock]) -> Vec<End<'a>> {
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

pub(super) fn targets<'a>(
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

pub(crate) type ServiceTargets<'a> = (Vec<Target<'a>>, Vec<Translation<'a>>);

/// A Service's pods, each with the port that it translates to.
pub(crate) fn service_targets<'a>(
    cluster: &'a Cluster,
    service: &'a Service,
    ask: &Ask,
) -> Result<ServiceTargets<'a>, AskError> {
    let nowhere = |why: String| Err(AskError::NoBackends { service: service.name.clone(), why });
    if is_external_name(service) {
        return nowhere(
            "it is of type ExternalName, a name in DNS for a host elsewhere: it leads to no pods, and \
             its ports are that host's"
                .to_owned(),
        );
    }
    // Nobody translates what is sent to a headless Service: the port is the pods' own.
    let own = own_question(service, ask);
    let asked = if own.is_some() { Vec::new() } else { asked_ports(service, ask)? };
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
    if let Some(question) = own {
        let target =
            |pod| Target { end: End::Pod(pod), questions: vec![question], translation: None };
        return Ok((pods.into_iter().map(target).collect(), Vec::new()));
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

/// Whether a Service is of type ExternalName: all others need ports, but headless ones.
fn is_external_name(service: &Service) -> bool {
    !service.headless && service.selector.is_none() && service.ports.is_empty()
}

/// What is asked of the pods themselves: a headless Service is a name in DNS for their addresses, and
/// whoever connects says a port of theirs. Without a number its targetPorts say where they listen.
fn own_question(service: &Service, ask: &Ask) -> Option<Question> {
    match &ask.port {
        _ if !service.headless => None,
        Some(PortAsk::Number(port)) => {
            Some(Question::Port(ask.protocol.unwrap_or(Protocol::TCP), Some(*port)))
        }
        None if service.ports.is_empty() => {
            Some(ask.protocol.map_or(Question::Anything, |protocol| Question::Port(protocol, None)))
        }
        _ => None,
    }
}

/// What a reader should know of a question about a headless Service.
pub(super) fn headless_note(service: &Service, ask: &Ask) -> Option<String> {
    if !service.headless {
        return None;
    }
    let note = format!(
        "Service {} is headless and translates no port: clients get its pods' addresses",
        service.name
    );
    Some(match &ask.port {
        Some(PortAsk::Number(number)) => {
            let protocol = ask.protocol.unwrap_or(Protocol::TCP);
            let mut stated = service.ports.iter().filter(|port| {
                port.protocol == protocol
                    && port.port == *number
                    && port.target != TargetPort::Number(*number)
            });
            let target = stated.next().map(|port| match &port.target {
                TargetPort::Number(target) => format!("--port {target}"),
                TargetPort::Name(name) => format!("the number of their port {name}"),
            });
            match target {
                Some(target) => format!(
                    "{note}, so {protocol} {number} is asked of the pods themselves, though \
                     targetPort is another; ask for {target} if that is where they listen"
                ),
                None => format!("{note}, so {protocol} {number} is the pods' own port"),
            }
        }
        _ if service.ports.is_empty() => note,
        _ => format!("{note} and connect to the port that they name; asked is its targetPort"),
    })
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
