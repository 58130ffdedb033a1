//! Who is this end of a flow, among those who are there now?
//!
//! ```text
//!   pod name ─▶ pod ─▶ unit        a name, labels or an address lead to a workload, a node, a Service
//!   gone? workload, labels, name as its controller makes it       or to nobody: then it is said why
//! ```

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podwall_manifest::flows::FlowParty;
use podwall_policy::address::{AddressRange, AddressSet, Family};
use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Node, Phase, Pod, Service};

use super::UnitInfo;
use super::identity::{Identity, choose, common, lasting};
use crate::peer::{Peer, resolve};

/// Pods that are alike.
pub(super) struct Unit<'a> {
    pub(super) label: String,
    pub(super) namespace: Arc<str>,
    /// What its policies are called after.
    pub(super) name: Arc<str>,
    /// In lower case; empty for lone pods.
    pub(super) kind: String,
    /// Never empty; a workload's template where it has no pods.
    pub(super) pods: Vec<&'a Pod>,
    pub(super) template: bool,
    pub(super) identity: Labels,
    pub(super) besides: Vec<Name>,
}

/// Who somebody is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place<'a> {
    /// A unit, and which pod of it.
    Unit(usize, Option<&'a Pod>),
    /// Nodes, by their addresses.
    Nodes(Vec<(Option<Arc<str>>, IpAddr)>),
    /// The pod's own node.
    OwnNode,
    Service(&'a Service),
    /// Addresses outside.
    Nets(Vec<IpNet>),
}

/// Namespace, kind and name.
type WorkloadKey = (Arc<str>, Arc<str>, Arc<str>);

pub(super) struct Places<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) units: Vec<Unit<'a>>,
    of_pod: HashMap<&'a Name, usize>,
    of_workload: HashMap<WorkloadKey, usize>,
    pods: HashMap<IpAddr, &'a Pod>,
    services: HashMap<IpAddr, &'a Service>,
    nodes: HashMap<IpAddr, &'a Node>,
    /// Where pods get their addresses from.
    pub(super) pod_ranges: AddressSet,
}

impl<'a> Places<'a> {
    pub(super) fn new(
        cluster: &'a Cluster,
        selectors: &BTreeMap<(Arc<str>, Name), Labels>,
    ) -> Self {
        let mut places = Self {
            cluster,
            units: Vec::new(),
            of_pod: HashMap::new(),
            of_workload: HashMap::new(),
            pods: HashMap::new(),
            services: HashMap::new(),
            nodes: HashMap::new(),
            pod_ranges: AddressSet::empty(),
        };
        for pod in cluster.pods.values().filter(|pod| pod.is_subject()) {
            places.pods.extend(pod.ips.iter().map(|ip| (*ip, pod)));
        }
        for service in cluster.services.values() {
            places.services.extend(service.cluster_ips.iter().map(|ip| (*ip, service)));
        }
        for node in cluster.nodes.values() {
            places.nodes.extend(node.addresses.iter().map(|ip| (*ip, node)));
            for net in &node.pod_cidrs {
                places.pod_ranges = places.pod_ranges.union(&AddressSet::from(*net));
            }
        }
        places.make_units();
        places.identify(selectors);
        places
    }

