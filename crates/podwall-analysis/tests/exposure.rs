//! Does exposure say of pods that do not exist what the reference evaluator says once they do?
//!
//! `PODWALL_CLUSTERS` sets how many random clusters are tried, `PODWALL_SEED` where to start.

#![expect(clippy::unwrap_used, reason = "helpers of tests; only what fails a test")]

use std::collections::BTreeMap;

use podwall_analysis::exposure::{ANY_POD, Breadth, Exposed, Who, exposure};
use podwall_analysis::outside::taken;
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Side, evaluate, side};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::label::Labels;
use podwall_policy::object::{Namespace, Phase, Pod};
use podwall_policy::policy::{Direction, NamespaceScope, Policy, Tier};
use podwall_policy::port::PortSet;

type Coverage = BTreeMap<&'static str, usize>;

/// Kinds of outcome that a long enough run must reach.
const KINDS: [&str; 17] = [
    "everything passes",
    "nothing passes",
    "some ports pass",
    "open for want of a fact",
    "families differ",
    "a new namespace",
    "a namespace that there is",
    "the workload's own namespace",
    "the other end's policies hold back",
    "the other end has no say",
    "parted by what it is besides",
    "parted by what it is not",
    "by labels anywhere",
    "by labels of namespaces",
    "by one namespace",
    "a name of a port on the other end",
    "an address outside",
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// A random cluster in which more is unknown.
fn cluster(dice: &mut Dice) -> Cluster {
    let mut cluster = random::cluster(dice);
    cluster.strangers.clear();
    for pod in cluster.pods.values_mut() {
        if dice.chance(25) {
            pod.ips.clear();
        }
    }
    cluster.policies.values_mut().for_each(|policy| wide(dice, policy));
    cluster
}

/// As no NetworkPolicy of Kubernetes has it, but its type does: whom it isolates may be unknown.
fn wide(dice: &mut Dice, policy: &mut Policy) {
    if policy.tier == Tier::NetworkPolicy && dice.chance(10) {
        policy.subject.namespaces =
            NamespaceScope::Matching(random::policy(dice, true).subject.pods);
    }
}

/// A pod that is not there, in a namespace whose labels are known, and the cluster with both.
fn stranger(dice: &mut Dice, cluster: &Cluster, of: &Pod) -> Option<(Namespace, Pod, Cluster)> {
    let name = match dice.below(3) {
        0 => "new".into(),
        1 => of.name.namespace.clone(),
        _ => random::namespace_name(dice).into(),
    };
    let mut cluster = cluster.clone();
    let namespace = match cluster.namespaces.get(&name) {
        Some(stated) if stated.labels_known => stated.clone(),
        Some(_) => return None,
        None => Namespace::new(name.clone(), &labels(dice)),
    };
    let pod = Pod::new(name, ANY_POD, labels(dice));
    cluster.put_namespace(namespace.clone());
    cluster.put_pod(pod.clone());
    Some((namespace, pod, cluster))
}

fn labels(dice: &mut Dice) -> Labels {
    random::pod(dice).labels
}

/// What passes over all families, what may, and whether they differ.
fn together(sides: &[Side]) -> Option<(PortSet, PortSet, bool)> {
    let (first, rest) = sides.split_first()?;
    let (mut passes, mut denied) = (first.allowed.clone(), first.denied.clone());
    for side in rest {
        passes = passes.intersection(&side.allowed);
        denied = denied.union(&side.denied);
    }
    let open = PortSet::everything().difference(&passes).difference(&denied);
    let differ = rest.iter().any(|side| side.allowed != first.allowed);
    Some((passes, open, differ))
}

/// The policies in few words.
fn said(cluster: &Cluster, direction: Direction) -> String {
    let mut out = String::new();
    for policy in cluster.policies.values() {
        let Some(rules) = policy.rules(direction) else { continue };
        let (tier, dry) = (policy.tier, policy.dry_run);
        out += &format!("{tier:?} {} {dry}: {}\n", policy.priority, policy.subject);
        for rule in rules {
            let peers: Vec<String> = rule.peers.iter().map(ToString::to_string).collect();
            let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
            out += &format!("    {:?} [{}] {ports:?}\n", rule.action, peers.join(" | "));
        }
    }
    out
}

fn flows<'a>(pod: Party<'a>, other: Party<'a>, direction: Direction) -> Vec<Flow<'a>> {
    match direction {
        Direction::Egress => Flow::between(pod, other),
        Direction::Ingress => Flow::between(other, pod),
    }
}

fn compare(
    dice: &mut Dice,
    cluster: &Cluster,
    workload: &Exposed<'_>,
    direction: Direction,
    coverage: &mut Coverage,
) {
    let mut count = |kind| *coverage.entry(kind).or_default() += 1;
    let pod = workload.pods[0];
    let Some((namespace, other, with)) = stranger(dice, cluster, pod) else { return };
    let (found, open) = workload.for_pod(direction, &namespace, &other);
    let flows = flows(Party::Pod(pod), Party::Pod(&other), direction);
    let own: Vec<Side> = flows.iter().map(|flow| side(&with, flow, direction)).collect();
    let Some((expected, expected_open, differ)) = together(&own) else { return };
    let context = || {
        let (labels, its) = (&namespace.labels, &other.labels);
        format!(
            "{direction} of {} {} node {:?} {:?}: {labels} | {} {its}\n{}",
            pod.name,
            pod.labels,
            pod.node,
            pod.ips,
            other.name,
            said(&with, direction)
        )
    };
    assert_eq!(found, expected, "{}", context());
    assert_eq!(open, expected_open, "what is open, {}", context());

    // Both sides: never more than exposure says, and just that where the other end has no say.
    let both: Vec<_> = flows.iter().map(|flow| evaluate(&with, flow)).collect();
    for evaluation in &both {
        let perhaps = found.union(&open);
        let all = workload
            .ways
            .iter()
            .filter(|way| way.direction == direction)
            .fold(perhaps, |all, way| {
                way.families.iter().fold(all, |all, (_, set)| all.union(set))
            });
        assert!(evaluation.allowed().difference(&all).is_empty(), "{}", context());
        let other = match direction {
            Direction::Egress => &evaluation.ingress,
            Direction::Ingress => &evaluation.egress,
        };
        if other.allowed.is_everything() {
            count("the other end has no say");
        } else {
            count("the other end's policies hold back");
        }
    }

    count(match () {
        () if *namespace.name == *"new" => "a new namespace",
        () if namespace.name == pod.name.namespace => "the workload's own namespace",
        () => "a namespace that there is",
    });
    if expected.is_everything() {
        count("everything passes");
    } else if expected.is_empty() {
        count("nothing passes");
    } else {
        count("some ports pass");
    }
    if !expected_open.is_empty() {
        count("open for want of a fact");
    }
    if differ {
        count("families differ");
    }
}

fn count_ways(workload: &Exposed<'_>, coverage: &mut Coverage) {
    let mut count = |kind| *coverage.entry(kind).or_default() += 1;
    for way in &workload.ways {
        match way.breadth() {
            Breadth::Labels => count("by labels anywhere"),
            Breadth::Namespaces => count("by labels of namespaces"),
            Breadth::Namespace => count("by one namespace"),
            _ => {}
        }
        if let Who::Pods(crowd) = &way.who {
            if !crowd.also.is_empty() {
                count("parted by what it is besides");
            }
            if !crowd.except.is_empty() {
                count("parted by what it is not");
            }
        }
        if !way.names.is_empty() {
            count("a name of a port on the other end");
        }
    }
}

/// Each address outside is in one way at most, and passes what that says.
fn compare_outside(
    dice: &mut Dice,
    cluster: &Cluster,
    workload: &Exposed<'_>,
    direction: Direction,
    coverage: &mut Coverage,
) {
    let pod = workload.pods[0];
    let text = ["192.0.2.7", "192.0.2.200", "203.0.113.1", "10.0.1.3", "2001:db8::7", "3fff::1"];
    let address = dice.pick(&text).parse().unwrap();
    if taken(cluster).contains(&address) {
        return;
    }
    let flows = flows(Party::Pod(pod), Party::Address(address), direction);
    let sides: Vec<Side> = flows.iter().map(|flow| side(cluster, flow, direction)).collect();
    let Some((expected, open, _)) = together(&sides) else { return };
    let ways = workload.ways.iter().filter(|way| way.direction == direction);
    let at: Vec<_> =
        ways.filter(|way| matches!(&way.who, Who::Outside(all) if all.contains(address))).collect();
    assert!(at.len() <= 1, "{address} twice: {at:?}");
    let found = at.first().map(|way| (way.ports.clone(), way.open.clone())).unwrap_or_default();
    assert_eq!(
        found,
        (expected, open),
        "{direction} {address} {}\n{}",
        pod.name,
        said(cluster, direction)
    );
    *coverage.entry("an address outside").or_default() += 1;
}

#[test]
fn exposure_says_of_pods_that_do_not_exist_what_the_evaluator_says_once_they_do() {
    let (seed, rounds) = (number("PODWALL_SEED", 1), number("PODWALL_CLUSTERS", 1_000));
    let mut coverage = Coverage::new();
    for round in 0..rounds {
        let mut dice = Dice::seeded(seed.wrapping_mul(1_000_003).wrapping_add(round));
        let cluster = cluster(&mut dice);
        let found = exposure(&cluster, &[]);
        let alive = cluster.pods.values().filter(|pod| pod.phase == Phase::Alive).count();
        assert_eq!(found.workloads.len(), alive);
        for workload in found.workloads.iter().filter(|its| !its.host_network) {
            count_ways(workload, &mut coverage);
            for direction in Direction::BOTH {
                for _ in 0..4 {
                    compare(&mut dice, &cluster, workload, direction, &mut coverage);
                }
                compare_outside(&mut dice, &cluster, workload, direction, &mut coverage);
            }
        }
    }
    for kind in KINDS {
        let seen = coverage.get(kind).copied().unwrap_or_default();
        assert!(seen >= 20, "{kind}: only {seen} times in {rounds} clusters: {coverage:?}");
    }
    eprintln!("{coverage:#?}");
}
