//! Is a difference what the evaluator says of every pair on both sides, and nothing else?
//!
//! `PODWALL_CHANGES` sets how many random changes are tried, `PODWALL_SEED` where to start.

#![expect(clippy::unwrap_used, reason = "helpers of tests; only what fails a test")]

mod facts;
mod rewrites;

use std::collections::BTreeMap;

use podwall_analysis::difference::{Change as Found, Difference, Kind, Row, Shift, difference};
use podwall_analysis::matrix::By;
use podwall_analysis::outside::taken;
use podwall_compile::testing::change::Change;
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::evaluate;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::Phase;
use podwall_policy::port::PortSet;

/// How often each kind of outcome came up.
type Coverage = BTreeMap<&'static str, usize>;

const KINDS: [&str; 15] = [
    "unknown on both sides, and the same",
    "appears",
    "disappears",
    "changes",
    "unknown",
    "perhaps opened",
    "perhaps closed",
    "undecided",
    "families differ",
    "for some pods only",
    "from outside",
    "to outside",
    "a pod on one side only",
    "a pod of another side's node",
    "nothing differs though something was changed",
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// A cluster of workloads whose pods are not all alike.
fn cluster(dice: &mut Dice) -> Cluster {
    let mut cluster = random::cluster(dice);
    random::workloads(dice, &mut cluster, 50, 30);
    cluster
}

/// What the evaluator lets pass and drops over each family.
fn states(cluster: &Cluster, src: Option<Party<'_>>, dst: Option<Party<'_>>) -> [[PortSet; 2]; 2] {
    let mut out = [(); 2].map(|()| [PortSet::empty(), PortSet::everything()]);
    let (Some(src), Some(dst)) = (src, dst) else { return out };
    for flow in Flow::between(src, dst) {
        let evaluation = evaluate(cluster, &flow);
        out[usize::from(flow.family == Family::V6)] = [evaluation.allowed(), evaluation.denied()];
    }
    out
}

/// What happens to the ports, from the evaluator's answers alone; what is unknown before and after
/// is all in `undecided`.
fn expected(before: &[[PortSet; 2]; 2], after: &[[PortSet; 2]; 2]) -> Shift {
    let mut sum = Shift::default();
    let rest = |[allowed, denied]: &[PortSet; 2]| {
        PortSet::everything().difference(allowed).difference(denied)
    };
    for (b, a) in before.iter().zip(after) {
        let (ub, ua) = (rest(b), rest(a));
        sum.before = sum.before.union(&b[0]);
        sum.after = sum.after.union(&a[0]);
        sum.opened = sum.opened.union(&b[1].intersection(&a[0]));
        sum.closed = sum.closed.union(&b[0].intersection(&a[1]));
        let opened = b[1].intersection(&ua).union(&ub.intersection(&a[0]));
        sum.perhaps_opened = sum.perhaps_opened.union(&opened);
        let closed = b[0].intersection(&ua).union(&ub.intersection(&a[1]));
        sum.perhaps_closed = sum.perhaps_closed.union(&closed);
        sum.undecided = sum.undecided.union(&ub.intersection(&ua));
    }
    sum
}

fn add(sum: &mut Shift, other: &Shift) {
    sum.before = sum.before.union(&other.before);
    sum.after = sum.after.union(&other.after);
    sum.opened = sum.opened.union(&other.opened);
    sum.closed = sum.closed.union(&other.closed);
    sum.perhaps_opened = sum.perhaps_opened.union(&other.perhaps_opened);
    sum.perhaps_closed = sum.perhaps_closed.union(&other.perhaps_closed);
    sum.undecided = sum.undecided.union(&other.undecided);
}

/// Holds what was found of a pair to what the evaluator says.
fn hold(found: Option<&Found>, mut wanted: Shift, what: &str) {
    wanted.perhaps_opened = wanted.perhaps_opened.difference(&wanted.opened);
    wanted.perhaps_closed = wanted.perhaps_closed.difference(&wanted.closed);
    let Some(found) = found else {
        wanted.undecided = PortSet::empty();
        assert!(wanted.is_nothing(), "{what}: nothing is found, but {wanted:#?}");
        return;
    };
    let mut said = found.shift.all.clone();
    assert!(said.undecided.difference(&wanted.undecided).is_empty(), "{what}: {said:#?}");
    said.undecided = wanted.undecided.clone();
    assert_eq!(said, wanted, "{what}");
}

/// The parties of a row with their names, before or after.
fn parties<'a>(row: &'a Row<'a>, s: usize) -> Vec<(String, Party<'a>)> {
    match row {
        Row::Pods { before, after, .. } => {
            let pods = if s == 0 { before } else { after };
            pods.iter().map(|pod| (pod.name.to_string(), Party::Pod(pod))).collect()
        }
        Row::Outside(class) => vec![(String::new(), Party::Address(class.example))],
    }
}

