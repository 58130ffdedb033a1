//! Are packets decided that are hard to parse: fragments, IPv6 extension headers?

#![allow(clippy::unwrap_used, reason = "a helper of tests stops the test")]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use podwall_compile::tables::{NodeTables, PeerId, PortKey, SubjectId, Verdict, VerdictKey};
use podwall_policy::address::Family;
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;
use support::{World, extension_headers};

const ALLOWED: u16 = 7001;
const DENIED: u16 = 7002;

/// Pod 2 lets pod 1 in by UDP on one port.
fn one_port(world: &World) -> NodeTables {
    let mut tables = NodeTables::default();
    for family in Family::BOTH {
        let of = |index: usize| world.endpoints[index].address(family);
        tables.subjects.insert((Direction::Ingress, of(2)), SubjectId(1));
        tables.peers.insert(of(1), PeerId(1));
    }
    let ports = PortKey::Port(Protocol::UDP, ALLOWED);
    let key = VerdictKey { subject: SubjectId(1), peer: PeerId(1), ports };
    tables.verdicts.insert(key, Verdict { allow: true, rule: None });
    tables
}

/// Sends a datagram to a port of pod 2 and, behind it, a small one to the allowed port; whether the
/// first arrived. The second one always does, so that nothing waits for silence.
fn arrives(world: &World, sender: &UdpSocket, family: Family, port: u16, length: usize) -> bool {
    let address = |port| SocketAddr::new(world.endpoints[2].address(family), port);
    let bind = |port| world.endpoints[2].net.run(|| UdpSocket::bind(address(port)).unwrap());
    let (receiver, fence) = (bind(port), bind(if port == ALLOWED { DENIED } else { ALLOWED }));
    let seen = if port == ALLOWED { &receiver } else { &fence };
    seen.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    sender.send_to(&vec![7; length], address(port)).unwrap();
    sender.send_to(b"fence", address(ALLOWED)).unwrap();
    let mut buffer = vec![0; 65536];
    let mut arrived = false;
    loop {
        let got = seen.recv(&mut buffer).unwrap();
        if &buffer[..got] == b"fence" {
            break;
        }
        arrived |= got == length;
    }
    if port != ALLOWED {
        receiver.set_nonblocking(true).unwrap();
        arrived |= receiver.recv(&mut buffer).is_ok();
    }
    arrived
}

fn sender(world: &World, family: Family) -> UdpSocket {
    let from = SocketAddr::new(world.endpoints[1].address(family), 0);
    world.endpoints[1].net.run(|| UdpSocket::bind(from).unwrap())
}

#[test]
fn every_fragment_goes_the_way_of_the_first() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 2);
        let mut plane = world.node().plane(kind);
        plane.replace(&one_port(&world)).unwrap();
        for family in Family::BOTH {
            let sender = sender(&world, family);
            // Eight fragments, and a single one at the very end.
            for length in [10_000, 1_500] {
                let to = |port| arrives(&world, &sender, family, port, length);
                assert!(to(ALLOWED), "{wiring:?} {kind:?} {family} {length}");
                assert!(!to(DENIED), "{wiring:?} {kind:?} {family} {length}");
            }
        }
    }
}

#[test]
fn extension_headers_hide_no_port() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 2);
        let mut plane = world.node().plane(kind);
        plane.replace(&one_port(&world)).unwrap();
        for length in [64, 10_000] {
            let sender = sender(&world, Family::V6);
            extension_headers(&sender);
            let to = |port| arrives(&world, &sender, Family::V6, port, length);
            assert!(to(ALLOWED), "{wiring:?} {kind:?} {length}");
            assert!(!to(DENIED), "{wiring:?} {kind:?} {length}");
        }
    }
}
