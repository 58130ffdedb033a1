//! Is a picture the matrix, and are its rules those that the evaluator names?

use std::collections::BTreeMap;

use podwall_analysis::matrix::{By, Row as MatrixRow, matrix};
use podwall_analysis::outside::describe;
use podwall_analysis::picture::{Change, What, picture};
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::evaluate;
use podwall_policy::explain::Question;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::label::Labels;
use podwall_policy::object::{Namespace, Owner, Pod};
use podwall_policy::policy::{Action, Policy, Rule, Tier};
use podwall_policy::selector::Selector;

fn cluster(seed: u64) -> Cluster {
    let dice = &mut Dice::seeded(seed);
    let mut cluster = random::cluster(dice);
    for _ in 0..dice.below(8) {
        cluster.put_pod(random::pod(dice));
    }
    let host_network = dice.chance(40);
    for pod in cluster.pods.values_mut() {
        if dice.chance(60) {
            let name = *dice.pick(&["x", "y"]);
            pod.owner = Some(Owner { kind: "Deployment".into(), name: name.into() });
        }
        pod.host_network &= host_network;
        if dice.chance(20) {
            pod.ips.clear();
        }
    }
    if dice.chance(70) {
        cluster.strangers.clear();
    }
    cluster
}

fn label(row: &MatrixRow<'_>) -> String {
    match row {
        MatrixRow::Pods { label, .. } => label.clone(),
        MatrixRow::Outside(class) => describe(&class.addresses),
    }
}

type Cells = BTreeMap<(String, String), String>;

#[test]
fn the_cells_of_a_picture_are_the_connections_of_the_matrix() {
    let mut outside = 0;
    for seed in 0..400 {
        let cluster = cluster(seed);
        let by = if seed % 3 == 0 { By::Pod } else { By::Workload };
        let matrix = matrix(&cluster, by, None);
        let picture = picture(&cluster, None, by).unwrap();
        let labels: Vec<String> = matrix.rows.iter().map(label).collect();
        let drawn: Vec<String> = picture.rows.iter().map(|row| row.label.clone()).collect();
        assert_eq!(drawn, labels, "seed {seed}");
        let said: Cells = matrix
            .connections
            .iter()
            .map(|c| {
                let pair = (labels[c.src].clone(), labels[c.dst].clone());
                let facts = usize::from(!c.missing.is_empty());
                let text = format!("{} {} {} {:?} {facts}", c.passes, c.partly, c.open, c.families);
                (pair, text)
            })
            .collect();
        let mut cells = Cells::new();
        for src in 0..picture.rows.len() {
            for dst in 0..picture.rows.len() {
                let c = &picture.content(src, dst).now;
                if !c.is_nothing() {
                    let pair = (labels[src].clone(), labels[dst].clone());
                    let facts = usize::from(!c.missing.is_empty());
                    let text =
                        format!("{} {} {} {:?} {facts}", c.passes, c.partly, c.open, c.families);
                    cells.insert(pair, text);
                }
            }
        }
        assert!(cells == said, "seed {seed}");
        outside += usize::from(picture.rows.iter().filter(|r| r.space().is_none()).count() > 1);
    }
    assert!(outside > 100, "{outside}");
}

#[test]
fn every_rule_that_the_evaluator_names_is_among_the_rules_of_the_pair() {
    let mut named = 0;
    for seed in 0..200 {
        let cluster = cluster(seed);
        let picture = picture(&cluster, None, By::Pod).unwrap();
        let row = |party: Party<'_>| match party {
            Party::Pod(pod) => {
                picture.rows.iter().position(|row| row.label == pod.name.to_string())
            }
            _ => None,
        };
        for src in cluster.pods.values().filter(|pod| pod.is_subject()) {
            for dst in cluster.pods.values().filter(|pod| pod.is_subject()) {
                let (src, dst) = (Party::Pod(src), Party::Pod(dst));
                let (from, to) = (row(src).unwrap(), row(dst).unwrap());
                for flow in Flow::between(src, dst) {
                    let evaluation = evaluate(&cluster, &flow);
                    for (side, own, other) in
                        [(&evaluation.egress, from, to), (&evaluation.ingress, to, from)]
                    {
                        for rule in side.explain(Question::Anything).allowed_by {
                            named += 1;
                            let found = picture.rules.iter().find(|its| {
                                let policy = &picture.policies[its.policy];
                                its.source == rule.source
                                    && its.direction == rule.direction
                                    && its.number == rule.number
                                    && policy.tier == rule.tier
                                    && policy.name.ends_with(&*rule.policy.name)
                                    && policy.subject[own]
                                    && its.matches[other]
                            });
                            assert!(found.is_some(), "seed {seed}: {rule}");
                        }
                    }
                }
            }
        }
    }
    assert!(named > 1000, "{named}");
}

