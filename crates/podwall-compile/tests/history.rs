//! Do the tables depend on the objects alone, whatever happened before?
//!
//! `PODWALL_HISTORIES` sets how many random histories are tried, `PODWALL_SEED` where to start.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests; only what fails a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podwall_compile::compiler::{NodeCompiler, compile};
use podwall_compile::tables::{
    GroupId, NetId, NodeTables, Peer, PeerId, PeerKey, PortKey, SubjectId, Verdict, VerdictKey,
};
use podwall_compile::testing::change::{Change, changes};
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::address::{AddressRange, AddressSet};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, RuleRef};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Tables with each class number replaced by what the class is for: two tables are equivalent
/// exactly if these are equal.
#[derive(Debug, PartialEq)]
struct Meaning {
    pod_ranges: AddressSet,
    open: BTreeSet<(Direction, IpAddr)>,
    subjects: BTreeMap<(Direction, IpAddr), Vec<Row>>,
    isolated_by: BTreeMap<(Direction, IpAddr), Vec<Name>>,
    /// Which addresses and ranges are one class.
    peers: BTreeSet<Vec<String>>,
    counts: [usize; 4],
}

type Row = (String, PortKey, bool, Option<RuleRef>);

fn meaning(tables: &NodeTables) -> Meaning {
    let mut members: BTreeMap<PeerKey, BTreeSet<String>> = BTreeMap::new();
    let mut add = |key, member| {
        members.entry(key).or_default().insert(member);
    };
    for (address, Peer { own, group }) in &tables.peers {
        add(PeerKey::Own(*own), address.to_string());
        add(PeerKey::Group(*group), format!("{address} in group"));
    }
    for (range, class) in &tables.blocks {
        add(PeerKey::Own(*class), format!("{range} as range"));
    }
    for (range, class) in &tables.nets {
        add(PeerKey::Net(*class), format!("{range} as net"));
    }
    let name = |peer: PeerKey| match peer {
        PeerKey::Any => "anybody".to_string(),
        _ => format!("{:?}", members.get(&peer).unwrap_or_else(|| panic!("{peer:?} is nobody"))),
    };
    let rows = |subject: SubjectId| -> Vec<Row> {
        let mut rows: Vec<Row> = tables
            .verdicts
            .iter()
            .filter(|(key, _)| key.subject == subject)
            .map(|(VerdictKey { peer, ports, .. }, Verdict { allow, rule })| {
                (name(*peer), *ports, *allow, rule.map(|id| tables.rules[&id].clone()))
            })
            .collect();
        rows.sort();
        rows
    };
    let of = |subject: &SubjectId| tables.names_behind(*subject).cloned().collect();
    let classes: BTreeSet<_> = tables.subjects.values().collect();
    assert!(!classes.contains(&SubjectId::STRANGER), "a class of nobody");
    let open = |(_, address)| tables.pod_ranges.contains(address);
    let mut open_entries = tables.subjects.iter().filter(|(_, class)| class.is_open());
    assert!(open_entries.all(|(key, _)| open(*key)), "an open address outside of the pod ranges");
    assert!(tables.verdicts.keys().all(|key| classes.contains(&key.subject)), "row of nobody");
    let nobody =
        [PeerKey::Own(PeerId::OTHER), PeerKey::Group(GroupId::NONE), PeerKey::Net(NetId::NONE)];
    assert!(tables.verdicts.keys().all(|key| !nobody.contains(&key.peer)), "row for no class");
    assert!(tables.isolated_by.keys().all(|subject| classes.contains(subject)));
    let behind: BTreeSet<_> = tables.isolated_by.values().flat_map(|list| list.iter()).collect();
    assert!(tables.policies.keys().eq(behind), "names of policies that are behind no class");
    let named: BTreeSet<_> = tables.verdicts.values().filter_map(|v| v.rule).collect();
    assert!(tables.rules.keys().eq(named.iter()), "rules that no verdict names");
    let open = tables.subjects.iter().filter(|(_, class)| class.is_open());
    Meaning {
        pod_ranges: tables.pod_ranges.clone(),
        open: open.map(|(key, _)| *key).collect(),
        subjects: tables.subjects.iter().map(|(key, subject)| (*key, rows(*subject))).collect(),
        isolated_by: tables.subjects.iter().map(|(key, subject)| (*key, of(subject))).collect(),
        peers: members.into_values().map(|set| set.into_iter().collect()).collect(),
        counts: [
            classes.len(),
            tables.verdicts.len(),
            tables.rules.len(),
            tables.isolated_by.len(),
        ],
    }
}

fn assert_same(found: &NodeTables, expected: &NodeTables, words: impl Fn() -> String) {
    let (found, expected) = (meaning(found), meaning(expected));
    assert!(found == expected, "{}\n{found:#?}\ninstead of\n{expected:#?}", words());
}

/// A compiler and a copy of its tables that only deltas keep up to date.
struct Followed {
    compiler: NodeCompiler,
    copy: NodeTables,
}

impl Followed {
    fn new(node: Option<&str>) -> Self {
        let compiler = NodeCompiler::new(node.map(Arc::from));
        Self { compiler, copy: NodeTables::default() }
    }

