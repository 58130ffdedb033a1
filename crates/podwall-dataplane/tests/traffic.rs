//! What happens to connections and streams: replies, cuts, changes, NAT, bridges?

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of tests stops the test")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use podwall_compile::tables::{
    Delta, NodeTables, PeerKey, PortKey, SubjectId, Verdict, VerdictKey,
};
use podwall_dataplane::{Config, DataPlane, Nftables, bridge};
use podwall_policy::address::Family;
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;
use support::random::{own, pod};
use support::{EXPERIMENT, Kind, Wiring, World};

const ALLOW: Verdict = Verdict { allow: true, rule: None };

fn row(subject: u32, peer: PeerKey, ports: PortKey) -> VerdictKey {
    VerdictKey { subject: SubjectId(subject), peer, ports }
}

fn tcp(port: u16) -> PortKey {
    PortKey::Port(Protocol::TCP, port)
}

/// Pod 1 isolated for egress by class 1, pod 2 for ingress by class 2; both peers of class 1.
fn isolated(world: &World) -> NodeTables {
    let mut tables = NodeTables::default();
    for family in Family::BOTH {
        let of = |index: usize| world.endpoints[index].address(family);
        tables.subjects.insert((Direction::Egress, of(1)), SubjectId(1));
        tables.subjects.insert((Direction::Ingress, of(2)), SubjectId(2));
        tables.peers.insert(of(1), pod(1));
        tables.peers.insert(of(2), pod(1));
    }
    tables
}

/// The same with everything between the two allowed.
fn open(world: &World) -> NodeTables {
    let mut tables = isolated(world);
    for subject in [1, 2] {
        tables.verdicts.insert(row(subject, own(1), PortKey::AnyProtocol), ALLOW);
    }
    tables
}

fn connect(world: &World, from: usize, to: SocketAddr) -> std::io::Result<TcpStream> {
    world.endpoints[from].net.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)))
}

fn listen(world: &World, at: usize, address: SocketAddr) -> TcpListener {
    let listener = world.endpoints[at].net.run(|| TcpListener::bind(address).unwrap());
    listener.set_nonblocking(true).unwrap();
    listener
}

fn accept(listener: &TcpListener) -> TcpStream {
    let stream = (0..1000).find_map(|_| match listener.accept() {
        Ok((stream, _)) => Some(stream),
        Err(_) => {
            thread::sleep(Duration::from_millis(1));
            None
        }
    });
    let stream = stream.expect("a connection");
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    stream
}

#[test]
fn a_connection_is_cut_at_once_and_goes_on_when_allowed_again() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 2);
        for family in Family::BOTH {
            let mut plane = world.node().plane(kind);
            let tables = open(&world);
            plane.replace(&tables).unwrap();
            let address = SocketAddr::new(world.endpoints[2].address(family), 8080);
            let listener = listen(&world, 2, address);
            let mut client = connect(&world, 1, address).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut server = accept(&listener);
            let mut buffer = [0; 5];
            client.write_all(b"one  ").unwrap();
            server.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"one  ");
            for subject in [1, 2] {
                // Either side alone cuts it.
                let key = row(subject, own(1), PortKey::AnyProtocol);
                let verdicts = vec![(key, None)];
                plane.update(&Delta { verdicts, ..Delta::default() }).unwrap();
                client.write_all(b"two  ").unwrap();
                let cut = server.read_exact(&mut buffer).unwrap_err().kind();
                assert!(matches!(cut, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{cut}");
                let verdicts = vec![(key, Some(ALLOW))];
                plane.update(&Delta { verdicts, ..Delta::default() }).unwrap();
                // TCP sends it again by itself.
                server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                server.read_exact(&mut buffer).unwrap();
                assert_eq!(&buffer, b"two  ");
                server.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
            }
            server.write_all(b"reply").unwrap();
            client.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"reply");
        }
    }
}

