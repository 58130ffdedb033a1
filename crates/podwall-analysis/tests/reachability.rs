//! Does the engine say what the reference evaluator says, whatever happened before?
//!
//! `PODWALL_HISTORIES` sets how many random histories are tried, `PODWALL_SEED` where to start.

#![expect(clippy::unwrap_used, reason = "helpers of tests; only what fails a test")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use podwall_analysis::reachability::factored::Factored;
use podwall_analysis::reachability::{Passage, Reachability, Stats};
use podwall_compile::testing::change::{Change, changes};
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Evaluation, Exempt, Side, evaluate};
use podwall_policy::explain::Question;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::matching::{Match, match_peer};
use podwall_policy::object::{Node, Pod};
use podwall_policy::policy::{Action, Direction, NamespaceScope, Peer, Policy, Tier};
use podwall_policy::port::{PortMatch, PortSet, Protocol};
use podwall_policy::reason::MissingFact;

/// How often each kind of outcome came up.
type Coverage = BTreeMap<&'static str, usize>;

/// Kinds of outcome that a long enough run must reach.
const KINDS: [&str; 29] = [
    "perhaps isolated",
    "put one by one",
    "everything passes",
    "nothing passes",
    "some ports pass",
    "open for want of a fact",
    "missing: a pod's address",
    "missing: a node's address",
    "missing: a namespace's labels, of a peer",
    "missing: a namespace's labels, of the subject",
    "missing: a pod's node",
    "missing: an address and labels at once",
    "families differ",
    "a pod and itself",
    "from its own node",
    "a hostNetwork pod",
    "a node",
    "an address outside",
    "a stranger",
    "a pod that is not of the cluster",
    "a pod that has ended",
    "a rule that the Admin tier passes on",
    "a Deny rule",
    "a Baseline rule",
    "a policy for a dry run",
    "a port's name, egress",
    "a port's name, ingress",
    "a pod in a block",
    "a range of a node's pods in a block",
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// A random cluster in which more is unknown.
fn cluster(dice: &mut Dice) -> Cluster {
    let mut cluster = random::cluster(dice);
    for pod in cluster.pods.values_mut() {
        vague(dice, pod);
    }
    cluster.policies.values_mut().for_each(|policy| wide(dice, policy));
    for node in cluster.nodes.values_mut() {
        *node = some_node(dice, &node.name);
    }
    cluster
}

fn vague(dice: &mut Dice, pod: &mut Pod) {
    if dice.chance(25) {
        pod.ips.clear();
    }
    if dice.chance(10) {
        pod.node = None;
    }
}

/// As no NetworkPolicy of Kubernetes has it, but its type does: whom it isolates may be unknown.
fn wide(dice: &mut Dice, policy: &mut Policy) {
    if dice.chance(20) {
        let selector = random::policy(dice, true).subject.pods;
        policy.subject.namespaces = NamespaceScope::Matching(selector);
    }
}

fn some_node(dice: &mut Dice, name: &str) -> Node {
    let mut node = random::node(name);
    let number = name.trim_start_matches('n');
    match dice.below(4) {
        0 => node.pod_cidrs = vec![format!("10.0.{number}.0/24").parse().unwrap()],
        1 => node.pod_cidrs = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/16".parse().unwrap()],
        _ => {}
    }
    match dice.below(6) {
        0 => node.addresses.clear(),
        1 => drop(node.addresses.remove(1)),
        _ => {}
    }
    node
}

/// A change as the engine is told of it.
#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    PutNode(Node),
    RemoveNode(String),
}

impl Step {
    fn random(dice: &mut Dice, cluster: &Cluster) -> Self {
        match dice.below(12) {
            0 => {
                let name = *dice.pick(&random::NODES);
                Self::PutNode(some_node(dice, name))
            }
            1 => Self::RemoveNode((*dice.pick(&random::NODES)).into()),
            _ => Self::Change(match Change::random(dice, cluster) {
                Change::PutPod(mut pod) => {
                    vague(dice, &mut pod);
                    Change::PutPod(pod)
                }
                Change::PutPolicy(mut policy) => {
                    wide(dice, &mut policy);
                    Change::PutPolicy(policy)
                }
                other => other,
            }),
        }
    }

