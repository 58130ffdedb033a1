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

use ipnet::IpNet;
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
    /// Its UID, where it has one.
    pub uid: Option<Arc<str>>,
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
    /// Nodes: the agent's own alone.
    Node,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Namespace, Self::Pod, Self::NetworkPolicy, Self::Node];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Node => "Node",
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

/// `v1` Node: its pods' addresses are all that counts.
#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = "core::Node")]
pub(crate) struct SlimNode {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
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

/// What is wrong with an object.
pub(crate) fn unusable(kind: Kind, metadata: &ObjectMeta, reason: impl Into<String>) -> Unusable {
    let uid = metadata.uid.as_deref().map(Arc::from);
    Unusable { kind, name: called(metadata), uid, reason: reason.into() }
}

/// A pod, and what else tells that a container runtime speaks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodObject {
    /// What policies see.
    pub(crate) pod: Pod,
    /// The UID that the kubelet and the runtime know it by, where that is not the object's: the
    /// kubelet's own pods are read from files, and the API server has copies of them.
    pub(crate) mirrors: Option<Arc<str>>,
}

/// Of the copy of a pod that a kubelet has read from a file, the UID of that
/// (`pkg/kubelet/types/pod_update.go`).
const MIRROR: &str = "kubernetes.io/config.mirror";

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
    type Object = PodObject;

    fn key(metadata: &ObjectMeta) -> Option<Name> {
        name(metadata)
    }

    fn read(self) -> Read<PodObject> {
        let annotations = self.metadata.annotations.as_ref();
        let mirrors = annotations.and_then(|all| all.get(MIRROR)).map(|uid| Arc::from(&**uid));
        self.pod().map(|pod| PodObject { pod, mirrors }).into()
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

impl Watched for SlimNode {
    const KIND: Kind = Kind::Node;
    type Key = Arc<str>;
    type Object = Vec<IpNet>;

    fn key(metadata: &ObjectMeta) -> Option<Arc<str>> {
        metadata.name.as_deref().map(Arc::from)
    }

    /// The ranges of its pods' addresses; none on clusters that do not give a node any.
    fn read(self) -> Read<Vec<IpNet>> {
        let NodeSpec { pod_cidr, pod_cidrs } = &self.spec;
        let stated = pod_cidrs.iter().chain(pod_cidr.iter().filter(|_| pod_cidrs.is_empty()));
        let range = |text: &String| {
            text.parse().map_err(|_| {
                let reason = format!("{text:?} in podCIDRs is no range of addresses");
                unusable(Self::KIND, &self.metadata, reason)
            })
        };
        stated.filter(|text| !text.is_empty()).map(range).collect::<Result<_, _>>().into()
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

#[cfg(test)]
mod tests {
    use podwall_policy::policy::Direction;

    use super::*;

    fn read<W: Watched + for<'de> Deserialize<'de>>(value: Value) -> Read<W::Object> {
        serde_json::from_value::<W>(value).unwrap().read()
    }

    fn pod(spec: &Value, status: &Value) -> Read<PodObject> {
        read::<SlimPod>(json!({
            "metadata": { "namespace": "shop", "name": "a", "uid": "1-2", "labels": { "app": "web" },
                          "managedFields": [{ "manager": "kubelet" }] },
            "spec": spec, "status": status,
        }))
    }

    #[test]
    fn of_a_pod_only_what_policies_see_is_kept() {
        let read = pod(
            &json!({ "nodeName": "n1", "volumes": [{}], "containers": [
                { "name": "a", "image": "x", "ports": [
                    { "name": "http", "containerPort": 80 },
                    { "containerPort": 53, "protocol": "UDP" }] },
                { "name": "b" }],
                "initContainers": [{ "ports": [{ "containerPort": 9, "protocol": "SCTP" }] }] }),
            &json!({ "phase": "Running", "podIP": "10.0.0.1",
                    "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] }),
        );
        assert_eq!(read.wrong, None);
        let PodObject { pod, mirrors } = read.object.unwrap();
        assert_eq!(mirrors, None);
        assert_eq!(pod.name.to_string(), "shop/a");
        assert_eq!(pod.uid.as_deref(), Some("1-2"));
        assert_eq!(pod.node.as_deref(), Some("n1"));
        assert_eq!(pod.labels.get("app"), Some("web"));
        assert_eq!(
            pod.ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.1", "fd00::1"]
        );
        let ports: Vec<_> = pod.ports.iter().map(|p| (p.number, p.protocol)).collect();
        assert_eq!(ports, [(80, Protocol::TCP), (53, Protocol::UDP), (9, Protocol::SCTP)]);
        assert!(pod.is_subject());
    }

    #[test]
    fn an_ended_pod_and_one_of_the_host_network_are_told_apart_from_others() {
        let phase = |phase: &str| pod(&json!({}), &json!({ "phase": phase, "podIP": "10.0.0.1" }));
        for ended in ["Succeeded", "Failed"] {
            assert!(!phase(ended).object.unwrap().pod.is_subject(), "{ended}");
        }
        for alive in ["Pending", "Running", "Unknown"] {
            assert!(phase(alive).object.unwrap().pod.is_subject(), "{alive}");
        }
        assert!(!pod(&json!({ "hostNetwork": true }), &json!({})).object.unwrap().pod.is_subject());
        // A server without podIPs, and a pod without any address yet.
        assert_eq!(phase("Running").object.unwrap().pod.ips.len(), 1);
        assert!(pod(&json!({}), &json!({})).object.unwrap().pod.ips.is_empty());
    }

    #[test]
    fn a_copy_of_a_pod_from_a_file_is_known_by_the_uid_of_that() {
        let read = read::<SlimPod>(json!({ "metadata": {
            "namespace": "kube-system", "name": "etcd-n1", "uid": "of-the-copy",
            "annotations": { "kubernetes.io/config.mirror": "of-the-file" } } }));
        assert_eq!(read.object.unwrap().mirrors.as_deref(), Some("of-the-file"));
    }

    #[test]
    fn a_node_has_ranges_for_its_pods() {
        let node =
            |spec: Value| read::<SlimNode>(json!({ "metadata": { "name": "n1" }, "spec": spec }));
        let text = |spec: Value| {
            node(spec).object.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let both = json!({ "podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"] });
        assert_eq!(text(both), ["10.1.0.0/24", "fd00::/64"]);
        assert_eq!(text(json!({ "podCIDR": "10.1.0.0/24" })), ["10.1.0.0/24"]);
        assert!(text(json!({})).is_empty());
        let wrong = node(json!({ "podCIDR": "10.1.0.0/64" })).wrong.unwrap().to_string();
        assert_eq!(
            wrong,
            "Node n1 cannot be read: \"10.1.0.0/64\" in podCIDRs is no range of addresses"
        );
    }

    #[test]
    fn a_pod_that_makes_no_sense_is_left_out_with_words() {
        let wrong = pod(&json!({}), &json!({ "podIPs": [{ "ip": "10.0.0" }] })).wrong.unwrap();
        assert_eq!(wrong.to_string(), "Pod shop/a cannot be read: \"10.0.0\" is no IP address");
    }

    fn mk_policy(spec: &Value) -> Read<Policy> {
        read::<SlimPolicy>(json!({
            "metadata": { "namespace": "shop", "name": "p", "resourceVersion": "7" }, "spec": spec,
        }))
    }

    #[test]
    fn a_policy_means_what_its_manifest_means() {
        let read = mk_policy(&json!({
            "podSelector": { "matchLabels": { "app": "web" } },
            "ingress": [{ "from": [{ "podSelector": {} }], "ports": [{ "port": 80 }] }],
        }));
        assert_eq!(read.wrong, None);
        let policy = read.object.unwrap();
        assert_eq!(policy.ingress.as_ref().map(Vec::len), Some(1));
        assert!(policy.egress.is_none(), "policyTypes default to what is there");
    }

    #[test]
    fn a_policy_that_cannot_be_read_isolates_whom_it_selects() {
        let read = mk_policy(&json!({
            "podSelector": { "matchLabels": { "app": "web" } },
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "starSelector": {} }] }],
        }));
        let wrong = read.wrong.unwrap().to_string();
        assert!(
            wrong.contains("NetworkPolicy shop/p") && wrong.contains("starSelector"),
            "{wrong}"
        );
        assert!(wrong.contains("isolates whom it selects"), "{wrong}");
        let policy = read.object.unwrap();
        assert_eq!(policy.ingress.as_deref().map(<[_]>::len), Some(0));
        assert!(policy.egress.is_none());
        // Its types cannot be read: both directions.
        let read = mk_policy(&json!({ "podSelector": {}, "policyTypes": ["Sideways"] }));
        let policy = read.object.unwrap();
        assert!(Direction::BOTH.iter().all(|d| policy.rules(*d).is_some_and(<[_]>::is_empty)));
        // Not even whom it selects: its namespace.
        let read = mk_policy(
            &json!({ "podSelector": { "matchExpressions": [{ "key": "a", "operator": "Near" }] } }),
        );
        assert!(read.wrong.unwrap().reason.contains("whole namespace"));
        assert!(read.object.is_some());
    }
}
