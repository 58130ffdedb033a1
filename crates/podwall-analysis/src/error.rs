//! What can make a question unanswerable, and what should be asked instead?

use podwall_policy::address::Family;
use podwall_policy::object::Name;

/// A question that cannot be answered. Each prints as what is wrong and where; [`Self::hint`] says
/// what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The text is not a peer.
    #[error("\"{text}\" names no peer: {why}")]
    BadPeer {
        /// As the user wrote it.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// No such object.
    #[error("no {kind} {name} in namespace {namespace}")]
    NotFound {
        /// The kind, in lower case where it is a pod or a Service.
        kind: String,
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
        /// The name that was probably meant, or where it is instead, as a sentence.
        meant: Option<String>,
        /// What there is of that kind in the namespace, sorted.
        there: Vec<String>,
    },
    /// The pod has ended.
    #[error("pod {pod} has ended (phase Succeeded or Failed): it sends and receives nothing")]
    Ended {
        /// The pod.
        pod: Name,
    },
    /// A Service as the source.
    #[error("Service {service} cannot be the source: a Service opens no connections")]
    ServiceSource {
        /// The Service.
        service: Name,
        /// The pods behind it.
        pods: Vec<Name>,
    },
    /// Nothing behind a Service.
    #[error("Service {service} leads nowhere: {why}")]
    NoBackends {
        /// The Service.
        service: Name,
        /// Why.
        why: String,
    },
    /// The Service does not have the asked port.
    #[error("Service {service} has no port {asked}")]
    NoServicePort {
        /// The Service.
        service: Name,
        /// What was asked.
        asked: String,
        /// What it has.
        has: Vec<String>,
    },
    /// A port name that the destination does not have.
    #[error("{destination} has no port named \"{name}\"{of}")]
    NoNamedPort {
        /// The destination.
        destination: String,
        /// The name.
        name: String,
        /// " for UDP", if a protocol was asked for.
        of: String,
        /// The names that it has.
        has: Vec<String>,
    },
    /// The two have no address family in common, or not the asked one.
    #[error("{src} and {dst} have no {} address in common", family.map_or_else(|| "kind of".to_owned(), |f| f.to_string()))]
    NoFamily {
        /// The source.
        src: String,
        /// The destination.
        dst: String,
        /// The family that was asked for.
        family: Option<Family>,
    },
    /// Addresses outside on both ends.
    #[error("neither {src} nor {dst} is in the cluster: no policy is asked between them")]
    BothOutside {
        /// The source.
        src: String,
        /// The destination.
        dst: String,
    },
    /// A port for a protocol without ports.
    #[error("{protocol} has no ports")]
    PortlessProtocol {
        /// The protocol.
        protocol: String,
    },
    /// No such policy.
    #[error("no NetworkPolicy {name} in namespace {namespace}")]
    NoPolicy {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
        /// What was probably meant, as a sentence.
        meant: Option<String>,
        /// The policies there.
        there: Vec<String>,
    },
}

impl AskError {
    /// What to do next, in sentences.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::BadPeer { .. } => Some(
                "a peer is NAMESPACE/POD, NAMESPACE/KIND/NAME, NAMESPACE/svc/NAME, an IP address, \
                 a CIDR, or internet; POD alone is in the namespace that -n names"
                    .into(),
            ),
            Self::NotFound { kind, namespace, meant, there, .. } => {
                Some(meant_or_list(meant.as_deref(), there, kind, namespace))
            }
            Self::NoPolicy { namespace, meant, there, .. } => {
                Some(meant_or_list(meant.as_deref(), there, "NetworkPolicy", namespace))
            }
            Self::ServiceSource { pods, .. } if !pods.is_empty() => {
                Some(format!("ask for a pod behind it: {}", list(pods)))
            }
            Self::NoServicePort { has, .. } if has.is_empty() => {
                Some("it states no ports".to_owned())
            }
            Self::NoServicePort { has, .. } => Some(format!("it has {}", has.join(", "))),
            Self::NoNamedPort { has, .. } if has.is_empty() => {
                Some("its containers name no ports; ask with a number".into())
            }
            Self::NoNamedPort { has, .. } => Some(format!("it names {}", has.join(", "))),
            Self::NoBackends { .. } => {
                Some("ask for a pod or an address instead of the Service".into())
            }
            Self::NoFamily { .. } => Some(
                "status.podIPs says which families a pod has; ask without -4 and -6 for any".into(),
            ),
            Self::BothOutside { .. } => {
                Some("name a pod, a workload or a Service as one of the two".into())
            }
            Self::PortlessProtocol { .. } => Some("leave --port out".into()),
            Self::Ended { .. } | Self::ServiceSource { .. } => None,
        }
    }
}

fn meant_or_list(meant: Option<&str>, there: &[String], kind: &str, namespace: &str) -> String {
    const SHOWN: usize = 12;
    let mut out = meant.map_or_else(String::new, |meant| format!("{meant}\n"));
    if there.is_empty() {
        out += &format!("there is no {kind} in namespace {namespace}");
    } else {
        out += &format!("namespace {namespace} has {}", there[..there.len().min(SHOWN)].join(", "));
        if there.len() > SHOWN {
            out += &format!(" and {} more", there.len() - SHOWN);
        }
    }
    out
}

fn list(names: &[Name]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
