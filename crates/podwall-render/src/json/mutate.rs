//! The JSON of `podwall test --mutate`.

use schemars::JsonSchema;
use serde::Serialize;

use podwall_analysis::assertions::mutate::{Mutant, Mutation};

use super::PortsJson;
use crate::text::mutate::{difference, idle};

/// Which changes of the policies the assertions notice.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MutateAnswer {
    /// How many changes make a difference.
    pub changes: usize,
    /// How many of them some assertion notices.
    pub noticed: usize,
    /// How many changes besides make none: everybody reaches whom they reached before.
    pub equivalent: usize,
    /// Every change that makes a difference.
    pub mutants: Vec<MutantJson>,
    /// Assertions that notice none of them.
    pub idle: Vec<String>,
}

/// A change of a policy.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MutantJson {
    /// The policy's name.
    pub policy: String,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// What was changed: "rule 2 of ingress deleted".
    pub change: String,
    /// `file:line:col` of the rule or policy, or the object; absent where unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whether an assertion notices it.
    pub noticed: bool,
    /// The assertions that held and no longer do.
    pub noticed_by: Vec<String>,
    /// One difference that it makes.
    pub difference: DifferenceJson,
}

/// A pair of whom something else passes.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DifferenceJson {
    /// In words.
    pub text: String,
    /// Who.
    pub src: String,
    /// Whom.
    pub dst: String,
    /// What passes after the change, and not before.
    pub opened: PortsJson,
    /// What passes before the change, and not after.
    pub closed: PortsJson,
}

/// The answer as JSON structures. `titles`: of the assertions.
pub fn mutate(found: &Mutation, titles: &[String]) -> MutateAnswer {
    let title = |i: &usize| titles.get(*i).cloned();
    let one = |mutant: &Mutant| MutantJson {
        policy: mutant.policy.name.to_string(),
        namespace: mutant.policy.namespace.to_string(),
        change: mutant.change.clone(),
        source: mutant.source.as_ref().map(ToString::to_string),
        noticed: !mutant.noticed_by.is_empty(),
        noticed_by: mutant.noticed_by.iter().filter_map(title).collect(),
        difference: DifferenceJson {
            text: difference(&mutant.difference),
            src: mutant.difference.src.clone(),
            dst: mutant.difference.dst.clone(),
            opened: (&mutant.difference.opened).into(),
            closed: (&mutant.difference.closed).into(),
        },
    };
    MutateAnswer {
        changes: found.mutants.len(),
        noticed: found.mutants.len() - found.unnoticed().count(),
        equivalent: found.equivalent,
        mutants: found.mutants.iter().map(one).collect(),
        idle: idle(found, titles).into_iter().map(str::to_owned).collect(),
    }
}
