//! Are assertions answered as the evaluator would, and changes noticed as if each were asked anew?
//!
//! `PODWALL_ASSERTIONS` sets how many random clusters are asked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_manifest::assertions::Claim;
use podwall_manifest::read_assertions;
use podwall_policy::address::AddressSet;
use podwall_policy::evaluate::{Exempt, evaluate};
use podwall_policy::flow::Flow;
use podwall_policy::label::Labels;
use podwall_policy::object::{Namespace, Phase};
use podwall_policy::policy::{Peer as RulePeer, Policy, Rule, Tier};
use podwall_policy::reason::MissingFact;
use podwall_policy::selector::Selector;

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

/// Claims of who alone may pass, and permits of single pods among replicas.
fn closed_claims(dice: &mut Dice, cluster: &Cluster) -> String {
    let names: Vec<String> = cluster.pods.keys().map(ToString::to_string).collect();
    let group = |dice: &mut Dice| match dice.below(4) {
        0 => format!("{}/*", dice.pick(&["a", "b", "c"])),
        _ => dice.pick(&names).clone(),
    };
    let groups = |dice: &mut Dice| dice.some(1, 3, group).join(", ");
    let other = |dice: &mut Dice| match dice.below(6) {
        0 => "internet".to_owned(),
        1 => (*dice.pick(&["10.0.0.0/16", "10.0.1.0/30", "192.0.2.7"])).to_owned(),
        _ => group(dice),
    };
    let ports =
        |dice: &mut Dice| *dice.pick(&["", ", ports: any", ", ports: 80", ", ports: [80, 443]"]);
    let mut text = String::from("assertions:\n");
    for _ in 0..dice.between(2, 5) {
        let (own, other, ports) = (groups(dice), dice.some(1, 3, other).join(", "), ports(dice));
        let (subject, peer) = *dice.pick(&[("into", "from"), ("outOf", "to")]);
        let (from, to) = if subject == "into" { (&other, &own) } else { (&own, &other) };
        text += &match dice.below(3) {
            0 => format!("- only: {{{subject}: [{own}], {peer}: [{other}]{ports}}}\n"),
            1 => format!("- nowhereElse: {{{subject}: [{own}]}}\n"),
            _ => format!("- allow: {{from: [{from}], to: [{to}]{ports}}}\n"),
        };
    }
    text
}

/// Lets nothing pass but within a namespace, so that there are claims that hold.
fn isolate_namespaces(cluster: &mut Cluster) {
    cluster.policies.clear();
    for namespace in ["a", "b", "c", "d"] {
        let mut policy = Policy::network_policy(namespace, "own", Selector::everything());
        let own = Rule::allow(vec![RulePeer::Pods(policy.subject.clone())], Vec::new());
        policy.ingress = Some(vec![own.clone()]);
        policy.egress = Some(vec![own]);
        cluster.put_policy(policy);
    }
}

/// What the evaluator makes of one question of an assertion.
fn said(cluster: &Cluster, packet: &Packet<'_>) -> Status {
    let (src, dst) = (packet.src.party(), packet.dst.party());
    let said = evaluate(cluster, &Flow { src, dst, family: packet.family });
    let (allowed, denied) = (said.allowed(), said.denied());
    let certain = if packet.passes { &allowed } else { &denied };
    let against = packet.ports.intersection(if packet.passes { &denied } else { &allowed });
    let rest = packet.ports.difference(certain);
    let one_will_do = packet.any && rest != packet.ports;
    let mut missing = said.egress.missing.iter().chain(&said.ingress.missing);
    // Its own node may always come in.
    let harmless =
        !packet.passes && missing.all(|fact| matches!(fact, MissingFact::PodNode { .. }));
    match () {
        () if rest.is_empty() || one_will_do => Status::Holds,
        () if !against.is_empty() && (!packet.any || against == packet.ports) => Status::Fails,
        () if harmless => Status::Holds,
        () => Status::Unknown,
    }
}

