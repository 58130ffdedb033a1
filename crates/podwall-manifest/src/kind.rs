//! Which kinds are read, and which `apiVersion` serves them?
//!
//! ```text
//!   v1                      Namespace Node Pod Service ReplicationController
//!   apps/v1                 Deployment ReplicaSet StatefulSet DaemonSet
//!   batch/v1                Job CronJob
//!   networking.k8s.io/v1    NetworkPolicy
//!   anything else           counted and skipped
//! ```
//!
//! A kind of the same name in a group of its own (`projectcalico.org/v3` NetworkPolicy,
//! `serving.knative.dev/v1` Service) is another kind and skipped as such.

use crate::metadata::Naming;
use crate::suggest;

/// What a kind is to this reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Namespace,
    Node,
    Pod,
    Service,
    Workload,
    Policy,
    /// Only with [`Options::entrances`](crate::Options::entrances).
    Entrance,
    /// A class of entrances: who serves them; only with the same option.
    Servant,
}

/// A kind that is read.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) api_version: &'static str,
    pub(crate) class: Class,
    pub(crate) naming: Naming,
    /// Versions that served it once.
    former: &'static [&'static str],
}

impl Kind {
    pub(crate) fn is_namespaced(&self) -> bool {
        !matches!(self.class, Class::Namespace | Class::Node | Class::Servant)
    }
}

const fn kind(
    name: &'static str,
    api_version: &'static str,
    class: Class,
    naming: Naming,
    former: &'static [&'static str],
) -> Kind {
    Kind { name, api_version, class, naming, former }
}

const APPS: &[&str] = &["extensions/v1beta1", "apps/v1beta1", "apps/v1beta2"];

/// Every kind that is read.
pub(crate) const KINDS: &[Kind] = &[
    kind("Namespace", "v1", Class::Namespace, Naming::Label, &[]),
    kind("Node", "v1", Class::Node, Naming::Subdomain, &[]),
    kind("Pod", "v1", Class::Pod, Naming::Subdomain, &[]),
    kind("Service", "v1", Class::Service, Naming::Label1035, &[]),
    kind("ReplicationController", "v1", Class::Workload, Naming::Subdomain, &[]),
    kind("Deployment", "apps/v1", Class::Workload, Naming::Subdomain, APPS),
    kind("ReplicaSet", "apps/v1", Class::Workload, Naming::Subdomain, APPS),
    kind("StatefulSet", "apps/v1", Class::Workload, Naming::Subdomain, APPS),
    kind("DaemonSet", "apps/v1", Class::Workload, Naming::Subdomain, APPS),
    kind("Job", "batch/v1", Class::Workload, Naming::Subdomain, &["extensions/v1beta1"]),
    kind(
        "CronJob",
        "batch/v1",
        Class::Workload,
        Naming::CronJob,
        &["batch/v1beta1", "batch/v2alpha1"],
    ),
    kind(
        "NetworkPolicy",
        "networking.k8s.io/v1",
        Class::Policy,
        Naming::Subdomain,
        &["extensions/v1beta1"],
    ),
];

/// What leads to Services from outside; read only where it is asked for.
const ENTRANCES: &[Kind] = &[
    kind(
        "Ingress",
        "networking.k8s.io/v1",
        Class::Entrance,
        Naming::Subdomain,
        &["extensions/v1beta1", "networking.k8s.io/v1beta1"],
    ),
    kind(
        "IngressClass",
        "networking.k8s.io/v1",
        Class::Servant,
        Naming::Subdomain,
        &["networking.k8s.io/v1beta1"],
    ),
    kind("GatewayClass", GATEWAY_VERSION, Class::Servant, Naming::Subdomain, &[]),
    gateway_kind("Gateway"),
    gateway_kind("HTTPRoute"),
    gateway_kind("GRPCRoute"),
    gateway_kind("TLSRoute"),
    gateway_kind("TCPRoute"),
    gateway_kind("UDPRoute"),
    gateway_kind("ReferenceGrant"),
];

const GATEWAY_VERSION: &str = "gateway.networking.k8s.io/v1";

const fn gateway_kind(name: &'static str) -> Kind {
    kind(name, GATEWAY_VERSION, Class::Entrance, Naming::Subdomain, &[])
}

/// Finds a kind of entrance. What is read of Gateways and routes is the same in all versions of
/// their group; an Ingress of a former version has other fields.
pub(crate) fn entrance(api_version: &str, kind: &str) -> Option<Result<&'static Kind, Known>> {
    let known = ENTRANCES.iter().find(|its| its.name == kind)?;
    let group = |version: &'static str| version.split_once('/').map(|(group, _)| group);
    if known.former.contains(&api_version) {
        return Some(Err(Known::WrongVersion { use_instead: known.api_version, former: true }));
    }
    let (its, _) = api_version.split_once('/')?;
    let same = group(known.api_version) == Some(its);
    (same && (known.name != "Ingress" || api_version == known.api_version)).then_some(Ok(known))
}

