//! How do tests have a real API server?
//!
//! ```text
//!   Cluster::start() ──▶ etcd ◀── kube-apiserver ◀── kubectl, Cluster::create …       this process
//!        │                             ▲
//!        └── agent(program, node) ──▶ podwall agent, as the service account of deploy/rbac.yaml
//! ```
//!
//! For tests alone. A cluster is one etcd and one kube-apiserver, with RBAC, on a loopback port; there
//! is no controller, scheduler or kubelet: a test says on which node a pod runs and what its status is.
//! Whatever was started ends with the test, and with the test's process however that ends.
//!
//! ```no_run
//! use podwall_cluster::{Cluster, mk_namespace, mk_pod, running};
//!
//! # fn main() {
//! if !Cluster::is_possible() {
//!     return; // it was said
//! }
//! let cluster = Cluster::start();
//! cluster.create(&mk_namespace("shop", &[]));
//! cluster.run_pod(&mk_pod("shop", "db", &[("app", "db")], "n1"), &["10.0.0.7".parse().unwrap()]);
//! let agent = cluster.agent("podwall", "n1").start();
//! agent.until_ready();
//! # }
//! ```
//!
//! The programs are in the directory that `PODWALL_KUBE_ASSETS` or `KUBEBUILDER_ASSETS` names, which
//! `scripts/kube-apiserver` prints, or else (but for the server) in `PATH`.

#![expect(clippy::expect_used, clippy::panic, reason = "a helper of tests stops the test")]

mod agent;
mod assets;
mod certificates;
mod cluster;
mod etcd;
mod http1;
mod objects;
mod process;
mod scratch;

pub use crate::agent::{Agent, AgentToStart};
pub use crate::cluster::Cluster;
pub use crate::objects::{mk_namespace, mk_node, mk_pod, mk_policy, running};
pub use crate::process::{Started, start};
pub use crate::scratch::Scratch;
/// For [`Agent::signal`] and [`Started::signal`].
pub use nix::sys::signal::Signal;
