//! Which fields of the cluster's objects does the agent keep?
//!
//! ```text
//!   API server ── JSON ──▶ slim kinds (only these fields are decoded) ──▶ podwall_policy objects
//!                          NetworkPolicy: the whole spec ──▶ podwall-manifest, which knows the rules
//! ```
//!
//! A pod of the API has some 30 KiB in memory, of which policies see labels, node, addresses, phase
//! and ports. The rest is never decoded. Objects that the API server would not have taken, or that
//! are newer than this program, are reported one by one and stop nobody else.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use kube::api::ObjectMeta;
use podwall_manifest::{Options, Typed, object_from_json};
use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Namespace, Phase, Pod};
use podwall_policy::policy::Policy;
use podwall_policy::port::{ContainerPort, Protocol};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

/// An object that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{kind} {name} cannot be read: {reason}")]
pub struct Unusable {
    /// Its kind, as people write it.
    pub kind: Kind,
    /// `NAMESPACE/NAME`, or a name.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Namespaces.
    Namespace,
    /// Pods.
    Pod,
    /// NetworkPolicies.
    NetworkPolicy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Namespace, Self::Pod, Self::NetworkPolicy];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
        })
    }
}

/// `v1` Namespace: labels are all that counts.
#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = "core::Namespace")]
pub(crate) struct SlimNamespace {
    metadata: ObjectMeta,
}

