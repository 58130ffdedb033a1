//! Real packets through a small world, with firewalls in the way.
//!
//! ```text
//!   a 10.7.1.2 ──── node 10.7.1.1, 10.7.2.1, 10.7.3.1 ──── b 10.7.2.2
//!                     └── outside 10.7.3.2, 203.0.113.0/24, 2001:db8::/32
//! ```

use super::*;
use crate::serve::tests::ip;
use crate::serve::{Served, ServerSet};
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::time::Instant;

struct World {
    a: Arc<Place>,
    b: Arc<Place>,
    node: Arc<Place>,
    outside: Arc<Place>,
    /// Stops when the world ends.
    servers: ServerSet,
}

fn place(identity: Identity, filters_itself: bool) -> Arc<Place> {
    let namespace = Arc::new(NetNs::unnamed().unwrap());
    Arc::new(Place { identity, namespace, filters_itself })
}

fn world() -> Option<World> {
    crate::serve::tests::namespace()?;
    let node = place(Identity::Node("node".into()), true);
    let a = place(Identity::pod("demo", "a"), false);
    let b = place(Identity::pod("demo", "b"), false);
    let outside = place(Identity::Outside, false);
    for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let write = || std::fs::write(format!("/proc/sys/net/{file}"), "1");
        node.namespace.within(write).unwrap().unwrap();
    }
    for (n, peer) in [(1, &a), (2, &b), (3, &outside)] {
        let fd = format!("/proc/{}/fd/{}", std::process::id(), peer.namespace.as_fd().as_raw_fd());
        let (node, peer) = (&node.namespace, &peer.namespace);
        let (own, other) = (format!("02:00:00:00:01:0{n}"), format!("02:00:00:00:02:0{n}"));
        let ends = format!("v{n} address {own} type veth peer name eth0 address {other}");
        ip(node, &format!("link add {ends} netns {fd}"));
        ip(node, &format!("addr add 10.7.{n}.1/24 dev v{n}"));
        ip(node, &format!("addr add fd07:{n}::1/64 dev v{n} nodad"));
        ip(node, &format!("link set v{n} up"));
        ip(peer, &format!("addr add 10.7.{n}.2/24 dev eth0"));
        ip(peer, &format!("addr add fd07:{n}::2/64 dev eth0 nodad"));
        ip(peer, "link set eth0 up");
        // IPv6 neighbours are found only a second or two after an interface comes up.
        ip(node, &format!("neigh add fd07:{n}::2 lladdr {other} dev v{n} nud permanent"));
        ip(peer, &format!("neigh add fd07:{n}::1 lladdr {own} dev eth0 nud permanent"));
        ip(peer, &format!("route add default via 10.7.{n}.1"));
        ip(peer, &format!("-6 route add default via fd07:{n}::1"));
    }
    for (n, peer) in [(1, &a), (2, &b), (3, &outside)] {
        local(&node.namespace, &format!("fd07:{n}::1"));
        local(&peer.namespace, &format!("fd07:{n}::2"));
    }
    ip(&outside.namespace, "route add local 203.0.113.0/24 dev lo");
    ip(&outside.namespace, "-6 route add local 2001:db8::/32 dev lo");
    ip(&node.namespace, "route add 203.0.113.0/24 via 10.7.3.2");
    ip(&node.namespace, "-6 route add 2001:db8::/32 via fd07:3::2");
    node.namespace.within(crate::serve::lift_icmp_limits).unwrap();
    let servers = ServerSet::start().unwrap();
    for place in [&a, &b, &outside] {
        let ports = Protocol::WITH_PORTS.map(|protocol| (protocol, 80)).into();
        let served = Served { identity: place.identity.clone(), ports, dns: None };
        servers.ensure(&place.namespace, &served).unwrap();
    }
    Some(World { a, b, node, outside, servers })
}

