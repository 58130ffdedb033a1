//! Is a matrix every pair of pods, and nothing else?

#![expect(clippy::unwrap_used, reason = "helpers of tests; only what fails a test")]

use std::net::IpAddr;

use podwall_analysis::matrix::{By, Connection, Matrix, Row, matrix};
use podwall_analysis::reachability::{Passage, Reachability};
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Evaluation, evaluate};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::label::Labels;
use podwall_policy::object::{Namespace, Pod};
use podwall_policy::policy::{NamespaceScope, Peer, PodScope, Policy, Rule};
use podwall_policy::port::PortSet;
use podwall_policy::selector::Selector;

/// A cluster of workloads whose pods are not all alike.
fn cluster(dice: &mut Dice) -> Cluster {
    let mut cluster = random::cluster(dice);
    for _ in 0..dice.below(8) {
        cluster.put_pod(random::pod(dice));
    }
    random::workloads(dice, &mut cluster, 70, 50);
    cluster
}

fn parties<'a>(row: &'a Row<'a>) -> Vec<Party<'a>> {
    match row {
        Row::Pods { pods, .. } => pods.iter().map(|pod| Party::Pod(pod)).collect(),
        Row::Outside(class) => vec![Party::Address(class.example)],
    }
}

/// What the evaluator says of each pair of two rows.
fn pairs(cluster: &Cluster, src: &Row<'_>, dst: &Row<'_>) -> Vec<[PortSet; 2]> {
    let mut found = Vec::new();
    for from in parties(src) {
        for to in parties(dst) {
            if from == to {
                continue;
            }
            let flows = Flow::between(from, to);
            let all: Vec<_> = flows.iter().map(|flow| evaluate(cluster, flow)).collect();
            let passes = all.iter().map(Evaluation::allowed).reduce(|a, b| a.intersection(&b));
            let denied = all.iter().map(Evaluation::denied).reduce(|a, b| a.union(&b));
            let (Some(passes), Some(denied)) = (passes, denied) else {
                found.push([PortSet::empty(), PortSet::empty()]);
                continue;
            };
            let open = PortSet::everything().difference(&passes).difference(&denied);
            found.push([passes, open]);
        }
    }
    found
}

fn connection<'m>(matrix: &'m Matrix<'_>, src: usize, dst: usize) -> Option<&'m Connection> {
    matrix.connections.iter().find(|its| its.src == src && its.dst == dst)
}

