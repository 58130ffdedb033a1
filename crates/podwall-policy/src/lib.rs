//! What do network policies mean?
//!
//! ```text
//!            objects (what is)            policies (what is said)
//!                  └──────────┬──────────────────┘
//!                             ▼
//!                    reference evaluator ──▶ Explanation: verdict, deciding rules, near misses
//! ```
//!
//! This crate is pure: no input or output, no Kubernetes types, no clock. Everything else in the
//! workspace stands on it, and nowhere else is there a second opinion on what a policy means: the
//! tables of `podwall-compile` are held to the evaluator here by property tests, the kernel by
//! packets.

pub mod address;
pub mod cluster;
pub mod entrance;
pub mod evaluate;
pub mod explain;
pub mod flow;
pub mod label;
pub mod matching;
pub mod object;
pub mod policy;
pub mod port;
pub mod reason;
pub mod selector;
pub mod source;
pub mod walk;