/// Waits until an IPv6 address has its local route, which the kernel adds from a work queue.
fn local(ns: &NetNs, address: &str) {
    let show = || Command::new("ip").args(["-6", "route", "get", address]).output();
    for _ in 0..500 {
        if ns.within(show).unwrap().unwrap().stdout.starts_with(b"local ") {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{address} did not become local");
}

/// Loads rules in a namespace: the body of one inet table.
fn nft(ns: &NetNs, chains: &str) {
    let run = || {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let text = format!("table inet t {{\n{chains}\n}}\n");
        nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{chains}");
    };
    ns.within(run).unwrap();
}

/// A chain of the node that all forwarded packets pass, with one rule.
fn postrouting(rule: &str) -> String {
    format!("chain c {{ type filter hook postrouting priority 0; {rule}; }}")
}

const THREE: [Protocol; 3] = Protocol::WITH_PORTS;
const B: [&str; 2] = ["10.7.2.2", "fd07:2::2"];

fn task(from: &Arc<Place>, protocol: Protocol, to: &str, port: u16, at: &Arc<Place>) -> ProbeTask {
    ProbeTask {
        source: from.clone(),
        source_address: None,
        destination: to.parse().unwrap(),
        protocol,
        port,
        arrives_at: vec![at.clone()],
        expect: None,
    }
}

fn probe(tasks: Vec<ProbeTask>) -> Vec<ProbeResult> {
    run(tasks, &ProbeOptions::default(), |_| {}).unwrap()
}

fn one(task: ProbeTask) -> ProbeResult {
    probe(vec![task]).remove(0)
}

/// Probes from a to b over every protocol with ports, in both families.
fn a_to_b(world: &World, port: u16, expect: Option<bool>) -> Vec<(Protocol, ProbeResult)> {
    let tasks: Vec<_> = B
        .iter()
        .flat_map(|to| THREE.map(|p| task(&world.a, p, to, port, &world.b)))
        .map(|task| ProbeTask { expect, ..task })
        .collect();
    let protocols: Vec<_> = tasks.iter().map(|task| task.protocol).collect();
    protocols.into_iter().zip(probe(tasks)).collect()
}

#[test]
fn an_open_port_answers_with_its_name_over_every_protocol_and_family() {
    let Some(world) = world() else { return };
    let results = a_to_b(&world, 80, Some(true));
    assert_eq!(results.len(), 6);
    for (protocol, result) in results {
        let Outcome::Answered { by: Some(by), .. } = &result.outcome else {
            panic!("{protocol}: {result:?}")
        };
        assert_eq!(by.identity, world.b.identity);
        assert!(B.map(|b| SocketAddr::new(b.parse().unwrap(), 80)).contains(&by.asked));
        assert_eq!((by.protocol, result.arrived.as_ref()), (protocol, Some(&world.b.identity)));
        assert!(result.got_through());
    }
    for to in B {
        let result = one(task(&world.a, Protocol::ICMP, to, 0, &world.b));
        assert!(matches!(result.outcome, Outcome::Answered { by: None, .. }), "{result:?}");
        assert_eq!(result.arrived.as_ref(), Some(&world.b.identity));
    }
}

#[test]
fn a_closed_port_refuses_and_the_probe_arrived() {
    let Some(world) = world() else { return };
    for (protocol, result) in a_to_b(&world, 81, Some(true)) {
        let expected = match protocol {
            Protocol::TCP => Refusal::Reset,
            Protocol::UDP => Refusal::PortUnreachable,
            _ => Refusal::Abort,
        };
        let Outcome::Refused { how, .. } = result.outcome else { panic!("{protocol} {result:?}") };
        assert_eq!((how, result.arrived.as_ref()), (expected, Some(&world.b.identity)));
    }
}

#[test]
fn what_a_firewall_swallows_is_dropped_whatever_was_expected() {
    let Some(world) = world() else { return };
    nft(&world.node.namespace, &postrouting("oifname v2 drop"));
    for expect in [Some(false), None, Some(true)] {
        for (protocol, result) in a_to_b(&world, 80, expect) {
            assert_eq!(result.outcome, Outcome::Dropped, "{protocol}");
            assert_eq!(result.arrived, None);
        }
    }
    let result = one(task(&world.a, Protocol::ICMP, B[0], 0, &world.b));
    assert_eq!(result.outcome, Outcome::Dropped);
}

#[test]
fn an_answer_lost_on_its_way_back_is_told_from_a_lost_probe() {
    let Some(world) = world() else { return };
    nft(&world.node.namespace, &postrouting("iifname v2 drop"));
    for (protocol, result) in a_to_b(&world, 80, Some(false)) {
        assert_eq!(result.outcome, Outcome::Unanswered { answer_left: true }, "{protocol}");
        assert_eq!(result.arrived.as_ref(), Some(&world.b.identity));
        let words = "arrived at pod demo/b, the answer did not come back";
        assert_eq!(result.to_string(), words);
    }
}

#[test]
fn a_silent_destination_is_told_from_a_lost_answer() {
    let Some(world) = world() else { return };
    nft(
        &world.b.namespace,
        "chain c { type filter hook input priority 0; meta l4proto { tcp, udp, sctp } drop; }",
    );
    for (protocol, result) in a_to_b(&world, 80, None) {
        assert_eq!(result.outcome, Outcome::Unanswered { answer_left: false }, "{protocol}");
        assert_eq!(result.to_string(), "arrived at pod demo/b, which did not answer");
    }
}

#[test]
fn a_firewall_that_refuses_is_told_from_a_closed_port() {
    let Some(world) = world() else { return };
    let rules = "chain c { type filter hook forward priority 0; oifname v2 meta l4proto tcp \
                 reject with tcp reset; oifname v2 meta l4proto udp reject with icmpx \
                 port-unreachable; oifname v2 reject with icmpx admin-prohibited; }";
    nft(&world.node.namespace, rules);
    for (protocol, result) in a_to_b(&world, 80, Some(false)) {
        assert_eq!(result.arrived, None, "{protocol}");
        assert!(!result.got_through());
        match (protocol, &result.outcome) {
            (Protocol::TCP, Outcome::Refused { how: Refusal::Reset, .. })
            | (Protocol::UDP, Outcome::Refused { how: Refusal::PortUnreachable, .. }) => {}
            (Protocol::SCTP, Outcome::Unreachable { icmp: Icmp::Prohibited, from }) => {
                let gateway = ["10.7.1.1", "fd07:1::1"].map(|a| Some(a.parse().unwrap()));
                assert!(gateway.contains(from), "{from:?}");
            }
            _ => panic!("{protocol} {result:?}"),
        }
    }
    let result = one(task(&world.a, Protocol::ICMP, B[1], 0, &world.b));
    assert!(matches!(result.outcome, Outcome::Unreachable { icmp: Icmp::Prohibited, .. }));
}

#[test]
fn an_admin_prohibited_tcp_connection_says_so() {
    let Some(world) = world() else { return };
    let rules = "chain c { type filter hook forward priority 0; oifname v2 reject with icmpx \
                 admin-prohibited; }";
    nft(&world.node.namespace, rules);
    for (protocol, result) in a_to_b(&world, 80, None) {
        let prohibited = Outcome::Unreachable { icmp: Icmp::Prohibited, from: None };
        let Outcome::Unreachable { icmp, .. } = result.outcome else {
            panic!("{protocol}: {result:?} instead of {prohibited:?}")
        };
        assert_eq!(icmp, Icmp::Prohibited, "{protocol}");
    }
}

#[test]
fn a_missing_route_is_told_by_whoever_misses_it() {
    let Some(world) = world() else { return };
    let outcomes = |to: &str| {
        let tasks = THREE.map(|p| task(&world.a, p, to, 80, &world.b)).to_vec();
        probe(tasks).into_iter().map(|r| r.outcome).collect::<Vec<_>>()
    };
    for outcome in outcomes("192.0.2.1") {
        let from = Some("10.7.1.1".parse().unwrap());
        assert_eq!(outcome, Outcome::Unreachable { icmp: Icmp::Network, from });
    }
    ip(&world.a.namespace, "route del default");
    for outcome in outcomes("192.0.2.1") {
        assert_eq!(outcome, Outcome::Unreachable { icmp: Icmp::Network, from: None });
    }
}

#[test]
fn a_node_is_reached_only_past_its_own_firewall() {
    let Some(world) = world() else { return };
    let to_node = |port| THREE.map(|p| task(&world.a, p, "10.7.1.1", port, &world.node)).to_vec();
    let results = probe(to_node(80));
    assert!(
        results.iter().all(|r| r.arrived.as_ref() == Some(&world.node.identity)),
        "{results:?}"
    );
    let served = Served {
        identity: world.node.identity.clone(),
        ports: [(Protocol::SCTP, 80)].into(),
        dns: None,
    };
    world.servers.ensure(&world.node.namespace, &served).unwrap();
    let result = one(to_node(80).remove(2));
    assert!(matches!(result.outcome, Outcome::Answered { .. }), "{result:?}");
    nft(&world.node.namespace, "chain c { type filter hook input priority 0; drop; }");
    for result in probe(to_node(80)) {
        assert_eq!((result.outcome, result.arrived), (Outcome::Dropped, None));
    }
}

#[test]
fn a_node_whose_firewall_keeps_its_own_packets_dropped_them() {
    let Some(world) = world() else { return };
    nft(&world.node.namespace, &postrouting("oifname v2 drop"));
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP] {
        let task = task(&world.node, protocol, B[0], 80, &world.b);
        let result = one(ProbeTask { expect: Some(false), ..task });
        assert_eq!(result.outcome, Outcome::Dropped, "{protocol}");
    }
}

#[test]
fn a_probe_is_known_behind_address_translation() {
    let Some(world) = world() else { return };
    let rules = "chain n { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 meta \
                 l4proto { tcp, udp, sctp } dnat ip to 10.7.2.2; }\n chain s { type nat hook \
                 postrouting priority srcnat; oifname v2 masquerade random; }";
    nft(&world.node.namespace, rules);
    let tasks = THREE.map(|p| task(&world.a, p, "10.96.0.1", 80, &world.b)).to_vec();
    for result in probe(tasks) {
        assert_eq!(result.arrived.as_ref(), Some(&world.b.identity), "{result:?}");
        let Outcome::Answered { by: Some(by), .. } = result.outcome else { panic!() };
        assert_eq!(by.asked, "10.7.2.2:80".parse().unwrap());
        assert_eq!(by.client.ip(), "10.7.2.1".parse::<IpAddr>().unwrap());
    }
    let rules = "chain d { type filter hook forward priority 0; oifname v2 drop; }";
    nft(&world.node.namespace, rules);
    let tasks = THREE.map(|p| task(&world.a, p, "10.96.0.1", 80, &world.b)).to_vec();
    for result in probe(tasks) {
        assert_eq!(result.outcome, Outcome::Dropped, "translated and dropped");
    }
}

#[test]
fn the_outside_asks_and_answers_from_any_of_its_addresses() {
    let Some(world) = world() else { return };
    for (from, to) in [("203.0.113.9", B[0]), ("2001:db8::9", B[1])] {
        let source_address: Option<IpAddr> = Some(from.parse().unwrap());
        for protocol in THREE {
            let out = task(&world.outside, protocol, to, 80, &world.b);
            let result = one(ProbeTask { source_address, ..out });
            let Outcome::Answered { by: Some(by), .. } = result.outcome else {
                panic!("{protocol} {result:?}")
            };
            assert_eq!(Some(by.client.ip()), source_address);
            let result = one(task(&world.a, protocol, from, 80, &world.outside));
            let Outcome::Answered { by: Some(by), .. } = result.outcome else {
                panic!("{protocol} {result:?}")
            };
            assert_eq!((by.identity, Some(by.asked.ip())), (Identity::Outside, source_address));
        }
        let out = task(&world.outside, Protocol::ICMP, to, 0, &world.b);
        let result = one(ProbeTask { source_address, ..out });
        assert!(matches!(result.outcome, Outcome::Answered { .. }), "{result:?}");
    }
    let wrong = task(&world.outside, Protocol::TCP, B[1], 80, &world.b);
    let result = one(ProbeTask { source_address: Some("203.0.113.9".parse().unwrap()), ..wrong });
    let words = "cannot send from 203.0.113.9 to fd07:2::2: one is IPv4, the other IPv6";
    assert_eq!(result.to_string(), words);
}

#[test]
fn a_pod_reaches_itself() {
    let Some(world) = world() else { return };
    for to in B {
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP] {
            let result = one(task(&world.b, protocol, to, 80, &world.b));
            assert!(matches!(result.outcome, Outcome::Answered { .. }), "{protocol} {result:?}");
            assert_eq!(result.arrived.as_ref(), Some(&world.b.identity));
        }
    }
}