/// The pairs of parties of a row that are compared; `None` where not by names.
fn namesakes<'a>(row: &'a Row<'a>) -> Option<Vec<[Option<Party<'a>>; 2]>> {
    let [before, after] = [0, 1].map(|s| parties(row, s));
    if before.is_empty() || after.is_empty() {
        let one = |its: Vec<(String, Party<'a>)>, s: usize| {
            its.into_iter().map(move |(_, party)| {
                let mut pair = [None, None];
                pair[s] = Some(party);
                pair
            })
        };
        return Some(one(before, 0).chain(one(after, 1)).collect());
    }
    let same = before.iter().map(|(name, _)| name).eq(after.iter().map(|(name, _)| name));
    same.then(|| before.iter().zip(&after).map(|((_, a), (_, b))| [Some(*a), Some(*b)]).collect())
}

fn check_rows(difference: &Difference<'_>, clusters: [&Cluster; 2], coverage: &mut Coverage) {
    let rows = &difference.rows;
    let mut seen = 0;
    for src in 0..rows.len() {
        for dst in 0..rows.len() {
            let found: Vec<&Found> =
                difference.changes.iter().filter(|c| c.src == src && c.dst == dst).collect();
            assert!(found.len() <= 1);
            seen += found.len();
            if let (Row::Outside(_), Row::Outside(_)) = (&rows[src], &rows[dst]) {
                assert!(found.is_empty());
                continue;
            }
            let (Some(from), Some(to)) = (namesakes(&rows[src]), namesakes(&rows[dst])) else {
                continue;
            };
            let mut wanted = Shift::default();
            for (i, from) in from.iter().enumerate() {
                for (j, to) in to.iter().enumerate() {
                    if src == dst && i == j {
                        continue;
                    }
                    let states = [0, 1].map(|s| states(clusters[s], from[s], to[s]));
                    add(&mut wanted, &expected(&states[0], &states[1]));
                }
            }
            let what = format!("{} to {}", rows[src].label(), rows[dst].label());
            hold(found.first().copied(), wanted, &what);
        }
    }
    assert_eq!(seen, difference.changes.len());
    let mut count = |kind| *coverage.entry(kind).or_default() += 1;
    for change in &difference.changes {
        let shift = &change.shift.all;
        count(match change.kind {
            Kind::Appears => "appears",
            Kind::Disappears => "disappears",
            Kind::Changes => "changes",
            Kind::Unknown => "unknown",
        });
        for (ports, kind) in [
            (&shift.perhaps_opened, "perhaps opened"),
            (&shift.perhaps_closed, "perhaps closed"),
            (&shift.undecided, "undecided"),
        ] {
            if !ports.is_empty() {
                count(kind);
            }
        }
        if !change.shift.families.is_empty() {
            count("families differ");
        }
        if change.partly {
            count("for some pods only");
        }
        if matches!(rows[change.src], Row::Outside(_)) {
            count("from outside");
        }
        if matches!(rows[change.dst], Row::Outside(_)) {
            count("to outside");
        }
        let sides = [rows[change.src].is_there(), rows[change.dst].is_there()];
        if sides.iter().any(|sides| sides.contains(&false)) {
            count("a pod on one side only");
        }
    }
}

