//! What may an address of this node's pods do that nobody knows yet?
//!
//! ```text
//!   10.0.0.0/24 ─┬ node .1          as ever, also towards strangers
//!                ├ pod 1 .11        known, open
//!                └ pod 2 .12        known or not: the compiler is told, the kernel follows
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests stops the test")]

mod support;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use podwall_compile::compiler::NodeCompiler;
use podwall_compile::tables::SubjectId;
use podwall_dataplane::{DataPlane, Drift};
use podwall_policy::address::{AddressSet, Family};
use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Phase, Pod};
use podwall_policy::policy::{Direction, Policy, Rule};
use podwall_policy::port::Protocol;
use podwall_policy::selector::Selector;
use support::{EXPERIMENT, Kind, Wiring, World};

/// A node and what it is told.
struct Node<'a> {
    world: &'a World,
    compiler: NodeCompiler,
    plane: Box<dyn DataPlane>,
}

fn pod_ranges() -> AddressSet {
    let nets = ["10.0.0.0/24", "fd00::/64"].map(|text| text.parse::<ipnet::IpNet>().unwrap());
    nets.into_iter().fold(AddressSet::empty(), |set, net| set.union(&AddressSet::from(net)))
}

impl<'a> Node<'a> {
    /// Isolates strangers, and knows pod 1.
    fn new(world: &'a World, kind: Kind) -> Self {
        let mut compiler = NodeCompiler::new(Some(Arc::from("n1")));
        compiler.set_pod_ranges(pod_ranges());
        let mut plane = world.node().plane(kind);
        compiler.put_pod(&pod(world, 1));
        compiler.commit();
        plane.replace(compiler.tables()).unwrap();
        Self { world, compiler, plane }
    }

    fn told(&mut self, what: impl FnOnce(&mut NodeCompiler, &World)) {
        what(&mut self.compiler, self.world);
        self.plane.update(&self.compiler.commit()).unwrap();
        assert_eq!(self.plane.verify(self.compiler.tables()).unwrap(), []);
    }
}

fn name(index: usize) -> Name {
    Name::new("x", format!("p{index}"))
}

/// A pod of the node.
fn pod(world: &World, index: usize) -> Pod {
    let mut pod = Pod::new("x", name(index).name, Labels::default());
    pod.node = Some("n1".into());
    pod.ips = Family::BOTH.map(|family| world.endpoints[index].address(family)).to_vec();
    pod
}

fn know(compiler: &mut NodeCompiler, world: &World) {
    compiler.put_pod(&pod(world, 2));
}

fn forget(compiler: &mut NodeCompiler, _: &World) {
    compiler.remove_pod(&name(2));
}

fn at(world: &World, index: usize, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(world.endpoints[index].address(family), port)
}

