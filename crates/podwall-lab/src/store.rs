//! What exists in the lab? The objects, and what follows from them.
//!
//! ```text
//!   apply, delete, label ──▶ objects ──▶ pods of workloads, nodes, addresses ──▶ Cluster
//!                                                                       └──▶ Touched: what changed
//! ```
//!
//! The store is the lab's API server, scheduler and controller manager in one, without a clock: what
//! follows from the objects follows at once. It does nothing to the kernel; the engine does, with
//! what [`Touched`] names. Every change is saved before the kernel sees it, so that a worker that
//! was killed finds out what was meant.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use podwall_manifest::{Object, Typed};
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::object::{Exposure, Name, Node, Phase, Pod, Service, ServicePort};
use podwall_policy::policy::Tier;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use thiserror::Error;

use crate::derived;
use crate::plan;
use crate::rpc::LabConfig;

mod saved;
mod shown;

pub use shown::timestamp;

/// Why an object could not be taken.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The lab has no room for another pod.
    #[error("{pod} gets no address: node {node} has {used} pods, and its range {cidr} is used up")]
    NoAddress {
        /// The pod.
        pod: String,
        /// The node.
        node: String,
        /// How many pods it has.
        used: usize,
        /// Its range.
        cidr: String,
    },
    /// The state file.
    #[error("cannot {action} the lab's state {path}: {reason}")]
    State {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// The addresses of the plan end.
    #[error("node {node} is one too many: a lab has up to {} nodes", plan::MAX_NODES)]
    TooManyNodes {
        /// The node.
        node: String,
    },
    /// Two Services cannot have one address or one node port.
    #[error(
        "service {service} asks for {what}, which service {owner} has; leave it out, and the lab finds a free one"
    )]
    Taken {
        /// The Service that asks.
        service: String,
        /// `node port 30080`, `cluster IP 10.96.0.20`.
        what: String,
        /// Whose it is.
        owner: String,
    },
    /// Namespaces that every cluster has.
    #[error(
        "namespace {name:?} cannot be removed, as in a cluster; remove what is in it: `podwall lab delete all --all -n {name}`"
    )]
    Protected {
        /// The namespace.
        name: String,
    },
    /// An object that the manifest reader refuses although it was taken before.
    #[error("the lab cannot use {object}: {reason}")]
    Object {
        /// Which.
        object: String,
        /// What the reader said.
        reason: String,
    },
}

/// An object's identity. The namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The kind as in manifests.
    pub kind: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// An object's identity.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

/// One object as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The checked object.
    pub object: Object,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// `metadata.uid`; a pod that is made again gets another.
    pub uid: String,
    /// For a pod: where it was put.
    place: Option<Place>,
    /// What is saved of all this, once it has been. Whoever changes a field takes it.
    text: OnceCell<Box<RawValue>>,
}

/// Where a pod runs. Empty node: nowhere yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    node: String,
    ips: Vec<IpAddr>,
}

/// What a change touched: names whose object was added, changed or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Nodes.
    pub nodes: BTreeSet<Arc<str>>,
    /// Pods.
    pub pods: BTreeSet<Name>,
    /// NetworkPolicies.
    pub policies: BTreeSet<Name>,
    /// Whether Services or what stands behind them changed.
    pub services: bool,
}

impl Touched {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another change touched.
    pub fn merge(&mut self, other: Self) {
        self.namespaces.extend(other.namespaces);
        self.nodes.extend(other.nodes);
        self.pods.extend(other.pods);
        self.policies.extend(other.policies);
        self.services |= other.services;
    }
}

/// What became of an object that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    Created,
    /// It was there and is different now.
    Configured,
    /// It was there and is the same.
    Unchanged,
}

/// The objects of one lab. Owned by the worker's one writer.
pub struct Store {
    /// How the lab was made.
    pub config: LabConfig,
    objects: BTreeMap<Key, Stored>,
    cluster: Cluster,
    /// Node names in order of their number; the number gives the addresses and never changes.
    nodes: Vec<String>,
    next_uid: u64,
}

// === impl Store ===

impl Store {
    /// An empty lab with the nodes of its configuration.
    pub fn new(config: LabConfig) -> Self {
        let nodes = config.nodes.clone();
        Self::with_nodes(config, &nodes)
    }

    fn with_nodes(config: LabConfig, nodes: &[String]) -> Self {
        let mut store = Self {
            config,
            objects: BTreeMap::new(),
            cluster: Cluster::default(),
            nodes: Vec::new(),
            next_uid: 1,
        };
        for node in nodes {
            store.add_node(node, &Labels::default());
        }
        store
    }

