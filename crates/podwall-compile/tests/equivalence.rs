//! Do the tables say what the reference evaluator says?
//!
//! `PODWALL_CLUSTERS` sets how many random clusters are tried, `PODWALL_SEED` where to start.

#![expect(clippy::unwrap_used, reason = "helpers of tests; only what fails a test")]

use podwall_compile::compiler::compile;
use podwall_compile::testing::check::{Coverage, KINDS, as_known, check};
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::{random, shrink};
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Compiles for the whole cluster and for each node, and checks some pairs of addresses.
fn try_cluster(cluster: &Cluster, seed: u64, coverage: &mut Coverage) -> Result<(), String> {
    let known = as_known(cluster);
    let mut dice = Dice::seeded(!seed);
    let nodes = [None, Some(*dice.pick(&random::NODES))];
    for node in nodes {
        let tables = compile(cluster, node);
        for _ in 0..20 {
            let src = random::address(&mut dice, cluster);
            let dst = random::address(&mut dice, cluster);
            if Family::of(src) == Family::of(dst) {
                check(&known, node, &tables, (src, dst), coverage)
                    .map_err(|error| format!("node {node:?}: {error}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn tables_and_evaluator_agree_on_random_clusters() {
    let (first, count) = (number("PODWALL_SEED", 0), number("PODWALL_CLUSTERS", 10_000));
    let mut coverage = Coverage::new();
    for seed in first..first + count {
        let cluster = random::cluster(&mut Dice::seeded(seed));
        if let Err(error) = try_cluster(&cluster, seed, &mut coverage) {
            let fails = |c: &Cluster| {
                (0..40).any(|more| try_cluster(c, seed + more, &mut Coverage::new()).is_err())
            };
            let small = shrink(&cluster, fails);
            let last =
                (0..40).find_map(|m| try_cluster(&small, seed + m, &mut Coverage::new()).err());
            panic!("seed {seed}: {error}\n\nin the smallest cluster: {small:#?}\n\n{last:?}");
        }
    }
    println!("{coverage:#?}");
    let reached = |kind: &&str| coverage.get(*kind).copied().unwrap_or(0) >= 20;
    let missing: Vec<_> = KINDS.iter().filter(|kind| !reached(kind)).collect();
    assert!(count < 10_000 || missing.is_empty(), "never or hardly reached: {missing:?}");
}
