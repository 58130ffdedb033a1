//! Which end of a question does a direction ask, and what did it say?
//!
//! ```text
//!   egress    the source's policies, of the destination       ingress   the other way round
//! ```

use podwall_policy::evaluate;
use podwall_policy::explain::SideExplanation;
use podwall_policy::flow::Party;
use podwall_policy::policy::Direction;

use super::ends::short_name;
use crate::can::{Answer, Case};
use crate::peer::Peer;

/// One side of a question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side<'q, 'a> {
    pub(super) direction: Direction,
    pub(super) answer: &'q Answer<'a>,
}

impl<'q, 'a> Side<'q, 'a> {
    /// Both sides, in the order in which packets pass them.
    pub(super) fn both(answer: &'q Answer<'a>) -> [Self; 2] {
        Direction::BOTH.map(|direction| Self { direction, answer })
    }

    /// Whose policies are asked.
    pub(super) fn subject(&self) -> &'q Peer<'a> {
        match self.direction {
            Direction::Egress => &self.answer.src,
            Direction::Ingress => &self.answer.dst,
        }
    }

    /// About whom.
    pub(super) fn other(&self) -> &'q Peer<'a> {
        match self.direction {
            Direction::Egress => &self.answer.dst,
            Direction::Ingress => &self.answer.src,
        }
    }

    /// What the side says in a case.
    pub(super) fn said<'c>(&self, case: &'c Case<'a>) -> &'c evaluate::Side {
        match self.direction {
            Direction::Egress => &case.evaluation.egress,
            Direction::Ingress => &case.evaluation.ingress,
        }
    }

    /// Why it says so.
    pub(super) fn why<'c>(&self, case: &'c Case<'a>) -> &'c SideExplanation {
        match self.direction {
            Direction::Egress => &case.egress,
            Direction::Ingress => &case.ingress,
        }
    }

    /// Whose policies are asked in a case.
    pub(super) fn subject_of(&self, case: &Case<'a>) -> String {
        match self.direction {
            Direction::Egress => case.src.to_string(),
            Direction::Ingress => case.dst.to_string(),
        }
    }

    /// About whom, in a case.
    pub(super) fn other_of(&self, case: &Case<'a>) -> Party<'a> {
        match self.direction {
            Direction::Egress => case.dst.party(),
            Direction::Ingress => case.src.party(),
        }
    }

    /// A name for a policy of this side: `web-to-db`, `db-from-web`.
    pub(super) fn policy_name(&self, to: &str, from: &str) -> String {
        let word = if self.direction == Direction::Egress { to } else { from };
        format!("{}-{word}-{}", short_name(self.subject()), short_name(self.other()))
    }
}