#[test]
fn packets_of_a_connection_that_stays_allowed_are_not_judged_again() {
    if support::skipped() {
        return;
    }
    let world = World::new(Wiring::Ptp, 2);
    let mut plane = world.node().plane(Kind::Nftables);
    let tables = open(&world);
    plane.replace(&tables).unwrap();
    let address = SocketAddr::new(world.endpoints[2].address(Family::V4), 8080);
    let listener = listen(&world, 2, address);
    let mut client = connect(&world, 1, address).unwrap();
    let mut server = accept(&listener);
    let mut say = || {
        let judged = || -> u64 {
            let text = world.node().command("nft", &["list", "map", "inet", "podwall", "by_peer"]);
            let count = |at: &str| at.split(' ').next().unwrap().parse::<u64>().unwrap();
            text.split("counter packets ").skip(1).map(count).sum()
        };
        let before = judged();
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        judged() - before
    };
    assert!(say() > 0, "before things have settled");
    support::settle(&mut *plane);
    assert_eq!(say(), 0, "a connection from before");
    assert_eq!(plane.verify(&tables).unwrap(), []);
    let other = IpAddr::from([10, 9, 0, 1]);
    plane.update(&Delta { peers: vec![(other, Some(pod(3)))], ..Delta::default() }).unwrap();
    assert_eq!(say(), 0, "what only opens leaves it so");
    plane.update(&Delta { peers: vec![(other, None)], ..Delta::default() }).unwrap();
    assert!(say() > 0, "what may close something judges anew");
    support::settle(&mut *plane);
    assert_eq!(say(), 0, "and once that is done");
    // Another process knows nothing of it, and starts from the beginning.
    let mut next = world.node().plane(Kind::Nftables);
    assert_ne!(next.verify(&tables).unwrap(), []);
    next.replace(&tables).unwrap();
    assert!(say() > 0);
    assert_eq!(next.verify(&tables).unwrap(), []);
}

#[test]
fn a_closed_connection_stays_closed_when_others_are_let_through_unseen() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 2);
        let mut plane = world.node().plane(kind);
        let tables = open(&world);
        plane.replace(&tables).unwrap();
        let key = row(2, own(1), PortKey::AnyProtocol);
        let rule = |verdict| Delta { verdicts: vec![(key, verdict)], ..Delta::default() };
        for family in Family::BOTH {
            let address = SocketAddr::new(world.endpoints[2].address(family), 8080);
            let listener = listen(&world, 2, address);
            let mut client = connect(&world, 1, address).unwrap();
            let mut server = accept(&listener);
            let mut buffer = [0; 5];
            let mut round = |plane: &mut Box<dyn DataPlane>, closes: &Delta, opens: &Delta| {
                support::settle(&mut **plane);
                plane.update(closes).unwrap();
                support::settle(&mut **plane);
                client.write_all(b"hello").unwrap();
                let cut = server.read_exact(&mut buffer).unwrap_err().kind();
                assert!(matches!(cut, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{cut}");
                plane.update(opens).unwrap();
                // TCP sends it again by itself.
                server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                server.read_exact(&mut buffer).unwrap();
                server.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
            };
            for _ in 0..2 {
                round(&mut plane, &rule(None), &rule(Some(ALLOW)));
            }
        }
    }
}

/// Found by reading: a policy that closed something while connections were gone over left those
/// alone that had been looked at before.
#[test]
fn a_change_in_the_midst_of_settling_begins_it_anew() {
    if support::skipped() {
        return;
    }
    let world = World::new(Wiring::Ptp, 2);
    let bind = |i: usize, at| world.endpoints[i].net.run(|| UdpSocket::bind(at).unwrap());
    let mut plane = world.node().plane(Kind::Nftables);
    let key = row(2, own(1), PortKey::AnyProtocol);
    // The work says that it can go on at once when the wait is over, and when all was looked at.
    for stages in 0..3 {
        // A connection that was closed once is judged for ever: each time another.
        let [from, to] = [1, 2].map(|i| SocketAddr::new(world.endpoints[i].v4, 7004 + stages));
        let (sender, receiver) = (bind(1, from), bind(2, to));
        receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let passes = || {
            sender.send_to(b"datagram", to).unwrap();
            receiver.recv(&mut [0; 16]).is_ok()
        };
        plane.replace(&open(&world)).unwrap();
        assert!(passes());
        let mut passed = 0;
        while passed < stages {
            let pause = plane.settle().unwrap().expect("more to do");
            passed += u16::from(pause == Duration::ZERO);
            thread::sleep(pause);
        }
        plane.update(&Delta { verdicts: vec![(key, None)], ..Delta::default() }).unwrap();
        assert!(!passes(), "after {stages} stages");
        support::settle(&mut *plane);
        assert!(!passes(), "after {stages} stages, and all that follow");
    }
}

