//! Are packets decided that are hard to parse: fragments, IPv6 extension headers?

#![allow(clippy::unwrap_used, reason = "a helper of tests stops the test")]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use podwall_compile::tables::{NodeTables, PortKey, SubjectId, Verdict, VerdictKey};
use podwall_policy::address::Family;
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;
use support::random::{own, pod};
use support::{World, extension_headers};

const ALLOWED: u16 = 7001;
const DENIED: u16 = 7002;

/// Pod 2 lets pod 1 in by UDP on one port.
fn one_port(world: &World) -> NodeTables {
    let mut tables = NodeTables::default();
    for family in Family::BOTH {
        let of = |index: usize| world.endpoints[index].address(family);
        tables.subjects.insert((Direction::Ingress, of(2)), SubjectId(1));
        tables.peers.insert(of(1), pod(1));
    }
    let ports = PortKey::Port(Protocol::UDP, ALLOWED);
    let key = VerdictKey { subject: SubjectId(1), peer: own(1), ports };
    tables.verdicts.insert(key, Verdict { allow: true, rule: None });
    tables
}

/// A sender in pod 1, and pod 2's sockets for both ports. They stay open: a process that another
/// test starts holds a copy for a moment, in which the port could not be taken again.
struct Pair {
    sender: UdpSocket,
    allowed: UdpSocket,
    denied: UdpSocket,
}

impl Pair {
    fn new(world: &World, family: Family) -> Self {
        let bind = |index: usize, port| {
            let address = SocketAddr::new(world.endpoints[index].address(family), port);
            world.endpoints[index].net.run(|| UdpSocket::bind(address).unwrap())
        };
        let (sender, allowed, denied) = (bind(1, 0), bind(2, ALLOWED), bind(2, DENIED));
        allowed.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        denied.set_nonblocking(true).unwrap();
        Self { sender, allowed, denied }
    }

    /// Sends a datagram to a port and, behind it, a small one to the allowed port; whether the first
    /// arrived. The second one always does, so that nothing waits for silence.
    fn arrives(&self, port: u16, length: usize) -> bool {
        let to = |receiver: &UdpSocket| receiver.local_addr().unwrap();
        let first = if port == ALLOWED { &self.allowed } else { &self.denied };
        self.sender.send_to(&vec![7; length], to(first)).unwrap();
        self.sender.send_to(b"fence", to(&self.allowed)).unwrap();
        let mut buffer = vec![0; 65536];
        let mut arrived = false;
        loop {
            let got = self.allowed.recv(&mut buffer).unwrap();
            if &buffer[..got] == b"fence" {
                break;
            }
            arrived |= got == length;
        }
        arrived | self.denied.recv(&mut buffer).is_ok()
    }
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
            let pair = Pair::new(&world, family);
            // Eight fragments, and a single one at the very end.
            for length in [10_000, 1_500] {
                let to = |port| pair.arrives(port, length);
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
        let pair = Pair::new(&world, Family::V6);
        extension_headers(&pair.sender);
        for length in [64, 10_000] {
            let to = |port| pair.arrives(port, length);
            assert!(to(ALLOWED), "{wiring:?} {kind:?} {length}");
            assert!(!to(DENIED), "{wiring:?} {kind:?} {length}");
        }
    }
}