#[test]
fn a_protocol_without_ports_is_seen_to_arrive_or_not() {
    let Some(world) = world() else { return };
    let tasks = || B.map(|to| task(&world.a, Protocol(253), to, 0, &world.b)).to_vec();
    for result in probe(tasks()) {
        assert_eq!(result.arrived.as_ref(), Some(&world.b.identity), "{result:?}");
    }
    nft(&world.node.namespace, &postrouting("oifname v2 drop"));
    for result in probe(tasks()) {
        assert_eq!((result.outcome, result.arrived), (Outcome::Dropped, None));
    }
}

#[test]
fn without_a_place_to_watch_silence_stays_unexplained() {
    let Some(world) = world() else { return };
    nft(&world.node.namespace, &postrouting("oifname v2 drop"));
    let blind =
        ProbeTask { arrives_at: vec![], ..task(&world.a, Protocol::UDP, B[0], 80, &world.b) };
    let result = one(blind);
    assert_eq!(result.outcome, Outcome::Unanswered { answer_left: false });
    assert_eq!(result.to_string(), "no answer");
}

#[test]
fn any_server_counts_as_an_answer_not_only_the_lab_s() {
    let Some(world) = world() else { return };
    let listener = world.b.namespace.within(|| std::net::TcpListener::bind("10.7.2.2:9000"));
    let listener = listener.unwrap().unwrap();
    let client = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"hello\n").unwrap();
    });
    let result = one(task(&world.a, Protocol::TCP, B[0], 9000, &world.b));
    client.join().unwrap();
    assert!(matches!(result.outcome, Outcome::Answered { by: None, .. }), "{result:?}");
}