    fn apply(&self, cluster: &mut Cluster) {
        match self {
            Self::Change(change) => change.apply(cluster),
            Self::PutNode(node) => cluster.put_node(node.clone()),
            Self::RemoveNode(name) => drop(cluster.nodes.remove(&**name)),
        }
    }

    fn tell(&self, engine: &mut Reachability<'_>) {
        match self.clone() {
            Self::PutNode(node) => engine.put_node(node),
            Self::RemoveNode(name) => engine.remove_node(&name),
            Self::Change(change) => match change {
                Change::PutNamespace(namespace) => engine.put_namespace(namespace),
                Change::RemoveNamespace(name) => engine.remove_namespace(&name),
                Change::PutPod(pod) => engine.put_pod(pod),
                Change::RemovePod(name) => engine.remove_pod(&name),
                Change::PutPolicy(policy) => engine.put_policy(policy),
                Change::RemovePolicy(tier, name) => engine.remove_policy(tier, &name),
                Change::Strangers(node, strangers) => engine.set_strangers(node, strangers),
            },
        }
    }
}

/// What passes, from the evaluator's answers alone.
fn passage(cluster: &Cluster, src: Party<'_>, dst: Party<'_>) -> Passage {
    let flows = Flow::between(src, dst);
    if flows.is_empty() {
        return Passage::default();
    }
    let all: Vec<Evaluation> = flows.iter().map(|flow| evaluate(cluster, flow)).collect();
    let everything = PortSet::everything();
    let passes = all.iter().fold(everything.clone(), |set, its| set.intersection(&its.allowed()));
    let denied = all.iter().fold(PortSet::empty(), |set, its| set.union(&its.denied()));
    let open = everything.difference(&passes).difference(&denied);
    let sides = all.iter().flat_map(|its| [&its.egress, &its.ingress]);
    let mut missing: Vec<MissingFact> = sides.flat_map(|side| side.missing.clone()).collect();
    missing.sort();
    missing.dedup();
    let families = flows.iter().zip(&all).map(|(flow, its)| (flow.family, its.allowed()));
    let differ = all.iter().any(|its| its.allowed() != passes);
    Passage {
        families: if differ { families.collect() } else { Vec::new() },
        missing: if open.is_empty() { Vec::new() } else { missing },
        passes,
        open,
        possible: true,
    }
}

/// Everybody who may be asked about: pods, nodes, addresses, and a pod that is not there.
fn parties<'a>(cluster: &'a Cluster, others: &'a [Pod], addresses: &[IpAddr]) -> Vec<Party<'a>> {
    let pods = cluster.pods.values().chain(others).map(Party::Pod);
    let nodes = cluster.nodes.values().map(Party::Node);
    let addresses = addresses.iter().map(|address| Party::at(cluster, *address));
    pods.chain(nodes).chain(addresses).collect()
}

