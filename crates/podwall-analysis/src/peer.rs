//! Who is meant by `default/web`, `shop/deploy/cart`, `10.0.0.7` or `internet`?
//!
//! ```text
//!   web                      pod web in the default namespace (-n)
//!   shop/web                 pod web in shop
//!   shop/Deployment/cart     the pods of a workload; kubectl's short kinds too (deploy, sts, …)
//!   shop/svc/cart            a Service: the pods behind it, with its ports translated
//!   10.0.0.7                 the pod, node or Service with that address, else somebody outside
//!   10.0.0.0/24, internet    addresses outside: a CIDR, or all
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podwall_policy::address::AddressSet;
use podwall_policy::cluster::Cluster;
use podwall_policy::flow::Party;
use podwall_policy::object::{Name, Node, Phase, Pod, Service};
use podwall_policy::policy::{Policy, Tier};

use crate::error::AskError;
use crate::suggest::nearest;

/// One end of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer<'a> {
    /// One pod.
    Pod(&'a Pod),
    /// The pods of a workload.
    Workload(WorkloadPods<'a>),
    /// A Service.
    Service(&'a Service),
    /// A node.
    Node(&'a Node),
    /// Addresses outside of the cluster; never empty.
    Outside {
        /// As the user wrote it.
        text: String,
        /// The addresses.
        addresses: AddressSet,
    },
}

/// The pods of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPods<'a> {
    /// The kind as the manifest has it.
    pub kind: Arc<str>,
    /// The workload.
    pub name: Name,
    /// Its running pods, never empty; its template where it has none.
    pub pods: Vec<&'a Pod>,
    /// Whether `pods` is only the template.
    pub template: bool,
}

impl<'a> Peer<'a> {
    /// The pods behind the peer; none for addresses and nodes.
    pub fn pods(&self, cluster: &'a Cluster) -> Vec<&'a Pod> {
        match self {
            Self::Pod(pod) => vec![pod],
            Self::Workload(workload) => workload.pods.clone(),
            Self::Service(service) => backends(cluster, service),
            Self::Node(_) | Self::Outside { .. } => Vec::new(),
        }
    }
}

impl std::fmt::Display for Peer<'_> {
    /// As the contract of the command line writes peers; a node by its name.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "{}", pod.name),
            Self::Workload(w) => write!(f, "{}/{}/{}", w.name.namespace, w.kind, w.name.name),
            Self::Service(s) => write!(f, "{}/svc/{}", s.name.namespace, s.name.name),
            Self::Node(node) => write!(f, "node {}", node.name),
            Self::Outside { text, .. } => f.write_str(text),
        }
    }
}

/// The running pods that a Service selects, by name; none where it has no selector.
pub fn backends<'a>(cluster: &'a Cluster, service: &Service) -> Vec<&'a Pod> {
    let Some(selector) = &service.selector else { return Vec::new() };
    cluster
        .pods_of(&service.name.namespace)
        .filter(|pod| pod.phase == Phase::Alive)
        .filter(|pod| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)))
        .collect()
}

/// Kinds of workloads with kubectl's short names.
const KINDS: [(&str, &[&str]); 7] = [
    ("Deployment", &["deploy", "deployments"]),
    ("ReplicaSet", &["rs", "replicasets"]),
    ("StatefulSet", &["sts", "statefulsets"]),
    ("DaemonSet", &["ds", "daemonsets"]),
    ("ReplicationController", &["rc", "replicationcontrollers"]),
    ("Job", &["jobs"]),
    ("CronJob", &["cj", "cronjobs"]),
];

/// What stands between the slashes of NAMESPACE/KIND/NAME.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pod,
    Service,
    Workload(&'static str),
}

fn kind(text: &str) -> Option<Kind> {
    let text = text.to_ascii_lowercase();
    match text.as_str() {
        "pod" | "po" | "pods" => Some(Kind::Pod),
        "svc" | "service" | "services" => Some(Kind::Service),
        _ => KINDS
            .iter()
            .find(|(name, short)| name.to_ascii_lowercase() == text || short.contains(&&*text))
            .map(|(name, _)| Kind::Workload(name)),
    }
}

/// Whether a text means addresses, whatever objects there are. Some may turn out to be a pod's.
pub fn is_outside(text: &str) -> bool {
    text.eq_ignore_ascii_case("internet")
        || text.parse::<IpAddr>().is_ok()
        || text.parse::<IpNet>().is_ok()
}

