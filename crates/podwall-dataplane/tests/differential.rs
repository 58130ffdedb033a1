//! Do words, tables and both kernels say the same of any packet in any cluster with any history?
//!
//! ```text
//!   seed ──▶ cluster ──changes──▶ NodeCompiler ── Delta ──▶ ebpf      on one wire ──┐
//!              │                     │        └──────────▶ nftables  on another ───┤
//!              └─▶ evaluator ────────┴─▶ NodeTables::decide ───────────────────────┴─▶ all the same?
//! ```
//!
//! A *case* is what follows from one seed: a cluster, loaded whole, then batches of packets with
//! changes between them. `PODWALL_PACKETS` says how many packets are tried at least (100,000),
//! `PODWALL_SEED` with which case to start.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests stops the test")]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use podwall_compile::compiler::{NodeCompiler, compile};
use podwall_compile::tables::{NodeTables, Packet, SubjectId};
use podwall_compile::testing::check::{Coverage, KINDS, Pair, as_known};
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::{random, shrink};
use podwall_dataplane::DataPlane;
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;
use support::clusters::{self, NODE};
use support::wire::{OWN, Shot, Wire};
use support::{EXPERIMENT, Kind, yaml};

const BATCHES: usize = 6;
const PAIRS: usize = 14;
const SHOTS_OF_A_PAIR: usize = 20;
/// How often a packet that ought to come out is sent before it counts as dropped.
const TRIES: usize = 6;

/// How often each kind of packet and outcome must come up: with fewer a run is made longer.
const ENOUGH: usize = 8;
/// How many packets are sent where nobody says otherwise.
const USUAL: usize = 60_000;

/// Kinds of packets, besides the kinds of outcomes, that a long enough run must have.
const SENT: [&str; 27] = [
    "tcp",
    "udp",
    "sctp",
    "icmp",
    "another protocol",
    "over ipv4",
    "over ipv6",
    "in fragments",
    "behind extension headers",
    "forwarded",
    "to the node",
    "from the node",
    "between local pods",
    "passed",
    "dropped by egress",
    "dropped by ingress",
    "dropped by both",
    "after changes",
    "after a start anew",
    "among hundreds of policies",
    "standing: still allowed",
    "standing: now denied",
    "standing: denied, now allowed",
    "standing: settled after the change",
    "standing: now a stranger's",
    "standing: of a stranger, now known",
    "after other pod ranges",
];

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Both data planes, each on a node of its own.
struct Bench {
    wires: [Wire; 2],
    planes: [Box<dyn DataPlane>; 2],
}

/// Connections that both kernels know.
struct Standing {
    shots: Vec<Shot>,
    tokens: [Vec<u32>; 2],
    /// Whether they passed when they were tried first.
    passed: Vec<bool>,
    /// Whether either end was a stranger then.
    strange: Vec<bool>,
}

/// What was reached.
#[derive(Default)]
struct Reached {
    kinds: Coverage,
    packets: usize,
    changes: usize,
    sent_again: usize,
}

/// Somebody says something else.
struct Disagreement {
    seed: usize,
    cluster: Cluster,
    shot: Shot,
    /// The evaluator per direction, or where the tables differ from it.
    words: String,
    tables: String,
    expected: bool,
    passed: [bool; 2],
}

/// One plane is given a verdict that is not so, for one packet that passes or one that does not.
#[derive(Clone, Copy)]
struct Sabotage {
    plane: usize,
    passes: bool,
}

