//! Which of the policies matters, and how?
//!
//! ```text
//!   policies that select an end ──each left out──▶ the verdict without it
//!       isolates, allows by rules 1, 3      allowed without it: it alone closes
//!                                           denied without it: it alone opens
//!                                           the same: others say so too, or it has no word
//! ```

use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Evaluation, Verdict, side_among};
use podwall_policy::flow::Flow;
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, Policy, RuleRef, Tier};

use super::Case;

/// What one policy contributes to a verdict, on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// Its tier.
    pub tier: Tier,
    /// The policy.
    pub policy: Name,
    /// On which side it is asked.
    pub direction: Direction,
    /// Whether it isolates the pod; only NetworkPolicies do.
    pub isolates: bool,
    /// Its rules that match and allow.
    pub allows: Vec<RuleRef>,
    /// Its rules that match and deny.
    pub denies: Vec<RuleRef>,
    /// The verdict on both sides together if the policy were not there.
    pub without: Verdict,
}

/// What each policy that is asked contributes to a case, the source's first, by tier and name.
pub fn contributions(cluster: &Cluster, case: &Case<'_>) -> Vec<Contribution> {
    let flow = Flow { src: case.src.party(), dst: case.dst.party(), family: case.family };
    let mut found = Vec::new();
    for direction in Direction::BOTH {
        let (side, why) = match direction {
            Direction::Egress => (&case.evaluation.egress, &case.egress),
            Direction::Ingress => (&case.evaluation.ingress, &case.ingress),
        };
        if side.exempt.is_some() || side.stranger_on.is_some() {
            continue;
        }
        let mut asked: Vec<(Tier, Name)> =
            side.isolated_by.iter().map(|name| (Tier::NetworkPolicy, name.clone())).collect();
        let rules = side.rules.iter().filter(|outcome| !outcome.dry_run);
        asked.extend(rules.map(|outcome| (outcome.rule.tier, outcome.rule.policy.clone())));
        asked.sort();
        asked.dedup();
        let policies: Vec<&Policy> =
            asked.iter().filter_map(|key| cluster.policies.get(key)).collect();
        for (tier, policy) in &asked {
            let others = policies
                .iter()
                .copied()
                .filter(|other| (other.tier, &other.name) != (*tier, policy));
            let own = side_among(cluster, others, &flow, direction);
            let evaluation = match direction {
                Direction::Egress => {
                    Evaluation { egress: own, ingress: case.evaluation.ingress.clone() }
                }
                Direction::Ingress => {
                    Evaluation { egress: case.evaluation.egress.clone(), ingress: own }
                }
            };
            let of = |rules: &[RuleRef]| {
                let own = rules.iter().filter(|rule| (rule.tier, &rule.policy) == (*tier, policy));
                own.cloned().collect()
            };
            found.push(Contribution {
                tier: *tier,
                policy: policy.clone(),
                direction,
                isolates: *tier == Tier::NetworkPolicy && side.isolated_by.contains(policy),
                allows: of(&why.allowed_by),
                denies: of(&why.denied_by),
                without: evaluation.answer(case.question),
            });
        }
    }
    found
}