/// Finds the peer that a text names. A name alone is looked for in `namespace`.
///
/// # Errors
/// If the text is not a peer, or names nothing that there is.
pub fn resolve<'a>(
    cluster: &'a Cluster,
    text: &str,
    namespace: &str,
) -> Result<Peer<'a>, AskError> {
    let bad = |why: &str| AskError::BadPeer { text: text.to_owned(), why: why.to_owned() };
    if text.eq_ignore_ascii_case("internet") {
        return Ok(Peer::Outside {
            text: "internet".to_owned(),
            addresses: AddressSet::everything(),
        });
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(at_address(cluster, address));
    }
    if let Ok(net) = text.parse::<IpNet>() {
        let net = net.trunc();
        if net.prefix_len() == net.max_prefix_len() {
            return Ok(at_address(cluster, net.addr()));
        }
        return Ok(Peer::Outside { text: net.to_string(), addresses: AddressSet::from(net) });
    }
    let parts: Vec<&str> = text.split('/').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(bad("a part of it is empty"));
    }
    match parts[..] {
        [name] => pod(cluster, namespace, name).map_err(|error| match not_a_pod(name) {
            Some(why) if matches!(error, AskError::NotFound { meant: None, .. }) => bad(why),
            _ => error,
        }),
        [first, name] => match kind(first) {
            // As kubectl users write it; a namespace of that name goes first.
            Some(kind) if !cluster.namespaces.contains_key(first) => {
                of_kind(cluster, kind, namespace, name)
            }
            _ => pod(cluster, first, name),
        },
        [namespace, of, name] => {
            let kind = kind(of).ok_or_else(|| {
                let names = KINDS.iter().map(|(name, _)| *name).chain(["svc", "pod"]);
                let meant = nearest(of, names).map_or_else(
                    || "kinds are svc, Deployment, StatefulSet, DaemonSet, …".to_owned(),
                    |meant| format!("did you mean {meant}?"),
                );
                bad(&format!("\"{of}\" is not a kind of workload; {meant}"))
            })?;
            of_kind(cluster, kind, namespace, name)
        }
        _ => Err(bad("it has more than three parts")),
    }
}

fn of_kind<'a>(
    cluster: &'a Cluster,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<Peer<'a>, AskError> {
    match kind {
        Kind::Pod => pod(cluster, namespace, name),
        Kind::Service => service(cluster, namespace, name),
        Kind::Workload(kind) => workload(cluster, kind, namespace, name),
    }
}

/// Who has an address: a Service, a pod, a node, else somebody outside.
fn at_address(cluster: &Cluster, address: IpAddr) -> Peer<'_> {
    if let Some(service) = cluster.services.values().find(|s| s.cluster_ips.contains(&address)) {
        return Peer::Service(service);
    }
    match Party::at(cluster, address) {
        Party::Pod(pod) => Peer::Pod(pod),
        Party::Node(node) => Peer::Node(node),
        Party::Address(address) => Peer::Outside {
            text: address.to_string(),
            addresses: AddressSet::from(IpNet::from(address)),
        },
    }
}

/// What a text is that looks like no pod's name; an existing pod may be called so all the same.
fn not_a_pod(text: &str) -> Option<&'static str> {
    let of = |allowed: fn(char) -> bool| text.chars().all(allowed);
    if text.contains(':') || (text.contains('.') && of(|c| c.is_ascii_digit() || c == '.')) {
        return Some("it is not an IP address");
    }
    text.contains('.').then_some(
        "there is no pod of that name, and names of the DNS are nothing that policies know: ask \
         with an address that it stands for",
    )
}

/// Finds a running pod.
///
/// # Errors
/// If there is none of that name, or it has ended.
pub fn pod<'a>(cluster: &'a Cluster, namespace: &str, name: &str) -> Result<Peer<'a>, AskError> {
    let key = Name::new(namespace, name);
    match cluster.pods.get(&key) {
        Some(pod) if pod.phase == Phase::Terminated => Err(AskError::Ended { pod: key }),
        Some(pod) => Ok(Peer::Pod(pod)),
        None => Err(AskError::NotFound {
            kind: "pod".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            meant: pod_meant(cluster, namespace, name),
            there: names_in(cluster.pods.keys(), namespace),
        }),
    }
}