#[test]
fn a_connection_is_what_the_evaluator_says_of_all_pairs_of_its_pods() {
    let mut seen = [0; 6];
    for seed in 0..600 {
        let cluster = cluster(&mut Dice::seeded(seed));
        for by in [By::Pod, By::Workload] {
            let found = matrix(&cluster, by, None);
            for (s, src) in found.rows.iter().enumerate() {
                for (d, dst) in found.rows.iter().enumerate() {
                    if matches!((src, dst), (Row::Outside(_), Row::Outside(_))) {
                        assert_eq!(connection(&found, s, d), None, "no policy has a say");
                        continue;
                    }
                    let pairs = pairs(&cluster, src, dst);
                    let union = |i: usize| {
                        pairs.iter().fold(PortSet::empty(), |all, pair| all.union(&pair[i]))
                    };
                    let (passes, open) = (union(0), union(1).difference(&union(0)));
                    let Some(its) = connection(&found, s, d) else {
                        assert!(
                            passes.is_empty() && open.is_empty(),
                            "seed {seed}: {src:?} {dst:?}"
                        );
                        seen[0] += 1;
                        continue;
                    };
                    assert_eq!((&its.passes, &its.open), (&passes, &open), "seed {seed} {by:?}");
                    assert!(open.is_empty() || !its.missing.is_empty(), "seed {seed} {by:?}");
                    let differ = pairs.iter().any(|pair| pair[0] != passes);
                    assert!(its.partly || !differ, "seed {seed} {by:?}");
                    seen[1] += usize::from(passes.is_everything());
                    seen[2] += usize::from(!passes.is_everything() && !passes.is_empty());
                    seen[3] += usize::from(!open.is_empty());
                    seen[4] += usize::from(its.partly);
                    seen[5] += usize::from(s == d);
                }
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 100), "not all kinds of outcome: {seen:?}");
}

/// `spaces` namespaces of `apps` apps with three replicas each, and a policy for each app.
fn large(spaces: usize, apps: usize) -> Cluster {
    let mut cluster = Cluster::default();
    for s in 0..spaces {
        let team: Labels = [("team", format!("t{}", s % 7))].into_iter().collect();
        cluster.put_namespace(Namespace::new(format!("ns{s}"), &team));
        for i in 0..3 * apps {
            let mut pod = Pod::new(format!("ns{s}"), format!("p{i}"), app(i / 3));
            pod.ips.push(IpAddr::from([10, 0, u8::try_from(s).unwrap(), u8::try_from(i).unwrap()]));
            cluster.put_pod(pod);
        }
        for i in 0..apps {
            cluster.put_policy(policy(s, i));
        }
    }
    cluster
}

fn app(number: usize) -> Labels {
    [("app", format!("a{number}"))].into_iter().collect()
}

fn policy(space: usize, number: usize) -> Policy {
    let pods = Selector::labels([("app", format!("a{number}"))]);
    let own = NamespaceScope::Own(format!("ns{space}").into());
    let mut policy =
        Policy::network_policy(format!("ns{space}"), format!("q{number}"), pods.clone());
    let peer = Peer::Pods(PodScope { namespaces: own, pods });
    policy.ingress = Some(vec![Rule::allow(vec![peer], Vec::new())]);
    policy
}

/// Counted, because time would depend on the machine.
#[test]
fn a_change_is_held_against_what_it_touches_and_not_against_all_pods() {
    let mut engine = Reachability::owning(large(60, 20));
    assert_eq!(engine.stats().walked, 0, "each shape asked the index");
    assert_eq!(engine.stats().shapes, 1200);
    let mut walked = |change: &dyn Fn(&mut Reachability<'_>)| {
        let before = engine.stats().walked;
        change(&mut engine);
        engine.stats().walked - before
    };
    let mut other = policy(7, 7);
    let rule = other.ingress.as_mut().unwrap();
    rule[0].ports.clear();
    assert_eq!(walked(&|engine| engine.put_policy(other.clone())), 0, "no selector is new");
    let mut moved = policy(7, 7);
    moved.subject.pods = Selector::labels([("app", "a3"), ("x", "y")]);
    assert!(walked(&|engine| engine.put_policy(moved.clone())) <= 2 * 20, "its namespace");
    let mut whole = policy(7, 7);
    whole.subject = PodScope {
        namespaces: NamespaceScope::Matching(Selector::everything()),
        pods: Selector::everything(),
    };
    assert!(walked(&|engine| engine.put_policy(whole.clone())) <= 60 + 20, "all namespaces");
    assert_eq!(walked(&|engine| engine.put_pod(Pod::new("ns3", "p1", app(9)))), 0);
    let rare: Labels = [("rare", "yes")].into_iter().collect();
    assert_eq!(walked(&|engine| engine.put_pod(Pod::new("ns3", "p2", rare.clone()))), 0);
    whole.subject.pods = Selector::labels([("rare", "yes")]);
    whole.name.name = "rare".into();
    assert!(walked(&|engine| engine.put_policy(whole.clone())) <= 1 + 20, "pods with the label");
}

#[test]
fn a_pod_that_is_not_there_is_asked_about_as_if_it_were() {
    let engine = Reachability::owning(large(2, 2));
    let there = &engine.cluster().pods.values().next().unwrap().clone();
    let passage = |name: &str, labels: Labels| -> Passage {
        let mut pod = Pod::new("ns0", name, labels);
        pod.ips.push("10.9.9.9".parse().unwrap());
        engine.passage(Party::Pod(&pod), Party::Pod(there))
    };
    assert!(passage("new", app(0)).passes.is_everything(), "it would be of the same app");
    assert!(passage("new", app(1)).passes.is_empty());
    // One that is there, with other labels than it has.
    assert!(passage("p5", app(0)).passes.is_everything());
    assert!(passage("p5", app(1)).passes.is_empty());
}
