//! Which workload was seen to talk to which, on what?
//!
//! ```text
//!   web-5d8f-x2k4q ─▶ svc/cart 80 (x3)  ┐
//!   web-5d8f-7fhzt ─▶ cart-1 8080       ┴─▶  Deployment/web ─▶ Deployment/cart  TCP 8080 (x4)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podwall_manifest::flows::{FlowLog, FlowParty, SeenFlow, SeenPorts};
use podwall_policy::object::{Pod, Service, TargetPort};
use podwall_policy::port::{PortRange, PortSet, Protocol};

use super::places::{Place, Places};
use super::{End, Evidence, Link, Options, SYSTEM, Unplaced};
use crate::can::service_port;
use crate::peer::backends;

/// What was seen, by ends.
#[derive(Default)]
pub(super) struct Links {
    map: BTreeMap<(End, End), Link>,
    pub(super) no_rule: u64,
    pub(super) unplaced: Vec<Unplaced>,
}

/// Gathers the flows of a log.
pub(super) fn gather(places: &Places<'_>, log: &FlowLog, options: &Options) -> Links {
    let namespace = &options.namespace;
    let found: Vec<Result<Place<'_>, String>> =
        log.parties.iter().map(|party| places.find(party, namespace)).collect();
    let mut links = Links::default();
    let mut unplaced: BTreeMap<(String, String), Unplaced> = BTreeMap::new();
    for flow in &log.flows {
        let (src, dst) = (&log.parties[flow.src], &log.parties[flow.dst]);
        let ends = (found[flow.src].as_ref(), found[flow.dst].as_ref());
        let placed = match ends {
            (Err(why), _) => Err((describe(src), why.clone())),
            (_, Err(why)) => Err((describe(dst), why.clone())),
            (Ok(from), Ok(to)) => links.place(places, flow, (src, from), (dst, to)),
        };
        if let Err((what, why)) = placed {
            let all = unplaced.entry((what.clone(), why.clone())).or_insert_with(|| Unplaced {
                what,
                why,
                flows: 0,
                records: 0,
                source: flow.source.clone(),
            });
            all.flows += 1;
            all.records = all.records.saturating_add(flow.count);
        }
    }
    links.unplaced = unplaced.into_values().collect();
    links
}

/// A party as records have it.
fn describe(party: &FlowParty) -> String {
    let names = [
        party.written.as_ref().map(ToString::to_string),
        party.pod.as_ref().map(|pod| format!("pod {pod}")),
        party.workload.as_ref().map(|(kind, name)| format!("{kind} {name}")),
        party.labels.as_ref().map(|(of, labels)| format!("a pod with {labels} in namespace {of}")),
        party.address.map(|address| address.to_string()),
        party.node.as_ref().map(|node| format!("node {node}")),
    ];
    names.into_iter().flatten().next().unwrap_or_else(|| "somebody".to_owned())
}

type Why = (String, String);

impl Links {
    pub(super) fn list(&self) -> impl Iterator<Item = &Link> {
        self.map.values()
    }

    /// The link between two ends, made if it is not there.
    pub(super) fn between(&mut self, src: End, dst: End) -> &mut Link {
        self.map.entry((src, dst)).or_insert_with(|| Link {
            src,
            dst,
            seen: PortSet::empty(),
            dns: PortSet::empty(),
            evidence: Evidence::default(),
            source: None,
            own_node: false,
        })
    }

    /// Namespaces whose pods were seen.
    pub(super) fn namespaces_seen(&self, places: &Places<'_>) -> BTreeSet<Arc<str>> {
        let seen = self.map.values().filter(|link| !link.seen.is_empty());
        let units = seen.flat_map(|link| [link.src, link.dst]).filter_map(|end| match end {
            End::Unit(unit) => Some(places.units[unit].namespace.clone()),
            _ => None,
        });
        units.collect()
    }

    /// Namespaces that get policies.
    pub(super) fn namespaces(&self, places: &Places<'_>, options: &Options) -> BTreeSet<Arc<str>> {
        if options.namespaces.is_empty() {
            let mut all = self.namespaces_seen(places);
            all.remove(SYSTEM);
            return all;
        }
        options.namespaces.iter().map(|name| Arc::from(&**name)).collect()
    }