fn connect(world: &World, from: usize, to: SocketAddr) -> std::io::Result<TcpStream> {
    let timeout = Duration::from_millis(300);
    let stream = world.endpoints[from].net.run(|| TcpStream::connect_timeout(&to, timeout))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

fn listen(world: &World, index: usize, family: Family, port: u16) -> TcpListener {
    let at = at(world, index, family, port);
    world.endpoints[index].net.run(|| TcpListener::bind(at).unwrap())
}

/// Holds what a connection's packets do to what they should. TCP tries again by itself.
fn assert_arrives(pair: &mut (TcpStream, TcpStream), expected: bool, words: &str) {
    let (client, server) = pair;
    server.set_nonblocking(true).unwrap();
    while server.read(&mut [0; 64]).is_ok() {}
    server.set_nonblocking(false).unwrap();
    let patience = Duration::from_millis(if expected { 20_000 } else { 300 });
    server.set_read_timeout(Some(patience)).unwrap();
    client.write_all(b"hello").unwrap();
    let found = server.read(&mut [0; 64]).map_err(|error| error.kind());
    match found {
        Ok(_) => assert!(expected, "{words}"),
        Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => assert!(!expected, "{words}"),
        Err(other) => panic!("{words}: {other}"),
    }
}

#[test]
fn who_is_not_known_neither_sends_nor_is_sent_to_but_for_its_node() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 2);
        let mut node = Node::new(&world, kind);
        let check = |known: bool, when: &str| {
            for family in Family::BOTH {
                for protocol in [6, 17, 132, 1, EXPERIMENT] {
                    let probe = |from, to| world.probe(from, to, family, Protocol(protocol), 80);
                    let words = format!("{wiring:?} {kind:?} {family} {protocol} {when}");
                    for (from, to) in [(1, 2), (2, 1), (2, 0)] {
                        assert_eq!(probe(from, to), known, "{words}: {from} to {to}");
                    }
                    for (from, to) in [(0, 2), (0, 1), (1, 0)] {
                        assert!(probe(from, to), "{words}: {from} to {to}");
                    }
                }
            }
        };
        let both: BTreeSet<IpAddr> = pod(&world, 2).ips.into_iter().collect();
        check(false, "at first");
        node.told(know);
        check(true, "known");
        node.told(forget);
        check(false, "gone");
        node.told(|compiler, _| compiler.set_released(both.clone()));
        check(true, "let go");
        node.told(|compiler, _| compiler.set_released(BTreeSet::new()));
        check(false, "taken back");
        node.told(|compiler, world| {
            compiler.put_pod(&Pod { node: Some("n2".into()), ..pod(world, 2) });
        });
        check(true, "another node's pod");
        node.told(|compiler, world| {
            compiler.put_pod(&Pod { phase: Phase::Terminated, ..pod(world, 2) });
        });
        check(false, "ended");
        node.told(|compiler, _| compiler.set_pod_ranges(AddressSet::empty()));
        check(true, "strangers are let in");
        node.told(|compiler, _| compiler.set_pod_ranges(pod_ranges()));
        check(false, "and out again");
        // The kernel goes on without the process, and the next one takes over.
        let mut next = world.node().plane(kind);
        check(false, "another process");
        next.replace(node.compiler.tables()).unwrap();
        check(false, "which has loaded");
        assert_eq!(next.verify(node.compiler.tables()).unwrap(), []);
    }
}

#[test]
fn connections_of_who_is_known_no_longer_stop_and_go_on_when_it_is_known_again() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 2);
        let mut node = Node::new(&world, kind);
        node.told(know);
        for family in Family::BOTH {
            let pair = |from, to, port| {
                let listener = listen(&world, to, family, port);
                let client = connect(&world, from, at(&world, to, family, port)).unwrap();
                (client, listener.accept().unwrap().0)
            };
            let (mut to, mut from) = (pair(1, 2, 8080), pair(2, 1, 8081));
            let mut probe = pair(0, 2, 8082);
            let mut check = |known: bool, when: &str| {
                let words = format!("{wiring:?} {kind:?} {family} {when}");
                assert_arrives(&mut to, known, &words);
                assert_arrives(&mut from, known, &words);
                assert_arrives(&mut probe, true, &format!("{words}: its node"));
            };
            // Whether what stands is let through unseen, or every packet judged.
            for settles in [false, true] {
                let settle = |node: &mut Node<'_>| {
                    if settles {
                        support::settle(&mut *node.plane);
                    }
                };
                settle(&mut node);
                check(true, "known");
                node.told(forget);
                settle(&mut node);
                check(false, "forgotten");
                node.told(know);
                settle(&mut node);
                check(true, "known again");
            }
            // So does who is a stranger from now on.
            node.told(|compiler, world| {
                forget(compiler, world);
                compiler.set_pod_ranges(AddressSet::empty());
            });
            support::settle(&mut *node.plane);
            check(true, "no strangers");
            node.told(|compiler, _| compiler.set_pod_ranges(pod_ranges()));
            support::settle(&mut *node.plane);
            check(false, "strangers");
            node.told(know);
        }
    }
}

