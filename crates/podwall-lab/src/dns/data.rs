//! Which names does the cluster's DNS know?
//!
//! ```text
//!   backend.demo.svc.cluster.local              a Service's ClusterIPs, or a headless one's pods
//!   db-0.db.demo.svc.cluster.local              a pod of a headless Service
//!   _http._tcp.backend.demo.svc.cluster.local   SRV: a named port
//!   10-244-1-5.demo.pod.cluster.local           the address in the name
//!   frontend.demo.svc.cluster.local             a pod, where no Service has the name (lab only)
//! ```
//!
//! The DNS-based service discovery specification of Kubernetes, version 1.1, and one convenience:
//! pods answer to their names in their own namespace, as a learner who types `curl backend`
//! expects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Name, Phase, Pod, Service, ServicePort, TargetPort};
use podwall_policy::port::Protocol;

use super::wire::{A, AAAA, ANY, Code, Data, PTR, Reply, SRV};

/// The cluster's domain.
pub const ZONE: &str = "cluster.local";

/// How long answers may be kept, in seconds: CoreDNS' default for Kubernetes.
const TTL: u32 = 5;

/// Everything that can be resolved, at one moment. Replaced as a whole when the cluster changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsData {
    services: BTreeMap<Name, ServiceEntry>,
    pods: BTreeMap<Name, Vec<IpAddr>>,
    namespaces: BTreeSet<Arc<str>>,
    /// Addresses to full names.
    reverse: BTreeMap<IpAddr, String>,
    /// Names outside the cluster, in lower case without a trailing dot.
    external: BTreeMap<String, Vec<IpAddr>>,
}

/// What DNS knows of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ServiceEntry {
    /// Its ClusterIPs; empty if it is headless.
    addresses: Vec<IpAddr>,
    headless: bool,
    ports: Vec<(Option<Arc<str>>, Protocol, u16)>,
    /// The pods behind it.
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    /// The pod's name, which is its host name.
    host: Arc<str>,
    addresses: Vec<IpAddr>,
    /// The ports on the pod, where the Service's target can be resolved.
    ports: Vec<(Option<Arc<str>>, Protocol, u16)>,
}

// === impl DnsData ===

impl DnsData {
    /// What the cluster's Services and running pods come to. A Service's endpoints are the running
    /// pods with an address that its selector matches; a Service without a selector has none.
    pub fn of(cluster: &Cluster) -> Self {
        let mut data =
            Self { namespaces: cluster.namespaces.keys().cloned().collect(), ..Self::default() };
        let alive = |pod: &&Pod| pod.phase == Phase::Alive && !pod.ips.is_empty();
        for pod in cluster.pods.values().filter(alive) {
            data.add_pod(pod.name.clone(), pod.ips.clone());
        }
        for service in cluster.services.values() {
            let pods = cluster
                .pods
                .values()
                .filter(|pod| pod.name.namespace == service.name.namespace)
                .filter(alive)
                .filter(|pod| selects(service, pod));
            data.add_service(service, pods);
        }
        data
    }

    /// Adds a pod under its own name.
    pub fn add_pod(&mut self, name: Name, addresses: Vec<IpAddr>) {
        self.namespaces.insert(name.namespace.clone());
        let full = format!("{}.{}.svc.{ZONE}", name.name, name.namespace);
        for address in &addresses {
            self.reverse.entry(*address).or_insert_with(|| full.clone());
        }
        self.pods.insert(name, addresses);
    }