    fn make_units(&mut self) {
        let cluster = self.cluster;
        let mut lone: HashMap<(Arc<str>, Labels), usize> = HashMap::new();
        for pod in cluster.pods.values().filter(|pod| pod.is_subject()) {
            let namespace = pod.name.namespace.clone();
            let next = self.units.len();
            let at = match &pod.owner {
                Some(owner) => {
                    let key = (namespace.clone(), owner.kind.clone(), owner.name.clone());
                    *self.of_workload.entry(key).or_insert(next)
                }
                None => {
                    *lone.entry((namespace.clone(), lasting(&pod.labels, false))).or_insert(next)
                }
            };
            if at == next {
                let (label, kind, name) = match &pod.owner {
                    Some(owner) => (
                        format!("{namespace}/{}/{}", owner.kind, owner.name),
                        owner.kind.to_ascii_lowercase(),
                        owner.name.clone(),
                    ),
                    None => (pod.name.to_string(), String::new(), pod.name.name.clone()),
                };
                self.units.push(Unit::new(label, namespace, kind, name, false));
            }
            self.units[at].pods.push(pod);
            self.of_pod.insert(&pod.name, at);
        }
        // Workloads that have no pods now, and are nobody's own.
        for ((kind, name), workload) in &cluster.workloads {
            let key = (name.namespace.clone(), kind.clone(), name.name.clone());
            let next = self.units.len();
            let is_part = workload.owner.is_some() || workload.template.host_network;
            if is_part || self.of_workload.contains_key(&key) {
                continue;
            }
            let label = format!("{}/{kind}/{}", name.namespace, name.name);
            let kind = kind.to_ascii_lowercase();
            let mut unit = Unit::new(label, name.namespace.clone(), kind, name.name.clone(), true);
            unit.pods.push(&workload.template);
            self.units.push(unit);
            self.of_workload.insert(key, next);
        }
    }

    fn identify(&mut self, selectors: &BTreeMap<(Arc<str>, Name), Labels>) {
        let mut by_namespace: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for (at, unit) in self.units.iter().enumerate() {
            by_namespace.entry(unit.namespace.clone()).or_default().push(at);
        }
        for units in by_namespace.values() {
            // Replicas have the same labels.
            let sets: Vec<Vec<&Labels>> = units
                .iter()
                .map(|at| {
                    let mut sets: Vec<&Labels> =
                        self.units[*at].pods.iter().map(|pod| &pod.labels).collect();
                    sets.sort();
                    sets.dedup();
                    sets
                })
                .collect();
            for (i, at) in units.iter().enumerate() {
                let unit = &self.units[*at];
                let cron = unit.kind == "cronjob";
                let own = lasting(&common(sets[i].iter().copied()), cron);
                let others = sets.iter().enumerate().filter(|(j, _)| *j != i);
                let others: Vec<&Labels> = others.flat_map(|(_, sets)| sets).copied().collect();
                let owner = unit.pods[0].owner.as_ref().map(|owner| owner.kind.clone());
                let kind = owner.or_else(|| self.kind_of(*at));
                let key = kind.map(|kind| (kind, Name::new(unit.namespace.clone(), &*unit.name)));
                let selector = key.and_then(|key| selectors.get(&key));
                let Identity { labels, exact } = choose(&own, selector, &others);
                let besides = if exact { Vec::new() } else { self.besides(units, *at, &labels) };
                self.units[*at].identity = labels;
                self.units[*at].besides = besides;
            }
        }
    }

    fn kind_of(&self, unit: usize) -> Option<Arc<str>> {
        let label = &self.units[unit].label;
        label.split('/').nth(1).filter(|_| self.units[unit].template).map(Arc::from)
    }

    /// Pods of other units that have these labels.
    fn besides(&self, units: &[usize], own: usize, labels: &Labels) -> Vec<Name> {
        let others = units.iter().filter(|at| **at != own).flat_map(|at| &self.units[*at].pods);
        others.filter(|pod| has(&pod.labels, labels)).map(|pod| pod.name.clone()).collect()
    }

