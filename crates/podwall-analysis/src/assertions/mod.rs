//! Do the assertions of a file hold?
//!
//! ```text
//!   AssertionFile ──group──▶ who, whom, ports ──ask──▶ flows ──judge──▶ Outcome
//!                                                               ├─ Holds
//!                                                               ├─ Fails      which pairs, by which rules
//!                                                               ├─ Unknown    which facts are missing
//!                                                               └─ Broken     names that there are not
//! ```
//!
//! What passes is the engine's word, which is held to the reference evaluator's. A pair that depends on a missing fact neither
//! passes nor does not: such an assertion does not hold, it is unknown.

mod ask;
mod closed;
#[cfg(test)]
mod engine_tests;
mod gathered;
mod group;
mod judge;
pub mod mutate;
mod permits;
#[cfg(test)]
mod tests;
pub mod write;

use podwall_manifest::assertions::{Assertion, AssertionFile};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Pod;
use podwall_policy::policy::Direction;
use podwall_policy::port::PortSet;
use podwall_policy::reason::MissingFact;
use podwall_policy::source::Source;

use self::ask::Asker;
use self::judge::Judge;
use crate::can::Case;

pub use self::gathered::Packet;

/// What came of an assertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// It holds.
    Holds,
    /// It depends on facts that are missing.
    Unknown,
    /// It names what there is not.
    Broken,
    /// It does not hold.
    Fails,
}

/// An assertion, and what came of it.
#[derive(Clone, Debug)]
pub struct Outcome<'a> {
    /// The assertion.
    pub assertion: &'a Assertion,
    /// What came of it.
    pub status: Status,
    /// Why it does not hold; empty if it does.
    pub findings: Vec<Finding<'a>>,
    /// How many flows were asked about.
    pub flows: usize,
}

/// One reason why an assertion does not hold.
#[derive(Clone, Debug)]
pub enum Finding<'a> {
    /// Something passes that should not.
    Passes(Pair<'a>),
    /// Something does not pass that should.
    Stopped(Pair<'a>),
    /// It depends on facts.
    Missing {
        /// The pair.
        pair: Pair<'a>,
        /// The facts.
        facts: Vec<MissingFact>,
    },
    /// The pod is not isolated.
    NotIsolated {
        /// The pod.
        pod: &'a Pod,
        /// How many pods like it there are besides.
        more: usize,
        /// In which direction.
        direction: Direction,
    },
    /// The two have no address family in common.
    NoFamily {
        /// Who.
        src: String,
        /// Whom.
        dst: String,
    },
    /// Who is meant depends on facts.
    WhoIsUnknown {
        /// Where it stands.
        source: Source,
        /// Who.
        who: String,
        /// The facts.
        facts: Vec<MissingFact>,
    },
    /// The assertion cannot be asked.
    Broken {
        /// Where it stands.
        source: Source,
        /// What is wrong.
        why: String,
        /// What to do next.
        hint: Option<String>,
    },
}

/// Two ends, and those like them.
#[derive(Clone, Debug)]
pub struct Pair<'a> {
    /// The first of them, with both sides explained.
    pub case: Case<'a>,
    /// The ports in question.
    pub ports: PortSet,
    /// How many pairs of the same workloads are like it besides.
    pub more: usize,
}

impl Finding<'_> {
    /// What the finding makes of its assertion.
    pub fn status(&self) -> Status {
        match self {
            Self::Passes(_)
            | Self::Stopped(_)
            | Self::NotIsolated { .. }
            | Self::NoFamily { .. } => Status::Fails,
            Self::Missing { .. } | Self::WhoIsUnknown { .. } => Status::Unknown,
            Self::Broken { .. } => Status::Broken,
        }
    }
}

/// Asks every assertion of a file.
pub fn check<'a>(
    cluster: &'a Cluster,
    file: &'a AssertionFile,
    namespace: &str,
) -> Vec<Outcome<'a>> {
    let mut judge = Judge::new(Asker::new(cluster), file, namespace);
    file.assertions.iter().map(|assertion| judge.outcome(assertion)).collect()
}

/// What came of every assertion, without the reasons.
pub fn statuses(cluster: &Cluster, file: &AssertionFile, namespace: &str) -> Vec<Status> {
    judge::statuses(&mut Judge::new(Asker::new(cluster), file, namespace))
}

/// The packets that would show whether an assertion holds, in the order of the file. Ranges and whole
/// protocols are shown by one port each.
pub fn packets<'a>(
    cluster: &'a Cluster,
    file: &'a AssertionFile,
    namespace: &str,
) -> Vec<Vec<Packet<'a>>> {
    let mut judge = Judge::new(Asker::new(cluster), file, namespace);
    file.assertions.iter().map(|assertion| judge.packets(assertion)).collect()
}
