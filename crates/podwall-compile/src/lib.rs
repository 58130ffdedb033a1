//! How do policies become tables that a kernel can look up in constant time?
//!
//! ```text
//!   objects ──put, remove──▶ NodeCompiler ──commit──▶ Delta ──▶ data plane
//!                               └─ tables() ── decide(packet): what the kernel will do
//! ```
//!
//! [`compiler::NodeCompiler`] follows a cluster change by change for one node, [`compiler::compile`]
//! does it once. What comes out is in [`tables`]; the meaning is the reference evaluator's
//! (`podwall_policy::evaluate`), to which property tests hold it.

mod atoms;
mod commit;
pub mod compiler;
mod flatten;
mod ids;
mod partition;
mod policies;
mod rows;
pub mod scopes;
mod segments;
mod shared;
mod slots;
mod subjects;
pub mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod world;