/// Holds the engine to the evaluator for every pair.
fn check(engine: &Reachability<'_>, cluster: &Cluster, dice: &mut Dice, coverage: &mut Coverage) {
    assert_eq!(engine.cluster(), cluster);
    let mut others = vec![random::pod(dice)];
    others.retain(|pod| !cluster.pods.contains_key(&pod.name));
    let addresses = dice.some(2, 4, |dice| random::address(dice, cluster));
    let mut factored = Factored::new(engine);
    for src in parties(engine.cluster(), &others, &addresses) {
        for dst in parties(engine.cluster(), &others, &addresses) {
            let mut expected = Vec::new();
            for flow in Flow::between(src, dst) {
                let evaluation = evaluate(cluster, &flow);
                for (direction, side) in [
                    (Direction::Egress, &evaluation.egress),
                    (Direction::Ingress, &evaluation.ingress),
                ] {
                    let found = engine.side(&flow, direction);
                    let found = (&found.allowed, &found.denied, &found.missing);
                    let wanted = (&side.allowed, &side.denied, &side.missing);
                    assert_eq!(found, wanted, "{src} to {dst}, {direction}, {}", flow.family);
                    count_side(cluster, &flow, side, &others, coverage);
                }
                assert_eq!(engine.evaluate(&flow), evaluation, "{src} to {dst}");
                expected.push(evaluation);
            }
            let passage = passage(cluster, src, dst);
            assert_eq!(engine.passage(src, dst), passage, "{src} to {dst}");
            count_passage(&passage, coverage);
            for question in [Question::Anything, Question::Port(Protocol::TCP, Some(80))] {
                let verdicts = expected.iter().map(|its| its.answer(question));
                let worst = podwall_analysis::combine::worst(verdicts);
                let wanted = (!expected.is_empty()).then_some(worst);
                assert_eq!(engine.verdict(src, dst, question), wanted, "{src} to {dst}");
            }
            let mut end = |party| match party {
                Party::Pod(pod) => Some(factored.pod(pod)),
                Party::Address(address) => Some(factored.outside(address)),
                Party::Node(node) => {
                    let first = node.addresses.first()?;
                    let at = Party::at(engine.cluster(), *first);
                    (at == party).then(|| factored.address(*first))
                }
            };
            if let (Some(from), Some(to)) = (end(src), end(dst)) {
                let cell = factored.cell(&from, &to);
                let found = factored.passage(cell, &from, &to);
                assert_eq!(found, passage, "by classes: {src} to {dst}");
            }
        }
    }
}

fn count_side(
    cluster: &Cluster,
    flow: &Flow<'_>,
    side: &Side,
    others: &[Pod],
    coverage: &mut Coverage,
) {
    let mut count = |kind| *coverage.entry(kind).or_default() += 1;
    let (subject, party) = match side.direction {
        Direction::Egress => (flow.src, flow.dst),
        Direction::Ingress => (flow.dst, flow.src),
    };
    match side.exempt {
        Some(Exempt::Itself) => count("a pod and itself"),
        Some(Exempt::OwnNode) => count("from its own node"),
        Some(Exempt::Terminated) => count("a pod that has ended"),
        _ => {}
    }
    if side.stranger_on.is_some() {
        count("a stranger");
    }
    let judged = !side.rules.is_empty();
    let perhaps = side
        .rules
        .iter()
        .any(|its| its.rule.tier == Tier::NetworkPolicy && !its.dry_run && !its.peers.is_yes());
    if perhaps && side.isolated_by.is_empty() && !side.missing.is_empty() {
        count("perhaps isolated");
    }
    match party {
        Party::Pod(pod) if judged && pod.host_network => count("a hostNetwork pod"),
        Party::Pod(pod) if judged && others.contains(pod) => {
            count("a pod that is not of the cluster");
        }
        Party::Node(_) if judged => count("a node"),
        Party::Address(_) if judged => count("an address outside"),
        _ => {}
    }
    let of = |fact: &MissingFact| match fact {
        MissingFact::PodAddress { .. } => "missing: a pod's address",
        MissingFact::NodeAddress { .. } => "missing: a node's address",
        MissingFact::PodNode { .. } => "missing: a pod's node",
        MissingFact::NamespaceLabels { namespace, .. } => match subject {
            Party::Pod(pod) if pod.name.namespace == *namespace => {
                "missing: a namespace's labels, of the subject"
            }
            _ => "missing: a namespace's labels, of a peer",
        },
    };
    side.missing.iter().for_each(|fact| count(of(fact)));
    let has = |prefix| side.missing.iter().any(|fact| of(fact).starts_with(prefix));
    if has("missing: a pod's address") && has("missing: a namespace's labels") {
        count("missing: an address and labels at once");
    }
    for outcome in side.rules.iter().filter(|its| its.peers.is_yes() && !its.ports.is_empty()) {
        match (outcome.action, outcome.rule.tier) {
            _ if outcome.dry_run => count("a policy for a dry run"),
            (Action::Pass, Tier::Admin) => count("a rule that the Admin tier passes on"),
            (Action::Deny, _) => count("a Deny rule"),
            (_, Tier::Baseline) => count("a Baseline rule"),
            _ => {}
        }
        if outcome.specs.iter().any(|spec| matches!(spec.port, PortMatch::Named(_))) {
            count(match side.direction {
                Direction::Egress => "a port's name, egress",
                Direction::Ingress => "a port's name, ingress",
            });
        }
        let policy = &cluster.policies[&(outcome.rule.tier, outcome.rule.policy.clone())];
        let rule = &policy.rules(side.direction).unwrap()[outcome.rule.number as usize - 1];
        let blocks = rule.peers.iter().any(|peer| {
            matches!(peer, Peer::Block(_))
                && match_peer(cluster, peer, party, flow.family) == Match::Yes
        });
        if let (true, Party::Pod(pod)) = (blocks, party) {
            count("a pod in a block");
            if pod.ips.is_empty() && pod.is_subject() {
                count("a range of a node's pods in a block");
            }
        }
    }
}