const ROUNDS: u16 = 30;

/// Every moment of a change and of what is done behind it is met by packets.
#[test]
fn no_packet_of_a_standing_connection_slips_through_a_change() {
    if support::skipped() {
        return;
    }
    for kind in Kind::BOTH {
        let world = World::new(Wiring::Ptp, 2);
        let mut plane = world.node().plane(kind);
        plane.replace(&open(&world)).unwrap();
        let [from, to] = [1, 2].map(|i| SocketAddr::new(world.endpoints[i].v4, 7003));
        let bind = |i: usize, at| world.endpoints[i].net.run(|| UdpSocket::bind(at).unwrap());
        let receiver = bind(2, to);
        // A connection that was closed once is judged for ever: each round has its own.
        let at = |round: u16| SocketAddr::new(from.ip(), 7100 + round);
        let senders: Vec<UdpSocket> = (0..=ROUNDS).map(|round| bind(1, at(round))).collect();
        let turn = AtomicUsize::new(0);
        receiver.set_nonblocking(true).unwrap();
        let (stop, number) = (AtomicBool::new(false), AtomicUsize::new(1));
        let key = row(1, own(1), PortKey::AnyProtocol);
        let rule = |verdict| Delta { verdicts: vec![(key, verdict)], ..Delta::default() };
        let mut received = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Told before it is sent: one that is counted now is sent after that.
                    let n = number.fetch_add(1, Ordering::SeqCst);
                    let sender = &senders[turn.load(Ordering::SeqCst)];
                    sender.send_to(&n.to_be_bytes(), to).unwrap();
                }
            });
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut arrived = || {
                    let mut last = 0;
                    let mut buffer = [0; 8];
                    while receiver.recv(&mut buffer).is_ok() {
                        last = usize::from_be_bytes(buffer);
                        received += 1;
                    }
                    last
                };
                for round in 0..ROUNDS {
                    turn.store(round.into(), Ordering::SeqCst);
                    let begun = number.load(Ordering::SeqCst);
                    while arrived() <= begun {
                        thread::yield_now();
                    }
                    if round % 3 == 0 {
                        support::settle(&mut *plane);
                    }
                    plane.update(&rule(None)).unwrap();
                    let closed = number.load(Ordering::SeqCst);
                    if round % 2 == 0 {
                        support::settle(&mut *plane);
                    }
                    while number.load(Ordering::SeqCst) < closed + 200 {
                        thread::yield_now();
                    }
                    let last = arrived();
                    assert!(last <= closed, "{kind:?}, round {round}: {last} came after {closed}");
                    plane.update(&rule(Some(ALLOW))).unwrap();
                }
            }));
            stop.store(true, Ordering::Relaxed);
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        assert!(received > usize::from(ROUNDS), "{received}");
    }
}

#[test]
fn replies_pass_although_the_other_direction_is_denied() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 2);
        let mut plane = world.node().plane(kind);
        let mut tables = open(&world);
        // Pod 2 may send nothing, pod 1 may get nothing.
        for family in Family::BOTH {
            let of = |index: usize| world.endpoints[index].address(family);
            tables.subjects.insert((Direction::Egress, of(2)), SubjectId::CLOSED);
            tables.subjects.insert((Direction::Ingress, of(1)), SubjectId::CLOSED);
        }
        plane.replace(&tables).unwrap();
        for family in Family::BOTH {
            let address = SocketAddr::new(world.endpoints[2].address(family), 8080);
            let listener = listen(&world, 2, address);
            connect(&world, 1, address).unwrap();
            drop(listener);
            // Nobody listens: the answer is a reset, or an ICMP error for UDP.
            let refused = connect(&world, 1, address).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{family}");
            let error = world.endpoints[1].net.run(|| {
                let from = SocketAddr::new(world.endpoints[1].address(family), 0);
                let socket = UdpSocket::bind(from).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                socket.connect(address).unwrap();
                socket.send(b"?").unwrap();
                socket.recv(&mut [0; 8]).unwrap_err()
            });
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family}");
            let back = SocketAddr::new(world.endpoints[1].address(family), 8080);
            assert_eq!(connect(&world, 2, back).unwrap_err().kind(), ErrorKind::TimedOut);
        }
    }
}

