//! Does the kernel stay safe and go on when tables do not fit?

mod support;

use std::net::IpAddr;

use podwall_compile::tables::{Delta, NodeTables, SubjectId};
use podwall_dataplane::{Error, Fill, Limits};
use podwall_policy::address::Family;
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;
use support::random::{Dice, PORTS, tables};
use support::{EXPERIMENT, World};

/// Whether the report says something of a packet, whose tables then deny more than the whole ones.
fn reported(fill: &Fill, tables: &NodeTables, from: IpAddr, to: IpAddr) -> bool {
    let address = |address: IpAddr| {
        fill.addresses.contains(&address)
            || !tables.peers.contains_key(&address)
                && fill.ranges.iter().any(|range| range.contains(address))
    };
    let isolated = |direction, local| {
        let class = tables.subjects.get(&(direction, local));
        class.is_some_and(|class| fill.isolated.contains_key(class))
    };
    let (egress, ingress) = (Direction::Egress, Direction::Ingress);
    address(from) || address(to) || isolated(egress, from) || isolated(ingress, to)
}

#[test]
fn packets_are_never_let_through_that_the_whole_tables_deny() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 3);
        let (local, all) = world.addresses();
        let mut dice = Dice(31);
        let limits = Limits { locals: 6, peers: 3, blocks: 400, verdicts: 45 };
        let mut plane = world.node().limited(kind, limits);
        let mut now = NodeTables::default();
        plane.replace(&now).unwrap();
        let (mut as_whole, mut closed, mut overflows) = ([0, 0], 0, 0);
        for round in 0..40 {
            let next = tables(&mut dice, &local, &all);
            if round % 5 == 0 {
                plane.replace(&next).unwrap();
            } else {
                plane.update(&Delta::between(&now, &next)).unwrap();
            }
            now = next;
            let fill = plane.fill();
            overflows += usize::from(fill.overflows());
            assert!(fill.tables.iter().all(|table| table.used <= table.size), "{fill}");
            assert_eq!(plane.verify(&now).unwrap(), []);
            for _ in 0..60 {
                let from = dice.roll(world.endpoints.len());
                let to = (from + 1 + dice.roll(world.endpoints.len() - 1)) % world.endpoints.len();
                let family = dice.pick(&Family::BOTH);
                let protocol = Protocol(dice.pick(&[1, 6, 17, 132, EXPERIMENT]));
                let port = dice.pick(&PORTS);
                let packet = world.packet(from, to, family, protocol, port);
                let whole = now.decide(&packet).passes();
                let passed = world.probe(from, to, family, protocol, port);
                if reported(&fill, &now, packet.src, packet.dst) {
                    assert!(whole || !passed, "{packet:?} {kind:?}");
                    closed += usize::from(whole && !passed);
                } else {
                    assert_eq!(passed, whole, "{packet:?} {kind:?}");
                    as_whole[usize::from(passed)] += 1;
                }
            }
        }
        eprintln!("{wiring:?} {kind:?}: {as_whole:?} as the whole tables, {closed} closed");
        assert!(overflows > 20 && closed > 50, "{overflows} {closed}");
        assert!(as_whole.iter().all(|count| *count > 50), "{as_whole:?}");
    }
}

#[test]
fn too_many_local_addresses_are_refused_and_the_old_tables_stay() {
    if support::skipped() {
        return;
    }
    let (local, all) = support::random::addresses();
    for kind in support::Kind::BOTH {
        let net = support::Net::new();
        let limits = Limits { locals: 2, ..Limits::default() };
        let mut plane = net.limited(kind, limits);
        let few = tables(&mut Dice(1), &local[..2], &all);
        plane.replace(&few).unwrap();
        let mut many = few.clone();
        for address in &local {
            many.subjects.insert((Direction::Ingress, *address), SubjectId::CLOSED);
        }
        let error = plane.update(&Delta::between(&few, &many)).unwrap_err();
        assert!(matches!(error, Error::Full { table: "locals", .. }), "{error}");
        assert!(matches!(plane.replace(&many), Err(Error::Full { .. })));
        assert_eq!(plane.verify(&few).unwrap(), []);
        plane.update(&Delta::between(&few, &NodeTables::default())).unwrap();
        assert_eq!(plane.verify(&NodeTables::default()).unwrap(), []);
    }
}
