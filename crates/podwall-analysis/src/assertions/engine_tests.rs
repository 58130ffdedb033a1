//! Are assertions answered as the evaluator would, and changes noticed as if each were asked anew?
//!
//! `PODWALL_ASSERTIONS` sets how many random clusters are asked.

use std::collections::BTreeMap;

use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_manifest::read_assertions;
use podwall_policy::address::AddressSet;
use podwall_policy::evaluate::{Exempt, evaluate};
use podwall_policy::flow::Flow;
use podwall_policy::policy::Tier;

use super::ask::Asker;
use super::mutate::{changes, mutate};
use super::write::write;
use super::*;
use crate::can::End;

fn times(default: u64) -> u64 {
    std::env::var("PODWALL_ASSERTIONS").ok().map_or(default, |text| text.parse().unwrap())
}

fn ends<'a>(asker: &Asker<'a>) -> Vec<End<'a>> {
    let pods = asker.pods().map(End::Pod);
    let nodes = asker.cluster.nodes.values().map(End::Node);
    pods.chain(nodes).chain(asker.outside(&AddressSet::everything())).collect()
}

#[test]
fn every_flow_is_answered_as_the_evaluator_does() {
    let mut reached: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..times(300) {
        let cluster = random::cluster(&mut Dice::seeded(seed));
        let mut asker = Asker::new(&cluster);
        let ends = ends(&asker);
        for (src, dst) in ends.iter().flat_map(|src| ends.iter().map(move |dst| (src, dst))) {
            if src.party() == dst.party() {
                continue;
            }
            let flows = Flow::between(src.party(), dst.party());
            let answers = asker.flows(src, dst);
            assert_eq!(flows.len(), answers.len(), "seed {seed}: {src} to {dst}");
            for (flow, answer) in flows.iter().zip(answers.iter()) {
                let said = evaluate(&cluster, flow);
                let why = format!("seed {seed}: {src} to {dst} over {}", flow.family);
                assert_eq!(answer.family, flow.family, "{why}");
                assert_eq!(answer.allowed, said.allowed(), "{why}");
                assert_eq!(answer.denied, said.denied(), "{why}");
                let open = !said.allowed().union(&said.denied()).is_everything();
                assert_eq!(open, !answer.missing.is_empty(), "{why}");
                // Where nothing certainly comes in nobody asks whose node it is.
                let own_node = said.ingress.exempt == Some(Exempt::OwnNode);
                assert_eq!(answer.own_node, own_node, "{why}");
                let mut all = [&said.egress.missing[..], &said.ingress.missing].concat();
                all.sort();
                assert!(answer.missing.iter().all(|fact| all.contains(fact)), "{why}");
                for (what, is) in [
                    ("missing", open),
                    ("own node", own_node),
                    (
                        "allowed in part",
                        !said.allowed().is_everything() && !said.allowed().is_empty(),
                    ),
                    ("denied", said.denied().is_everything()),
                ] {
                    *reached.entry(what).or_default() += usize::from(is);
                }
            }
        }
        for pod in asker.pods() {
            for direction in Direction::BOTH {
                let by: Vec<_> = asker.isolates(pod, direction);
                let selected = cluster.policies.values().filter(|policy| {
                    policy.tier == Tier::NetworkPolicy
                        && !policy.dry_run
                        && pod.is_subject()
                        && policy.name.namespace == pod.name.namespace
                        && policy.subject.pods.matches(&pod.labels)
                        && policy.rules(direction).is_some()
                });
                let wanted: Vec<_> = selected.map(|policy| policy.name.clone()).collect();
                assert_eq!(by, wanted, "seed {seed}: {} {direction}", pod.name);
            }
        }
    }
    assert!(reached.len() == 4 && reached.values().all(|times| *times > 50), "{reached:?}");
}

#[test]
fn a_change_is_noticed_as_if_every_assertion_were_asked_anew() {
    let mut reached: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..times(40) {
        let mut cluster = random::cluster(&mut Dice::seeded(seed));
        // Only a node knows of strangers, and no block tells their addresses apart.
        cluster.strangers.clear();
        let written = write(&cluster, &mut |_, _| {});
        // Peers whose addresses are cut otherwise than by blocks of policies.
        let text = written.text.replace("assertions: []", "assertions:");
        let text = format!(
            "{text}- deny: {{from: internet, to: '*'}}\n- allow: {{from: internet, to: '*', ports: \
             80}}\n- deny: {{from: '*', to: 198.51.100.7}}\n- allow: {{from: '*', to: 198.51.100.7}}\n"
        );
        let Ok(file) = read_assertions("written", text.as_bytes()) else { continue };
        let found = mutate(&cluster, &file, "default", &mut |_, _| {});
        let before = statuses(&cluster, &file, "default");
        let mut mutants = found.mutants.iter().peekable();
        let mut equivalent = 0;
        for (key, policy) in &cluster.policies {
            for change in changes(policy) {
                let mut changed = cluster.clone();
                match change.policy {
                    Some(policy) => _ = changed.policies.insert(key.clone(), policy),
                    None => _ = changed.policies.remove(key),
                }
                let after = statuses(&changed, &file, "default");
                let wanted: Vec<usize> = (0..before.len())
                    .filter(|i| before[*i] == Status::Holds && after[*i] != Status::Holds)
                    .collect();
                let is = |mutant: &&mutate::Mutant| {
                    mutant.policy == policy.name && mutant.change == change.words
                };
                let why = format!("seed {seed}: {} {}", policy.name, change.words);
                match mutants.next_if(|mutant| is(mutant)) {
                    Some(mutant) => {
                        assert_eq!(mutant.noticed_by, wanted, "{why}\n{text}");
                        let what = if wanted.is_empty() { "unnoticed" } else { "noticed" };
                        *reached.entry(what).or_default() += 1;
                    }
                    None => {
                        equivalent += 1;
                        assert!(differs(&cluster, &changed).is_none(), "{why}");
                        *reached.entry("equivalent").or_default() += 1;
                    }
                }
            }
        }
        assert!(mutants.next().is_none(), "seed {seed}");
        assert_eq!(equivalent, found.equivalent, "seed {seed}");
    }
    assert!(reached.len() == 3 && reached.values().all(|times| *times > 20), "{reached:?}");
}

/// A pair of whom the evaluator says something else.
fn differs(before: &Cluster, after: &Cluster) -> Option<String> {
    let asker = Asker::new(before);
    let ends = ends(&asker);
    for (src, dst) in ends.iter().flat_map(|src| ends.iter().map(move |dst| (src, dst))) {
        if src.party() == dst.party() {
            continue;
        }
        for flow in Flow::between(src.party(), dst.party()) {
            let (was, is) = (evaluate(before, &flow), evaluate(after, &flow));
            if (was.allowed(), was.denied()) != (is.allowed(), is.denied()) {
                return Some(format!("{src} to {dst}"));
            }
        }
    }
    None
}
