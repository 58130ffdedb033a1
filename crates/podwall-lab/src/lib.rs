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
//! The modules, from the kernel upwards: [`netns`] namespaces, [`link`] what is in
//! them.
//!
//! Inside the namespaces: [`serve`] what answers, [`dns`] by which name, [`probe`] what packets do.

pub mod dns;
pub mod holder;
pub mod link;
pub mod netns;
pub mod probe;
pub mod serve;
