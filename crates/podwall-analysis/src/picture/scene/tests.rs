//! Do blocks say exactly what cells say?

use std::collections::BTreeMap;

use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Owner;

use super::{Called, Scene, Stands, Term, View};
use crate::matrix::By;
use crate::picture::{Content, Picture, picture};

fn cluster(seed: u64) -> Cluster {
    let dice = &mut Dice::seeded(seed);
    let mut cluster = random::cluster(dice);
    for _ in 0..dice.below(12) {
        cluster.put_pod(random::pod(dice));
    }
    for pod in cluster.pods.values_mut() {
        if dice.chance(50) {
            pod.owner =
                Some(Owner { kind: "Deployment".into(), name: (*dice.pick(&["x", "y"])).into() });
        }
        pod.host_network &= dice.chance(30);
    }
    if dice.chance(70) {
        cluster.strangers.clear();
    }
    cluster
}

/// Each two rows with what passes, as blocks and marks say.
fn expanded(picture: &Picture, scene: &Scene) -> BTreeMap<(usize, usize), Content> {
    let mut found = BTreeMap::new();
    let row = |item: usize| scene.items[item].rows[0];
    for block in &scene.blocks {
        for src in &block.sources {
            for dst in block.destinations.iter().filter(|dst| *dst != src) {
                let content = scene.contents[block.content as usize].clone();
                assert!(!content.is_nothing());
                let before = found.insert((row(*src), row(*dst)), content);
                assert!(before.is_none(), "no pair is in two blocks");
            }
        }
    }
    for (item, content) in scene.among.iter().enumerate().filter(|(_, content)| **content != 0) {
        found.insert((row(item), row(item)), scene.contents[*content as usize].clone());
    }
    if let Some(free) = picture.free.content {
        for src in 0..picture.rows.len() {
            for dst in 0..picture.rows.len() {
                let marked = picture.free.out[src] && picture.free.into[dst];
                let ends = [src, dst].map(|row| picture.rows[row].space().is_some());
                if !marked || ends == [false, false] {
                    continue;
                }
                if src != dst {
                    let content = picture.contents[free as usize].clone();
                    assert!(found.insert((src, dst), content).is_none(), "marks and blocks differ");
                } else if picture.cell(src, src) == free {
                    found.insert((src, src), picture.contents[free as usize].clone());
                }
            }
        }
    }
    found
}

fn cells(picture: &Picture) -> BTreeMap<(usize, usize), Content> {
    let many = picture.rows.len();
    let pairs = (0..many).flat_map(|src| (0..many).map(move |dst| (src, dst)));
    pairs
        .filter(|(src, dst)| picture.cell(*src, *dst) != 0)
        .map(|(src, dst)| ((src, dst), picture.content(src, dst).clone()))
        .collect()
}

#[test]
fn blocks_and_marks_expand_to_the_cells_again() {
    let (mut merged, mut free, mut sets, mut spaces, mut changed) = (0, 0, 0, 0, 0);
    for seed in 0..400 {
        let now = cluster(seed);
        let before = (seed % 2 == 1).then(|| cluster(seed + 10_000));
        let picture = picture(&now, before.as_ref(), By::Workload).unwrap();
        let scene = Scene::of(&picture, &View::everything(&picture));
        assert!(expanded(&picture, &scene) == cells(&picture), "seed {seed}");
        merged +=
            usize::from(scene.blocks.iter().any(|b| b.sources.len() * b.destinations.len() > 3));
        free += usize::from(picture.free.content.is_some());
        sets += usize::from(!scene.sets.is_empty());
        let terms = || scene.blocks.iter().flat_map(|b| b.from.iter().chain(&b.to));
        spaces += usize::from(terms().any(|term| matches!(term, Term::Space(_))));
        changed += usize::from(
            scene
                .contents
                .iter()
                .any(|c| c.change(picture.compared) != crate::picture::Change::Same),
        );
    }
    eprintln!("{merged} {free} {sets} {spaces} {changed}");
    assert!(merged > 50 && free > 50 && sets > 20 && spaces > 20 && changed > 50);
}