/// Kinds of the same groups that are not read, so that they are not taken for slips of the pen.
const OTHERS: &[&str] = &[
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "ControllerRevision",
    "Endpoints",
    "Event",
    "IPAddress",
    "Ingress",
    "IngressClass",
    "LimitRange",
    "List",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
    "ServiceCIDR",
    "DeploymentRollback",
    "Scale",
];

/// How a document's `apiVersion` and `kind` are understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The kind, by its place in [`KINDS`].
    Read(usize),
    /// Another kind, under this name.
    Skip(String),
    /// A known kind under an `apiVersion` that does not serve it (any more).
    WrongVersion {
        /// The one that does.
        use_instead: &'static str,
        /// Whether it served the kind once.
        former: bool,
    },
    /// No such kind; nearly this one.
    Typo(&'static str),
}

/// Finds the kind.
pub(crate) fn find(api_version: &str, kind: &str) -> Known {
    let position = KINDS.iter().position(|k| k.name == kind);
    if let Some(index) = position {
        let known = &KINDS[index];
        if known.api_version == api_version {
            return Known::Read(index);
        }
        let former = known.former.contains(&api_version);
        if former || !is_foreign(api_version, known.api_version) {
            return Known::WrongVersion { use_instead: known.api_version, former };
        }
        let group = api_version.split('/').next().unwrap_or_default();
        return Known::Skip(format!("{kind}.{group}"));
    }
    let ours = KINDS.iter().any(|k| k.api_version == api_version);
    if ours && !OTHERS.contains(&kind) {
        let names: Vec<&str> = KINDS.iter().map(|k| k.name).collect();
        if let Some(near) = suggest::nearest(kind, &names) {
            return Known::Typo(near);
        }
    }
    Known::Skip(kind.to_string())
}

/// Whether the `apiVersion` is that of a group which is not Kubernetes' own: it has a domain of its
/// own and is not nearly the right one.
fn is_foreign(api_version: &str, right: &str) -> bool {
    let Some((group, version)) = api_version.split_once('/') else { return false };
    let right_group = right.split_once('/').map_or("", |(group, _)| group);
    group.contains('.')
        && !version.is_empty()
        && group != right_group
        && suggest::nearest(group, &[right_group]).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> Known {
        Known::Read(KINDS.iter().position(|k| k.name == name).unwrap())
    }

    #[test]
    fn a_kind_is_found_by_version_and_name() {
        assert_eq!(find("v1", "Pod"), read("Pod"));
        assert_eq!(find("networking.k8s.io/v1", "NetworkPolicy"), read("NetworkPolicy"));
        assert_eq!(find("v1", "ConfigMap"), Known::Skip("ConfigMap".into()));
        assert_eq!(find("v1", "Endpoints"), Known::Skip("Endpoints".into()));
        assert_eq!(
            find("projectcalico.org/v3", "NetworkPolicy"),
            Known::Skip("NetworkPolicy.projectcalico.org".into())
        );
        assert_eq!(
            find("serving.knative.dev/v1", "Service"),
            Known::Skip("Service.serving.knative.dev".into())
        );
    }

    #[test]
    fn a_version_that_does_not_serve_the_kind_is_told_apart_from_a_foreign_group() {
        for (version, kind, use_instead, former) in [
            ("extensions/v1beta1", "NetworkPolicy", "networking.k8s.io/v1", true),
            ("networking/v1", "NetworkPolicy", "networking.k8s.io/v1", false),
            ("networking.k8s.io/v1beta1", "NetworkPolicy", "networking.k8s.io/v1", false),
            ("networkin.k8s.io/v1", "NetworkPolicy", "networking.k8s.io/v1", false),
            ("v1", "NetworkPolicy", "networking.k8s.io/v1", false),
            ("v1", "Deployment", "apps/v1", false),
            ("apps/v1", "Pod", "v1", false),
            ("batch/v1beta1", "CronJob", "batch/v1", true),
        ] {
            assert_eq!(
                find(version, kind),
                Known::WrongVersion { use_instead, former },
                "{version}"
            );
        }
        assert_eq!(find("networking.k8s.io/v1", "NetworkPolicies"), Known::Typo("NetworkPolicy"));
        assert_eq!(find("apps/v1", "deployment"), Known::Typo("Deployment"));
        assert_eq!(find("example.com/v1", "Pods"), Known::Skip("Pods".into()));
    }
}
