//! What does a container runtime know of a new pod before the API server does?
//!
//! ```text
//!   CNI ADD ── sandbox, pod, uid, addresses, host's side of its link ──▶ agent
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An interface of a container, as the CNI specification names it. Two attachments of a node never
/// have one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`, as `eth0`.
    pub interface: String,
}

/// The host's side of a pod's link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostLink {
    /// Its number in the node's network namespace.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// The link-layer address of the pod's side, as `0a:58:0a:f4:01:02`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// A pod's interface that was just made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Whose.
    pub sandbox: Sandbox,
    /// The network it belongs to (`name` of the CNI configuration): a node may have several.
    pub network: String,
    /// The pod's namespace (`K8S_POD_NAMESPACE`).
    pub namespace: String,
    /// The pod's name (`K8S_POD_NAME`).
    pub pod: String,
    /// The pod's UID (`K8S_POD_UID`), where the runtime says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The host's side, where it could be found: without it source addresses are not guarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<HostLink>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// Whether the pod's policies are in force. If not, it is isolated until the agent knows it.
    pub known: bool,
    /// Whether packets with other source addresses are dropped at its link.
    pub guarded: bool,
    /// How long the agent took, in microseconds.
    pub took: u64,
}
