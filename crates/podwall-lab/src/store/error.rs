//! Why can an object not be taken?

use thiserror::Error;

use crate::plan;

/// Why an object could not be taken.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The lab has no room for another pod.
    #[error("{pod} gets no address: node {node} has {used} pods, and its range {cidr} is used up")]
    NoAddress {
        /// The pod.
        pod: String,
        /// The node.
        node: String,
        /// How many pods it has.
        used: usize,
        /// Its range.
        cidr: String,
    },
    /// The state file.
    #[error("cannot {action} the lab's state {path}: {reason}")]
    State {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// The addresses of the plan end.
    #[error("node {node} is one too many: a lab has up to {} nodes", plan::MAX_NODES)]
    TooManyNodes {
        /// The node.
        node: String,
    },
    /// Two Services cannot have one address or one node port.
    #[error(
        "service {service} asks for {what}, which service {owner} has; leave it out, and the lab finds a free one"
    )]
    Taken {
        /// The Service that asks.
        service: String,
        /// `node port 30080`, `cluster IP 10.96.0.20`.
        what: String,
        /// Whose it is.
        owner: String,
    },
    /// Namespaces that every cluster has.
    #[error(
        "namespace {name:?} cannot be removed, as in a cluster; remove what is in it: `podwall lab delete all --all -n {name}`"
    )]
    Protected {
        /// The namespace.
        name: String,
    },
    /// An object that the manifest reader refuses although it was taken before.
    #[error("the lab cannot use {object}: {reason}")]
    Object {
        /// Which.
        object: String,
        /// What the reader said.
        reason: String,
    },
}
