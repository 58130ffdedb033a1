//! Does the evaluator get the known corner cases of the API right?
//!
//! The numbers are those of docs/semantics.md, which also says for each case that has no test here
//! why the evaluator has no part in it and where it is tested.

#[cfg(test)]
mod blocks;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod node;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod selectors;
#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;
