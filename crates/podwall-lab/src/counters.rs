//! How many packets did each rule of the cluster decide?
//!
//! ```text
//!   node-1: rule id ─▶ packets ─┐
//!   node-2: rule id ─▶ packets ─┴─▶ policy, direction, rule ─▶ packets
//!   node-1: class ──▶ packets ────▶ pods, direction ─▶ packets that no rule allows
//! ```
//!
//! What counts, and since when, is the data plane's to say: packets in the original direction of
//! their connection, since the rule came to the node.

use serde::{Deserialize, Serialize};

/// The numbers of all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Whether there is a firewall that counts.
    pub enforced: bool,
    /// Every rule of every policy, by policy, direction and number.
    pub rules: Vec<RuleCount>,
    /// Pods that policies isolate, by node.
    pub isolated: Vec<IsolatedCount>,
}

/// The packets that one rule decided, on all nodes together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleCount {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub policy: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Its place in the list, from 1.
    pub rule: u32,
    /// Packets that it allowed.
    pub allowed: u64,
    /// Packets that it denied; a NetworkPolicy's rules only allow.
    pub denied: u64,
}

/// The packets that no rule allowed, of pods that the same policies isolate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IsolatedCount {
    /// Their node.
    pub node: String,
    /// The pods, as `namespace/name`.
    pub pods: Vec<String>,
    /// `ingress` and `egress`: which way they are isolated.
    pub directions: Vec<String>,
    /// The policies, as `namespace/name`.
    pub isolated_by: Vec<String>,
    /// Packets.
    pub denied: u64,
}