    /// What is known, for the evaluator and the compilers.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// All objects, by kind, namespace and name.
    pub fn objects(&self) -> &BTreeMap<Key, Stored> {
        &self.objects
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<&Stored> {
        self.objects.get(key)
    }

    /// The names of the nodes, in order of their number (from 1).
    pub fn node_names(&self) -> &[String] {
        &self.nodes
    }

    /// Adds or replaces an object. Objects in a namespace that does not exist make it.
    pub fn put(&mut self, object: Object, touched: &mut Touched) -> Result<Put, StoreError> {
        let key = key_of(&object);
        if key.kind != "Namespace" && !key.namespace.is_empty() {
            self.ensure_namespace(&key.namespace.clone(), touched)?;
        }
        if key.kind == "Node" {
            return self.put_node(&object, touched);
        }
        if let Typed::Service(service) = &object.typed {
            self.check_free(service)?;
        }
        let before = self.objects.get(&key);
        if before.is_some_and(|b| meaning(&b.object.raw) == meaning(&object.raw)) {
            return Ok(Put::Unchanged);
        }
        let put = if before.is_some() { Put::Configured } else { Put::Created };
        // A pod whose spec changes is another pod: pods cannot be changed in place.
        let same_pod = before.filter(|b| b.object.raw.get("spec") == object.raw.get("spec"));
        let (created, uid, place) = match (before, key.kind.as_str()) {
            (Some(b), "Pod") if same_pod.is_some() => {
                (b.created, Some(b.uid.clone()), b.place.clone())
            }
            (Some(b), kind) if kind != "Pod" => (b.created, Some(b.uid.clone()), None),
            _ => (now(), None, None),
        };
        let uid = uid.unwrap_or_else(|| self.new_uid());
        let stored = Stored { object, created, uid, place, text: OnceCell::new() };
        self.objects.insert(key.clone(), stored);
        self.follow(&key, touched)?;
        Ok(put)
    }

    /// Removes an object and what follows from it. `false` if it is not there.
    pub fn delete(&mut self, key: &Key, touched: &mut Touched) -> Result<bool, StoreError> {
        if key.kind == "Namespace" && PROTECTED.contains(&key.name.as_str()) {
            return Err(StoreError::Protected { name: key.name.clone() });
        }
        if self.objects.remove(key).is_none() {
            return Ok(false);
        }
        if key.kind == "Namespace" {
            // All at once: a controller that is removed after its pods would make them again, and
            // they the namespace.
            let inside = |k: &&Key| k.namespace == key.name;
            let inside: Vec<Key> = self.objects.keys().filter(inside).cloned().collect();
            for key in &inside {
                self.objects.remove(key);
            }
            for key in &inside {
                self.follow(key, touched)?;
            }
        }
        self.follow(key, touched)?;
        if key.kind == "Pod" && !self.cluster.workloads.is_empty() {
            // Its controller makes it again.
            self.reconcile_workloads(touched)?;
        }
        Ok(true)
    }

    /// An object with other labels; its other parts, and its positions, stay.
    pub fn relabel(
        &mut self,
        key: &Key,
        labels: &Labels,
        touched: &mut Touched,
    ) -> Result<(), StoreError> {
        if key.kind == "Node" {
            return self.relabel_node(&key.name, labels, touched);
        }
        let Some(stored) = self.objects.get_mut(key) else { return Ok(()) };
        stored.text.take();
        let mut raw = stored.object.raw.clone();
        let map: serde_json::Map<String, Value> =
            labels.iter().map(|(k, v)| (k.to_owned(), json!(v))).collect();
        if !raw["metadata"].is_object() {
            raw["metadata"] = json!({"name": key.name});
        }
        raw["metadata"]["labels"] = Value::Object(map);
        // Through the reader: a label that the API server would refuse is refused here too.
        let places = stored.object.places();
        stored.object = checked(&raw)?;
        stored.object.set_places(&places);
        self.follow(key, touched)
    }

    fn relabel_node(
        &mut self,
        name: &str,
        labels: &Labels,
        touched: &mut Touched,
    ) -> Result<(), StoreError> {
        let map: serde_json::Map<String, Value> =
            labels.iter().map(|(k, v)| (k.to_owned(), json!(v))).collect();
        let raw = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": map}});
        self.put(checked(&raw)?, touched).map(drop)
    }

    /// Refuses what another Service has already.
    fn check_free(&self, service: &Service) -> Result<(), StoreError> {
        let taken = |what: String, owner: &Service| StoreError::Taken {
            service: service.name.to_string(),
            what,
            owner: owner.name.to_string(),
        };
        let others = || self.cluster.services.values().filter(|s| s.name != service.name);
        for ip in service.cluster_ips.iter().filter(|_| !service.headless) {
            if let Some(owner) = others().find(|s| s.cluster_ips.contains(ip)) {
                return Err(taken(format!("cluster IP {ip}"), owner));
            }
        }
        for port in &service.ports {
            let same = |p: &ServicePort| {
                p.node_port.is_some()
                    && (p.node_port, p.protocol) == (port.node_port, port.protocol)
            };
            if let Some(owner) = others().find(|s| s.ports.iter().any(same)) {
                let number = port.node_port.unwrap_or_default();
                return Err(taken(format!("node port {number}"), owner));
            }
        }
        Ok(())
    }

    fn add_node(&mut self, name: &str, labels: &Labels) {
        let number = u32::try_from(self.nodes.len() + 1).unwrap_or(plan::MAX_NODES);
        self.nodes.push(name.to_owned());
        let labels = labels.with("kubernetes.io/hostname", name);
        self.cluster.put_node(Node {
            name: name.into(),
            labels,
            addresses: plan::node_addresses(number, self.config.families),
            pod_cidrs: plan::pod_cidrs(number, self.config.families),
            source: None,
        });
    }

    /// A Node object of a manifest: its labels count; its addresses are the lab's.
    fn put_node(&mut self, object: &Object, touched: &mut Touched) -> Result<Put, StoreError> {
        let Typed::Node(node) = &object.typed else { return Ok(Put::Unchanged) };
        let name = node.name.clone();
        let put = match self.cluster.nodes.get_mut(&name) {
            Some(known) => {
                let labels = node.labels.with("kubernetes.io/hostname", &name);
                if known.labels == labels {
                    return Ok(Put::Unchanged);
                }
                known.labels = labels;
                Put::Configured
            }
            None if self.nodes.len() >= plan::MAX_NODES as usize => {
                return Err(StoreError::TooManyNodes { node: name.to_string() });
            }
            None => {
                self.add_node(&name, &node.labels);
                Put::Created
            }
        };
        touched.nodes.insert(name);
        touched.services = true;
        self.place_waiting(touched)?;
        self.reconcile_workloads(touched)?; // DaemonSets
        Ok(put)
    }

    /// Puts pods that no node took so far onto a node that is new or has new labels.
    fn place_waiting(&mut self, touched: &mut Touched) -> Result<(), StoreError> {
        let waits = |s: &Stored| s.place.as_ref().is_some_and(|place| place.node.is_empty());
        let waiting: Vec<Key> =
            self.objects.iter().filter(|(_, s)| waits(s)).map(|(key, _)| key.clone()).collect();
        for key in waiting {
            self.follow(&key, touched)?;
        }
        Ok(())
    }

    fn ensure_namespace(&mut self, name: &str, touched: &mut Touched) -> Result<(), StoreError> {
        if self.objects.contains_key(&Key::new("Namespace", "", name)) {
            return Ok(());
        }
        let raw = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.put(checked(&raw)?, touched).map(drop)
    }

    /// Brings the cluster, and what follows from the object, up to date with one object.
    fn follow(&mut self, key: &Key, touched: &mut Touched) -> Result<(), StoreError> {
        let name = Name::new(key.namespace.as_str(), key.name.as_str());
        match key.kind.as_str() {
            "Namespace" => {
                let ns: Arc<str> = key.name.as_str().into();
                match self.objects.get(key).map(|s| &s.object.typed) {
                    Some(Typed::Namespace(typed)) => self.cluster.put_namespace(typed.clone()),
                    _ => drop(self.cluster.namespaces.remove(&ns)),
                }
                touched.namespaces.insert(ns);
            }
            "NetworkPolicy" => {
                match self.objects.get(key).map(|s| &s.object.typed) {
                    Some(Typed::Policy(policy)) => self.cluster.put_policy((**policy).clone()),
                    _ => drop(self.cluster.policies.remove(&(Tier::NetworkPolicy, name.clone()))),
                }
                touched.policies.insert(name);
            }
            "Service" => {
                self.follow_service(key, &name);
                touched.services = true;
            }
            "Pod" => {
                self.follow_pod(key, &name)?;
                touched.pods.insert(name);
                touched.services = true;
            }
            kind => {
                let id = (Arc::from(kind), name);
                match self.objects.get(key).map(|s| &s.object.typed) {
                    Some(Typed::Workload(workload)) => {
                        self.cluster.put_workload((**workload).clone());
                    }
                    _ => drop(self.cluster.workloads.remove(&id)),
                }
                self.reconcile_workloads(touched)?;
            }
        }
        Ok(())
    }

    /// Places a pod and puts it into the cluster, or takes it out.
    fn follow_pod(&mut self, key: &Key, name: &Name) -> Result<(), StoreError> {
        let Some(Typed::Pod(typed)) = self.objects.get(key).map(|s| &s.object.typed) else {
            self.cluster.pods.remove(name);
            return Ok(());
        };
        let mut pod = (**typed).clone();
        let known = self.objects.get(key).and_then(|s| s.place.clone());
        let place = match known {
            Some(place) if !place.node.is_empty() => place,
            _ => self.place(key, &pod)?,
        };
        pod.node = (!place.node.is_empty()).then(|| place.node.as_str().into());
        pod.ips.clone_from(&place.ips);
        if let Some(stored) = self.objects.get_mut(key) {
            stored.text.take();
            pod.uid = Some(stored.uid.as_str().into());
            stored.place = Some(place);
        }
        self.cluster.put_pod(pod);
        Ok(())
    }

    /// The node and the addresses of a pod: as the manifest states them where that is possible,
    /// else the node with the fewest pods and its next free address.
    fn place(&self, key: &Key, pod: &Pod) -> Result<Place, StoreError> {
        let node = match &pod.node {
            Some(node) => self.nodes.iter().find(|n| n.as_str() == &**node).cloned(),
            None => self.quietest_node(key),
        };
        let Some(node) = node else { return Ok(Place::default()) };
        let number = self.nodes.iter().position(|n| *n == node).map_or(1, |i| i + 1);
        let number = u32::try_from(number).unwrap_or(1);
        if pod.host_network {
            return Ok(Place { node, ips: plan::node_addresses(number, self.config.families) });
        }
        let used: BTreeSet<IpAddr> = self
            .cluster
            .pods
            .values()
            .filter(|p| {
                p.name.name.as_ref() != key.name || p.name.namespace.as_ref() != key.namespace
            })
            // The address of a pod that has ended is free again, though its object still states it.
            .filter(|p| p.phase == Phase::Alive)
            .flat_map(|p| p.ips.iter().copied())
            .collect();
        let cidrs = plan::pod_cidrs(number, self.config.families);
        let mut ips = Vec::new();
        for (family, cidr) in self.config.families.list().iter().zip(cidrs) {
            let stated = pod.ip(*family).filter(|ip| !used.contains(ip) && self.may_own(*ip));
            let address =
                stated.or_else(|| plan::free_pod_address(cidr, &used)).ok_or_else(|| {
                    StoreError::NoAddress {
                        pod: pod.name.to_string(),
                        node: node.clone(),
                        used: used.iter().filter(|ip| cidr.contains(*ip)).count(),
                        cidr: cidr.to_string(),
                    }
                })?;
            ips.push(address);
        }
        Ok(Place { node, ips })
    }

    /// Whether a stated pod address can be given: inside of the cluster's ranges, not a gateway.
    fn may_own(&self, ip: IpAddr) -> bool {
        let gateways = (1..=self.nodes.len())
            .flat_map(|n| plan::pod_cidrs(u32::try_from(n).unwrap_or(1), self.config.families));
        plan::cluster_cidrs(self.config.families).iter().any(|net| net.contains(&ip))
            && !gateways.into_iter().any(|net| {
                net.network() == ip || net.hosts().next() == Some(ip) || net.broadcast() == ip
            })
    }

    fn quietest_node(&self, key: &Key) -> Option<String> {
        let selector =
            self.objects.get(key).and_then(|s| s.object.raw.pointer("/spec/nodeSelector"));
        let fits = |name: &&String| {
            let Some(Value::Object(wanted)) = selector else { return true };
            let labels = self.cluster.nodes.get(name.as_str()).map(|n| &n.labels);
            wanted.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == v.as_str())
        };
        let pods_on = |name: &str| {
            self.cluster.pods.values().filter(|p| p.node.as_deref() == Some(name)).count()
        };
        self.nodes.iter().filter(fits).min_by_key(|name| pods_on(name)).cloned()
    }

