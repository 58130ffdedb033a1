//! Who is meant by a peer of an assertion, and what by its ports?
//!
//! ```text
//!   PeerSpec ──▶ Group: pods, nodes, classes of addresses        Ports ──▶ a set, for each destination
//! ```
//!
//! A group is never empty: an assertion about nobody would hold whatever the policies say.

use rustc_hash::FxHashSet;
use std::net::IpAddr;

use podwall_manifest::assertions::{PeerKind, PeerSpec, Ports};
use podwall_policy::address::AddressSet;
use podwall_policy::explain::Question;
use podwall_policy::matching::{Match, selects};
use podwall_policy::object::{Name, Service};
use podwall_policy::port::{PortMatch, PortRange, PortSet, PortSpec, Protocol};
use podwall_policy::reason::MissingFact;

use super::ask::Asker;
use crate::can::{Ask, End, PortAsk, service_targets};
use crate::error::AskError;
use crate::peer::{Peer, resolve};

/// Ports that a packet can have: 0 is no port.
const REAL: PortRange = PortRange { first: 1, last: u16::MAX };

/// Every protocol and real port.
pub(super) fn every_port() -> PortSet {
    let with_ports = Protocol::WITH_PORTS.iter().map(|protocol| PortSet::range(*protocol, REAL));
    with_ports.fold(PortSet::range(Protocol::ICMP, REAL), |all, one| all.union(&one))
}

/// Somebody, found.
#[derive(Clone, Debug)]
pub(super) struct Group<'a> {
    /// As the file says it.
    pub(super) label: String,
    /// Never empty.
    pub(super) ends: Vec<End<'a>>,
    /// The names of the pods and nodes among the ends; a node's has no namespace.
    names: FxHashSet<Name>,
    /// The Service, if it is one: ports are its own.
    pub(super) service: Option<&'a Service>,
    /// The addresses outside among the ends.
    pub(super) addresses: AddressSet,
    /// The addresses of which an allow must let each pass, if not all.
    pub(super) public: bool,
    /// Everybody: a pod's own node is let in whatever policies say.
    pub(super) tolerant: bool,
}

/// Why nobody could be found, or not whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoGroup {
    /// A name that there is not, or a selection of nobody.
    Wrong { why: String, hint: Option<String> },
    /// It depends on facts.
    Unknown(Vec<MissingFact>),
}

impl From<AskError> for NoGroup {
    fn from(error: AskError) -> Self {
        Self::Wrong { why: error.to_string(), hint: error.hint() }
    }
}

/// Finds whom a peer means.
pub(super) fn group<'a>(
    asker: &Asker<'a>,
    spec: &PeerSpec,
    namespace: &str,
) -> Result<Group<'a>, NoGroup> {
    let mut group = Group {
        label: spec.to_string(),
        ends: Vec::new(),
        names: FxHashSet::default(),
        service: None,
        addresses: AddressSet::empty(),
        public: false,
        tolerant: false,
    };
    match &spec.kind {
        PeerKind::Named(text) => match resolve(asker.cluster, text, namespace)? {
            Peer::Node(node) => group.ends.push(End::Node(node)),
            Peer::Outside { addresses, .. } => {
                group.public = text.eq_ignore_ascii_case("internet");
                group.addresses = addresses;
            }
            peer => {
                group.label = peer.to_string();
                group.ends.extend(peer.pods(asker.cluster).into_iter().map(End::Pod));
                if let Peer::Service(service) = peer {
                    group.service = Some(service);
                    // Says why, if there is nobody behind it.
                    service_targets(asker.cluster, service, &Ask::default())?;
                }
            }
        },
        PeerKind::Pods(scope) => {
            let mut facts = Vec::new();
            for pod in asker.pods() {
                match selects(asker.cluster, scope, pod) {
                    Match::Yes => group.ends.push(End::Pod(pod)),
                    Match::Unknown(more) => facts.extend(more),
                    Match::No(_) => {}
                }
            }
            if !facts.is_empty() {
                facts.sort();
                facts.dedup();
                return Err(NoGroup::Unknown(facts));
            }
            if group.ends.is_empty() {
                return Err(NoGroup::Wrong {
                    why: format!("{spec} are none: no running pod is selected"),
                    hint: Some("an assertion about nobody would hold whatever policies say".into()),
                });
            }
        }
        PeerKind::Block(block) => group.addresses = block.ranges(),
        PeerKind::Anybody => {
            group.ends.extend(asker.pods().map(End::Pod));
            group.ends.extend(asker.cluster.nodes.values().map(End::Node));
            group.addresses = AddressSet::everything();
            group.tolerant = true;
        }
    }
    group.names = group.ends.iter().filter_map(name).collect();
    group.ends.extend(asker.outside(&group.addresses));
    if group.ends.is_empty() {
        return Err(NoGroup::Wrong {
            why: format!("{spec} is no address outside: pods and nodes have all of it"),
            hint: Some("name the pods instead".into()),
        });
    }
    Ok(group)
}

