//! Does the kernel decide every packet as the tables do?

mod support;

use std::collections::BTreeMap;

use podwall_compile::tables::{Delta, NodeTables, Packet, PeerKey, SubjectId};
use podwall_policy::address::Family;
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;
use support::random::{Dice, PORTS, tables};
use support::{EXPERIMENT, World};

/// Whose row decides the packet at either end.
fn deciders(tables: &NodeTables, packet: &Packet) -> Vec<&'static str> {
    let ends = [(Direction::Egress, packet.dst), (Direction::Ingress, packet.src)];
    let subjects =
        ends.iter().filter_map(|(way, remote)| Some((tables.subject_of(packet, *way)?, remote)));
    let rows = subjects.map(|(subject, remote)| {
        let found = tables.lookup(subject, *remote, packet.protocol, packet.port);
        match found.map(|(key, _)| key.peer) {
            Some(PeerKey::Own(_)) => "own",
            Some(PeerKey::Group(_)) => "group",
            Some(PeerKey::Net(_)) => "net",
            Some(PeerKey::Any) => "any",
            None if subject == SubjectId::STRANGER => "stranger",
            None => "none",
        }
    });
    let unknown = |way, address| tables.subject(way, address) == Some(SubjectId::STRANGER);
    let [sends, hears] = [Direction::Egress, Direction::Ingress].map(|way| match way {
        Direction::Egress => packet.from_node && unknown(way, packet.src),
        Direction::Ingress => packet.from_node && unknown(way, packet.dst),
    });
    let to_node = packet.to_node && unknown(Direction::Ingress, packet.dst);
    let exempt = [
        (sends, "the node sends from a pod range"),
        (hears, "the node sends to a stranger"),
        (to_node, "the node hears in a pod range"),
    ];
    rows.chain(exempt.into_iter().filter(|(is, _)| *is).map(|(_, words)| words)).collect()
}

type Deciders = BTreeMap<&'static str, usize>;

/// Every pair, protocol and some ports; how many packets passed and how many did not.
fn compare(
    world: &World,
    tables: &NodeTables,
    dice: &mut Dice,
    each: usize,
    by: &mut Deciders,
) -> (usize, usize) {
    let mut count = (0, 0);
    for from in 0..world.endpoints.len() {
        for to in (0..world.endpoints.len()).filter(|to| *to != from) {
            for _ in 0..each {
                let family = dice.pick(&Family::BOTH);
                let protocol = dice.pick(&[1, 6, 17, 132, EXPERIMENT]);
                let (protocol, port) = (Protocol(protocol), dice.pick(&PORTS));
                let packet = world.packet(from, to, family, protocol, port);
                let expected = tables.decide(&packet).passes();
                let passed = world.probe(from, to, family, protocol, port);
                assert_eq!(
                    passed,
                    expected,
                    "{packet:?} {:?}\n{tables:#?}",
                    tables.decide(&packet)
                );
                if passed {
                    count.0 += 1;
                } else {
                    count.1 += 1;
                }
                for kind in deciders(tables, &packet) {
                    *by.entry(kind).or_default() += 1;
                }
            }
        }
    }
    count
}

#[test]
fn packets_are_decided_as_the_tables_do() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 3);
        let (local, all) = world.addresses();
        let mut dice = Dice(20_251_121);
        let mut plane = world.node().plane(kind);
        let mut now = NodeTables::default();
        plane.replace(&now).unwrap();
        let (mut total, mut by) = ((0, 0), Deciders::new());
        for round in 0..60 {
            let next = tables(&mut dice, &local, &all);
            if round % 3 == 0 {
                plane.replace(&next).unwrap();
            } else {
                plane.update(&Delta::between(&now, &next)).unwrap();
            }
            now = next;
            assert_eq!(plane.verify(&now).unwrap(), []);
            let (passed, dropped) = compare(&world, &now, &mut dice, 6, &mut by);
            total = (total.0 + passed, total.1 + dropped);
        }
        eprintln!(
            "{wiring:?} {kind:?}: {} packets passed, {} dropped, as the tables say",
            total.0, total.1
        );
        assert!(total.0 > 500 && total.1 > 500, "{total:?}");
        assert!(by.len() == 9 && by.values().all(|count| *count > 50), "whose rows: {by:?}");
    }
}
