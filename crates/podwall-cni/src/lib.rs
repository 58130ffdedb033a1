//! How does a pod get its policies before anything runs in it?
//!
//! ```text
//!   runtime ── ADD ──▶ bridge ── result ──▶ podwall-cni ── attach ──▶ agent ──▶ kernel
//!      ◀────────────── the same result ────────┘   ◀── in force ───────┘
//! ```
//!
//! [`plugin`] is a chained plugin of the Container Network Interface: it makes no interface and gives
//! no address, but tells the node's agent of those that the plugins before it made, and returns when
//! the pod's policies are in force. [`install`] puts it on a node: the program into the runtime's
//! directory of plugins, and an entry into its network configuration.
//!
//! A runtime starts the program for every pod, so it knows no API server and has no async runtime.
//! Names of keys, variables and codes are those of the CNI specification 1.1.0.

mod ask;
mod call;
mod config;
mod error;
pub mod install;
mod link;
mod netlink;
pub mod plugin;
mod previous;
mod version;

pub use crate::config::{DEFAULT_TIMEOUT, duration};
pub use crate::error::PluginError;
pub use crate::version::SUPPORTED;

/// The name of the program, and so the `type` of its entry in a network configuration.
pub const TYPE: &str = "podwall-cni";
