//! What of the findings counts?

use super::finding::Finding;

/// Findings, sorted into those that count and those that do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What counts, by place.
    pub findings: Vec<Finding>,
    /// What somebody has given a reason for.
    pub suppressed: Vec<Suppressed>,
    /// How many a baseline has.
    pub known: usize,
}

/// A finding that may stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// The finding.
    pub finding: Finding,
    /// Why it may stay.
    pub reason: String,
    /// `annotation`, or the file that says so.
    pub by: String,
}