    fn commit(&mut self, changes: &[Change]) {
        changes.iter().for_each(|change| change.record(&mut self.compiler));
        let delta = self.compiler.commit();
        fn each_once<K: Ord>(keys: impl Iterator<Item = K>) {
            let keys: Vec<K> = keys.collect();
            let len = keys.len();
            assert_eq!(keys.into_iter().collect::<BTreeSet<K>>().len(), len);
        }
        each_once(delta.subjects.iter().map(|(key, _)| *key));
        each_once(delta.peers.iter().map(|(key, _)| *key));
        each_once(delta.blocks_added.iter().map(|(key, _)| *key));
        each_once(delta.blocks_removed.iter().copied());
        each_once(delta.nets_added.iter().map(|(key, _)| *key));
        each_once(delta.nets_removed.iter().copied());
        each_once(delta.verdicts.iter().map(|(key, _)| *key));
        each_once(delta.rules.iter().map(|(key, _)| *key));
        each_once(delta.isolated_by.iter().map(|(key, _)| *key));
        each_once(delta.policies.iter().map(|(key, _)| *key));
        assert!(delta.blocks_removed.iter().all(|range| self.copy.blocks.contains_key(range)));
        assert!(delta.nets_removed.iter().all(|range| self.copy.nets.contains_key(range)));
        self.copy.apply(&delta);
        assert_eq!(&self.copy, self.compiler.tables(), "the delta is not the difference");
        assert_disjoint(&self.copy.blocks);
        assert_disjoint(&self.copy.nets);
    }
}

fn assert_disjoint<T: PartialEq>(ranges: &BTreeMap<AddressRange, T>) {
    let ranges: Vec<_> = ranges.iter().collect();
    for pair in ranges.windows(2) {
        let ((a, class_a), (b, class_b)) = (pair[0], pair[1]);
        let same_family = a.family() == b.family();
        assert!(!same_family || a.bits().1 < b.bits().0, "{a} and {b} overlap");
        let touching = same_family && a.bits().1 + 1 == b.bits().0;
        assert!(!touching || class_a != class_b, "{a} and {b} are one range");
    }
}

fn shuffled(mut changes: Vec<Change>, dice: &mut Dice) -> Vec<Change> {
    for at in (1..changes.len()).rev() {
        changes.swap(at, dice.below(at + 1));
    }
    changes
}

/// Removes of what is not there, and puts of what is there already.
fn noise(cluster: &Cluster, dice: &mut Dice) -> Vec<Change> {
    let mut noise = dice.some(0, 4, |dice| {
        let (tier, name) = random::policy_name(dice, true);
        let pod = random::pod_name(dice);
        let policy_there = cluster.policies.get(&(tier, name.clone()));
        let pod_there = cluster.pods.get(&pod);
        if dice.chance(50) {
            policy_there.map_or(Change::RemovePolicy(tier, name), |p| Change::PutPolicy(p.clone()))
        } else {
            pod_there.map_or(Change::RemovePod(pod), |p| Change::PutPod(p.clone()))
        }
    });
    let name = random::namespace_name(dice);
    if !cluster.namespaces.contains_key(name) {
        noise.push(Change::RemoveNamespace(name.into()));
    }
    noise
}

fn live_through(seed: u64) {
    let mut dice = Dice::seeded(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let node = [None, Some("n1"), Some("n2")][dice.below(3)];
    let mut cluster = random::cluster(&mut dice);
    let start = cluster.clone();
    let (mut split, mut squashed) = (Followed::new(node), Followed::new(node));
    split.commit(&changes(&Cluster::default(), &cluster));
    squashed.commit(&changes(&Cluster::default(), &cluster));
    assert_same(split.compiler.tables(), &compile(&cluster, node), || {
        format!("seed {seed}: start")
    });
    let mut history = Vec::new();
    for step in 0..dice.between(1, 6) {
        let mut some = dice.some(1, 3, |dice| {
            let change = Change::random(dice, &cluster);
            change.apply(&mut cluster);
            change
        });
        if let Some(node) = node.filter(|_| dice.chance(30)) {
            // Together with what happens to pods.
            let strangers = random::strangers(&mut dice, node, &cluster);
            let change = Change::Strangers(node.into(), strangers);
            change.apply(&mut cluster);
            some.push(change);
        }
        split.commit(&some);
        assert_same(split.compiler.tables(), &compile(&cluster, node), || {
            format!("seed {seed} node {node:?} step {step}: {some:#?}\n{cluster:#?}")
        });
        history.extend(some);
        let nothing = split.compiler.tables().clone();
        split.commit(&noise(&cluster, &mut dice));
        assert!(nothing == *split.compiler.tables(), "seed {seed}: noise changed the tables");
    }
    squashed.commit(&history);
    let expected = compile(&cluster, node);
    assert_same(squashed.compiler.tables(), &expected, || format!("seed {seed}: squashed"));
    // The same objects in any order, one by one.
    let mut other = Followed::new(node);
    for change in shuffled(changes(&Cluster::default(), &cluster), &mut dice) {
        other.commit(&[change]);
    }
    assert_same(other.compiler.tables(), &expected, || format!("seed {seed}: one by one"));
    // There and back again, and down to nothing.
    for change in shuffled(changes(&cluster, &start), &mut dice) {
        split.commit(&[change]);
    }
    assert_same(split.compiler.tables(), &compile(&start, node), || format!("seed {seed}: back"));
    for change in shuffled(changes(&start, &Cluster::default()), &mut dice) {
        split.commit(&[change]);
    }
    assert_eq!(*split.compiler.tables(), NodeTables::default(), "seed {seed}: nothing");
    let stats = split.compiler.stats();
    let left = (stats.pods, stats.policies, stats.atoms, stats.subject_classes);
    assert_eq!(left, (0, 0, 0, 0), "seed {seed}: something is kept");
    let classes = (stats.peer_classes, stats.groups, stats.nets);
    assert_eq!(classes, (0, 0, 0), "seed {seed}: some class is kept");
}

#[test]
fn tables_are_a_function_of_the_objects_and_deltas_are_their_differences() {
    let (first, count) = (number("PODWALL_SEED", 0), number("PODWALL_HISTORIES", 2_000));
    for seed in first..first + count {
        live_through(seed);
    }
}
