//! Do tables and evaluator agree, on anything at all?
//!
//! ```text
//!   Dice ──▶ random cluster, changes, addresses ──▶ compile ──▶ decide ─┐
//!                     └──────────────────────────▶ evaluate ────────────┴─▶ check
//! ```
//!
//! For this crate's property tests, and with the feature `testing` for those of others and for
//! fuzzers.

pub mod change;
pub mod check;
pub mod dice;
pub mod random;
pub mod realistic;
mod shrink;

pub use shrink::shrink;
