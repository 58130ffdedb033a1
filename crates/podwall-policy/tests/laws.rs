//! Which changes of the policies can change a verdict, and which way?

#[cfg(test)]
mod support;

use podwall_policy::evaluate::{Evaluation, Verdict};
use podwall_policy::object::Name;
use podwall_policy::policy::{Action, Direction, Policy, Tier};
use proptest::prelude::*;
use support::random::{ASKS, World, rule, rules_mut, world};
use support::{PolicyWords, mk_action, mk_policy, mk_rule, mk_tier};

fn policies(world: &World) -> Vec<Policy> {
    world.cluster.policies.values().cloned().collect()
}

fn sets(evaluation: &Evaluation) -> [String; 4] {
    [
        evaluation.egress.allowed.to_string(),
        evaluation.egress.denied.to_string(),
        evaluation.ingress.allowed.to_string(),
        evaluation.ingress.denied.to_string(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_allow_rule_more_takes_nothing_away(
        world in world(),
        rule in rule("a"),
        place in any::<prop::sample::Index>(),
        direction in prop::sample::select(Direction::BOTH.to_vec()),
    ) {
        let mut all = policies(&world);
        let rule = podwall_policy::policy::Rule { action: Action::Allow, ..rule };
        for policy in all.iter_mut().filter(|policy| policy.tier == Tier::NetworkPolicy) {
            if let Some(rules) = rules_mut(policy, direction) {
                rules.insert(place.index(rules.len() + 1), rule.clone());
            }
        }
        let before = world.evaluate(&world.cluster);
        let more = world.with_policies(all);
        let after = more.evaluate(&more.cluster);
        for (protocol, port) in ASKS {
            let was = before.verdict(protocol, port);
            let is = after.verdict(protocol, port);
            // Allowed stays; what was unknown may become allowed, never denied.
            prop_assert!(was != Verdict::Allowed || is == Verdict::Allowed);
            prop_assert!(was != Verdict::Unknown || is != Verdict::Denied);
        }
    }

    #[test]
    fn a_network_policy_more_only_takes_away_from_pods_that_it_isolates(world in world()) {
        // The other half of additivity: beside a policy that isolates the same pods already, one
        // more can only add.
        let shut = |name| mk_policy(&format!("b/{name}"), "").ingress([]).egress([]);
        let base = world.with_policies(policies(&world).into_iter().chain([shut("x-shut")]));
        let more = world.with_policies(policies(&base).into_iter().chain([shut("y-shut")]));
        prop_assert_eq!(sets(&base.evaluate(&base.cluster)), sets(&more.evaluate(&more.cluster)));
    }

    #[test]
    fn the_order_of_network_policies_and_of_their_rules_never_matters(world in world()) {
        let mut turned = policies(&world);
        for policy in turned.iter_mut().filter(|policy| policy.tier == Tier::NetworkPolicy) {
            let name = policy.name.name.replace('p', "").parse::<u32>().unwrap();
            policy.name = Name::new(policy.name.namespace.clone(), format!("p{}", 99 - name));
            for direction in Direction::BOTH {
                if let Some(rules) = rules_mut(policy, direction) {
                    rules.reverse();
                    rules.iter_mut().for_each(|rule| {
                        rule.peers.reverse();
                        rule.ports.reverse();
                    });
                }
            }
        }
        let turned = world.with_policies(turned);
        prop_assert_eq!(
            sets(&world.evaluate(&world.cluster)),
            sets(&turned.evaluate(&turned.cluster))
        );
    }

    #[test]
    fn a_policy_that_selects_nothing_or_is_a_dry_run_changes_nothing(
        world in world(),
        tier in prop::sample::select(vec![Tier::Admin, Tier::NetworkPolicy, Tier::Baseline]),
        dry in any::<bool>(),
    ) {
        let pods = if dry { "" } else { "app=nobody" };
        let mut policy = mk_tier(tier, 0, "0-first", "", pods)
            .ingress([mk_action(Action::Deny, [], [])])
            .egress([mk_action(Action::Deny, [], [])]);
        if tier == Tier::NetworkPolicy {
            policy = mk_policy("b/0-first", pods).ingress([]).egress([mk_rule([], [])]);
        }
        policy.dry_run = dry;
        let more = world.with_policies(policies(&world).into_iter().chain([policy]));
        let (was, is) = (world.evaluate(&world.cluster), more.evaluate(&more.cluster));
        prop_assert_eq!(sets(&was), sets(&is));
        prop_assert_eq!(was.ingress.isolated_by, is.ingress.isolated_by);
        prop_assert_eq!(was.ingress.missing, is.ingress.missing);
    }

    #[test]
    fn a_port_is_never_both_allowed_and_denied(world in world()) {
        let evaluation = world.evaluate(&world.cluster);
        for side in [&evaluation.egress, &evaluation.ingress] {
            prop_assert!(side.allowed.intersection(&side.denied).is_empty());
            let decided = side.allowed.union(&side.denied).is_everything();
            prop_assert_eq!(decided, side.missing.is_empty());
        }
    }
}
