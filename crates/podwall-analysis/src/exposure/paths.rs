//! Through what can the outside reach which pods, and whom do their policies see?
//!
//! ```text
//!   client ─▶ NodePort, LoadBalancer, external IP ─┬ Cluster: see `nodes` ─┐
//!                                                  └ Local: the client's   ├▶ pod : target port
//!   client ─▶ Ingress, Gateway ─▶ the controller's pod ────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podwall_policy::address::AddressSet;
use podwall_policy::cluster::Cluster;
use podwall_policy::entrance::BackendPort;
use podwall_policy::flow::Party;
use podwall_policy::object::{Exposure as Type, Name, Pod, Service, ServicePort, TargetPort};
use podwall_policy::port::{PortSet, Protocol};
use podwall_policy::source::Source;

use super::Exposed;
use super::controllers::{Controllers, Found};
pub use super::nodes::AtNodes;
use super::nodes::{asked_by_clients, asked_by_nodes, contains};
use crate::peer::backends;
use crate::reachability::Reachability;

/// A path from outside into pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Through what.
    pub via: Via,
    /// The Service behind it.
    pub service: Name,
    /// The Service's port, as it is named or numbered there.
    pub port: String,
    /// The pods' ports that it leads to, and the protocol.
    pub targets: Vec<(Protocol, u16)>,
    /// Whom the pods' policies see.
    pub seen: Seen,
    /// Whether it works.
    pub outcome: Outcome,
    /// Where what leads there stands.
    pub source: Option<Source>,
}

/// Through what a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// A port of every node; the number where it is stated.
    NodePort(Option<u16>),
    /// A load balancer, for these clients; empty: for anybody.
    LoadBalancer(Vec<ipnet::IpNet>),
    /// Addresses that are routed to the nodes.
    ExternalIps(Vec<std::net::IpAddr>),
    /// A rule of an Ingress.
    Ingress {
        /// The Ingress.
        name: Name,
        /// Host and path, as far as they are stated.
        what: String,
    },
    /// A route that is attached to a listener.
    Gateway {
        /// The Gateway.
        gateway: Name,
        /// Its listener.
        listener: Arc<str>,
        /// The listener's port.
        port: u16,
        /// The route's kind and name.
        route: (Arc<str>, Name),
        /// Its hosts.
        what: String,
    },
}

/// Whose address policies see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The client's own at the pod's own node, elsewhere the address of the node that is asked.
    Node(Box<AtNodes>),
    /// The client's own.
    Client,
    /// That of these pods.
    Controller(Vec<Name>),
    /// It cannot be known.
    Unknown,
}

/// Whether a path works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It does; from these addresses only, if it is the client's that counts.
    Open(Option<AddressSet>),
    /// Only if the client asks the pod's own node; from these addresses only, as above.
    OwnNodeOnly(Option<AddressSet>),
    /// It does not: the policies of the pods, or of the controller, are against it.
    Shut,
    /// It cannot be known, for want of these facts.
    Unknown(Vec<String>),
    /// It leads nowhere, whatever policies say.
    Broken(String),
}

/// All paths, or those through these Services: those into each workload, by its place, and those that
/// lead to none.
pub(super) fn paths(
    engine: &Reachability<'_>,
    workloads: &mut [Exposed<'_>],
    controller: &[&Pod],
    services: Option<&BTreeSet<&Name>>,
) -> Vec<Path> {
    let cluster = engine.cluster();
    let mut rows: BTreeMap<&Name, usize> = BTreeMap::new();
    for (row, workload) in workloads.iter().enumerate() {
        rows.extend(workload.pods.iter().map(|pod| (&pod.name, row)));
    }
    let mut finder = Finder {
        engine,
        cluster,
        rows: rows.into_iter().map(|(name, row)| (name.clone(), row)).collect(),
        controllers: Controllers::new(cluster, controller),
        services,
        found: Vec::new(),
        loose: Vec::new(),
    };
    for service in cluster.services.values() {
        if finder.asks_for(&service.name) {
            finder.service(service, workloads);
        }
    }
    finder.ingresses(workloads);
    finder.gateways(workloads);
    let Finder { found, loose, .. } = finder;
    for (row, path) in found {
        workloads[row].paths.push(path);
    }
    for workload in workloads {
        workload.paths.sort_by_key(|path| path.outcome.danger());
    }
    loose
}

impl Outcome {
    /// The place in the order of danger.
    pub fn danger(&self) -> u8 {
        match self {
            Self::Open(None) => 0,
            Self::Open(Some(_)) => 1,
            Self::OwnNodeOnly(_) => 2,
            Self::Unknown(_) => 3,
            Self::Shut => 4,
            Self::Broken(_) => 5,
        }
    }
}

/// A path of which all is known but where it leads.
struct Start<'s> {
    via: Via,
    service: &'s Name,
    port: String,
    source: Option<Source>,
}

struct Finder<'e> {
    engine: &'e Reachability<'e>,
    cluster: &'e Cluster,
    rows: BTreeMap<Name, usize>,
    controllers: Controllers<'e>,
    /// Only paths through these.
    services: Option<&'e BTreeSet<&'e Name>>,
    found: Vec<(usize, Path)>,
    loose: Vec<Path>,
}