#[test]
fn a_denial_for_one_protocol_leaves_the_others() {
    if support::skipped() {
        return;
    }
    for kind in Kind::BOTH {
        let world = World::new(Wiring::Ptp, 2);
        let mut plane = world.node().plane(kind);
        let mut tables = open(&world);
        let no = Verdict { allow: false, rule: None };
        tables.verdicts.insert(row(2, own(1), PortKey::AnyPort(Protocol::SCTP)), no);
        tables.verdicts.insert(row(1, own(1), tcp(25)), no);
        plane.replace(&tables).unwrap();
        for family in Family::BOTH {
            let probe = |protocol: u8, port| world.probe(1, 2, family, Protocol(protocol), port);
            assert!(!probe(132, 80));
            assert!(!probe(6, 25));
            assert!(probe(6, 26) && probe(17, 25) && probe(1, 0) && probe(EXPERIMENT, 0));
        }
    }
}

/// A stream of numbered datagrams from pod 1 to pod 2 while `work` runs: sent and received.
fn stream(world: &World, port: u16, work: impl FnOnce()) -> (usize, usize) {
    let [from, to] = [1, 2].map(|i| world.endpoints[i].v4);
    let receiver =
        world.endpoints[2].net.run(|| UdpSocket::bind(SocketAddr::new(to, port)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    // Whatever comes while this process has to wait for a processor finds room.
    setsockopt(&receiver, RcvBufForce, &(64 << 20)).unwrap();
    let sender = world.endpoints[1].net.run(|| UdpSocket::bind(SocketAddr::new(from, 0)).unwrap());
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut received = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                sender.send_to(b"datagram", SocketAddr::new(to, port)).unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(50));
            }
        });
        let count = scope.spawn(|| {
            let mut count = 0;
            while receiver.recv(&mut [0; 16]).is_ok() {
                count += 1;
            }
            count
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        received = count.join().unwrap();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    (sent.load(Ordering::Relaxed), received)
}

/// What is allowed and denied, and a good deal else that can be replaced.
fn busy_tables(world: &World) -> NodeTables {
    let mut tables = isolated(world);
    for subject in [1, 2] {
        for port in [7001, 9] {
            let key = row(subject, own(1), PortKey::Port(Protocol::UDP, port));
            tables.verdicts.insert(key, ALLOW);
        }
        tables.verdicts.insert(row(subject, own(7), PortKey::AnyProtocol), ALLOW);
    }
    for index in 0..2000u32 {
        tables.peers.insert(std::net::Ipv4Addr::from(0x0b00_0000 + index).into(), pod(7));
    }
    tables
}

#[test]
fn no_packet_is_lost_or_slips_through_while_tables_are_replaced() {
    if support::skipped() {
        return;
    }
    let kind = Kind::Nftables;
    let world = World::new(Wiring::Ptp, 2);
    let tables = busy_tables(&world);
    world.node().plane(kind).replace(&tables).unwrap();
    let mut other = Config { log: None, ..Config::default() };
    let replace = || {
        for round in 0..200 {
            // Each a process of its own; every fourth one with another configuration, so that the
            // whole table is made anew.
            if round % 4 == 0 {
                let log = podwall_dataplane::Log { group: 9, per_second: 1, burst: round + 1 };
                other.log = Some(log);
            }
            let config = other.clone();
            let mut plane = world.node().run(|| Nftables::open(config).unwrap());
            plane.replace(&tables).unwrap();
        }
    };
    let (sent, received) = stream(&world, 7001, replace);
    assert!(sent > 100, "{sent}");
    assert_eq!(received, sent, "an allowed stream lost packets");
    let mut plane = world.node().plane(kind);
    let (sent, received) = stream(&world, 7002, || {
        for _ in 0..100 {
            plane.replace(&tables).unwrap();
            world.node().plane(kind).replace(&tables).unwrap();
        }
    });
    assert!(sent > 100, "{sent}");
    assert_eq!(received, 0, "a denied stream slipped through");
}

#[test]
fn no_packet_is_lost_or_slips_through_while_another_process_takes_over() {
    if support::skipped() {
        return;
    }
    let world = World::new(Wiring::Ptp, 2);
    let tables = busy_tables(&world);
    world.node().ebpf().replace(&tables).unwrap();
    for (port, passes) in [(7001, true), (7002, false)] {
        let (sent, received) = stream(&world, port, || {
            for round in 0..40 {
                // Every fourth one is another version: all of it is loaded beside what is there.
                let counters = if round % 4 == 0 { 1000 + round } else { 16_384 };
                let mut plane = world.node().ebpf_with(counters);
                plane.replace(&tables).unwrap();
            }
        });
        assert!(sent > 100, "{sent}");
        assert_eq!(received, if passes { sent } else { 0 }, "port {port}");
    }
}

#[test]
fn a_denied_stream_does_not_slip_through_while_the_table_is_made_anew() {
    if support::skipped() {
        return;
    }
    let world = World::new(Wiring::Ptp, 2);
    let tables = busy_tables(&world);
    let replace = |burst| {
        let log = Some(podwall_dataplane::Log { group: 9, per_second: 1, burst });
        let config = Config { log, ..Config::default() };
        world.node().run(|| Nftables::open(config).unwrap()).replace(&tables).unwrap();
    };
    replace(0);
    let (sent, received) = stream(&world, 7002, || (1..200).for_each(replace));
    assert!(sent > 100, "{sent}");
    assert_eq!(received, 0);
}

#[test]
fn an_allowed_stream_loses_nothing_while_other_policies_change() {
    if support::skipped() {
        return;
    }
    for kind in Kind::BOTH {
        let world = World::new(Wiring::Bridge, 2);
        let mut plane = world.node().plane(kind);
        plane.replace(&busy_tables(&world)).unwrap();
        let (sent, received) = stream(&world, 7001, || {
            for index in 0..6000u16 {
                let verdict = (index % 2 == 0).then_some(ALLOW);
                let port = index / 2;
                let range = podwall_policy::port::PortRange { first: 2 * port, last: 2 * port + 1 };
                let verdicts = vec![
                    (row(1, own(1), tcp(port)), verdict),
                    (row(2, PeerKey::Any, PortKey::Range(Protocol::TCP, range)), verdict),
                ];
                let other = IpAddr::from([10, 9, 0, port as u8]);
                let peers = vec![(other, verdict.map(|_| pod(3)))];
                let subjects = vec![((Direction::Ingress, other), verdict.map(|_| SubjectId(5)))];
                plane.update(&Delta { verdicts, peers, subjects, ..Delta::default() }).unwrap();
            }
        });
        assert!(sent > 100, "{sent}");
        assert_eq!(received, sent);
    }
}

#[test]
fn no_packet_is_lost_or_slips_through_while_tables_outgrow_their_sets() {
    if support::skipped() {
        return;
    }
    for kind in Kind::BOTH {
        let world = World::new(Wiring::Ptp, 2);
        for (port, passes) in [(7001, true), (7002, false)] {
            let mut plane = world.node().plane(kind);
            plane.replace(&busy_tables(&world)).unwrap();
            support::settle(&mut *plane);
            let (sent, received) = stream(&world, port, || {
                for round in 0..30_u32 {
                    let address = |index| std::net::Ipv4Addr::from(0x0c00_0000 + index).into();
                    let peers = (round * 5_000..(round + 1) * 5_000)
                        .map(|index| (address(index), Some(pod(7))))
                        .collect();
                    plane.update(&Delta { peers, ..Delta::default() }).unwrap();
                }
            });
            assert!(sent > 100, "{sent}");
            assert_eq!(received, if passes { sent } else { 0 }, "{kind:?}, port {port}");
        }
    }
}

#[test]
fn a_service_is_decided_on_the_real_pod_and_before_source_nat() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 3);
        let mut plane = world.node().plane(kind);
        let node = world.node();
        // A service on both families to pod 2 port 8080, everything masqueraded.
        node.nft(
            "table inet nat {
            chain service { type nat hook prerouting priority dstnat; policy accept;
            ip daddr 10.96.0.1 tcp dport 80 dnat ip to 10.0.0.12:8080
            ip6 daddr fd00:96::1 tcp dport 80 dnat ip6 to [fd00::c]:8080
            }
            chain local { type nat hook output priority -100; policy accept;
            ip daddr 10.96.0.1 tcp dport 80 dnat ip to 10.0.0.12:8080
            }
            chain outward { type nat hook postrouting priority srcnat; policy accept;
            ct status dnat masquerade
            }
            }\n",
        );
        node.ip("route add 10.96.0.1 dev lo\n");
        for family in Family::BOTH {
            let service = SocketAddr::new(
                if family == Family::V4 {
                    [10, 96, 0, 1].into()
                } else {
                    "fd00:96::1".parse().unwrap()
                },
                80,
            );
            let listener =
                listen(&world, 2, SocketAddr::new(world.endpoints[2].address(family), 8080));
            let mut tables = isolated(&world);
            plane.replace(&tables).unwrap();
            assert!(connect(&world, 1, service).is_err());
            // Egress names the pod and its port; ingress sees the client, not the node.
            for subject in [1, 2] {
                tables.verdicts.insert(row(subject, own(1), tcp(8080)), ALLOW);
            }
            plane.replace(&tables).unwrap();
            connect(&world, 1, service).unwrap();
            let seen = accept(&listener).peer_addr().unwrap().ip();
            assert_ne!(seen, world.endpoints[1].address(family), "the masquerade was in place");
            // Pod 3 is no peer of pod 2; the node's address would be one.
            tables.peers.insert(seen, pod(1));
            plane.replace(&tables).unwrap();
            assert!(connect(&world, 3, service).is_err());
            // Pod 2 reaches itself through the service although nothing allows it.
            let itself = world.endpoints[2].address(family);
            tables.subjects.insert((Direction::Egress, itself), SubjectId::CLOSED);
            tables.subjects.insert((Direction::Ingress, itself), SubjectId::CLOSED);
            tables.verdicts.clear();
            plane.replace(&tables).unwrap();
            let reached = connect(&world, 2, service);
            assert!(reached.is_ok(), "{wiring:?} {family} {reached:?}");
            assert!(connect(&world, 1, service).is_err());
            // The node itself is always let in, with source NAT and without.
            if family == Family::V4 {
                connect(&world, 0, service).unwrap();
            }
            connect(&world, 0, SocketAddr::new(itself, 8080)).unwrap();
        }
    }
}

