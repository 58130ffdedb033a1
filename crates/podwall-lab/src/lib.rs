//! How does a cluster fit on one Linux machine, so that policies meet real packets?
//!
//! ```text
//!   holder ── owns every namespace of one lab; when it dies the kernel removes them all
//!     │
//!   fabric ──┬── outside         every address that is not the cluster's
//!            ├── node-1 ──┬── pod
//!            │            └── pod          a node: Services' NAT, the firewall, routes
//!            └── node-2 ───── pod          a pod: a network namespace behind a veth
//! ```
//!
//! From the kernel upwards: [`netns`], [`link`] and [`fabric`] make the network, [`holder`] keeps it;
//! [`serve`], [`dns`] and [`service_nat`] make it a cluster; [`store`] knows what is wanted, [`engine`]
//! makes it so, [`worker`] does that for commands, which speak [`rpc`] through [`client`]; [`trial`],
//! [`mod@bench`] and [`probe`] try it with packets.

pub mod bench;
pub mod client;
pub mod counters;
mod derived;
pub mod dns;
pub mod engine;
pub mod exec;
pub mod fabric;
pub mod flows;
pub mod holder;
pub mod link;
pub mod netns;
pub mod plan;
pub mod probe;
mod requests;
pub mod rpc;
pub mod serve;
pub mod service_nat;
pub mod services;
mod settling;
pub mod snapshot;
pub mod store;
mod sysctl;
pub mod trial;
pub mod worker;