#[test]
fn terms_stand_for_the_items_of_their_block_and_no_others() {
    for seed in 0..200 {
        let cluster = cluster(seed);
        let picture = picture(&cluster, None, By::Pod).unwrap();
        for view in [View::everything(&picture), View::overview(&picture)] {
            let scene = Scene::of(&picture, &view);
            for block in &scene.blocks {
                for (terms, items) in
                    [(&block.from, &block.sources), (&block.to, &block.destinations)]
                {
                    let mut meant: Vec<usize> = terms
                        .iter()
                        .flat_map(|term| match term {
                            Term::Item(item) => vec![*item],
                            Term::Set(set) => scene.sets[*set].items.clone(),
                            Term::Space(space) => (0..scene.items.len())
                                .filter(|item| scene.items[*item].within == Some(*space))
                                .collect(),
                        })
                        .collect();
                    meant.sort_unstable();
                    meant.dedup();
                    assert_eq!(meant, *items, "seed {seed}");
                }
            }
            for set in &scene.sets {
                if let Called::EveryWorkloadBut(but) = &set.called {
                    assert!(but.iter().all(|item| !set.items.contains(item)));
                }
            }
        }
    }
}

#[test]
fn between_namespaces_something_passes_where_it_does_between_workloads() {
    let mut several = 0;
    for seed in 0..200 {
        let cluster = cluster(seed);
        let picture = picture(&cluster, None, By::Pod).unwrap();
        let scene = Scene::of(&picture, &View::overview(&picture));
        for (a, from) in scene.items.iter().enumerate() {
            for (b, to) in scene.items.iter().enumerate().filter(|(b, _)| *b != a) {
                let pairs =
                    from.rows.iter().flat_map(|src| to.rows.iter().map(move |dst| (*src, *dst)));
                let drawn: Vec<&Content> = pairs
                    .filter(|(src, dst)| {
                        picture.cell(*src, *dst) != 0 && !picture.is_free(*src, *dst)
                    })
                    .map(|(src, dst)| picture.content(src, dst))
                    .collect();
                let blocks = scene
                    .blocks
                    .iter()
                    .filter(|block| block.sources.contains(&a) && block.destinations.contains(&b));
                let said: Vec<&Content> =
                    blocks.map(|block| &scene.contents[block.content as usize]).collect();
                assert_eq!(said.is_empty(), drawn.is_empty(), "seed {seed}");
                let all = from.rows.len() * to.rows.len();
                let same = drawn.len() == all && drawn.iter().all(|content| content == &drawn[0]);
                if same {
                    assert!(said == [drawn[0]] || said[0].now.partly, "seed {seed}");
                } else {
                    assert!(said.iter().all(|content| content.now.partly), "seed {seed}");
                    several += usize::from(said.len() > 1);
                }
                let most = |contents: &[&Content]| {
                    let nothing = podwall_policy::port::PortSet::empty();
                    contents.iter().fold(nothing, |all, content| all.union(&content.now.at_most()))
                };
                assert_eq!(most(&said), most(&drawn), "seed {seed}");
            }
        }
    }
    assert!(several > 50, "{several}");
}

#[test]
fn a_focus_shows_what_concerns_it_and_nothing_else() {
    let mut seen = 0;
    for seed in 0..100 {
        let cluster = cluster(seed);
        let picture = picture(&cluster, None, By::Workload).unwrap();
        for space in 0..picture.spaces.len() {
            let scene = Scene::of(&picture, &View::namespace(&picture, space));
            for block in &scene.blocks {
                let own = |item: &usize| scene.items[*item].within == Some(space);
                for src in &block.sources {
                    for dst in block.destinations.iter().filter(|dst| *dst != src) {
                        assert!(own(src) || own(dst));
                    }
                }
            }
            let workloads = scene.items.iter().filter(|i| matches!(i.what, Stands::Workload(_)));
            assert_eq!(workloads.count(), picture.spaces[space].rows.len());
            seen += scene.blocks.len();
        }
    }
    assert!(seen > 100, "{seen}");
}