/// IPVS takes a packet to a Service at `LOCAL_IN`, at 98 or 99, and sends it on to a pod. Podwall saw it
/// before, with the Service's address, and a pod that is isolated for egress reached no Service. (What
/// takes it here is no IPVS: not every kernel has it.)
#[test]
fn what_a_balancer_takes_at_local_in_is_not_judged_by_the_services_address() {
    if support::skipped() {
        return;
    }
    for (wiring, kind) in support::everywhere() {
        let world = World::new(wiring, 2);
        let mut plane = world.node().plane(kind);
        world.node().ip("addr add 10.96.0.1/32 dev lo\naddr add fd00:96::1/128 dev lo nodad\n");
        world.node().nft(
            "table inet balancer {
            chain taken { type filter hook input priority 99; policy accept;
            ip daddr 10.96.0.1 drop
            ip6 daddr fd00:96::1 drop
            }
            }\n",
        );
        plane.replace(&isolated(&world)).unwrap();
        let denied = |plane: &mut dyn DataPlane| -> u64 {
            plane.counters().unwrap().defaults.values().sum()
        };
        for (family, service, other) in [
            (Family::V4, "10.96.0.1:80", "10.96.0.1:81"),
            (Family::V6, "[fd00:96::1]:80", "[fd00:96::1]:81"),
        ] {
            let before = denied(&mut *plane);
            assert!(connect(&world, 1, service.parse().unwrap()).is_err());
            assert_eq!(denied(&mut *plane), before, "{wiring:?} {kind:?} {family}: taken");
            world.node().nft("flush chain inet balancer taken\n");
            assert!(connect(&world, 1, other.parse().unwrap()).is_err());
            assert!(denied(&mut *plane) > before, "{wiring:?} {kind:?} {family}: left");
            world.node().nft(
                "add rule inet balancer taken ip daddr 10.96.0.1 drop
                add rule inet balancer taken ip6 daddr fd00:96::1 drop\n",
            );
        }
    }
}

