//! How is a lab the nodes of a cluster?
//!
//! ```text
//!   API server ══▶ watch ──▶ kubelet ──┬─ binding, Node, status ──▶ API server
//!   (etcd, kubectl)                    ├─ a namespace a pod ── CNI plugins, in the node's network
//!                                      ├─ podwall agent, one a node
//!                                      └─ mirror ──▶ the lab's worker: servers, get, probe, exec
//! ```
//!
//! The lab makes the nodes, their network and the outside; pods come from kubectl, and their networks
//! from real CNI plugins. One process is the kubelet of all nodes, their scheduler, and what starts
//! their agents. There is no controller manager: Pods run, Deployments do not become Pods.

mod agents;
mod api;
mod cni;
mod control;
mod first;
mod kubelet;
mod lifecycle;
mod mirror;
mod node;
mod pod;
mod process;
mod records;
mod scheduler;
mod settings;
mod status;
mod watch;

pub use crate::agents::AgentPlace;
pub use crate::api::ApiError;
pub use crate::cni::CniError;
pub use crate::control::Reply;
pub use crate::kubelet::KubeletError;
pub use crate::node::{NodeError, ask};
pub use crate::process::{ProcessError, ensure, revive, stop};
pub use crate::settings::{Agents, Cni, PLUGINS, Server, Settings};