/// Where a pod that is not there may be instead.
fn pod_meant(cluster: &Cluster, namespace: &str, name: &str) -> Option<String> {
    let workload = cluster.workloads.keys().find(|(_, key)| is(key, namespace, name));
    if let Some((kind, _)) = workload {
        return Some(format!("there is a {kind} of that name: write {namespace}/{kind}/{name}"));
    }
    if cluster.services.keys().any(|key| is(key, namespace, name)) {
        return Some(format!("there is a Service of that name: write {namespace}/svc/{name}"));
    }
    meant(cluster, &cluster.pods.keys(), namespace, name, "a pod")
}

fn is(key: &Name, namespace: &str, name: &str) -> bool {
    *key.namespace == *namespace && *key.name == *name
}

/// "did you mean …?", by another namespace with the name, a misspelt namespace or a misspelt name.
fn meant<'a>(
    cluster: &'a Cluster,
    keys: &(impl Iterator<Item = &'a Name> + Clone),
    namespace: &str,
    name: &str,
    what: &str,
) -> Option<String> {
    if let Some(near) = nearest(name, names_of(keys.clone(), namespace)) {
        return Some(format!("did you mean {near}?"));
    }
    let elsewhere: Vec<&Name> = keys.clone().filter(|key| *key.name == *name).collect();
    if let [only] = elsewhere[..] {
        return Some(format!("did you mean {only}?"));
    }
    if !elsewhere.is_empty() {
        let names: Vec<String> = elsewhere.iter().map(ToString::to_string).collect();
        return Some(format!("{what} of that name is at {}", names.join(", ")));
    }
    let near = nearest(namespace, cluster.namespaces.keys().map(|key| &**key))?;
    (!cluster.namespaces.contains_key(namespace)).then(|| format!("did you mean namespace {near}?"))
}

fn names_of<'a>(
    keys: impl Iterator<Item = &'a Name>,
    namespace: &str,
) -> impl Iterator<Item = &'a str> {
    keys.filter(move |key| *key.namespace == *namespace).map(|key| &*key.name)
}

fn names_in<'a>(keys: impl Iterator<Item = &'a Name>, namespace: &str) -> Vec<String> {
    names_of(keys, namespace).map(str::to_owned).collect()
}

fn service<'a>(cluster: &'a Cluster, namespace: &str, name: &str) -> Result<Peer<'a>, AskError> {
    cluster.services.get(&Name::new(namespace, name)).map(Peer::Service).ok_or_else(|| {
        AskError::NotFound {
            kind: "Service".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            meant: meant(cluster, &cluster.services.keys(), namespace, name, "a Service"),
            there: names_in(cluster.services.keys(), namespace),
        }
    })
}

fn workload<'a>(
    cluster: &'a Cluster,
    kind: &str,
    namespace: &str,
    name: &str,
) -> Result<Peer<'a>, AskError> {
    let key = Name::new(namespace, name);
    let pods: Vec<&Pod> = cluster
        .pods_of(&key.namespace)
        .filter(|pod| pod.phase == Phase::Alive)
        .filter(|pod| pod.owner.as_ref().is_some_and(|o| *o.kind == *kind && o.name == key.name))
        .collect();
    let stated = cluster.workloads.get(&(Arc::from(kind), key.clone()));
    let template = pods.is_empty();
    let pods = match stated {
        Some(workload) if template => vec![&workload.template],
        _ => pods,
    };
    if pods.is_empty() {
        let owners = cluster.pods.values().filter_map(|pod| {
            let owner = pod.owner.as_ref().filter(|owner| *owner.kind == *kind)?;
            Some(Name::new(pod.name.namespace.clone(), owner.name.clone()))
        });
        let of_kind = cluster.workloads.keys().filter(|(k, _)| **k == *kind);
        let there: BTreeSet<Name> = of_kind.map(|(_, key)| key.clone()).chain(owners).collect();
        return Err(AskError::NotFound {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            meant: meant(cluster, &there.iter(), namespace, name, &format!("a {kind}")),
            there: names_in(there.iter(), namespace),
        });
    }
    Ok(Peer::Workload(WorkloadPods { kind: Arc::from(kind), name: key, pods, template }))
}