/// `v1` Pod.
#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = "core::Pod")]
pub(crate) struct SlimPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<Arc<str>>,
    #[serde(default)]
    host_network: bool,
    #[serde(default)]
    containers: Vec<Container>,
    #[serde(default)]
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Deserialize)]
struct Container {
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: Option<Arc<str>>,
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(default, rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodIp {
    ip: String,
}

/// `networking.k8s.io/v1` NetworkPolicy.
#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = "networking::NetworkPolicy")]
pub(crate) struct SlimPolicy {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
}

fn labels(metadata: &ObjectMeta) -> Labels {
    let all = metadata.labels.iter().flatten();
    all.map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// `NAMESPACE/NAME` of an object that has both.
pub(crate) fn name(metadata: &ObjectMeta) -> Option<Name> {
    Some(Name::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?))
}

/// How an object is called where something is wrong with it.
pub(crate) fn called(metadata: &ObjectMeta) -> String {
    let name = metadata.name.as_deref().unwrap_or("(without a name)");
    metadata.namespace.as_ref().map_or_else(|| name.to_owned(), |ns| format!("{ns}/{name}"))
}

/// A watched kind, and what the engine makes of it.
pub(crate) trait Watched {
    /// Which kind.
    const KIND: Kind;
    /// What the engine calls it by.
    type Key: Clone + fmt::Debug + Eq + std::hash::Hash + Send;
    /// What the engine knows of it.
    type Object: Send;

    /// The name of an object, whatever else is wrong with it.
    fn key(metadata: &ObjectMeta) -> Option<Self::Key>;
    /// Reads it.
    fn read(self) -> Read<Self::Object>;
}

/// What could be read of an object.
#[derive(Debug)]
pub(crate) struct Read<T> {
    /// What holds; `None`: as if it were not there.
    pub(crate) object: Option<T>,
    /// What is wrong with it.
    pub(crate) wrong: Option<Unusable>,
}

impl<T> Read<T> {
    /// Of an object that is gone.
    pub(crate) fn nothing() -> Self {
        Self { object: None, wrong: None }
    }
}

impl<T> From<Result<T, Unusable>> for Read<T> {
    fn from(result: Result<T, Unusable>) -> Self {
        match result {
            Ok(object) => Self { object: Some(object), wrong: None },
            Err(wrong) => Self { object: None, wrong: Some(wrong) },
        }
    }
}

fn unusable(kind: Kind, metadata: &ObjectMeta, reason: impl Into<String>) -> Unusable {
    Unusable { kind, name: called(metadata), reason: reason.into() }
}

impl Watched for SlimNamespace {
    const KIND: Kind = Kind::Namespace;
    type Key = Arc<str>;
    type Object = Namespace;

    fn key(metadata: &ObjectMeta) -> Option<Arc<str>> {
        metadata.name.as_deref().map(Arc::from)
    }

    fn read(self) -> Read<Namespace> {
        let name = self.metadata.name.as_deref();
        let name = name.ok_or_else(|| unusable(Self::KIND, &self.metadata, "it has no name"));
        name.map(|name| Namespace::new(name, &labels(&self.metadata))).into()
    }
}

impl Watched for SlimPod {
    const KIND: Kind = Kind::Pod;
    type Key = Name;
    type Object = Pod;

    fn key(metadata: &ObjectMeta) -> Option<Name> {
        name(metadata)
    }

    fn read(self) -> Read<Pod> {
        self.pod().into()
    }
}

impl SlimPod {
    /// A pod that is being deleted keeps its address as long as its containers may run: until its
    /// phase says that they have ended, or the object is gone.
    fn pod(self) -> Result<Pod, Unusable> {
        let wrong = |reason: String| unusable(Kind::Pod, &self.metadata, reason);
        let name = name(&self.metadata).ok_or_else(|| wrong("it has no name".into()))?;
        let PodStatus { phase, pod_ip, pod_ips } = &self.status;
        let stated = pod_ips.iter().map(|it| &it.ip);
        // Old servers fill in only the one.
        let stated = stated.chain(pod_ip.iter().filter(|_| pod_ips.is_empty()));
        let mut ips: Vec<IpAddr> = Vec::new();
        for text in stated.filter(|text| !text.is_empty()) {
            ips.push(text.parse().map_err(|_| wrong(format!("{text:?} is no IP address")))?);
        }
        let mut ports = Vec::new();
        for port in
            self.spec.containers.iter().chain(&self.spec.init_containers).flat_map(|c| &c.ports)
        {
            let protocol = match port.protocol.as_deref() {
                None => Protocol::TCP,
                Some(text) => Protocol::from_api(text)
                    .ok_or_else(|| wrong(format!("a port's protocol is {text:?}")))?,
            };
            ports.push(ContainerPort {
                name: port.name.clone(),
                number: port.container_port,
                protocol,
            });
        }
        let ended = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
        Ok(Pod {
            uid: self.metadata.uid.as_deref().map(Arc::from),
            labels: labels(&self.metadata),
            node: self.spec.node_name.clone().filter(|node| !node.is_empty()),
            ips,
            host_network: self.spec.host_network,
            phase: if ended { Phase::Terminated } else { Phase::Alive },
            ports,
            ..Pod::new(name.namespace, name.name, Labels::default())
        })
    }
}

impl Watched for SlimPolicy {
    const KIND: Kind = Kind::NetworkPolicy;
    type Key = Name;
    type Object = Policy;

    fn key(metadata: &ObjectMeta) -> Option<Name> {
        name(metadata)
    }

    /// A policy that cannot be read as a whole isolates whom it selects and allows nothing: people
    /// rely on it, and what it would allow is not known. If it is not even clear whom it selects, it
    /// isolates its namespace.
    fn read(self) -> Read<Policy> {
        let Some(name) = name(&self.metadata) else {
            return Err(unusable(Self::KIND, &self.metadata, "it has no name")).into();
        };
        let reason = match policy(&name, &self.spec) {
            Ok(policy) => return Ok(policy).into(),
            Err(reason) => reason,
        };
        let part = |field: &str| self.spec.get(field).cloned();
        let both = || json!(["Ingress", "Egress"]);
        let selector = part("podSelector").unwrap_or_else(|| json!({}));
        let types = part("policyTypes").unwrap_or_else(both);
        let stand_ins = [
            (
                json!({ "podSelector": selector, "policyTypes": types }),
                "it isolates whom it selects",
            ),
            (
                json!({ "podSelector": selector, "policyTypes": both() }),
                "it isolates whom it selects",
            ),
            (
                json!({ "podSelector": {}, "policyTypes": both() }),
                "it isolates its whole namespace",
            ),
        ];
        for (spec, meanwhile) in stand_ins {
            if let Ok(policy) = policy(&name, &spec) {
                let reason = format!("{reason}; until it can be read, {meanwhile}");
                let wrong = Some(unusable(Self::KIND, &self.metadata, reason));
                return Read { object: Some(policy), wrong };
            }
        }
        Err(unusable(Self::KIND, &self.metadata, reason)).into()
    }
}

fn policy(name: &Name, spec: &Value) -> Result<Policy, String> {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": &*name.namespace, "name": &*name.name },
        "spec": spec,
    });
    let options = Options::default();
    let read = object_from_json(&object, "the API server", &options).map_err(|wrong| {
        let all: Vec<String> = wrong.iter().map(|finding| finding.message.clone()).collect();
        all.join("; ")
    })?;
    match read.typed {
        Typed::Policy(policy) => Ok(*policy),
        _ => Err("it is no NetworkPolicy".into()),
    }
}
