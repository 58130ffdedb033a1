//! Why does a rule not match, in the words of the manifest? And which fact is missing?

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::address::{Family, IpBlock};
use crate::label::{Labels, METADATA_NAME};
use crate::object::Name;
use crate::port::{ContainerPort, PortMatch, PortSet, PortSpec, Protocol};
use crate::selector::{Operator, Requirement};

/// One thing that keeps a rule from matching. If all of them were mended the rule would match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The namespace's labels do not meet a requirement of `namespaceSelector`.
    NamespaceLabel {
        /// The namespace.
        namespace: Arc<str>,
        /// The value that it has for the key, if any.
        has: Option<Arc<str>>,
        /// What is required.
        wants: Requirement,
        /// Where it was perhaps meant.
        hint: Option<Hint>,
    },
    /// The pod's labels do not meet a requirement of `podSelector`.
    PodLabel {
        /// The pod.
        pod: Name,
        /// The value that it has for the key, if any.
        has: Option<Arc<str>>,
        /// What is required.
        wants: Requirement,
        /// Where it was perhaps meant.
        hint: Option<Hint>,
    },
    /// `podSelector` without `namespaceSelector` means the policy's own namespace.
    OtherNamespace {
        /// The pod.
        pod: Name,
        /// The policy's namespace.
        own: Arc<str>,
    },
    /// A selector matches pods, never an address outside of the cluster nor a node.
    NotAPod {
        /// The party as it prints.
        party: String,
    },
    /// A selector does not match pods that use the node's network.
    HostNetwork {
        /// The pod.
        pod: Name,
    },
    /// The pod has ended: selectors do not match it and its address is no longer its own.
    Terminated {
        /// The pod.
        pod: Name,
    },
    /// The address lies outside of the block.
    OutsideBlock {
        /// Whose address.
        party: String,
        /// The address, or the pod CIDR that it will come from.
        address: String,
        /// The block.
        block: IpBlock,
    },
    /// The address lies in one of the block's exceptions.
    Excepted {
        /// Whose address.
        party: String,
        /// The address.
        address: IpAddr,
        /// The exception.
        except: IpNet,
    },
    /// The block is of the other address family.
    OtherFamily {
        /// The flow's family.
        family: Family,
        /// The block.
        block: IpBlock,
    },
    /// The rule's ports are others than the asked one.
    Ports {
        /// The asked protocol.
        protocol: Protocol,
        /// The asked port; `None` for a protocol without ports, or where any was asked for.
        port: Option<u16>,
        /// What the rule says.
        ports: Vec<PortSpec>,
        /// What that comes to for this destination: names are numbers here.
        resolved: PortSet,
    },
    /// A port's name that the destination does not have.
    NoNamedPort {
        /// The destination as it prints.
        party: String,
        /// The name.
        name: Arc<str>,
        /// Its protocol.
        protocol: Protocol,
        /// The ports that the destination does name; `None` if it is no pod on a network of its
        /// own, so that a name can mean nothing there.
        declared: Option<Vec<ContainerPort>>,
    },
}

/// What the author of a selector may have meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A namespaceSelector asks for a label that the pod has.
    OnPod(Name),
    /// A podSelector asks for a label that the namespace has.
    OnNamespace(Arc<str>),
    /// A namespaceSelector asks for a label with the namespace's name, under a key that nobody set.
    NamespaceName(Arc<str>),
}

/// A fact that would decide what cannot be decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MissingFact {
    /// The address that a pod has or will get.
    PodAddress {
        /// The pod.
        pod: Name,
        /// The family that is asked for.
        family: Family,
    },
    /// The address of a node.
    NodeAddress {
        /// The node.
        node: Arc<str>,
    },
    /// The labels of a namespace that no manifest states.
    NamespaceLabels {
        /// The namespace.
        namespace: Arc<str>,
        /// The key that is asked for.
        key: Arc<str>,
    },
    /// On which node a pod runs.
    PodNode {
        /// The pod.
        pod: Name,
    },
}