    fn follow_service(&mut self, key: &Key, name: &Name) {
        let Some(Typed::Service(typed)) = self.objects.get(key).map(|s| &s.object.typed) else {
            self.cluster.services.remove(name);
            return;
        };
        let mut service = (**typed).clone();
        let before = self.cluster.services.remove(name);
        if !service.headless {
            let used: BTreeSet<IpAddr> = self
                .cluster
                .services
                .values()
                .flat_map(|s| s.cluster_ips.iter().copied())
                .chain(plan::DNS_SERVICE)
                .collect();
            for family in self.config.families.list() {
                let of = |ips: &[IpAddr]| ips.iter().copied().find(|ip| Family::of(*ip) == *family);
                if of(&service.cluster_ips).is_none() {
                    let kept = before.as_ref().and_then(|b| of(&b.cluster_ips));
                    service
                        .cluster_ips
                        .extend(kept.or_else(|| plan::free_service_address(*family, &used)));
                }
            }
            let families = self.config.families;
            service.cluster_ips.retain(|ip| families.has(Family::of(*ip)));
        }
        if matches!(service.exposure, Exposure::Node { .. }) {
            let mut used: BTreeSet<u16> = self
                .cluster
                .services
                .values()
                .flat_map(|s| s.ports.iter().filter_map(|p| p.node_port))
                .collect();
            for (i, port) in service.ports.iter_mut().enumerate() {
                let kept = before.as_ref().and_then(|b| b.ports.get(i)?.node_port);
                port.node_port = port.node_port.or(kept).or_else(|| plan::free_node_port(&used));
                used.extend(port.node_port);
            }
        }
        self.cluster.put_service(service);
    }

