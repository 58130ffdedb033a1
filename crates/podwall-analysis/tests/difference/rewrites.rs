//! Is what means the same no difference, however it is written?

use podwall_analysis::difference::{Future, difference};
use podwall_analysis::matrix::By;
use podwall_compile::testing::dice::Dice;
use podwall_policy::cluster::Cluster;
use podwall_policy::label::METADATA_NAME;
use podwall_policy::policy::{NamespaceScope, Peer, PodScope, Policy, Rule, Tier};
use podwall_policy::port::{PortMatch, PortRange, PortSpec};
use podwall_policy::selector::{Operator, Selector};

use super::{Coverage, cluster, number};

/// Writes the policies of a cluster otherwise, so that they mean the same.
fn rewrite(dice: &mut Dice, cluster: &mut Cluster, coverage: &mut Coverage) {
    let mut count = |kind| *coverage.entry(kind).or_default() += 1;
    let keys: Vec<_> = cluster.policies.keys().cloned().collect();
    for (number, key) in keys.into_iter().enumerate() {
        let Some(mut policy) = cluster.policies.remove(&key) else { continue };
        policy.source = None;
        let spell = |scope: &mut PodScope, dice: &mut Dice| {
            if let NamespaceScope::Own(name) = &scope.namespaces
                && dice.chance(30)
            {
                let named = Selector::labels([(METADATA_NAME, name.clone())]);
                scope.namespaces = NamespaceScope::Matching(named);
            }
            for requirement in &mut scope.pods.requirements {
                if let Operator::Equals(value) = &requirement.operator
                    && dice.chance(50)
                {
                    requirement.operator = Operator::In([value.clone()].into());
                }
            }
            scope.pods.requirements.reverse();
        };
        for rule in policy.ingress.iter_mut().chain(&mut policy.egress).flatten() {
            rule.source = None;
            rule.peers.reverse();
            rule.ports = rule.ports.iter().flat_map(halves).collect();
            for peer in &mut rule.peers {
                if let Peer::Pods(scope) = peer {
                    spell(scope, dice);
                }
            }
        }
        if policy.tier != Tier::NetworkPolicy {
            cluster.put_policy(policy);
            count("a tier is spelt otherwise");
            continue;
        }
        let rename = |policy: &mut Policy, letter: &str| {
            policy.name.name = format!("other-{number}-{letter}").into();
        };
        let mut parts = match dice.below(4) {
            0 => {
                count("a policy is one for each direction");
                let mut two = [policy.clone(), policy];
                two[0].egress = None;
                two[1].ingress = None;
                two.to_vec()
            }
            1 => {
                count("a policy is one for each rule, and one that isolates");
                let mut parts = vec![policy.clone()];
                parts[0].ingress = policy.ingress.as_ref().map(|_| Vec::new());
                parts[0].egress = policy.egress.as_ref().map(|_| Vec::new());
                for rule in policy.ingress.iter().flatten() {
                    let rules = Some(vec![rule.clone()]);
                    parts.push(Policy { ingress: rules, egress: None, ..policy.clone() });
                }
                for rule in policy.egress.iter().flatten() {
                    let rules = Some(vec![rule.clone()]);
                    parts.push(Policy { egress: rules, ingress: None, ..policy.clone() });
                }
                parts
            }
            2 => {
                count("a rule is one for each peer and port, and the other way round");
                for list in [&mut policy.ingress, &mut policy.egress].into_iter().flatten() {
                    *list = list.iter().rev().flat_map(atoms).collect();
                }
                vec![policy]
            }
            _ => vec![policy],
        };
        for (part, policy) in parts.iter_mut().enumerate() {
            if part > 0 || dice.chance(50) {
                rename(policy, &part.to_string());
            }
        }
        parts.into_iter().for_each(|policy| cluster.put_policy(policy));
    }
}

/// The ports of a specification in two.
fn halves(spec: &PortSpec) -> Vec<PortSpec> {
    match spec.port {
        PortMatch::Range(range) if range.first < range.last => {
            let middle = range.first + (range.last - range.first) / 2;
            [PortRange { last: middle, ..range }, PortRange { first: middle + 1, ..range }]
                .map(|range| PortSpec { port: PortMatch::Range(range), ..spec.clone() })
                .to_vec()
        }
        _ => vec![spec.clone()],
    }
}

/// A rule as one for each peer and port.
fn atoms(rule: &Rule) -> Vec<Rule> {
    let peers: Vec<Vec<Peer>> = match rule.peers.len() {
        0 => vec![Vec::new()],
        _ => rule.peers.iter().map(|peer| vec![peer.clone()]).collect(),
    };
    let ports: Vec<Vec<PortSpec>> = match rule.ports.len() {
        0 => vec![Vec::new()],
        _ => rule.ports.iter().map(|spec| vec![spec.clone()]).collect(),
    };
    let of = |peers: &Vec<Peer>| -> Vec<Rule> {
        let rule = |ports: &Vec<PortSpec>| Rule {
            peers: peers.clone(),
            ports: ports.clone(),
            ..rule.clone()
        };
        ports.iter().map(rule).collect()
    };
    peers.iter().flat_map(of).collect()
}

#[test]
fn what_means_the_same_does_not_differ_however_it_is_written() {
    let (first, count) = (number("PODWALL_SEED", 0), number("PODWALL_CHANGES", 400));
    let mut coverage = Coverage::new();
    for seed in first..first + count {
        println!("seed {seed}"); // shown if it fails
        let mut dice = Dice::seeded(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let before = cluster(&mut dice);
        let mut after = before.clone();
        rewrite(&mut dice, &mut after, &mut coverage);
        for by in [By::Pod, By::Workload] {
            for (one, other) in [(&before, &after), (&after, &before)] {
                let found = difference(one, other, by);
                assert!(found.is_nothing(), "{:#?}", found.changes.first());
                assert_eq!(found.future(), Future::Same);
            }
        }
    }
    println!("{coverage:#?}");
    assert!(count < 400 || (coverage.len() == 4 && coverage.values().all(|n| *n >= 20)));
}
