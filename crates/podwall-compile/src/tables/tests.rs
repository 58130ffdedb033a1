//! Is the first entry that says anything the one that decides, and who is isolated without any?

use super::*;

const OWN: PeerKey = PeerKey::Own(PeerId(7));
const GROUP: PeerKey = PeerKey::Group(GroupId(7));
const NET: PeerKey = PeerKey::Net(NetId(7));

fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn range(text: &str) -> AddressRange {
    AddressRange::from(text.parse::<ipnet::IpNet>().unwrap())
}

/// 10.0.0.7 is of class 7 in every respect.
fn tables(rows: &[(PeerKey, PortKey, bool)]) -> NodeTables {
    let row = |(peer, ports, allow): &(PeerKey, PortKey, bool)| {
        let key = VerdictKey { subject: SubjectId(1), peer: *peer, ports: *ports };
        (key, Verdict { allow: *allow, rule: None })
    };
    let mut tables =
        NodeTables { verdicts: rows.iter().map(row).collect(), ..NodeTables::default() };
    tables.peers.insert(at("10.0.0.7"), Peer { own: PeerId(7), group: GroupId(7) });
    tables.nets.insert(range("10.0.0.0/16"), NetId(7));
    tables
}

fn passes(tables: &NodeTables, remote: &str, protocol: Protocol, port: u16) -> bool {
    tables.verdict(SubjectId(1), at(remote), protocol, port).allow
}

#[test]
fn the_most_specific_entry_decides_and_the_peers_own_row_goes_first() {
    let tcp = Protocol::TCP;
    let range = |first, last| PortKey::Range(tcp, PortRange { first, last });
    let tables = tables(&[
        (OWN, PortKey::Port(tcp, 85), false),
        (OWN, range(80, 90), true),
        (OWN, range(100, 200), false),
        (OWN, PortKey::AnyPort(tcp), true),
        (OWN, PortKey::AnyProtocol, false),
        (PeerKey::Any, PortKey::AnyProtocol, true),
    ]);
    let table = [(84, true), (85, false), (90, true), (91, true), (150, false), (201, true)];
    for (port, expected) in table {
        assert_eq!(passes(&tables, "10.0.0.7", tcp, port), expected, "port {port}");
    }
    assert!(!passes(&tables, "10.0.0.7", Protocol::UDP, 85));
    assert!(!passes(&tables, "10.0.0.7", Protocol::ICMP, 0));
    assert!(passes(&tables, "10.0.0.1", Protocol::UDP, 85));
}

#[test]
fn what_the_own_row_does_not_say_the_group_says_then_the_net_then_the_row_for_anybody() {
    let port = |port| PortKey::Port(Protocol::TCP, port);
    let tables = tables(&[
        (OWN, port(1), true),
        (GROUP, port(1), false),
        (GROUP, port(2), true),
        (NET, port(2), false),
        (NET, port(3), true),
        (PeerKey::Any, port(3), false),
        (PeerKey::Any, port(4), true),
    ]);
    let found = |remote: &str, port| {
        let found = tables.lookup(SubjectId(1), at(remote), Protocol::TCP, port);
        found.map(|(key, verdict)| (key.peer, verdict.allow))
    };
    assert_eq!(found("10.0.0.7", 1), Some((OWN, true)));
    assert_eq!(found("10.0.0.7", 2), Some((GROUP, true)));
    assert_eq!(found("10.0.0.7", 3), Some((NET, true)));
    assert_eq!(found("10.0.0.7", 4), Some((PeerKey::Any, true)));
    assert_eq!(found("10.0.0.7", 5), None);
    assert_eq!(found("10.0.0.1", 2), Some((NET, false)));
    assert_eq!(found("192.0.2.1", 3), Some((PeerKey::Any, false)));
}

#[test]
fn in_the_pod_ranges_who_has_no_entry_is_isolated_but_for_its_own_node() {
    let mut tables = NodeTables::default();
    let pod_ranges = |text| AddressSet::from(range(text));
    tables.pod_ranges = pod_ranges("10.0.0.0/24").union(&pod_ranges("fd00::/64"));
    let [open, shut] = ["10.0.0.5", "10.0.0.6"].map(at);
    for direction in Direction::BOTH {
        tables.subjects.insert((direction, open), SubjectId::OPEN);
        tables.subjects.insert((direction, shut), SubjectId(1));
    }
    let decide = |src: &str, dst: &str, from_node, to_node| {
        let (src, dst, protocol, port) = (at(src), at(dst), Protocol::TCP, 80);
        let packet = Packet { src, dst, protocol, port, from_node, to_node };
        Direction::BOTH.map(|direction| tables.subject_of(&packet, direction))
    };
    let stranger = Some(SubjectId::STRANGER);
    assert_eq!(Direction::BOTH, [Direction::Egress, Direction::Ingress]);
    for (src, dst, from_node, to_node, expected) in [
        ("10.0.0.5", "10.0.1.1", false, false, [None, None]),
        ("10.0.0.6", "10.0.1.1", false, false, [Some(SubjectId(1)), None]),
        ("10.0.0.7", "10.0.1.1", false, false, [stranger, None]),
        ("10.0.1.1", "10.0.0.7", false, false, [None, stranger]),
        ("fd00::1", "fd00::2", false, false, [stranger, stranger]),
        ("fd00:1::1", "fd00::2", false, false, [None, stranger]),
        // The node itself, which may have an address in the ranges.
        ("10.0.0.1", "10.0.0.7", true, false, [None, None]),
        ("10.0.0.7", "10.0.0.1", false, true, [stranger, None]),
        ("10.0.0.1", "192.0.2.1", true, true, [None, None]),
        // To itself: a pod may, a stranger may not.
        ("10.0.0.6", "10.0.0.6", false, false, [None, None]),
        ("10.0.0.7", "10.0.0.7", false, false, [stranger, stranger]),
    ] {
        assert_eq!(decide(src, dst, from_node, to_node), expected, "{src} to {dst}");
    }
}

#[test]
fn protocols_without_ports_meet_only_entries_for_every_protocol() {
    let tables = tables(&[(PeerKey::Any, PortKey::AnyPort(Protocol::TCP), true)]);
    assert!(passes(&tables, "10.0.0.7", Protocol::TCP, 0));
    assert!(!passes(&tables, "10.0.0.7", Protocol::ICMP, 0));
}

#[test]
fn an_address_has_the_class_of_its_pod_before_that_of_its_range() {
    let mut tables = NodeTables::default();
    let pod = Peer { own: PeerId(2), group: GroupId(3) };
    tables.blocks.insert(range("10.0.0.0/24"), PeerId(1));
    tables.peers.insert(at("10.0.0.1"), pod);
    let no_pod = |own| Peer { own, group: GroupId::NONE };
    assert_eq!(tables.peer(at("10.0.0.1")), pod);
    assert_eq!(tables.peer(at("10.0.0.0")), no_pod(PeerId(1)));
    assert_eq!(tables.peer(at("11.0.0.0")), no_pod(PeerId::OTHER));
    assert_eq!(tables.peer(at("::a00:1")), no_pod(PeerId::OTHER));
}

#[test]
fn keys_and_their_numbers_stand_for_each_other() {
    for class in [0, 1, (1 << 30) - 1] {
        let keys = [
            PeerKey::Own(PeerId(class)),
            PeerKey::Group(GroupId(class)),
            PeerKey::Net(NetId(class)),
            PeerKey::Any,
        ];
        for key in keys {
            assert_eq!(PeerKey::of_number(key.number()), key);
        }
    }
}