    /// Makes the pods that the workloads want and removes those that none wants.
    fn reconcile_workloads(&mut self, touched: &mut Touched) -> Result<(), StoreError> {
        let nodes: Vec<Object> =
            self.nodes.iter().filter_map(|name| checked(&self.shown_node(name)?).ok()).collect();
        let stated = self.objects.values().map(|s| &s.object).filter(|o| !is_made(&o.raw));
        let wanted: BTreeMap<Key, Value> = derived::pods(&stated.chain(&nodes))
            .into_iter()
            .map(|mut raw| {
                raw["metadata"]["annotations"][MADE] = json!(meaning(&raw).to_string());
                let text =
                    |pointer| raw.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                (Key::new("Pod", text("/metadata/namespace"), text("/metadata/name")), raw)
            })
            .collect();
        let stale: Vec<Key> = self
            .objects
            .iter()
            .filter(|(key, s)| key.kind == "Pod" && is_made(&s.object.raw))
            .map(|(key, _)| key.clone())
            .filter(|key| !wanted.contains_key(key))
            .collect();
        for key in stale {
            self.objects.remove(&key);
            self.follow(&key, touched)?;
        }
        for (key, raw) in wanted {
            // A pod that was labelled by hand stays so until its template changes.
            if self.objects.get(&key).is_none_or(|s| made(&s.object.raw) != made(&raw)) {
                self.put(checked(&raw)?, touched)?;
            }
        }
        Ok(())
    }