/// The value of a requirement's key, for [`Reason`].
pub(crate) fn has(labels: &Labels, requirement: &Requirement) -> Option<Arc<str>> {
    labels.get(&requirement.key).map(Arc::from)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NamespaceLabel { namespace, has, wants, hint } => {
                write!(f, "namespace {namespace} ")?;
                unmet(f, has.as_deref(), wants, hint.as_ref())
            }
            Self::PodLabel { pod, has, wants, hint } => {
                write!(f, "pod {pod} ")?;
                unmet(f, has.as_deref(), wants, hint.as_ref())
            }
            Self::OtherNamespace { pod, own } => write!(
                f,
                "pod {pod} is not in namespace {own}: without a namespaceSelector a podSelector \
                 means pods of the policy's own namespace"
            ),
            Self::NotAPod { party } => write!(
                f,
                "{party} is not a pod: podSelector and namespaceSelector match pods only, an \
                 address needs an ipBlock"
            ),
            Self::HostNetwork { pod } => write!(
                f,
                "pod {pod} uses its node's network (hostNetwork): no selector matches it, an \
                 ipBlock with the node's address would"
            ),
            Self::Terminated { pod } => write!(
                f,
                "pod {pod} has ended (Succeeded or Failed): rules no longer match it nor its \
                 former address"
            ),
            Self::OutsideBlock { party, address, block } => {
                write!(f, "{} is outside of ipBlock {}", whose(party, address), block.cidr)
            }
            Self::Excepted { party, address, except } => write!(
                f,
                "{} is in the ipBlock's except {except}",
                whose(party, &address.to_string())
            ),
            Self::OtherFamily { family, block } => {
                write!(f, "ipBlock {} never covers {family} traffic", block.cidr)
            }
            Self::Ports { protocol, port, ports, resolved } => {
                wrong_ports(f, *protocol, *port, ports, resolved)
            }
            Self::NoNamedPort { party, name, protocol, declared } => {
                let Some(declared) = declared else {
                    return write!(
                        f,
                        "the port name \"{name}\" means nothing on {party}: names are looked up \
                         in a pod's container ports"
                    );
                };
                write!(f, "{party} has no {protocol} port named \"{name}\"")?;
                if declared.is_empty() {
                    return f.write_str(" (it names no port)");
                }
                for (i, port) in declared.iter().enumerate() {
                    let lead = if i == 0 { " (it names " } else { ", " };
                    let name = port.name.as_deref().unwrap_or_default();
                    write!(f, "{lead}\"{name}\" = {} {}", port.protocol, port.number)?;
                }
                f.write_str(")")
            }
        }
    }
}

/// "10.0.0.7 (pod demo/web)"; just the address where it speaks for itself.
fn whose(party: &str, address: &str) -> String {
    if party == address { address.to_owned() } else { format!("{address} ({party})") }
}

/// "has no label env=prod", "has label env=dev, not env=prod".
fn unmet(
    f: &mut fmt::Formatter<'_>,
    has: Option<&str>,
    wants: &Requirement,
    hint: Option<&Hint>,
) -> fmt::Result {
    let key = &wants.key;
    match (&wants.operator, has) {
        (Operator::Equals(_), None) => write!(f, "has no label {wants}"),
        (Operator::Equals(_), Some(value)) => write!(f, "has label {key}={value}, not {wants}"),
        (Operator::In(_), None) => write!(f, "has no label {key} (wanted: {wants})"),
        (Operator::In(_), Some(value)) => write!(f, "has label {key}={value} (wanted: {wants})"),
        (Operator::Exists, _) => write!(f, "has no label {key} (wanted: {key} with any value)"),
        (Operator::NotIn(_) | Operator::DoesNotExist, value) => {
            write!(f, "has label {key}={}", value.unwrap_or_default())?;
            write!(f, ", which the selector excludes ({wants})")
        }
    }?;
    match hint {
        None => Ok(()),
        Some(Hint::OnPod(pod)) => {
            write!(f, "; pod {pod} does: a namespaceSelector looks at the namespace's labels only")
        }
        Some(Hint::OnNamespace(namespace)) => {
            write!(f, "; namespace {namespace} does: a podSelector looks at the pod's labels only")
        }
        Some(Hint::NamespaceName(namespace)) => {
            write!(f, "; the label that every namespace has is {METADATA_NAME}={namespace}")
        }
    }
}

/// "its ports are TCP 443, not TCP 80".
fn wrong_ports(
    f: &mut fmt::Formatter<'_>,
    protocol: Protocol,
    port: Option<u16>,
    ports: &[PortSpec],
    resolved: &PortSet,
) -> fmt::Result {
    for (i, spec) in ports.iter().enumerate() {
        write!(f, "{}{spec}", if i == 0 { "its ports are " } else { ", " })?;
    }
    let named = ports.iter().any(|spec| matches!(spec.port, PortMatch::Named(_)));
    if named {
        write!(f, " (on this destination: {resolved})")?;
    }
    write!(f, ", not {protocol}")?;
    if let Some(port) = port {
        write!(f, " {port}")?;
        let others = Protocol::WITH_PORTS.into_iter().filter(|other| *other != protocol);
        if others.into_iter().any(|other| resolved.contains(other, port)) {
            f.write_str(": the protocol differs")?;
        }
    } else if !protocol.has_ports() {
        f.write_str(": only a rule without ports covers other protocols")?;
    }
    Ok(())
}

impl fmt::Display for MissingFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodAddress { pod, family } => {
                write!(f, "the {family} address of pod {pod} (status.podIPs)")
            }
            Self::NodeAddress { node } => {
                write!(f, "the address of node {node} (status.addresses)")
            }
            Self::NamespaceLabels { namespace, key } => {
                write!(
                    f,
                    "whether namespace {namespace} has the label {key} (no manifest states it)"
                )
            }
            Self::PodNode { pod } => write!(f, "the node of pod {pod} (spec.nodeName)"),
        }
    }
}