impl Group<'_> {
    /// Whether the end is one of the group, by name or by an address: a block means everybody in it,
    /// the internet no pod.
    pub(super) fn has(&self, end: &End<'_>) -> bool {
        let within = |all: &[IpAddr]| all.iter().any(|ip| self.addresses.contains(*ip));
        match end {
            End::Outside(class) => class.addresses.is_within(&self.addresses),
            End::Pod(pod) => self.names.contains(&pod.name) || (!self.public && within(&pod.ips)),
            End::Node(node) => {
                name(end).is_some_and(|name| self.names.contains(&name)) || within(&node.addresses)
            }
        }
    }
}

fn name(end: &End<'_>) -> Option<Name> {
    match end {
        End::Pod(pod) => Some(pod.name.clone()),
        End::Node(node) => Some(Name::new("", node.name.clone())),
        End::Outside(_) => None,
    }
}

/// Ports as a set, and whether one of them is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) ports: PortSet,
    pub(super) any: bool,
}

/// What ports mean at a destination.
pub(super) fn wanted<'a>(
    asker: &Asker<'a>,
    ports: &Ports,
    dst: &End<'a>,
    service: Option<&'a Service>,
) -> Result<Wanted, NoGroup> {
    let any = *ports == Ports::Any;
    let set = match (ports, service, dst) {
        (_, Some(service), End::Pod(pod)) => {
            let mut set = PortSet::empty();
            let mut asks: Vec<Ask> = Vec::new();
            match ports {
                Ports::These(specs) => {
                    for spec in specs {
                        match &spec.port {
                            // Nothing is translated, so that the ports need not be the Service's.
                            PortMatch::Range(range) if service.headless => {
                                set = set.union(&PortSet::range(spec.protocol, *range));
                            }
                            _ => asks.extend(self::asks(spec, service)),
                        }
                    }
                }
                _ => asks.push(Ask::default()),
            }
            for ask in asks {
                for target in service_targets(asker.cluster, service, &ask)?.0 {
                    let own = matches!(&target.end, End::Pod(own) if own.name == pod.name);
                    for question in target.questions.iter().filter(|_| own) {
                        set = set.union(&match question {
                            Question::Port(protocol, Some(port)) => {
                                PortSet::range(*protocol, PortRange::one(*port))
                            }
                            // A headless Service need not say any port.
                            Question::Port(protocol, None) => {
                                PortSet::range(*protocol, PortRange::ALL)
                            }
                            Question::Anything => PortSet::everything(),
                        });
                    }
                }
            }
            set
        }
        (Ports::These(specs), _, dst) => {
            let mut set = PortSet::empty();
            for spec in specs {
                set = set.union(&one(spec, dst)?);
            }
            set
        }
        _ => every_port(),
    };
    Ok(Wanted { ports: set, any })
}

/// The questions that ports of a Service come to.
fn asks(spec: &PortSpec, service: &Service) -> Vec<Ask> {
    let ask = |port| Ask { port, protocol: Some(spec.protocol), family: None };
    match &spec.port {
        PortMatch::Any => vec![ask(None)],
        PortMatch::Named(name) => {
            vec![Ask { protocol: None, ..ask(Some(PortAsk::Name(name.to_string()))) }]
        }
        PortMatch::Range(range) if range.first == range.last => {
            vec![ask(Some(PortAsk::Number(range.first)))]
        }
        PortMatch::Range(range) => service
            .ports
            .iter()
            .filter(|port| port.protocol == spec.protocol && range.contains(port.port))
            .map(|port| ask(Some(PortAsk::Number(port.port))))
            .collect(),
    }
}

fn one(spec: &PortSpec, dst: &End<'_>) -> Result<PortSet, NoGroup> {
    match (&spec.port, dst) {
        (PortMatch::Any, _) => Ok(PortSet::range(spec.protocol, REAL)),
        (PortMatch::Range(range), _) => Ok(PortSet::range(spec.protocol, *range)),
        (PortMatch::Named(name), End::Pod(pod)) => {
            let numbers = pod.named_port(name, spec.protocol);
            let set = numbers
                .map(|number| PortSet::range(spec.protocol, PortRange::one(number)))
                .fold(PortSet::empty(), |all, one| all.union(&one));
            if set.is_empty() {
                let why = format!("{dst} has no {} port named \"{name}\"", spec.protocol);
                let hint = Some("ask with a number, or name the container's port".to_owned());
                return Err(NoGroup::Wrong { why, hint });
            }
            Ok(set)
        }
        (PortMatch::Named(name), _) => Err(NoGroup::Wrong {
            why: format!("the port name \"{name}\" means nothing on {dst}"),
            hint: Some("names are looked up in a pod's container ports; ask with a number".into()),
        }),
    }
}