/// Finds a NetworkPolicy by `NAMESPACE/NAME` or `NAME`.
///
/// # Errors
/// If the text is no such name, or there is none of that name.
pub fn policy<'a>(
    cluster: &'a Cluster,
    text: &str,
    namespace: &str,
) -> Result<&'a Policy, AskError> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(AskError::BadPeer {
            text: text.to_owned(),
            why: "a policy is written NAMESPACE/NAME".to_owned(),
        });
    }
    let key = Name::new(namespace, name);
    cluster.policies.values().find(|policy| policy.name == key).ok_or_else(|| {
        let keys = || {
            let of_tier = |(tier, _): &&(Tier, Name)| *tier == Tier::NetworkPolicy;
            cluster.policies.keys().filter(of_tier).map(|(_, name)| name)
        };
        AskError::NoPolicy {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            meant: meant(cluster, &keys(), namespace, name, "a policy"),
            there: names_in(keys(), namespace),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_policy::label::Labels;
    use podwall_policy::object::{Owner, Replicas, Workload};

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        cluster.put_pod(Pod::new("default", "web-pod", Labels::default()));
        let mut cart = Pod::new("shop", "cart-1", Labels::default());
        cart.ips.push("10.0.0.7".parse().unwrap());
        cart.owner = Some(Owner { kind: "Deployment".into(), name: "cart".into() });
        cluster.put_pod(cart);
        cluster.put_workload(Workload {
            kind: "StatefulSet".into(),
            name: Name::new("shop", "db"),
            replicas: Replicas::Count(0),
            template: Pod::new("shop", "db", Labels::default()),
            owner: None,
            source: None,
        });
        cluster
    }

    /// `300.1.1.1` and `www.google.com` were looked for among the pods, and that was the answer.
    #[test]
    fn what_is_no_address_and_what_is_a_name_of_the_dns_is_said() {
        let mut cluster = cluster();
        cluster.put_pod(Pod::new("default", "a.b", Labels::default()));
        let why = |text: &str| resolve(&cluster, text, "default").unwrap_err().to_string();
        for text in ["300.1.1.1", "10.0.0", "2001:db8::g"] {
            assert!(why(text).ends_with("it is not an IP address"), "{}", why(text));
        }
        assert!(why("www.google.com").contains("names of the DNS"), "{}", why("www.google.com"));
        assert!(why("a.b.c").contains("names no peer") || why("a.b.c").contains("no pod"));
        assert_eq!(resolve(&cluster, "a.b", "default").unwrap().to_string(), "default/a.b");
    }

    #[test]
    fn every_way_to_write_a_peer_finds_it() {
        let cluster = cluster();
        let table = [
            ("web-pod", "default/web-pod"),
            ("shop/cart-1", "shop/cart-1"),
            ("shop/pod/cart-1", "shop/cart-1"),
            ("shop/deploy/cart", "shop/Deployment/cart"),
            ("shop/Deployment/cart", "shop/Deployment/cart"),
            ("shop/sts/db", "shop/StatefulSet/db"),
            ("10.0.0.7", "shop/cart-1"),
            ("10.0.0.8", "10.0.0.8"),
            ("10.0.0.9/24", "10.0.0.0/24"),
            ("internet", "internet"),
            ("2001:db8::1", "2001:db8::1"),
        ];
        for (text, expected) in table {
            assert_eq!(resolve(&cluster, text, "default").unwrap().to_string(), expected, "{text}");
        }
        assert_eq!(resolve(&cluster, "deploy/cart", "shop").unwrap().pods(&cluster).len(), 1);
    }

    #[test]
    fn a_misspelt_name_gets_a_suggestion_and_a_list() {
        let cluster = cluster();
        let table = [
            ("web-pdo", "did you mean web-pod?"),
            ("cart-1", "did you mean shop/cart-1?"),
            ("shpo/nothing", "did you mean namespace shop?"),
            ("shop/db", "write shop/StatefulSet/db"),
            ("shop/deployment/crat", "did you mean cart?"),
            ("shop/Deploymnt/cart", "did you mean Deployment?"),
        ];
        for (text, expected) in table {
            let error = resolve(&cluster, text, "default").unwrap_err();
            let said = format!("{error}\n{}", error.hint().unwrap());
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn a_pod_that_has_ended_cannot_be_asked_about() {
        let mut cluster = cluster();
        let mut done = Pod::new("default", "done", Labels::default());
        done.phase = Phase::Terminated;
        cluster.put_pod(done);
        let error = resolve(&cluster, "done", "default").unwrap_err();
        assert_eq!(error, AskError::Ended { pod: Name::new("default", "done") });
    }
}