#[test]
fn a_full_matrix_is_probed_in_a_moment() {
    let Some(world) = world() else { return };
    let matrix = || {
        let places = [&world.a, &world.b];
        let mut tasks = Vec::new();
        for number in 0..81 {
            let (from, to) = (places[number % 2], places[(number + 1) % 2]);
            let address = if number % 2 == 0 { B[0] } else { "10.7.1.2" };
            for protocol in THREE {
                for port in [80, 81] {
                    tasks.push(task(from, protocol, address, port, to));
                }
            }
        }
        tasks
    };
    assert_eq!(matrix().len(), 486);
    let start = Instant::now();
    let results = probe(matrix());
    eprintln!("486 probes, none dropped: {:?}", start.elapsed());
    for (task, result) in matrix().iter().zip(&results) {
        let answered = matches!(result.outcome, Outcome::Answered { .. });
        assert_eq!(answered, task.port == 80, "{task:?} {result:?}");
        assert!(result.got_through());
    }
    nft(&world.node.namespace, &postrouting("oifname v2 th dport { 80, 81 } drop"));
    let tasks = matrix().into_iter().map(|task| {
        let expect = Some(task.destination != B[0].parse::<IpAddr>().unwrap());
        ProbeTask { expect, ..task }
    });
    let start = Instant::now();
    let results = probe(tasks.collect());
    eprintln!("486 probes, half of them dropped: {:?}", start.elapsed());
    for (task, result) in matrix().iter().zip(&results) {
        let to_b = task.destination == B[0].parse::<IpAddr>().unwrap();
        assert_eq!(to_b, result.outcome == Outcome::Dropped, "{task:?} {result:?}");
    }
}