#[test]
fn a_cluster_and_itself_do_not_differ_and_two_differ_where_their_matrices_do() {
    let mut kinds: BTreeMap<Change, usize> = BTreeMap::new();
    for seed in 0..200 {
        // Which address stands for a row is chosen anew for two clusters, and strangers tell them apart.
        let peaceful = |seed| Cluster { strangers: BTreeMap::new(), ..cluster(seed) };
        let now = peaceful(seed);
        let same = picture(&now, Some(&now), By::Workload).unwrap();
        assert!(same.contents.iter().all(|content| content.change(true) == Change::Same));
        let before = peaceful(seed + 1);
        let both = picture(&now, Some(&before), By::Workload).unwrap();
        let alone = [&before, &now].map(|cluster| picture(cluster, None, By::Workload).unwrap());
        for (a, src) in both.rows.iter().enumerate() {
            for (b, dst) in both.rows.iter().enumerate() {
                let content = both.content(a, b);
                *kinds.entry(content.change(true)).or_default() += 1;
                for (alone, said) in alone.iter().zip([&content.before, &content.now]) {
                    let at = |wanted: &podwall_analysis::picture::Row| {
                        alone.rows.iter().position(|row| match (&row.what, &wanted.what) {
                            (
                                What::Outside { addresses: all, .. },
                                What::Outside { addresses, .. },
                            ) => addresses.is_within(all),
                            _ => row.label == wanted.label,
                        })
                    };
                    match (at(src), at(dst)) {
                        (Some(from), Some(to)) => {
                            assert_eq!(&alone.content(from, to).now, said, "seed {seed}");
                        }
                        _ => assert!(said.is_nothing(), "seed {seed}"),
                    }
                }
            }
        }
    }
    assert_eq!(kinds.len(), 6, "{kinds:?}");
}

/// A cluster of pods a and b, each labelled with its name, and a policy.
fn two_pods(policy: Policy) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.put_namespace(Namespace::new("shop", &Labels::default()));
    for name in ["a", "b"] {
        cluster.put_pod(Pod::new("shop", name, Labels::from_iter([("app", name)])));
    }
    cluster.put_policy(policy);
    cluster
}

#[test]
fn a_policy_that_says_the_same_of_others_or_the_contrary_is_shown_as_before_and_as_now() {
    let network = |app| {
        let mut policy = Policy::network_policy("shop", "p", Selector::labels([("app", app)]));
        policy.ingress = Some(vec![Rule::allow(Vec::new(), Vec::new())]);
        policy
    };
    let admin = |action| {
        let mut policy = Policy { tier: Tier::Admin, ..network("a") };
        policy.ingress = Some(vec![Rule { action, ..Rule::allow(Vec::new(), Vec::new()) }]);
        policy
    };
    for (before, now, subjects) in [
        (network("a"), network("a"), vec![(false, vec!["shop/a"])]),
        (network("a"), network("b"), vec![(true, vec!["shop/a"]), (false, vec!["shop/b"])]),
        (
            admin(Action::Allow),
            admin(Action::Deny),
            vec![(true, vec!["shop/a"]), (false, vec!["shop/a"])],
        ),
    ] {
        let (before, now) = (two_pods(before), two_pods(now));
        let both = picture(&now, Some(&before), By::Pod).unwrap();
        let selected = |rows: &[bool]| -> Vec<&str> {
            let rows = both.rows.iter().zip(rows).filter(|(_, is)| **is);
            rows.map(|(row, _)| &*row.label).collect()
        };
        let found: Vec<_> =
            both.policies.iter().map(|its| (its.old, selected(&its.subject))).collect();
        assert_eq!(found, subjects);
        // Each rule is its own policy's.
        let own: Vec<usize> = both.rules.iter().map(|rule| rule.policy).collect();
        assert_eq!(own, Vec::from_iter(0..subjects.len()));
    }
}