    fn new_uid(&mut self) -> String {
        self.next_uid += 1;
        format!("00000000-0000-4000-8000-{:012x}", self.next_uid)
    }
}

/// Marks pods that a workload made, besides their owner reference (which a manifest can state too);
/// the value is what the template said.
const MADE: &str = "lab.podwall.io/made-by-workload";

/// Namespaces that no cluster lets go.
const PROTECTED: [&str; 2] = ["default", "kube-system"];

/// An object's identity.
pub fn key_of(object: &Object) -> Key {
    Key::new(&object.key.kind, &object.key.namespace, &object.key.name)
}

/// What of an object makes a difference: status and what servers write into metadata do not.
fn meaning(raw: &Value) -> Value {
    let of = |pointer: &str| raw.pointer(pointer).cloned().unwrap_or(Value::Null);
    json!([of("/metadata/labels"), of("/metadata/annotations"), of("/spec"), of("/status/phase")])
}

/// Whether a pod was made by a workload of the lab.
fn is_made(raw: &Value) -> bool {
    made(raw).is_some()
}

/// What the template said of a pod that a workload made.
fn made(raw: &Value) -> Option<&Value> {
    raw.pointer("/metadata/annotations").and_then(|a| a.get(MADE))
}

/// An object, through the reader that checks everybody's.
pub fn checked(raw: &Value) -> Result<Object, StoreError> {
    let name = raw.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)");
    let object = format!("{} {name}", raw.get("kind").and_then(Value::as_str).unwrap_or("object"));
    let options = podwall_manifest::Options::default();
    podwall_manifest::object_from_json(raw, "<lab>", &options).map_err(|findings| {
        let reasons: Vec<String> = findings
            .iter()
            .map(|f| match &f.field {
                Some(field) => format!("{field}: {}", f.message),
                None => f.message.clone(),
            })
            .collect();
        StoreError::Object { object, reason: reasons.join("; ") }
    })
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