#[test]
fn what_is_closed_by_kinds_is_closed_pair_by_pair() {
    let mut reached: BTreeMap<Status, usize> = BTreeMap::new();
    for seed in 0..times(600) {
        let dice = &mut Dice::seeded(seed);
        let mut cluster = random::cluster(dice);
        random::workloads(dice, &mut cluster, 30, 50);
        cluster.strangers.clear();
        if dice.chance(60) {
            // Else replicas on two nodes are of two classes.
            cluster.nodes.clear();
        }
        if dice.chance(50) {
            isolate_namespaces(&mut cluster);
        }
        let text = closed_claims(dice, &cluster);
        let file = read_assertions("closed", text.as_bytes()).unwrap();
        let outcomes = check(&cluster, &file, "default");
        let quick = statuses(&cluster, &file, "default");
        let each = packets(&cluster, &file, "default");
        for ((outcome, quick), packets) in outcomes.iter().zip(quick).zip(each) {
            let why = format!("seed {seed}: {:?}\n{text}", outcome.assertion.claim);
            assert_eq!(outcome.status, quick, "{why}");
            assert_eq!(outcome.flows, packets.len(), "{why}");
            let pairs = outcome.findings.iter().filter(|finding| {
                matches!(
                    finding,
                    Finding::Passes(_) | Finding::Stopped(_) | Finding::Missing { .. }
                )
            });
            let found = pairs.map(Finding::status).max().unwrap_or(Status::Holds);
            let said = packets.iter().map(|packet| said(&cluster, packet)).max();
            assert_eq!(Some(found), said.or(Some(Status::Holds)), "{why}");
            let closed = !matches!(outcome.assertion.claim, Claim::Allow(_)) && !packets.is_empty();
            *reached.entry(outcome.status).or_default() += usize::from(closed);
        }
    }
    let of = |status| reached.get(&status).copied().unwrap_or_default();
    assert!(of(Status::Holds) > 50 && of(Status::Fails) > 50, "{reached:?}");
}

#[test]
fn where_all_is_known_what_is_written_leaves_nothing_out_and_notices_every_opening() {
    let (mut written, mut noticed) = (0, 0);
    for seed in 0..times(150) {
        let dice = &mut Dice::seeded(seed);
        let mut cluster = random::cluster(dice);
        random::workloads(dice, &mut cluster, 50, 40);
        cluster.strangers.clear();
        let namespaces: Vec<_> = cluster.pods.keys().map(|name| name.namespace.clone()).collect();
        for namespace in namespaces {
            if !cluster.namespaces.contains_key(&namespace) {
                cluster.put_namespace(Namespace::new(namespace, &Labels::default()));
            }
        }
        for namespace in cluster.namespaces.values_mut() {
            namespace.labels_known = true;
        }
        cluster.policies.retain(|(tier, _), _| *tier == Tier::NetworkPolicy);
        for (index, pod) in (1u8..).zip(cluster.pods.values_mut()) {
            pod.ips = vec![IpAddr::from([10, 0, 80, index])];
            pod.phase = Phase::Alive;
        }
        if dice.chance(50) {
            cluster.nodes.clear();
        }
        let file = write(&cluster, &mut |_, _| {});
        // Replicas may differ: a node comes in everywhere on it.
        let differ = |line: &&String| line.contains("/Deployment/");
        let lost: Vec<_> = file.left_out.iter().filter(|line| !differ(line)).collect();
        assert!(lost.is_empty(), "seed {seed}: {lost:?}");
        written += file.assertions;
        let Ok(read) = read_assertions("written", file.text.as_bytes()) else { continue };
        let found = mutate(&cluster, &read, "default", &mut |_, _| {});
        for missed in found.unnoticed().filter(|_| file.left_out.is_empty()) {
            let opened = &missed.difference.opened;
            assert!(opened.is_empty(), "seed {seed}: {} {}", missed.policy, missed.change);
        }
        noticed += found.mutants.len();
    }
    assert!(written > 100 && noticed > 100, "{written} {noticed}");
}
