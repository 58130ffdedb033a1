//! What is said of a denied packet?

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A denied packet in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Microseconds since 1970.
    pub time: u64,
    /// The node that dropped it.
    pub node: String,
    /// `denied`.
    pub verdict: String,
    /// Whose policies: `egress` of the source, `ingress` of the destination.
    pub direction: String,
    /// Who sent it: `namespace/pod`, a node, or nobody that the cluster knows.
    pub src: Option<String>,
    /// Who should have got it.
    pub dst: Option<String>,
    /// The source's address.
    pub src_address: IpAddr,
    /// The destination's address, behind Services.
    pub dst_address: IpAddr,
    /// `TCP`, `UDP` …
    pub protocol: String,
    /// Source port; 0 for protocols without ports.
    pub src_port: u16,
    /// Destination port; 0 for protocols without ports.
    pub port: u16,
    /// The policies that isolate, as `namespace/name`; empty where nothing does any more.
    pub isolated_by: Vec<String>,
    /// Why, in a sentence.
    pub reason: String,
}