#[test]
fn twenty_thousand_probes_go_through_the_window() {
    let Some(world) = world() else { return };
    let tasks: Vec<_> = (0..20_000)
        .map(|number| {
            let port = if number % 4 == 3 { 81 } else { 80 };
            let from = [&world.a, &world.outside][number % 2];
            task(from, THREE[number % 3], B[(number / 3) % 2], port, &world.b)
        })
        .collect();
    let start = Instant::now();
    let mut heard = 0;
    let results = run(tasks.clone(), &ProbeOptions::default(), |done| heard = done).unwrap();
    eprintln!("20,000 probes: {:?}", start.elapsed());
    assert_eq!(heard, 20_000);
    for (task, result) in tasks.iter().zip(results) {
        assert!(result.got_through(), "{task:?} {result:?}");
        let answered = matches!(result.outcome, Outcome::Answered { .. });
        assert_eq!(answered, task.port == 80, "{task:?} {result:?}");
    }
}

#[test]
fn a_window_of_one_sends_one_after_the_other() {
    let Some(world) = world() else { return };
    let tasks = (0..30)
        .map(|n| task([&world.a, &world.b][n % 2], THREE[n % 3], B[n % 2], 80, &world.b))
        .collect();
    let options = ProbeOptions { window: 1, ..ProbeOptions::default() };
    let results = run(tasks, &options, |_| {}).unwrap();
    assert_eq!(results.len(), 30);
    assert!(results.iter().all(|r| matches!(r.outcome, Outcome::Answered { .. })), "{results:?}");
}

