//! Does every data plane report what it drops, and only that?

#![allow(clippy::unwrap_used, reason = "a helper of tests stops the test")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use podwall_compile::tables::{NodeTables, PortKey, RuleId, SubjectId, Verdict, VerdictKey};
use podwall_dataplane::{Denied, Error};
use podwall_policy::address::Family;
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;
use support::random::{own, pod};
use support::{Kind, World};

/// Pod 1 may send only by UDP to port 53; pod 2 takes nothing from pod 3.
fn tables(world: &World) -> NodeTables {
    let mut tables = NodeTables::default();
    for family in Family::BOTH {
        let of = |index: usize| world.endpoints[index].address(family);
        tables.subjects.insert((Direction::Egress, of(1)), SubjectId(1));
        tables.subjects.insert((Direction::Ingress, of(2)), SubjectId(2));
        tables.peers.insert(of(1), pod(1));
        tables.peers.insert(of(2), pod(2));
    }
    let allow = Verdict { allow: true, rule: None };
    let row = |subject, peer, ports| VerdictKey { subject: SubjectId(subject), peer, ports };
    tables.verdicts.insert(row(1, own(2), PortKey::Port(Protocol::UDP, 53)), allow);
    tables.verdicts.insert(row(2, own(1), PortKey::AnyProtocol), allow);
    tables
}

#[test]
fn what_is_dropped_is_reported_with_addresses_and_ports() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 3);
        let mut plane = world.node().plane(kind);
        assert!(matches!(plane.denials().err(), Some(Error::NotLoaded)) || !kind.is_ebpf());
        plane.replace(&tables(&world)).unwrap();
        let denials = plane.denials().unwrap();
        let mut expected = BTreeSet::new();
        for family in Family::BOTH {
            for (from, to, protocol, port, direction) in [
                (1, 2, Protocol::UDP, 53, None),
                (1, 2, Protocol::UDP, 54, Some(Direction::Egress)),
                (1, 2, Protocol::TCP, 53, Some(Direction::Egress)),
                (1, 0, Protocol::SCTP, 9, Some(Direction::Egress)),
                (3, 2, Protocol::TCP, 80, Some(Direction::Ingress)),
                (3, 1, Protocol::TCP, 80, None),
            ] {
                assert_eq!(world.probe(from, to, family, protocol, port), direction.is_none());
                let of = |index: usize| world.endpoints[index].address(family);
                expected.extend(direction.map(|d| (d, of(from), of(to), protocol, port)));
            }
        }
        let mut seen = BTreeSet::new();
        while seen.len() < expected.len() {
            let denied = denials.next(Duration::from_secs(10));
            let Denied { direction, src, dst, protocol, port, when, .. } = denied.unwrap();
            assert!(when.elapsed().unwrap_or_default() < Duration::from_secs(60));
            seen.insert((direction, src, dst, protocol, port));
        }
        assert_eq!(seen, expected, "{wiring:?} {kind:?}");
    }
}

#[test]
fn a_rule_that_denies_is_named() {
    if support::skipped() {
        return;
    }
    let world = World::new(support::Wiring::Ptp, 2);
    let mut plane = world.node().plane(Kind::Ebpf);
    let mut tables = tables(&world);
    let denies = Verdict { allow: false, rule: Some(RuleId(7)) };
    let ports = PortKey::Port(Protocol::UDP, 99);
    tables.verdicts.insert(VerdictKey { subject: SubjectId(1), peer: own(2), ports }, denies);
    plane.replace(&tables).unwrap();
    let denials = plane.denials().unwrap();
    for (port, rule) in [(99, Some(RuleId(7))), (98, None)] {
        assert!(!world.probe(1, 2, Family::V4, Protocol::UDP, port));
        let denied = denials.next(Duration::from_secs(10)).unwrap();
        assert_eq!((denied.port, denied.rule), (port, rule));
    }
}

/// In CI the second of two followers was refused with "permission" now and then: the first one's
/// thread had not noticed yet that it was to go.
#[test]
fn who_stops_following_makes_room_for_the_next_at_once() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 3);
        let mut plane = world.node().plane(kind);
        plane.replace(&tables(&world)).unwrap();
        for round in 0..5 {
            // Nobody follows: nobody hears of it, later either.
            assert!(!world.probe(1, 2, Family::V4, Protocol::UDP, 55));
            let denials = plane.denials().unwrap();
            assert!(!world.probe(1, 2, Family::V4, Protocol::UDP, 54));
            let denied = denials.next(Duration::from_secs(10));
            let port = denied.map(|denied| denied.port);
            assert_eq!(port, Some(54), "{wiring:?} {kind:?}, follower {round}");
        }
    }
}
