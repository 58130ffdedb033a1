//! How is an answer shown?
//!
//! ```text
//!   answers of podwall-analysis ──▶ text   80 columns, coloured by escape codes that the binary
//!                                          takes out where nobody sees colours
//!                               ──▶ json   structures with a published schema
//!                               ──▶ csv, markdown   the matrix only
//!                               ──▶ JUnit, TAP      checks: assertions, findings
//! ```
//!
//! Nothing is decided here: what an answer says was decided by the evaluator.

pub mod checks;
pub mod claims;
pub mod diff;
pub mod draw;
pub mod json;
pub mod lint;
pub mod manifest;
pub mod next;
pub mod page;
pub mod patch;
mod sarif;
pub mod text;
pub mod words;
