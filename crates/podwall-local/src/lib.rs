//! What do an agent and the programs of its own node say to each other?
//!
//! ```text
//!   podwall-cni ────── attach, detach, check, keep, ready ─┐
//!   podwall status ─── status, pod, verify ────────────────┼──▶ socket of the agent (root only)
//!   podwall flows ──── flows ──▶ one Flow after the other ─┘
//! ```
//!
//! A connection carries one [`Request`], as a line of JSON, and then its [`Answer`], as another; for
//! [`Request::Flows`] the answer is followed by a line for each denied packet until one side closes.
//! Nothing here enforces or decides: these are words, and a client that waits for them.

mod attach;
mod client;
mod flow;
mod message;
mod notes;
mod status;

pub use crate::attach::{Attached, Attachment, HostLink, Sandbox};
pub use crate::client::{Client, ClientError};
pub use crate::flow::Flow;
pub use crate::message::{Answer, Code, Otherwise, Refusal, Request};
pub use crate::notes::Notes;
pub use crate::status::{ObjectCount, PodState, Side, Status, TableUse, UnusableObject, Verified};

/// Where an agent listens if nobody says otherwise.
pub const SOCKET: &str = "/run/podwall/agent.sock";