    pub(super) fn infos(&self) -> Vec<UnitInfo> {
        let info = |unit: &Unit<'_>| UnitInfo {
            label: unit.label.clone(),
            namespace: unit.namespace.clone(),
            pods: if unit.template { 0 } else { unit.pods.len() },
            identity: unit.identity.clone(),
            besides: unit.besides.clone(),
            seen: false,
            isolated: [false; 2],
        };
        self.units.iter().map(info).collect()
    }

    pub(super) fn unit_of(&self, pod: &Name) -> Option<usize> {
        self.of_pod.get(pod).copied()
    }

    /// Who a party is.
    ///
    /// # Errors
    /// Why nobody can tell, as a sentence about the party.
    pub(super) fn find(&self, party: &FlowParty, namespace: &str) -> Result<Place<'a>, String> {
        if let Some(text) = &party.written {
            return self.written(text, namespace);
        }
        if party.own_node {
            return Ok(Place::OwnNode);
        }
        if let Some(name) = &party.pod {
            return self.pod(name, party);
        }
        if let Some(place) = self.by_hints(party) {
            return Ok(place);
        }
        if let (Some(name), None) = (&party.node, party.address) {
            let node = self.cluster.nodes.get(name).ok_or("there is no such node")?;
            return Ok(nodes_of(node));
        }
        match party.address {
            Some(address) => self.address(address),
            None => Err("the record says neither who it is nor its address".to_owned()),
        }
    }

    fn pod(&self, name: &Name, party: &FlowParty) -> Result<Place<'a>, String> {
        if let Some(pod) = self.cluster.pods.get(name).filter(|pod| pod.phase == Phase::Alive) {
            return self.of(pod);
        }
        self.by_hints(party).or_else(|| self.by_name(name)).ok_or_else(|| {
            "there is no such pod any more, and nothing says which workload it was of".to_owned()
        })
    }

    fn of(&self, pod: &'a Pod) -> Result<Place<'a>, String> {
        if let Some(unit) = self.of_pod.get(&pod.name) {
            return Ok(Place::Unit(*unit, Some(pod)));
        }
        let own = pod.ips.iter().map(|ip| (pod.node.clone(), *ip));
        let node = pod.node.as_ref().and_then(|node| self.cluster.nodes.get(node));
        match (pod.ips.is_empty(), node) {
            (false, _) => Ok(Place::Nodes(own.collect())),
            (true, Some(node)) if !node.addresses.is_empty() => Ok(nodes_of(node)),
            _ => Err("it uses its node's network, and the node's address is not known".to_owned()),
        }
    }

    /// By workload, then by labels that only one unit has.
    fn by_hints(&self, party: &FlowParty) -> Option<Place<'a>> {
        if let Some((kind, name)) = &party.workload {
            let key = (name.namespace.clone(), kind.clone(), name.name.clone());
            if let Some(unit) = self.of_workload.get(&key) {
                return Some(Place::Unit(*unit, None));
            }
        }
        let (namespace, labels) = party.labels.as_ref()?;
        let wanted = lasting(labels, false);
        let mut units = self.units.iter().enumerate().filter(|(_, unit)| {
            unit.namespace == *namespace
                && !unit.identity.is_empty()
                && unit.besides.is_empty()
                && has(&wanted, &unit.identity)
        });
        match (units.next(), units.next()) {
            (Some((unit, _)), None) => Some(Place::Unit(unit, None)),
            _ => None,
        }
    }

    /// By the way in which controllers name what they make.
    fn by_name(&self, name: &Name) -> Option<Place<'a>> {
        let made = |unit: &Unit<'_>| {
            let rest = name.name.strip_prefix(&*unit.name).and_then(|rest| rest.strip_prefix('-'));
            let Some(rest) = rest else { return false };
            let parts: Vec<&str> = rest.split('-').collect();
            let random = |part: &str, length| part.len() == length && is_random(part);
            let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            match (unit.kind.as_str(), &parts[..]) {
                ("deployment", [hash, tail]) => {
                    (1..=10).contains(&hash.len()) && is_random(hash) && random(tail, 5)
                }
                ("statefulset", [ordinal]) => digits(ordinal),
                ("cronjob", [time, tail]) => digits(time) && random(tail, 5),
                ("daemonset" | "replicaset" | "job" | "replicationcontroller", [tail]) => {
                    random(tail, 5)
                }
                _ => false,
            }
        };
        let of_namespace = |unit: &&Unit<'_>| unit.namespace == name.namespace && made(unit);
        let mut units = self.units.iter().filter(of_namespace);
        let (first, second) = (units.next()?, units.next());
        let at = self.units.iter().position(|unit| std::ptr::eq(unit, first))?;
        second.is_none().then_some(Place::Unit(at, None))
    }

    fn written(&self, text: &str, namespace: &str) -> Result<Place<'a>, String> {
        let peer = match resolve(self.cluster, text, namespace) {
            Ok(peer) => peer,
            Err(error) => {
                let (of, name) = text.split_once('/').unwrap_or((namespace, text));
                let gone = self.by_name(&Name::new(of, name));
                return gone.ok_or_else(|| {
                    let hint = error.hint().unwrap_or_default();
                    let first = hint.lines().next().unwrap_or_default();
                    if first.starts_with("did you mean") || first.starts_with("there is a ") {
                        format!("{error}; {first}")
                    } else {
                        error.to_string()
                    }
                });
            }
        };
        match peer {
            Peer::Pod(pod) => self.of(pod),
            Peer::Workload(workload) => {
                let name = &workload.name;
                let key = (name.namespace.clone(), workload.kind.clone(), name.name.clone());
                match (self.of_workload.get(&key), workload.pods.first()) {
                    (Some(unit), _) => Ok(Place::Unit(*unit, None)),
                    (None, Some(_)) => {
                        let mut all = Vec::new();
                        for pod in workload.pods {
                            if let Place::Nodes(nodes) = self.of(pod)? {
                                all.extend(nodes);
                            }
                        }
                        Ok(Place::Nodes(all))
                    }
                    (None, None) => Err("it has no pods".to_owned()),
                }
            }
            Peer::Service(service) => Ok(Place::Service(service)),
            Peer::Node(node) => Ok(nodes_of(node)),
            Peer::Outside { addresses, .. } => {
                // Who writes 0.0.0.0/0 or internet does not mean pods.
                let outside = addresses.difference(&self.pod_ranges);
                let nets: Vec<IpNet> =
                    outside.ranges().iter().flat_map(AddressRange::cidrs).collect();
                if nets.is_empty() {
                    return Err("these are pods' addresses, and no pod has them now".to_owned());
                }
                Ok(Place::Nets(nets))
            }
        }
    }

    fn address(&self, address: IpAddr) -> Result<Place<'a>, String> {
        if let Some(service) = self.services.get(&address) {
            return Ok(Place::Service(service));
        }
        if let Some(pod) = self.pods.get(&address) {
            return self.of(pod);
        }
        if let Some(node) = self.nodes.get(&address) {
            return Ok(Place::Nodes(vec![(Some(node.name.clone()), address)]));
        }
        if self.pod_ranges.contains(address) {
            return Err("a pod's address that nobody has now".to_owned());
        }
        if address.is_loopback() || address.is_unspecified() {
            return Err("such packets do not leave the pod".to_owned());
        }
        Ok(Place::Nets(vec![IpNet::from(address)]))
    }
}

impl<'a> Unit<'a> {
    fn new(
        label: String,
        namespace: Arc<str>,
        kind: String,
        name: Arc<str>,
        template: bool,
    ) -> Self {
        Self {
            label,
            namespace,
            name,
            kind,
            pods: Vec::new(),
            template,
            identity: Labels::default(),
            besides: Vec::new(),
        }
    }

    /// One pod for each set of labels.
    pub(super) fn kinds(&self) -> Vec<&'a Pod> {
        let mut kinds: Vec<&'a Pod> = Vec::new();
        for pod in &self.pods {
            if !kinds.iter().any(|known| known.labels == pod.labels) {
                kinds.push(pod);
            }
        }
        kinds
    }
}

/// Whether labels have all of others.
pub(super) fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn nodes_of<'a>(node: &Node) -> Place<'a> {
    // Of several addresses of a family rules see the first.
    let first = Family::BOTH.map(|family| {
        node.addresses.iter().copied().find(|address| Family::of(*address) == family)
    });
    let first = first.into_iter().flatten();
    Place::Nodes(first.map(|address| (Some(node.name.clone()), address)).collect())
}

/// Characters of generated names (`k8s.io/apimachinery/pkg/util/rand`).
fn is_random(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b))
}
