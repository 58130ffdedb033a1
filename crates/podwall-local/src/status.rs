//! How is an agent, and what holds for a pod?

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// How an agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its version.
    pub version: String,
    /// The node, as the API server names it.
    pub node: String,
    /// `ebpf` or `nftables`.
    pub dataplane: String,
    /// Why it is not eBPF although that was preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// Whether each kind was listed to the end once.
    pub synced: bool,
    /// Whether the kernel holds what the cluster asked for when the agent was last told.
    pub enforced: bool,
    /// Seconds since the API server was last heard of, by kind; `null`: never.
    pub heard: BTreeMap<String, Option<u64>>,
    /// How many objects are known.
    pub objects: Vec<ObjectCount>,
    /// What cannot be used, and why.
    pub unusable: Vec<UnusableObject>,
    /// The kernel's tables.
    pub tables: Vec<TableUse>,
    /// Changes that the kernel took.
    pub changes: u64,
    /// Changes that it refused.
    pub failures: u64,
    /// How often the kernel was found to differ from the model, and was put right.
    pub drifts: u64,
    /// Pods of this node that a policy isolates, and all with an address.
    pub isolated_pods: usize,
    /// See [`Self::isolated_pods`].
    pub local_pods: usize,
    /// Interfaces that were attached through the CNI plugin.
    pub attachments: usize,
    /// Links at which forged source addresses are dropped.
    pub guarded: usize,
    /// This node's pod ranges: addresses in them that nobody knows are isolated.
    pub pod_ranges: Vec<String>,
    /// Addresses in them that were let go after a time.
    pub released: Vec<IpAddr>,
}

/// How many objects of a kind are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectCount {
    /// `Pod`, `NetworkPolicy` …
    pub kind: String,
    /// How many.
    pub count: usize,
}

/// An object that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusableObject {
    /// Its kind.
    pub kind: String,
    /// `NAMESPACE/NAME`, or a name.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

/// How full a table of the kernel is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUse {
    /// Its name.
    pub table: String,
    /// Entries.
    pub entries: usize,
    /// Entries that it may hold.
    pub limit: usize,
}

/// What holds for a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodState {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The addresses that are in force for it.
    pub addresses: Vec<IpAddr>,
    /// Where those addresses are known from: `cni`, `api`.
    pub known_from: String,
    /// Its link on the host, and whether forged source addresses are dropped there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarded_link: Option<String>,
    /// What it may receive.
    pub ingress: Side,
    /// What it may send.
    pub egress: Side,
    /// Whether the kernel holds this.
    pub enforced: bool,
}

/// One direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// Whether anything isolates the pod.
    pub isolated: bool,
    /// The policies that do, as `namespace/name`.
    pub isolated_by: Vec<String>,
    /// What the kernel holds for it: `own peers TCP 80 → allow (shop/web rule 1)` …
    pub entries: Vec<String>,
}

/// What a comparison of kernel and model found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// The differences, which were put right. Empty: the kernel agrees.
    pub drift: Vec<String>,
    /// How long it took, in microseconds.
    pub took: u64,
}