    /// Adds a Service and the pods behind it.
    pub fn add_service<'a>(
        &mut self,
        service: &Service,
        endpoints: impl IntoIterator<Item = &'a Pod>,
    ) {
        self.namespaces.insert(service.name.namespace.clone());
        let full = format!("{}.{}.svc.{ZONE}", service.name.name, service.name.namespace);
        for address in &service.cluster_ips {
            self.reverse.insert(*address, full.clone());
        }
        let endpoints: Vec<_> = endpoints
            .into_iter()
            .map(|pod| Endpoint {
                host: pod.name.name.clone(),
                addresses: pod.ips.clone(),
                ports: service.ports.iter().filter_map(|port| target(port, pod)).collect(),
            })
            .collect();
        if service.headless {
            for endpoint in &endpoints {
                for address in &endpoint.addresses {
                    self.reverse.insert(*address, format!("{}.{full}", endpoint.host));
                }
            }
        }
        let entry = ServiceEntry {
            addresses: service.cluster_ips.clone(),
            headless: service.headless,
            ports: service.ports.iter().map(|p| (p.name.clone(), p.protocol, p.port)).collect(),
            endpoints,
        };
        self.services.insert(service.name.clone(), entry);
    }

    /// Adds a name outside the cluster.
    pub fn add_external(&mut self, name: &str, addresses: Vec<IpAddr>) {
        self.external.insert(name.trim_end_matches('.').to_ascii_lowercase(), addresses);
    }

    /// The answer to a question: labels in lower case, and a record type.
    pub(super) fn resolve(&self, labels: &[String], kind: u16) -> Reply {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let reply = |found: Option<Vec<Data>>, zone: &'static str, authoritative| {
            let code = if found.is_some() { Code::Ok } else { Code::NoSuchName };
            let answers = found.unwrap_or_default();
            let zone = answers.is_empty().then_some(zone);
            Reply { code, answers, zone, authoritative, ttl: TTL }
        };
        match labels.as_slice() {
            [inside @ .., "cluster", "local"] => reply(self.inside(inside, kind), ZONE, true),
            [.., "arpa"] => {
                let name = reverse_address(&labels).and_then(|ip| self.reverse.get(&ip));
                let wanted = matches!(kind, PTR | ANY);
                reply(
                    name.map(|n| if wanted { vec![Data::Name(n.clone())] } else { vec![] }),
                    "",
                    name.is_some(),
                )
            }
            _ => {
                let found = self.external.get(&labels.join("."));
                reply(found.map(|addresses| of_kind(addresses, kind)), "", false)
            }
        }
    }

    /// A name in the cluster's domain; `None` if it does not exist, an empty list if it has no
    /// record of the kind (RFC 2308 §2.2).
    fn inside(&self, labels: &[&str], kind: u16) -> Option<Vec<Data>> {
        match labels {
            [] | ["svc" | "pod"] => Some(Vec::new()),
            [namespace, "svc" | "pod"] => self.namespaces.contains(*namespace).then(Vec::new),
            [dashed, namespace, "pod"] => {
                let address =
                    self.namespaces.contains(*namespace).then(|| undash(dashed)).flatten()?;
                Some(of_kind(&[address], kind))
            }
            [name, namespace, "svc"] => {
                let name = Name::new(*namespace, *name);
                match (self.services.get(&name), self.pods.get(&name)) {
                    (Some(service), _) if kind == SRV => Some(service.srv(&name, |_, _| true)),
                    (Some(service), _) => Some(of_kind(&service.all_addresses(), kind)),
                    (None, Some(addresses)) => Some(of_kind(addresses, kind)),
                    (None, None) => None,
                }
            }
            [port, protocol, name, namespace, "svc"] if port.starts_with('_') => {
                let name = Name::new(*namespace, *name);
                let (port, protocol) = (&port[1..], protocol.strip_prefix('_')?);
                let records = self.services.get(&name)?.srv(&name, |n, p| {
                    n == Some(port) && p.to_string().eq_ignore_ascii_case(protocol)
                });
                // A port that the Service does not have is a name that does not exist.
                (!records.is_empty()).then_some(if matches!(kind, SRV | ANY) {
                    records
                } else {
                    Vec::new()
                })
            }
            [host, name, namespace, "svc"] => {
                let service = self.services.get(&Name::new(*namespace, *name))?;
                let named = |e: &&Endpoint| {
                    *e.host == **host || e.addresses.iter().any(|a| dash(*a) == **host)
                };
                let endpoint = service.endpoints.iter().filter(|_| service.headless).find(named)?;
                Some(of_kind(&endpoint.addresses, kind))
            }
            _ => None,
        }
    }
}

impl ServiceEntry {
    fn all_addresses(&self) -> Vec<IpAddr> {
        if self.headless {
            self.endpoints.iter().flat_map(|e| e.addresses.iter().copied()).collect()
        } else {
            self.addresses.clone()
        }
    }

    /// SRV records of the ports that are wanted: of the Service, or of each pod if it is headless.
    fn srv(&self, name: &Name, wanted: impl Fn(Option<&str>, Protocol) -> bool) -> Vec<Data> {
        let service = format!("{}.{}.svc.{ZONE}", name.name, name.namespace);
        let records = |ports: &[(Option<Arc<str>>, Protocol, u16)], host: String| {
            ports
                .iter()
                .filter(|(port, protocol, _)| wanted(port.as_deref(), *protocol))
                .map(|(_, _, number)| Data::Service(*number, host.clone()))
                .collect::<Vec<_>>()
        };
        if self.headless {
            let of = |e: &Endpoint| records(&e.ports, format!("{}.{service}", e.host));
            self.endpoints.iter().flat_map(of).collect()
        } else {
            records(&self.ports, service)
        }
    }
}

/// Whether the Service's selector matches the pod. An empty selector is none (API document,
/// `ServiceSpec.selector`).
fn selects(service: &Service, pod: &Pod) -> bool {
    service.selector.as_ref().is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v))
    })
}

/// The port of a pod that a Service's port leads to.
fn target(port: &ServicePort, pod: &Pod) -> Option<(Option<Arc<str>>, Protocol, u16)> {
    let number = match &port.target {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => pod.named_port(name, port.protocol).next()?,
    };
    Some((port.name.clone(), port.protocol, number))
}

/// The addresses of the family that is asked for.
fn of_kind(addresses: &[IpAddr], kind: u16) -> Vec<Data> {
    let wanted = |address: &&IpAddr| match kind {
        A => address.is_ipv4(),
        AAAA => address.is_ipv6(),
        ANY => true,
        _ => false,
    };
    addresses.iter().filter(wanted).map(|address| Data::Address(*address)).collect()
}

/// `10-244-1-5`, `fd00--5`.
fn dash(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn undash(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

/// The address that `5.1.244.10.in-addr.arpa` or the nibbles of `ip6.arpa` stand for.
fn reverse_address(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [octets @ .., "in-addr", "arpa"] if octets.len() == 4 => {
            let mut bytes = [0; 4];
            for (byte, octet) in bytes.iter_mut().rev().zip(octets) {
                *byte = octet.parse().ok()?;
            }
            Some(Ipv4Addr::from(bytes).into())
        }
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let mut number: u128 = 0;
            for nibble in nibbles.iter().rev() {
                let digit = u128::from_str_radix(nibble, 16).ok().filter(|d| *d < 16)?;
                number = number << 4 | digit;
            }
            Some(Ipv6Addr::from(number).into())
        }
        _ => None,
    }
}
