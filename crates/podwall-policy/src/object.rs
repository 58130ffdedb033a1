//! What does the cluster consist of, as far as policies can see?
//!
//! ```text
//!   Namespace ──labels──┐
//!   Pod ──labels, IPs───┼──▶ what selectors and ipBlocks match
//!   Node ──addresses────┘
//!   Service ──selector──▶ Pods           Workload ──template──▶ Pods
//! ```
//!
//! These are the facts alone. Whether a fact is known is part of its type: a namespace that no
//! manifest states has [`Namespace::labels_known`] false, a pod without an address has no `ips`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::address::Family;
use crate::label::{Labels, METADATA_NAME};
use crate::port::{ContainerPort, Protocol};
use crate::source::Source;

/// A namespaced name, `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The namespace; never empty, `default` where the manifest says nothing.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl Name {
    /// A namespaced name.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels; `kubernetes.io/metadata.name` is always among them.
    pub labels: Labels,
    /// False if no manifest states this namespace: then only `kubernetes.io/metadata.name` is
    /// certain, and a selector that asks for another key cannot be decided.
    pub labels_known: bool,
    /// Where it stands.
    pub source: Option<Source>,
}

impl Namespace {
    /// A namespace with stated labels.
    pub fn new(name: impl Into<Arc<str>>, labels: &Labels) -> Self {
        let name = name.into();
        let labels = labels.with(METADATA_NAME, &name);
        Self { name, labels, labels_known: true, source: None }
    }

    /// A namespace that objects name but nobody states.
    pub fn implied(name: impl Into<Arc<str>>) -> Self {
        Self { labels_known: false, ..Self::new(name, &Labels::default()) }
    }
}

/// `status.phase`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Phase {
    /// Pending, Running or Unknown, or not stated: the pod may send and receive.
    #[default]
    Alive,
    /// Succeeded or Failed: the object may keep its address, but the address is no longer the
    /// pod's (corner case 39).
    Terminated,
}

/// The workload that a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// The kind as in the manifest: `Deployment`.
    pub kind: Arc<str>,
    /// Its name, in the pod's namespace.
    pub name: Arc<str>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: Name,
    /// `metadata.uid`, if stated; tells a recreated pod from its predecessor.
    pub uid: Option<Arc<str>>,
    /// Its labels.
    pub labels: Labels,
    /// `spec.nodeName`, if scheduled.
    pub node: Option<Arc<str>>,
    /// `status.podIPs`; empty where not known yet. At most one of each family.
    pub ips: Vec<IpAddr>,
    /// `spec.hostNetwork`: the pod is node traffic, no policy selects it and no selector peer
    /// matches it (corner case 33).
    pub host_network: bool,
    /// Whether it still runs.
    pub phase: Phase,
    /// What its containers declare, init containers and sidecars included.
    pub ports: Vec<ContainerPort>,
    /// The topmost controller that is known.
    pub owner: Option<Owner>,
    /// Where it stands.
    pub source: Option<Source>,
}

impl Pod {
    /// A pod with nothing but a name and labels.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>, labels: Labels) -> Self {
        Self {
            name: Name::new(namespace, name),
            uid: None,
            labels,
            node: None,
            ips: Vec::new(),
            host_network: false,
            phase: Phase::Alive,
            ports: Vec::new(),
            owner: None,
            source: None,
        }
    }

    /// The pod's address of a family.
    pub fn ip(&self, family: Family) -> Option<IpAddr> {
        self.ips.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    /// Whether policies can select the pod and selector peers can match it.
    pub fn is_subject(&self) -> bool {
        !self.host_network && self.phase == Phase::Alive
    }

    /// The numbers that a port name stands for on this pod, for one protocol: several containers
    /// may use a name (corner case 19).
    pub fn named_port<'a>(
        &'a self,
        name: &'a str,
        protocol: Protocol,
    ) -> impl Iterator<Item = u16> + 'a {
        self.ports
            .iter()
            .filter(move |p| p.protocol == protocol && p.name.as_deref() == Some(name))
            .map(|p| p.number)
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// `status.addresses` that are IP addresses.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Where it stands.
    pub source: Option<Source>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: Name,
    /// `spec.selector`; `None` for a Service whose endpoints are managed by hand.
    pub selector: Option<Labels>,
    /// `spec.clusterIPs`; empty for a headless Service and where none is stated.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// How it is exposed.
    pub exposure: Exposure,
    /// By which addresses beyond the cluster, and to whom.
    pub external: External,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Where it stands.
    pub source: Option<Source>,
}

/// The addresses of a Service that are not the cluster's.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct External {
    /// `type: LoadBalancer`.
    pub load_balancer: bool,
    /// `spec.externalTrafficPolicy: Local`, of whatever type.
    pub local: bool,
    /// `spec.externalIPs`.
    pub ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; empty: anybody.
    pub source_ranges: Vec<IpNet>,
}

/// How a Service is exposed beyond the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Exposure {
    /// ClusterIP or headless.
    #[default]
    Cluster,
    /// NodePort or LoadBalancer, with its `externalTrafficPolicy`.
    Node {
        /// `Local`: only pods of the node that was asked, and the client's address is kept.
        local: bool,
    },
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, if any.
    pub name: Option<Arc<str>>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the Service's address.
    pub port: u16,
    /// Where it leads on the pod.
    pub target: TargetPort,
    /// `nodePort`, if stated.
    pub node_port: Option<u16>,
}

/// `targetPort` of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number; the Service's own port where none is stated.
    Number(u16),
    /// A container port's name, resolved on each pod.
    Name(Arc<str>),
}

/// A controller that makes pods from a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The kind as in the manifest: `Deployment`, `CronJob`, …
    pub kind: Arc<str>,
    /// Namespace and name.
    pub name: Name,
    /// How many pods it makes; for a DaemonSet one a node.
    pub replicas: Replicas,
    /// The pod that it makes, named after the workload; `source` is the template's.
    pub template: Pod,
    /// The controller that owns this one, if any (a ReplicaSet of a Deployment).
    pub owner: Option<Owner>,
    /// Where it stands.
    pub source: Option<Source>,
}

/// How many pods a workload makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicas {
    /// A number, 1 where the manifest says nothing.
    Count(u32),
    /// One on every node.
    EveryNode,
}