#[test]
fn what_a_new_pod_sends_from_its_first_moment_on_never_passes_what_a_policy_forbids() {
    if support::skipped() {
        return;
    }
    for kind in Kind::BOTH {
        let world = World::new(Wiring::Ptp, 2);
        let mut node = Node::new(&world, kind);
        let mut shut = Policy::network_policy("x", "shut", Selector::labels([("app", "web")]));
        shut.egress = Some(Vec::new());
        node.told(|compiler, _| compiler.put_policy(shut.clone()));
        let [from, to] = [2, 1].map(|index| at(&world, index, Family::V4, 7000));
        let bind = |i: usize, at| world.endpoints[i].net.run(|| UdpSocket::bind(at).unwrap());
        let (sender, receiver) = (bind(2, from), bind(1, to));
        receiver.set_nonblocking(true).unwrap();
        let web = |world: &World| {
            let labels: Labels = [("app", "web")].into_iter().collect();
            Pod { labels, ..pod(world, 2) }
        };
        let sends = || {
            for _ in 0..50 {
                sender.send_to(b"datagram", to).unwrap();
            }
        };
        let received = || (0..).take_while(|_| receiver.recv(&mut [0; 16]).is_ok()).count();
        for round in 0..20 {
            sends();
            node.told(|compiler, world| compiler.put_pod(&web(world)));
            sends();
            if round % 2 == 0 {
                support::settle(&mut *node.plane);
            }
            sends();
            assert_eq!(received(), 0, "{kind:?}, round {round}");
            // Somebody else gets the address, and nothing forbids it.
            node.told(know);
            sends();
            assert!(received() > 0, "{kind:?}, round {round}");
            node.told(forget);
            sends();
            assert_eq!(received(), 0, "{kind:?}, round {round}: gone");
        }
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service_and_a_stranger_does_not() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 2);
        let mut node = Node::new(&world, kind);
        world.node().nft(
            "table inet nat {
            chain service { type nat hook prerouting priority dstnat; policy accept;
            ip daddr 10.96.0.1 tcp dport 80 dnat ip to 10.0.0.12:8080
            }
            chain outward { type nat hook postrouting priority srcnat; policy accept;
            ct status dnat masquerade
            }
            }\n",
        );
        let _listener = listen(&world, 2, Family::V4, 8080);
        let service = SocketAddr::from(([10, 96, 0, 1], 80));
        assert!(connect(&world, 2, service).is_err());
        node.told(know);
        connect(&world, 2, service).unwrap();
        connect(&world, 1, service).unwrap();
        // Isolated as it may be.
        let mut shut = Policy::network_policy("x", "shut", Selector::everything());
        (shut.egress, shut.ingress) = (Some(Vec::new()), Some(Vec::new()));
        node.told(|compiler, _| compiler.put_policy(shut.clone()));
        connect(&world, 2, service).unwrap();
        assert!(connect(&world, 1, service).is_err());
    }
}

/// A process of the node may choose any of the node's addresses, also towards the node.
#[test]
fn the_node_reaches_itself_from_the_address_that_its_pods_know() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 1);
        let node = Node::new(&world, kind);
        world.node().ip("addr add 172.16.0.1/32 dev lo\naddr add fd99::1/128 dev lo nodad\n");
        for (family, own) in [(Family::V4, "172.16.0.1"), (Family::V6, "fd99::1")] {
            let own = SocketAddr::new(own.parse().unwrap(), 9000);
            let passed = world.node().run(|| {
                let receiver = UdpSocket::bind(own).unwrap();
                receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                let sender = UdpSocket::bind(at(&world, 0, family, 0)).unwrap();
                sender.send_to(b"datagram", own).unwrap();
                receiver.recv(&mut [0; 16]).is_ok()
            });
            assert!(passed, "{wiring:?} {kind:?} {family}");
            // A pod has no such right.
            let forged = world.endpoints[1].net.run(|| connect(&world, 1, own));
            assert_eq!(forged.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        drop(node);
    }
}