impl Disagreement {
    fn words(&self, bench: &mut Bench) -> String {
        let mut out = String::new();
        let said = |passes| if passes { "passes" } else { "is dropped" };
        writeln!(out, "{:?}", self.shot).unwrap();
        writeln!(out, "evaluator (egress, ingress): {}", self.words).unwrap();
        writeln!(out, "tables: {} {}", said(self.expected), self.tables).unwrap();
        for (kind, passed) in Kind::BOTH.iter().zip(self.passed) {
            writeln!(out, "{kind:?}: {}", said(passed)).unwrap();
        }
        writeln!(out, "\n# the cluster\n{}", yaml::text(&self.cluster)).unwrap();
        // A whole load of the same cluster says whether the history matters.
        let differs = |cluster: &Cluster, bench: &mut Bench| {
            let tables = compile(cluster, Some(NODE));
            let expected = tables.decide(&self.shot.packet).passes();
            bench.load(&tables);
            bench.passed(&self.shot, expected) != [expected; 2]
        };
        if differs(&self.cluster, bench) {
            let bench = std::cell::RefCell::new(bench);
            let small = shrink(&self.cluster, |cluster| differs(cluster, &mut bench.borrow_mut()));
            writeln!(out, "# the smallest that still shows it\n{}", yaml::text(&small)).unwrap();
        } else {
            writeln!(out, "# loaded whole it does not differ: the history matters").unwrap();
        }
        writeln!(
            out,
            "again: PODWALL_SEED={} PODWALL_PACKETS=1 cargo test -p podwall-dataplane \
             --test differential everybody_says_the_same -- --nocapture",
            self.seed
        )
        .unwrap();
        out
    }
}

impl Bench {
    fn new() -> Self {
        let wires = [Wire::new(), Wire::new()];
        let planes = [0, 1].map(|which| wires[which].node.plane(Kind::BOTH[which]));
        Self { wires, planes }
    }

    fn load(&mut self, tables: &NodeTables) {
        self.planes.iter_mut().for_each(|plane| plane.replace(tables).unwrap());
    }

    /// Whether one packet passes on each.
    fn passed(&mut self, shot: &Shot, expected: bool) -> [bool; 2] {
        self.try_all(&[*shot], &[expected], &mut 0)[0]
    }

    /// Which packets pass on each. One that ought to and does not is sent again: it may be lost.
    fn try_all(&mut self, shots: &[Shot], expected: &[bool], again: &mut usize) -> Vec<[bool; 2]> {
        let mut passed = vec![[false; 2]; shots.len()];
        for (which, wire) in self.wires.iter_mut().enumerate() {
            let mut left: Vec<usize> = (0..shots.len()).collect();
            for attempt in 0..TRIES {
                if left.is_empty() {
                    break;
                }
                *again += if attempt > 0 { left.len() } else { 0 };
                let batch: Vec<Shot> = left.iter().map(|at| shots[*at]).collect();
                for (at, came) in left.iter().zip(wire.send(&batch)) {
                    passed[*at][which] |= came;
                }
                left.retain(|at| expected[*at] && !passed[*at][which]);
            }
        }
        passed
    }