#[test]
fn a_hundred_and_fifty_places_are_watched_at_once() {
    let Some(world) = world() else { return };
    let places: Vec<_> =
        (0..150).map(|n| place(Identity::pod("p", n.to_string()), false)).collect();
    let tasks = places.iter().flat_map(|place| {
        let served = Served {
            identity: place.identity.clone(),
            ports: THREE.map(|protocol| (protocol, 80)).into(),
            dns: None,
        };
        world.servers.ensure(&place.namespace, &served).unwrap();
        // A place is known by its identity, whoever holds it.
        let again = Arc::new(Place {
            identity: place.identity.clone(),
            namespace: place.namespace.clone(),
            filters_itself: false,
        });
        THREE.map(|protocol| task(place, protocol, "127.0.0.1", 80, &again))
    });
    let tasks: Vec<_> = tasks.collect();
    let start = Instant::now();
    let results = probe(tasks.clone());
    eprintln!("450 probes at 150 places: {:?}", start.elapsed());
    for (task, result) in tasks.iter().zip(results) {
        assert_eq!(result.arrived.as_ref(), Some(&task.source.identity), "{result:?}");
        let Outcome::Answered { by: Some(by), .. } = result.outcome else { panic!() };
        assert_eq!(by.identity, task.source.identity);
    }
}

#[test]
fn results_survive_json() {
    let by = crate::serve::identity::Answer {
        identity: Identity::pod("demo", "web"),
        protocol: Protocol::TCP,
        asked: "10.0.0.1:80".parse().unwrap(),
        client: "[fd00::1]:4000".parse().unwrap(),
    };
    let outcomes = [
        Outcome::Answered { by: Some(by), millis: 0.5 },
        Outcome::Refused { how: Refusal::Reset, millis: 1.5 },
        Outcome::Unreachable { icmp: Icmp::Other { kind: 5, code: 1 }, from: None },
        Outcome::Dropped,
        Outcome::Unanswered { answer_left: true },
        Outcome::Error { what: "x".to_owned() },
    ];
    for outcome in outcomes {
        let result = ProbeResult { outcome, arrived: Some(Identity::Outside) };
        let text = serde_json::to_string(&result).unwrap();
        assert_eq!(serde_json::from_str::<ProbeResult>(&text).unwrap(), result, "{text}");
    }
}