#[test]
fn a_denial_says_that_it_is_a_strangers_and_counts_for_strangers() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 2);
        let mut node = Node::new(&world, kind);
        let mut shut = Policy::network_policy("x", "shut", Selector::everything());
        shut.ingress = Some(Vec::new());
        shut.egress = Some(vec![Rule::allow(vec![], vec![])]);
        node.told(|compiler, _| compiler.put_policy(shut.clone()));
        let denials = node.plane.denials().unwrap();
        let next = |from, to, family| {
            assert!(!world.probe(from, to, family, Protocol::UDP, 99));
            let denied = denials.next(Duration::from_secs(10)).unwrap();
            assert_eq!((denied.rule, denied.port), (None, 99));
            (denied.stranger, denied.direction, denied.local())
        };
        for (round, family) in (1..).zip(Family::BOTH) {
            let of = |index: usize| world.endpoints[index].address(family);
            assert_eq!(next(2, 1, family), (true, Direction::Egress, of(2)));
            assert_eq!(next(2, 0, family), (true, Direction::Egress, of(2)));
            assert_eq!(next(1, 2, family), (true, Direction::Ingress, of(2)));
            let counters = node.plane.counters().unwrap();
            assert_eq!(counters.defaults[&SubjectId::STRANGER], 3 * round, "{wiring:?} {kind:?}");
        }
        node.told(know);
        let of = |index: usize| world.endpoints[index].address(Family::V4);
        assert_eq!(next(1, 2, Family::V4), (false, Direction::Ingress, of(2)));
        // Who follows next finds the number where the kernel has names.
        let mut other = world.node().plane(kind);
        other.replace(node.compiler.tables()).unwrap();
        let counted = other.counters().unwrap().defaults[&SubjectId::STRANGER];
        assert_eq!(counted, if kind.is_ebpf() { 6 } else { 0 });
    }
}

#[test]
fn one_strangers_flood_does_not_hide_another() {
    if support::skipped() {
        return;
    }
    let world = World::new(Wiring::Ptp, 3);
    let mut node = Node::new(&world, Kind::Ebpf);
    let denials = node.plane.denials().unwrap();
    let sender = world.endpoints[2].net.run(|| UdpSocket::bind(at(&world, 2, Family::V4, 0)));
    let (sender, to) = (sender.unwrap(), at(&world, 1, Family::V4, 99));
    for _ in 0..2000 {
        sender.send_to(b"datagram", to).unwrap();
    }
    assert!(!world.probe(3, 1, Family::V4, Protocol::UDP, 99));
    let other = world.endpoints[3].v4;
    let mut all = std::iter::from_fn(|| denials.next(Duration::from_secs(2)));
    assert!(all.any(|denied| denied.src == other && denied.stranger));
}

#[test]
fn pod_ranges_that_somebody_changes_are_drift() {
    if support::skipped() {
        return;
    }
    for kind in Kind::BOTH {
        let world = World::new(Wiring::Ptp, 1);
        let mut node = Node::new(&world, kind);
        let mut other = node.compiler.tables().clone();
        other.pod_ranges = AddressSet::from("10.0.0.0/25".parse::<ipnet::IpNet>().unwrap());
        let drift = node.plane.verify(&other).unwrap();
        assert!(!drift.is_empty(), "{kind:?}");
        let is_program = |drift: &Drift| matches!(drift, Drift::OtherProgram { .. });
        assert_eq!(drift.iter().any(is_program), !kind.is_ebpf(), "{drift:?}");
    }
}

/// The node's own address is often in the range of its pods, and its membership reports look to the
/// hooks as if an interface had brought them. Seen as a packet that a counter had too many.
#[test]
fn the_node_itself_may_join_groups_from_an_address_in_its_range() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 1);
        let mut node = Node::new(&world, kind);
        let watched = world.endpoints[1].net.run(|| support::wire::frames("eth0", 0x0800));
        let patience = nix::sys::time::TimeVal::new(10, 0);
        nix::sys::socket::setsockopt(
            &watched,
            nix::sys::socket::sockopt::ReceiveTimeout,
            &patience,
        )
        .unwrap();
        let IpAddr::V4(own) = world.endpoints[0].v4 else { panic!("an address of IPv4") };
        let group = std::net::Ipv4Addr::new(239, 1, 2, 3);
        let _member = world.node().run(|| {
            let socket = UdpSocket::bind((own, 0)).unwrap();
            socket.join_multicast_v4(&group, &own).unwrap();
            socket
        });
        let mut frame = [0; 2048];
        loop {
            let read = nix::unistd::read(&watched, &mut frame);
            assert!(read.is_ok(), "{wiring:?} {kind:?}: no membership report");
            let (protocol, source) = (frame[14 + 9], &frame[14 + 12..14 + 16]);
            if protocol == 2 && source == own.octets() {
                break;
            }
        }
        let counters = node.plane.counters().unwrap();
        assert_eq!(counters.defaults[&SubjectId::STRANGER], 0, "{wiring:?} {kind:?}");
    }
}