fn count_passage(passage: &Passage, coverage: &mut Coverage) {
    let mut count = |kind| *coverage.entry(kind).or_default() += 1;
    count(match &passage.passes {
        set if set.is_everything() => "everything passes",
        set if set.is_empty() => "nothing passes",
        _ => "some ports pass",
    });
    if !passage.open.is_empty() {
        count("open for want of a fact");
    }
    if !passage.families.is_empty() {
        count("families differ");
    }
}

fn live_through(seed: u64, coverage: &mut Coverage) {
    let mut dice = Dice::seeded(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let start = cluster(&mut dice);
    let mut now = start.clone();
    let mut engine = Reachability::of(&start);
    check(&engine, &now, &mut dice, coverage);
    for _ in 0..dice.between(1, 5) {
        for _ in 0..dice.between(1, 3) {
            let step = Step::random(&mut dice, &now);
            step.apply(&mut now);
            step.tell(&mut engine);
        }
        check(&engine, &now, &mut dice, coverage);
        let (mut found, fresh) = (engine.stats(), Reachability::of(&now).stats());
        found.walked = fresh.walked;
        assert_eq!(found, fresh, "it holds what one made from nothing holds");
    }
    // One change after the other from nothing, in another order, and down to nothing.
    let mut other = Reachability::new();
    now.nodes.values().for_each(|node| other.put_node(node.clone()));
    let mut up = changes(&Cluster::default(), &now);
    for at in (1..up.len()).rev() {
        up.swap(at, dice.below(at + 1));
    }
    up.into_iter().for_each(|change| Step::Change(change).tell(&mut other));
    if other.cluster() == &now {
        *coverage.entry("put one by one").or_default() += 1;
        check(&other, &now, &mut dice, coverage);
    }
    for change in changes(&now, &Cluster::default()) {
        Step::Change(change).tell(&mut engine);
    }
    let stats = engine.stats();
    let nothing = Stats { walked: stats.walked, ..Stats::default() };
    assert_eq!(stats, nothing, "something is kept");
}

#[test]
fn the_engine_says_what_the_evaluator_says_after_any_history() {
    let (first, count) = (number("PODWALL_SEED", 0), number("PODWALL_HISTORIES", 400));
    let mut coverage = Coverage::new();
    for seed in first..first + count {
        println!("seed {seed}"); // shown if it fails
        live_through(seed, &mut coverage);
    }
    println!("{coverage:#?}");
    let reached = |kind: &&str| coverage.get(*kind).copied().unwrap_or(0) >= 20;
    let missing: Vec<_> = KINDS.iter().filter(|kind| !reached(kind)).collect();
    assert!(count < 400 || missing.is_empty(), "never or hardly reached: {missing:?}");
}