    fn place(
        &mut self,
        places: &Places<'_>,
        flow: &SeenFlow,
        (src_party, src): (&FlowParty, &Place<'_>),
        (dst_party, dst): (&FlowParty, &Place<'_>),
    ) -> Result<(), Why> {
        let ports = match flow.ports {
            SeenPorts::Everything => PortSet::everything(),
            SeenPorts::Ports(protocol, range) => PortSet::range(protocol, range),
            SeenPorts::Portless(protocol) => {
                let why = "policies cannot name it: a rule that lets it pass lets every port pass";
                return Err((protocol.to_string(), why.to_owned()));
            }
        };
        let sources: Vec<End> = match src {
            Place::Unit(unit, _) => vec![End::Unit(*unit)],
            Place::Nodes(nodes) => nodes.iter().map(|(_, address)| End::Node(*address)).collect(),
            Place::Nets(nets) => nets.iter().copied().map(End::Net).collect(),
            Place::Service(_) => {
                return Err((describe(src_party), "a Service opens no connections".to_owned()));
            }
            Place::OwnNode => {
                self.no_rule += flow.count;
                return Ok(());
            }
        };
        let from_pod = match src {
            Place::Unit(_, pod) => *pod,
            _ => None,
        };
        let destinations: Vec<(End, Option<&Pod>, PortSet)> = match dst {
            Place::Unit(unit, pod) => vec![(End::Unit(*unit), *pod, ports)],
            Place::Nodes(nodes) => {
                let ends = nodes.iter().map(|(_, address)| End::Node(*address));
                ends.map(|end| (end, None, ports.clone())).collect()
            }
            Place::Nets(nets) => {
                nets.iter().map(|net| (End::Net(*net), None, ports.clone())).collect()
            }
            Place::OwnNode => {
                let address = dst_party.address.ok_or_else(|| {
                    (describe(dst_party), "its node, by an address that nobody says".to_owned())
                })?;
                vec![(End::Node(address), None, ports)]
            }
            Place::Service(service) => behind(places, service, flow.ports)
                .map_err(|why| (format!("Service {}", service.name), why))?
                .into_iter()
                .map(|(end, ports)| (end, None, ports))
                .collect(),
        };
        for (to, pod, ports) in destinations {
            let own = pod.is_some_and(|pod| is_own_node(src, pod));
            let itself = pod.is_some() && from_pod.map(|pod| &pod.name) == pod.map(|pod| &pod.name);
            let pods = sources.iter().chain([&to]).any(|end| matches!(end, End::Unit(_)));
            if own || itself || !pods {
                self.no_rule += flow.count;
                continue;
            }
            for from in &sources {
                if !same_family(*from, to) {
                    continue;
                }
                let link = self.between(*from, to);
                link.seen = link.seen.union(&ports);
                link.evidence.add(flow.count, flow.times);
                link.source.get_or_insert_with(|| flow.source.clone());
            }
        }
        Ok(())
    }
}

fn is_own_node(src: &Place<'_>, pod: &Pod) -> bool {
    match src {
        Place::Nodes(nodes) => nodes.iter().any(|(name, _)| name.is_some() && *name == pod.node),
        _ => false,
    }
}

/// Two addresses of different families do not talk.
fn same_family(a: End, b: End) -> bool {
    let v4 = |end: End| match end {
        End::Unit(_) => None,
        End::Node(address) => Some(address.is_ipv4()),
        End::Net(net) => Some(net.addr().is_ipv4()),
    };
    v4(a).zip(v4(b)).is_none_or(|(a, b)| a == b)
}

/// Who is behind a port of a Service, on which port.
pub(super) fn behind(
    places: &Places<'_>,
    service: &Service,
    seen: SeenPorts,
) -> Result<Vec<(End, PortSet)>, String> {
    if service.selector.is_none() {
        return Err("it has no selector, so the addresses behind it are not known".to_owned());
    }
    let pods = backends(places.cluster, service);
    if pods.is_empty() {
        return Err("no pod is behind it now".to_owned());
    }
    let ends = |pod: &Pod| -> Vec<End> {
        match places.unit_of(&pod.name) {
            Some(unit) => vec![End::Unit(unit)],
            None => pod.ips.iter().copied().map(End::Node).collect(),
        }
    };
    // A headless Service is a name for its pods' addresses: the port that was seen is theirs.
    if let (true, SeenPorts::Ports(protocol, range)) = (service.headless, seen) {
        let ports = PortSet::range(protocol, range);
        let found: BTreeMap<End, PortSet> =
            pods.iter().flat_map(|pod| ends(pod)).map(|end| (end, ports.clone())).collect();
        return Ok(found.into_iter().collect());
    }
    let wanted = |protocol: Protocol, port: u16| match seen {
        SeenPorts::Ports(of, range) => of == protocol && range.contains(port),
        SeenPorts::Everything => true,
        SeenPorts::Portless(_) => false,
    };
    let ports: Vec<_> = service.ports.iter().filter(|p| wanted(p.protocol, p.port)).collect();
    if ports.is_empty() {
        let has: Vec<String> = service.ports.iter().map(service_port).collect();
        let asked = match seen {
            SeenPorts::Ports(protocol, range) => format!("{protocol} {range}"),
            _ => "such".to_owned(),
        };
        return Err(format!("it has no port {asked}; it has {}", has.join(", ")));
    }
    let mut out: BTreeMap<End, PortSet> = BTreeMap::new();
    for port in ports {
        for pod in &pods {
            let numbers: Vec<u16> = match &port.target {
                TargetPort::Number(number) => vec![*number],
                TargetPort::Name(name) => pod.named_port(name, port.protocol).collect(),
            };
            for end in ends(pod) {
                for number in &numbers {
                    let one = PortSet::range(port.protocol, PortRange::one(*number));
                    let all = out.entry(end).or_default();
                    *all = all.union(&one);
                }
            }
        }
    }
    if out.is_empty() {
        return Err("none of its pods has the port that it leads to".to_owned());
    }
    Ok(out.into_iter().collect())
}

/// An address as a net of its own.
pub(super) fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