/// Addresses that nobody has change as the row that they are in, or not at all.
fn check_outside(difference: &Difference<'_>, clusters: [&Cluster; 2], dice: &mut Dice) {
    if clusters.iter().any(|its| !its.strangers.is_empty()) {
        return; // ranges that a node isolates cut no row
    }
    let taken = clusters.map(taken);
    for _ in 0..6 {
        let side = dice.below(2);
        let address = random::address(dice, clusters[side]);
        if taken.iter().any(|its| its.contains(&address)) {
            continue;
        }
        let in_row = |row: &Row<'_>| match row {
            Row::Outside(class) => class.addresses.contains(address),
            Row::Pods { .. } => false,
        };
        let own = difference.rows.iter().position(in_row);
        for (at, row) in difference.rows.iter().enumerate() {
            let Some(pods) = namesakes(row).filter(|_| !in_row(row)) else { continue };
            if matches!(row, Row::Outside(_)) {
                continue;
            }
            for out in [false, true] {
                let found = difference.changes.iter().find(|change| {
                    let ends = if out { (at, own) } else { (own.unwrap_or(at), Some(at)) };
                    own.is_some() && change.src == ends.0 && Some(change.dst) == ends.1
                });
                let mut wanted = Shift::default();
                for pair in &pods {
                    let states = [0, 1].map(|s| {
                        let outside = pair[s].map(|_| Party::Address(address));
                        let (src, dst) = if out { (pair[s], outside) } else { (outside, pair[s]) };
                        states(clusters[s], src, dst)
                    });
                    add(&mut wanted, &expected(&states[0], &states[1]));
                }
                hold(found, wanted, &format!("{address} and {} (out: {out})", row.label()));
            }
        }
    }
}

fn one(seed: u64, coverage: &mut Coverage) {
    let mut dice = Dice::seeded(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let before = cluster(&mut dice);
    let mut after = before.clone();
    for _ in 0..dice.between(1, 4) {
        Change::random(&mut dice, &after).apply(&mut after);
    }
    for by in [By::Pod, By::Workload] {
        let found = difference(&before, &after, by);
        check_rows(&found, [&before, &after], coverage);
        check_outside(&found, [&before, &after], &mut dice);
        if by == By::Pod {
            facts::check_undecided(&found, [&before, &after], &mut dice, coverage);
        }
        if found.is_nothing() && before != after {
            *coverage.entry("nothing differs though something was changed").or_default() += 1;
        }
        assert!(difference(&before, &before, by).is_nothing(), "a cluster differs from itself");
        let nodes = |cluster: &Cluster| -> Vec<_> {
            let pods = cluster.pods.values().filter(|pod| pod.phase == Phase::Alive);
            pods.map(|pod| (pod.name.clone(), pod.node.clone())).collect()
        };
        if nodes(&before) != nodes(&after) {
            *coverage.entry("a pod of another side's node").or_default() += 1;
        }
    }
}

#[test]
fn a_difference_is_what_the_evaluator_says_of_every_pair() {
    let (first, count) = (number("PODWALL_SEED", 0), number("PODWALL_CHANGES", 400));
    let mut coverage = Coverage::new();
    for seed in first..first + count {
        println!("seed {seed}"); // shown if it fails
        one(seed, &mut coverage);
    }
    println!("{coverage:#?}");
    let reached = |kind: &&str| coverage.get(*kind).copied().unwrap_or(0) >= 20;
    let missing: Vec<_> = KINDS.iter().filter(|kind| !reached(kind)).collect();
    assert!(count < 400 || missing.is_empty(), "never or hardly reached: {missing:?}");
}