impl<'e> Finder<'e> {
    fn asks_for(&self, service: &Name) -> bool {
        self.services.is_none_or(|only| only.contains(service))
    }

    /// The paths that a Service opens by itself.
    fn service(&mut self, service: &Service, workloads: &[Exposed<'_>]) {
        let external = &service.external;
        let on_nodes = matches!(service.exposure, Type::Node { .. });
        for port in &service.ports {
            let mut vias = Vec::new();
            if on_nodes {
                vias.push((Via::NodePort(port.node_port), AddressSet::everything()));
            }
            if external.load_balancer {
                let ranges = &external.source_ranges;
                let clients = ranges.iter().map(|net| (*net).into()).collect();
                let clients = if ranges.is_empty() { AddressSet::everything() } else { clients };
                vias.push((Via::LoadBalancer(ranges.clone()), clients));
            }
            if !external.ips.is_empty() {
                vias.push((Via::ExternalIps(external.ips.clone()), AddressSet::everything()));
            }
            for (via, clients) in vias {
                let start = Start {
                    via,
                    service: &service.name,
                    port: format!("{} {}", port.protocol, port.port),
                    source: service.source.clone(),
                };
                self.behind(&start, service, port, workloads, |this, workload, pods, targets| {
                    let own = asked_by_clients(workload, targets, &clients);
                    if external.local {
                        return (Seen::Client, own);
                    }
                    let others = asked_by_nodes(this.engine, workload, pods, targets);
                    let at = AtNodes { own, others };
                    let outcome = at.together();
                    (Seen::Node(Box::new(at)), outcome)
                });
            }
        }
    }

    /// Follows a path behind a Service's port: one for each workload there.
    fn behind(
        &mut self,
        start: &Start<'_>,
        service: &Service,
        port: &ServicePort,
        workloads: &[Exposed<'_>],
        judge: impl Fn(&Self, &Exposed<'_>, &[&'e Pod], &[(Protocol, u16)]) -> (Seen, Outcome),
    ) {
        let mut rows: BTreeMap<usize, Vec<&'e Pod>> = BTreeMap::new();
        let pods = backends(self.cluster, service);
        let leads_nowhere = pods.is_empty();
        for pod in pods {
            if let Some(row) = self.rows.get(&pod.name) {
                rows.entry(*row).or_default().push(pod);
            }
        }
        if leads_nowhere {
            let why = match service.selector {
                Some(_) => "the Service selects no running pod",
                None => {
                    "which pods are behind the Service: it has no selector, and its endpoints are not \
                     among the objects"
                }
            };
            let outcome = match service.selector {
                Some(_) => Outcome::Broken(why.to_owned()),
                None => Outcome::Unknown(vec![why.to_owned()]),
            };
            return self.loose.push(start.path(Vec::new(), Seen::Unknown, outcome));
        }
        for (row, pods) in rows {
            let mut targets: Vec<(Protocol, u16)> = Vec::new();
            for pod in &pods {
                match &port.target {
                    TargetPort::Number(number) => targets.push((port.protocol, *number)),
                    TargetPort::Name(name) => {
                        let numbers = pod.named_port(name, port.protocol);
                        targets.extend(numbers.map(|number| (port.protocol, number)));
                    }
                }
            }
            targets.sort_unstable();
            targets.dedup();
            if targets.is_empty() {
                let TargetPort::Name(name) = &port.target else { continue };
                let why = format!("no pod has a {} port named \"{name}\"", port.protocol);
                let path = start.path(targets, Seen::Unknown, Outcome::Broken(why));
                self.found.push((row, path));
                continue;
            }
            let (seen, outcome) = judge(self, &workloads[row], &pods, &targets);
            self.found.push((row, start.path(targets, seen, outcome)));
        }
    }

    fn ingresses(&mut self, workloads: &[Exposed<'_>]) {
        for ingress in self.cluster.entrances.ingresses.values() {
            for backend in &ingress.backends {
                let host = backend.host.as_deref().map(|host| format!("host {host}"));
                let path = backend.path.as_deref().map(|path| format!("path {path}"));
                let what: Vec<String> = host.into_iter().chain(path).collect();
                let service = Name::new(ingress.name.namespace.clone(), backend.service.clone());
                let start = Start {
                    via: Via::Ingress { name: ingress.name.clone(), what: what.join(" ") },
                    service: &service,
                    port: match &backend.port {
                        BackendPort::Number(number) => number.to_string(),
                        BackendPort::Name(name) => name.to_string(),
                    },
                    source: backend.source.clone(),
                };
                let found = self.controllers.of_ingress(ingress.class.as_deref());
                let fits = |port: &ServicePort| match &backend.port {
                    BackendPort::Number(number) => port.port == *number,
                    BackendPort::Name(name) => port.name.as_ref() == Some(name),
                };
                self.through(&start, &service, fits, &found, workloads);
            }
        }
    }

    fn gateways(&mut self, workloads: &[Exposed<'_>]) {
        let entrances = &self.cluster.entrances;
        for ((kind, name), route) in &entrances.routes {
            for parent in &route.parents {
                let hosts: Vec<&str> = route.hosts.iter().map(|host| &**host).collect();
                let gateway = entrances.gateways.get(&parent.gateway);
                let attached = gateway.map(|gateway| {
                    let fits = |listener: &&podwall_policy::entrance::Listener| {
                        super::attach::attaches(self.cluster, gateway, listener, route, parent)
                    };
                    gateway.listeners.iter().filter(fits).collect::<Vec<_>>()
                });
                let listeners: Vec<(Arc<str>, u16)> = match &attached {
                    Some(listeners) => {
                        listeners.iter().map(|its| (its.name.clone(), its.port)).collect()
                    }
                    None => Vec::new(),
                };
                for backend in &route.backends {
                    let start = |listener: &Arc<str>, port: u16| Start {
                        via: Via::Gateway {
                            gateway: parent.gateway.clone(),
                            listener: listener.clone(),
                            port,
                            route: (kind.clone(), name.clone()),
                            what: hosts.join(", "),
                        },
                        service: &backend.service,
                        port: backend.port.map_or_else(String::new, |port| port.to_string()),
                        source: backend.source.clone(),
                    };
                    let nowhere = "".into();
                    let outcome = if attached.is_none() {
                        let fact = format!("Gateway {}, which no object states", parent.gateway);
                        Some(Outcome::Unknown(vec![fact]))
                    } else if listeners.is_empty() {
                        let why = "no listener of the Gateway takes this route";
                        Some(Outcome::Broken(why.to_owned()))
                    } else if backend.service.namespace != name.namespace
                        && !entrances
                            .grants
                            .values()
                            .any(|its| its.allows(kind, &name.namespace, &backend.service))
                    {
                        Some(Outcome::Broken(format!(
                            "no ReferenceGrant in namespace {} lets a {kind} of namespace {} name \
                             this Service",
                            backend.service.namespace, name.namespace
                        )))
                    } else {
                        None
                    };
                    if let Some(outcome) = outcome {
                        let path = start(&nowhere, 0).path(Vec::new(), Seen::Unknown, outcome);
                        self.loose.push(path);
                        continue;
                    }
                    let class = gateway.map(|gateway| &*gateway.class);
                    let found = self.controllers.of_gateway(&parent.gateway, class);
                    for (listener, port) in &listeners {
                        let fits = |its: &ServicePort| Some(its.port) == backend.port;
                        let start = start(listener, *port);
                        self.through(&start, &backend.service, fits, &found, workloads);
                    }
                }
            }
        }
    }

    /// Follows a path that a controller opens to a Service's port.
    fn through(
        &mut self,
        start: &Start<'_>,
        service: &Name,
        fits: impl Fn(&ServicePort) -> bool,
        controller: &Found<'e>,
        workloads: &[Exposed<'_>],
    ) {
        if !self.asks_for(service) {
            return;
        }
        let Some(its) = self.cluster.services.get(service) else {
            let outcome = Outcome::Broken(format!("there is no Service {service}"));
            return self.loose.push(start.path(Vec::new(), Seen::Unknown, outcome));
        };
        let Some(port) = its.ports.iter().find(|port| fits(port)) else {
            let outcome = Outcome::Broken(format!("Service {service} has no port {}", start.port));
            return self.loose.push(start.path(Vec::new(), Seen::Unknown, outcome));
        };
        self.behind(start, its, port, workloads, |this, _, pods, targets| match controller {
            Found::Pods(controllers) => {
                let names = controllers.iter().map(|pod| pod.name.clone()).collect();
                (Seen::Controller(names), this.asked_by_controller(controllers, pods, targets))
            }
            Found::Not(why) => (Seen::Unknown, Outcome::Unknown(vec![why.clone()])),
        });
    }

    /// What the engine says of all pairs: open if any lets it pass, since requests go to any.
    fn asked_by_controller(
        &self,
        controllers: &[&Pod],
        pods: &[&Pod],
        targets: &[(Protocol, u16)],
    ) -> Outcome {
        let mut missing: Vec<String> = Vec::new();
        let mut open = false;
        for from in controllers {
            for to in pods {
                let passage = self.engine.passage(Party::Pod(from), Party::Pod(to));
                let of_family = |set: &PortSet| contains(set, targets);
                let some_family = passage.families.iter().any(|(_, set)| of_family(set));
                if of_family(&passage.passes) || some_family {
                    open = true;
                } else if of_family(&passage.open) {
                    missing.extend(passage.missing.iter().map(ToString::to_string));
                }
            }
        }
        missing.sort();
        missing.dedup();
        match (open, missing.is_empty()) {
            (true, _) => Outcome::Open(None),
            (false, true) => Outcome::Shut,
            (false, false) => Outcome::Unknown(missing),
        }
    }
}

impl Start<'_> {
    fn path(&self, targets: Vec<(Protocol, u16)>, seen: Seen, outcome: Outcome) -> Path {
        let Self { via, service, port, source } = self;
        let (via, service, port) = (via.clone(), (*service).clone(), port.clone());
        Path { via, service, port, targets, seen, outcome, source: source.clone() }
    }
}