#[test]
fn neighbours_are_found_while_everything_is_closed() {
    if support::skipped() {
        return;
    }
    for kind in Kind::BOTH {
        let world = World::new(Wiring::Bridge, 2);
        let mut tables = NodeTables::default();
        for index in [1, 2] {
            for direction in Direction::BOTH {
                let v6 = world.endpoints[index].v6;
                tables.subjects.insert((direction, v6), SubjectId::CLOSED);
            }
        }
        let mut plane = world.node().plane(kind);
        plane.replace(&tables).unwrap();
        for index in [1, 2] {
            world.endpoints[index].net.ip("neigh flush all\n");
        }
        assert!(!world.probe(1, 2, Family::V6, Protocol::UDP, 5));
        let find = |text: &str| {
            text.lines().any(|line| line.starts_with("fd00::c") && !line.contains("FAILED"))
        };
        // The packet was dropped, but the neighbour was asked for and has answered.
        let known = (0..2000).any(|_| {
            let text = world.endpoints[1].net.command("ip", &["-6", "neigh", "show"]);
            find(&text) && text.contains("lladdr")
        });
        assert!(known);
        // With another hop limit such a message is no neighbour discovery.
        let routed = World::new(Wiring::Ptp, 2);
        routed.node().plane(kind).replace(&tables).unwrap();
        assert!(!routed.probe(1, 2, Family::V6, Protocol::ICMP, 0));
    }
}

