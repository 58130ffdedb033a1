//! Which questions can be answered from what is known of a cluster?
//!
//! ```text
//!   "default/web", "internet"  ──peer──▶ pods, Services, addresses ┐
//!   Cluster ──outside──▶ classes of addresses outside              ├─▶ can, explain, matrix
//!                                             reference evaluator ─┘
//!   Cluster, changes ──▶ Reachability ──▶ the same answers, in microseconds
//! ```
//!
//! Pure functions from a [`Cluster`](podwall_policy::cluster::Cluster) to answers. Nothing here
//! knows what a policy means: every verdict is the evaluator's, this crate only chooses which flows
//! to ask about and puts the answers together.

pub mod assertions;
mod blocks;
pub mod can;
pub mod combine;
pub mod difference;
pub mod error;
pub mod explain;
pub mod exposure;
pub mod fix;
pub mod generate;
pub mod identity;
mod kinds;
pub mod lint;
pub mod matrix;
pub mod outside;
pub mod peer;
pub mod picture;
mod podclass;
pub mod reachability;
pub mod rewrite;
mod rule_ports;
mod suggest;
