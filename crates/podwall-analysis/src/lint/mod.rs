//! What in these policies is probably not what their author meant?
//!
//! ```text
//!   Input ──View──▶ classes of pods, who selects whom ──▶ rules, a family a file ──▶ Finding
//!   (cluster, what manifests say literally, whether all is known)                    rule, place, proof,
//!                                                                                    help, fix
//! ```
//!
//! A finding is a claim with a proof: the pods that were looked at, or a flow that was put to the
//! evaluator. What is not known is not held against anybody: of manifests alone nobody knows which
//! namespaces and pods there are besides, see [`Input::complete`].

mod addresses;
mod catalog;
mod coverage;
mod dns;
mod finding;
mod flows;
mod overlap;
mod ports;
mod redundancy;
mod report;
mod selectors;
mod shape;
mod sides;
mod trust;
mod view;
pub(crate) mod within;
mod words;

use std::collections::BTreeMap;

use podwall_policy::cluster::Cluster;
use podwall_policy::object::Name;
use serde_json::Value as Json;

pub use self::catalog::{RULES, Rule, rule};
pub use self::finding::{At, Change, Finding, Fix, Replacement, Severity, Snippet};
pub use self::report::{ANNOTATION, Baseline, Report, Suppressed, Suppression};
use self::view::View;

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Everything that is known.
    pub cluster: &'a Cluster,
    /// NetworkPolicies as they are written: what is left out and what is stated as empty is the
    /// same to the engine, and not to a reader.
    pub written: &'a BTreeMap<Name, &'a Json>,
    /// Whether every namespace and pod is known (a lab, a live cluster), not just those that some
    /// files state.
    pub complete: bool,
}

/// Everything that is found, by place, then by rule.
pub fn lint(input: &Input<'_>) -> Vec<Finding> {
    let view = View::new(input);
    let mut found = Vec::new();
    for family in [
        selectors::check,
        shape::check,
        coverage::check,
        dns::check,
        sides::check,
        redundancy::check,
        ports::check,
        addresses::check,
        trust::check,
    ] {
        family(&view, &mut found);
    }
    found.sort_by(|a, b| a.order().cmp(&b.order()));
    found
}