    /// Sends more packets of connections that were tried under `before`, under other tables now.
    fn try_standing(
        &mut self,
        standing: &Standing,
        tables: &NodeTables,
        reached: &mut Reached,
    ) -> Result<(), (Shot, bool, [bool; 2])> {
        let expected = |shot: &Shot| tables.decide(&shot.packet).passes();
        let mut passed = vec![[false; 2]; standing.shots.len()];
        for (which, wire) in self.wires.iter_mut().enumerate() {
            for _ in 0..TRIES {
                let left: Vec<usize> =
                    (0..standing.shots.len()).filter(|at| !passed[*at][which]).collect();
                let shots: Vec<Shot> = left.iter().map(|at| standing.shots[*at]).collect();
                let tokens: Vec<u32> = left.iter().map(|at| standing.tokens[which][*at]).collect();
                for (at, came) in left.iter().zip(wire.send_as(&shots, &tokens)) {
                    passed[*at][which] |= came;
                }
                if left.iter().all(|at| passed[*at][which] || !expected(&standing.shots[*at])) {
                    break;
                }
            }
        }
        reached.packets += standing.shots.len();
        for (at, shot) in standing.shots.iter().enumerate() {
            if passed[at] != [expected(shot); 2] {
                return Err((*shot, expected(shot), passed[at]));
            }
            let kind = match (standing.passed[at], expected(shot)) {
                (true, true) => "standing: still allowed",
                (true, false) => "standing: now denied",
                (false, true) => "standing: denied, now allowed",
                (false, false) => continue,
            };
            *reached.kinds.entry(kind).or_default() += 1;
            match (standing.strange[at], is_strange(tables, &shot.packet), expected(shot)) {
                (false, true, false) if standing.passed[at] => {
                    *reached.kinds.entry("standing: now a stranger's").or_default() += 1;
                }
                (true, false, true) => {
                    *reached.kinds.entry("standing: of a stranger, now known").or_default() += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Everything that follows from a seed.
    fn case(
        &mut self,
        seed: usize,
        sabotage: Option<Sabotage>,
        reached: &mut Reached,
    ) -> Result<(), Box<Disagreement>> {
        let mut dice = Dice::seeded(u64::try_from(seed).unwrap());
        let wide = dice.chance(20);
        let mut cluster = clusters::start(&mut dice, wide);
        let mut compiler = NodeCompiler::new(Some(Arc::from(NODE)));
        compiler.put_cluster(&cluster);
        compiler.commit();
        self.load(compiler.tables());
        let mut standing: Option<Standing> = None;
        for batch in 0..BATCHES {
            let mut anew = false;
            if dice.chance(50) {
                // Often not to the end.
                let steps = if dice.chance(50) { usize::MAX } else { dice.between(1, 9) };
                self.planes.iter_mut().for_each(|plane| support::settle_some(&mut **plane, steps));
            }
            if batch > 0 {
                for _ in 0..dice.between(1, if wide { 30 } else { 8 }) {
                    let change = clusters::change(&mut dice, &cluster, wide);
                    change.apply(&mut cluster);
                    change.record(&mut compiler);
                    reached.changes += 1;
                }
                let delta = compiler.commit();
                if delta.pod_ranges.is_some() {
                    *reached.kinds.entry("after other pod ranges").or_default() += PAIRS;
                }
                anew = dice.chance(12);
                for (which, plane) in self.planes.iter_mut().enumerate() {
                    if anew {
                        *plane = self.wires[which].node.plane(Kind::BOTH[which]);
                        plane.replace(compiler.tables()).unwrap();
                    } else {
                        plane.update(&delta).unwrap();
                    }
                }
            }
            let known = as_known(&cluster);
            let tables = compiler.tables();
            if let Some(standing) = standing.take() {
                if dice.chance(40) {
                    self.planes.iter_mut().for_each(|plane| support::settle(&mut **plane));
                    let settled = reached.kinds.entry("standing: settled after the change");
                    *settled.or_default() += standing.shots.len();
                }
                self.try_standing(&standing, tables, reached).map_err(|wrong| {
                    let (shot, expected, passed) = wrong;
                    let words = "a packet of a connection from before the change".to_owned();
                    let tables = format!("{:?}", tables.decide(&shot.packet));
                    let cluster = known.clone();
                    Box::new(Disagreement { seed, cluster, shot, words, tables, expected, passed })
                })?;
            }
            let (shots, decisions) = draw(&mut dice, &known, tables, reached).map_err(|wrong| {
                let (shot, words) = *wrong;
                let decision = tables.decide(&shot.packet);
                let (expected, tables) = (decision.passes(), format!("{decision:?}"));
                let (cluster, passed) = (known.clone(), self.passed(&shot, expected));
                Box::new(Disagreement { seed, cluster, shot, words, tables, expected, passed })
            })?;
            let expected: Vec<bool> = decisions.iter().map(|(_, passes)| *passes).collect();
            if let Some(Sabotage { plane, passes }) = sabotage {
                let mut all = shots.iter().filter(|s| tables.decide(&s.packet).passes() == passes);
                if let Some(flipped) = all.find_map(|shot| flipped(tables, &shot.packet)) {
                    self.planes[plane].replace(&flipped).unwrap();
                }
            }
            let passed = self.try_all(&shots, &expected, &mut reached.sent_again);
            for (at, shot) in shots.iter().enumerate() {
                if passed[at] != [expected[at]; 2] {
                    let tables = format!("{:?}", tables.decide(&shot.packet));
                    return Err(Box::new(Disagreement {
                        seed,
                        cluster: known,
                        shot: *shot,
                        words: decisions[at].0.clone(),
                        tables,
                        expected: expected[at],
                        passed: passed[at],
                    }));
                }
                count(shot, tables, [wide, batch > 0 && !anew, anew], &mut reached.kinds);
            }
            reached.packets += shots.len();
            if dice.chance(50) {
                // Nor may one be the other's reply in the kernel's eyes: only those with ports.
                let (shots, passed): (Vec<Shot>, Vec<bool>) = shots
                    .into_iter()
                    .zip(expected)
                    .filter(|(shot, _)| shot.packet.protocol.has_ports())
                    .unzip();
                let [first, second] = &mut self.wires;
                let tokens = [first.connect(&shots), second.connect(&shots)];
                let strange = shots.iter().map(|shot| is_strange(tables, &shot.packet)).collect();
                standing = Some(Standing { shots, tokens, passed, strange });
            }
        }
        Ok(())
    }
}

/// Whether either end is a stranger.
fn is_strange(tables: &NodeTables, packet: &Packet) -> bool {
    let is = |direction| tables.subject_of(packet, direction) == Some(SubjectId::STRANGER);
    is(Direction::Egress) || is(Direction::Ingress)
}

type Drawn = (Vec<Shot>, Vec<(String, bool)>);

/// Packets for this moment, with what evaluator and tables say; or a packet of which they say
/// different things.
fn draw(
    dice: &mut Dice,
    cluster: &Cluster,
    tables: &NodeTables,
    reached: &mut Reached,
) -> Result<Drawn, Box<(Shot, String)>> {
    let own = OWN.map(|text| text.parse::<IpAddr>().unwrap());
    let on_node =
        |pod: &&podwall_policy::object::Pod| pod.is_subject() && pod.node.as_deref() == Some(NODE);
    let local: Vec<IpAddr> =
        cluster.pods.values().filter(on_node).flat_map(|pod| pod.ips.clone()).collect();
    // Not local pods, but what they are told from.
    let ranges = &tables.pod_ranges;
    let others = cluster.pods.values().filter(|pod| !on_node(pod)).flat_map(|pod| pod.ips.clone());
    let released = cluster.strangers.get(NODE).into_iter().flat_map(|its| its.released.clone());
    let inside = |address: &IpAddr| ranges.contains(*address) && !own.contains(address);
    let others: Vec<IpAddr> = others.chain(released).filter(inside).collect();
    let address = |dice: &mut Dice| match dice.below(20) {
        0..12 if !local.is_empty() => *dice.pick(&local),
        12 | 13 => *dice.pick(&own),
        14 | 15 if !others.is_empty() => *dice.pick(&others),
        14..17 if !ranges.is_empty() => random::in_ranges(dice, ranges).unwrap_or(own[0]),
        _ => random::address(dice, cluster),
    };
    let (mut shots, mut said) = (Vec::new(), Vec::new());
    // Without ports the other direction would be a reply.
    let mut portless = HashSet::new();
    for _ in 0..PAIRS {
        let src = address(dice);
        let mut dst = address(dice);
        if own.contains(&src) && dice.chance(30) {
            dst = random::in_ranges(dice, ranges).unwrap_or(dst);
        }
        while Family::of(dst) != Family::of(src) {
            dst = address(dice);
        }
        let from_node = own.contains(&src);
        if from_node && own.contains(&dst) {
            continue; // never leaves the node
        }
        let pair = Pair::new(cluster, Some(NODE), (src, dst));
        pair.count(&mut reached.kinds);
        for _ in 0..SHOTS_OF_A_PAIR {
            let icmp = if src.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 };
            let protocol = match dice.below(20) {
                0..9 => Protocol::TCP,
                9..14 => Protocol::UDP,
                14..17 => Protocol::SCTP,
                17 => icmp,
                18 => Protocol(47),
                _ => Protocol(EXPERIMENT),
            };
            if !protocol.has_ports()
                && protocol != icmp
                && !portless.insert((src.min(dst), src.max(dst), protocol.0))
            {
                continue;
            }
            let declared = cluster.pod_by_ip(dst).map_or(&[][..], |pod| &pod.ports);
            let (protocol, port) = match declared {
                [_, ..] if dice.chance(30) => {
                    let port = dice.pick(declared);
                    (port.protocol, port.number)
                }
                _ if protocol.has_ports() => (protocol, port(dice, cluster)),
                _ => (protocol, 0),
            };
            let packet = pair.packet(protocol, port);
            let extended = !from_node && src.is_ipv6() && dice.chance(15);
            // With conntrack on, whoever asked for it, Linux 6.18 does not deliver both together to
            // the node itself: with no rule but `ct state` they are lost, without one they arrive.
            let fragmented = !from_node && dice.chance(5) && !(extended && own.contains(&dst));
            let shot = Shot { packet, fragmented, extended };
            if packet.from_node != from_node {
                return Err(Box::new((shot, format!("the node's own: {from_node}"))));
            }
            let decision = pair.judge(tables, &packet, &mut reached.kinds);
            let decision = decision.map_err(|words| Box::new((shot, words)))?;
            shots.push(shot);
            said.push((format!("{:?}", pair.verdicts(&packet)), decision.passes()));
        }
    }
    Ok((shots, said))
}

fn port(dice: &mut Dice, cluster: &Cluster) -> u16 {
    let interesting: Vec<u16> = random::interesting_ports().collect();
    let port = match dice.below(10) {
        0..5 => *dice.pick(&interesting),
        5..9 => clusters::known_port(dice, cluster).unwrap_or(80),
        _ => u16::try_from(dice.below(20_000)).unwrap(),
    };
    // Those between are source ports.
    if (20_000..60_000).contains(&port) { 443 } else { port }
}

/// Tables in which another verdict is of one entry, so that another thing happens to the packet.
fn flipped(tables: &NodeTables, packet: &Packet) -> Option<NodeTables> {
    let before = tables.decide(packet);
    before.egress.or(before.ingress)?;
    let mut other = tables.clone();
    for (key, verdict) in &tables.verdicts {
        if let Some(entry) = other.verdicts.get_mut(key) {
            entry.allow = !verdict.allow;
        }
        if other.decide(packet).passes() != before.passes() {
            return Some(other);
        }
        other.verdicts.insert(*key, *verdict);
    }
    None
}

fn count(shot: &Shot, tables: &NodeTables, setting: [bool; 3], kinds: &mut Coverage) {
    let Packet { src, dst, protocol, from_node, .. } = shot.packet;
    let own = |address: IpAddr| OWN.iter().any(|text| text.parse() == Ok(address));
    let decision = tables.decide(&shot.packet);
    let no = |side: Option<podwall_compile::tables::Verdict>| side.is_some_and(|v| !v.allow);
    let both = decision.egress.is_some() && decision.ingress.is_some();
    let [wide, updated, anew] = setting;
    let counts = [
        (protocol == Protocol::TCP, "tcp"),
        (protocol == Protocol::UDP, "udp"),
        (protocol == Protocol::SCTP, "sctp"),
        (matches!(protocol, Protocol::ICMP | Protocol::ICMPV6), "icmp"),
        (matches!(protocol.0, 47 | EXPERIMENT), "another protocol"),
        (src.is_ipv4(), "over ipv4"),
        (src.is_ipv6(), "over ipv6"),
        (shot.fragmented, "in fragments"),
        (shot.extended, "behind extension headers"),
        (!from_node && !own(dst), "forwarded"),
        (own(dst), "to the node"),
        (from_node, "from the node"),
        (both, "between local pods"),
        (decision.passes(), "passed"),
        (no(decision.egress) && !no(decision.ingress), "dropped by egress"),
        (no(decision.ingress) && !no(decision.egress), "dropped by ingress"),
        (no(decision.ingress) && no(decision.egress), "dropped by both"),
        (updated, "after changes"),
        (anew, "after a start anew"),
        (wide, "among hundreds of policies"),
    ];
    for (is, kind) in counts {
        if is {
            *kinds.entry(kind).or_default() += 1;
        }
    }
}

#[test]
fn everybody_says_the_same() {
    if support::skipped() {
        return;
    }
    let packets = number("PODWALL_PACKETS", USUAL);
    let mut seed = number("PODWALL_SEED", 1);
    let mut bench = Bench::new();
    let mut reached = Reached::default();
    let start = seed;
    // What comes up in few clusters may need some more of them.
    let rare = |reached: &Reached| -> Vec<(&str, usize)> {
        let all = KINDS.into_iter().chain(SENT);
        let counted = all.map(|kind| (kind, reached.kinds.get(kind).copied().unwrap_or(0)));
        counted.filter(|(_, count)| packets >= USUAL && *count < ENOUGH).collect()
    };
    while reached.packets < packets || (reached.packets < 2 * packets && !rare(&reached).is_empty())
    {
        if let Err(wrong) = bench.case(seed, None, &mut reached) {
            panic!("not everybody says the same.\n{}", wrong.words(&mut bench));
        }
        seed += 1;
    }
    eprintln!(
        "{} packets on each data plane, {} changes in {} clusters, {} sent again; evaluator, \
         tables, ebpf and nftables say the same. Seeds {start} to {}.",
        reached.packets,
        reached.changes,
        seed - start,
        reached.sent_again,
        seed - 1
    );
    let all: BTreeMap<&str, usize> = KINDS
        .into_iter()
        .chain(SENT)
        .map(|kind| (kind, reached.kinds.get(kind).copied().unwrap_or(0)))
        .collect();
    eprintln!("{all:#?}");
    assert!(rare(&reached).is_empty(), "came up too rarely: {:?}", rare(&reached));
}

#[test]
fn one_wrong_verdict_in_one_kernel_is_found() {
    if support::skipped() {
        return;
    }
    let mut bench = Bench::new();
    for (plane, passes) in [(0, true), (0, false), (1, true), (1, false)] {
        let sabotage = Sabotage { plane, passes };
        let wrong = (1..20)
            .find_map(|seed| bench.case(seed, Some(sabotage), &mut Reached::default()).err())
            .unwrap_or_else(|| panic!("{:?} {passes}: nobody noticed", Kind::BOTH[plane]));
        assert_eq!(wrong.passed[1 - plane], wrong.expected, "the other one is right");
        assert_ne!(wrong.passed[plane], wrong.expected);
        let words = wrong.words(&mut bench);
        let command = format!("PODWALL_SEED={} PODWALL_PACKETS=1", wrong.seed);
        for part in ["policies:", "the history matters", "evaluator", "tables", &command] {
            assert!(words.contains(part), "{part} is not in\n{words}");
        }
    }
}

#[test]
fn a_packet_that_was_lost_is_not_taken_for_dropped() {
    if support::skipped() {
        return;
    }
    let mut bench = Bench::new();
    bench.wires.iter_mut().for_each(|wire| wire.loses = 7);
    let mut reached = Reached::default();
    for seed in 1..4 {
        if let Err(wrong) = bench.case(seed, None, &mut reached) {
            panic!("{}", wrong.words(&mut bench));
        }
    }
    assert!(reached.sent_again > 50, "nothing was lost");
}