#[test]
fn what_is_wrong_with_bridges_is_said_and_put_right() {
    if support::skipped() {
        return;
    }
    for kind in Kind::BOTH {
        let world = World::new(Wiring::Bridge, 2);
        let mut plane = world.node().plane(kind);
        plane.replace(&isolated(&world)).unwrap();
        let probe = || world.probe(1, 2, Family::V4, Protocol::UDP, 53);
        world.node().run(bridge::check).unwrap();
        assert!(!probe());
        world.node().sysctl("bridge/bridge-nf-call-iptables", "0");
        let error = world.node().run(bridge::check).unwrap_err().to_string();
        assert!(error.contains("IPv4 between pods on one Linux bridge"), "{error}");
        assert!(error.contains("bridge-nf-call-iptables is 0"), "{error}");
        assert!(probe(), "br_netfilter is what holds bridged pods apart");
        world.node().run(bridge::enable).unwrap();
        assert!(!probe());
    }
}

#[test]
fn taking_everything_out_opens_everything() {
    if support::skipped() {
        return;
    }
    for kind in Kind::BOTH {
        let world = World::new(Wiring::Ptp, 2);
        let mut plane = world.node().plane(kind);
        plane.replace(&isolated(&world)).unwrap();
        assert!(!world.probe(1, 2, Family::V6, Protocol::TCP, 80));
        drop(plane);
        // The kernel goes on without the process.
        assert!(!world.probe(1, 2, Family::V6, Protocol::TCP, 80));
        world.node().plane(kind).remove().unwrap();
        assert!(world.probe(1, 2, Family::V6, Protocol::TCP, 80));
    }
}
