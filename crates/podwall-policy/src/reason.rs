//! Why does a rule not match, in the words of the manifest? And which fact is missing?

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::address::{Family, IpBlock};
use crate::label::Labels;
use crate::object::Name;
use crate::port::{PortSpec, Protocol};
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
    },
    /// The pod's labels do not meet a requirement of `podSelector`.
    PodLabel {
        /// The pod.
        pod: Name,
        /// The value that it has for the key, if any.
        has: Option<Arc<str>>,
        /// What is required.
        wants: Requirement,
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
    },
    /// A port's name that the destination does not have.
    NoNamedPort {
        /// The destination as it prints.
        party: String,
        /// The name.
        name: Arc<str>,
        /// Its protocol.
        protocol: Protocol,
        /// The protocol that the destination has the name for, if any.
        other: Option<Protocol>,
    },
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
            Self::NamespaceLabel { namespace, has, wants } => {
                write!(f, "namespace {namespace} ")?;
                unmet(f, has.as_deref(), wants)
            }
            Self::PodLabel { pod, has, wants } => {
                write!(f, "pod {pod} ")?;
                unmet(f, has.as_deref(), wants)
            }
            Self::OtherNamespace { pod, own } => write!(
                f,
                "pod {pod} is not in namespace {own}: without a namespaceSelector a podSelector \
                 means pods of the policy's own namespace"
            ),
            Self::NotAPod { party } => {
                write!(
                    f,
                    "{party} is not a pod; selectors match pods only, addresses need an ipBlock"
                )
            }
            Self::HostNetwork { pod } => write!(
                f,
                "pod {pod} uses its node's network; selectors do not match it, an ipBlock with the \
                 node's address would"
            ),
            Self::Terminated { pod } => write!(f, "pod {pod} has ended"),
            Self::OutsideBlock { party, address, block } => {
                let whose = if *party == *address { String::new() } else { format!(" of {party}") };
                write!(f, "{address}{whose} is outside of {}", block.cidr)
            }
            Self::Excepted { party, address, except } => {
                let whose = if *party == address.to_string() {
                    String::new()
                } else {
                    format!(" of {party}")
                };
                write!(f, "{address}{whose} lies in the exception {except}")
            }
            Self::OtherFamily { family, block } => {
                write!(f, "{} is not {family}", block.cidr)
            }
            Self::Ports { protocol, port, ports } => {
                let list: Vec<String> = ports.iter().map(ToString::to_string).collect();
                write!(f, "its ports are {}, not {protocol}", list.join(", "))?;
                port.map_or(Ok(()), |port| write!(f, " {port}"))
            }
            Self::NoNamedPort { party, name, protocol, other } => {
                write!(f, "{party} has no {protocol} port named \"{name}\"")?;
                other.map_or(Ok(()), |other| write!(f, " (it has one for {other})"))
            }
        }
    }
}

/// "has no label env=prod", "has env=dev, not env=prod".
fn unmet(f: &mut fmt::Formatter<'_>, has: Option<&str>, wants: &Requirement) -> fmt::Result {
    let key = &wants.key;
    match (&wants.operator, has) {
        (Operator::Equals(_), None) => write!(f, "has no label {wants}"),
        (Operator::Equals(_), Some(value)) => write!(f, "has label {key}={value}, not {wants}"),
        (Operator::In(_) | Operator::Exists, None) => {
            write!(f, "has no label {key} (wanted: {wants})")
        }
        (_, Some(value)) => write!(f, "has label {key}={value} (wanted: {wants})"),
        (Operator::NotIn(_) | Operator::DoesNotExist, None) => write!(f, "lacks {wants}"),
    }
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
