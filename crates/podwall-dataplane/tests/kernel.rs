//! Is the kernel's state what it should be: after changes, beside others' tables, after failures,
//! in the hands of a second process, for nft(8), and without root?

#![allow(clippy::unwrap_used, reason = "a helper of tests stops the test")]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use podwall_compile::tables::{
    Delta, GroupId, NetId, NodeTables, PeerId, PeerKey, PortKey, SubjectId, Verdict, VerdictKey,
};
use podwall_dataplane::{Config, DataPlane, Drift, Error, Log, Nftables};
use podwall_policy::address::{AddressRange, AddressSet, Family};
use podwall_policy::policy::Direction;
use podwall_policy::port::{PortRange, Protocol};
use support::random::{Dice, addresses, ip, own, pod, some_tables, tables};
use support::{Kind, Net};

#[test]
fn after_every_change_the_kernel_holds_what_the_model_says() {
    if support::skipped() {
        return;
    }
    let missing = |entry: &str| Drift::Missing { entry: entry.to_owned() };
    for (kind, drift) in [
        (Kind::Nftables, vec![missing("element 203.0.113.9 : class 9, group 1 of peer4")]),
        (Kind::Ebpf, [0, 1].map(|n| missing(&format!("addresses4 cb007109 (copy {n})"))).to_vec()),
    ] {
        let net = Net::new();
        let mut plane = net.plane(kind);
        let (local, all) = addresses();
        let mut dice = Dice(77);
        let mut now = NodeTables::default();
        plane.replace(&now).unwrap();
        for round in 0..400 {
            let next = tables(&mut dice, &local, &all);
            if round % 20 == 19 {
                plane.replace(&next).unwrap();
            } else {
                plane.update(&Delta::between(&now, &next)).unwrap();
            }
            now = next;
            assert_eq!(plane.verify(&now).unwrap(), [], "{kind:?}, round {round}");
            assert_eq!(plane.glance(&now).unwrap(), [], "{kind:?}, round {round}");
            let mut other = now.clone();
            other.peers.insert(ip("203.0.113.9"), pod(9));
            assert_eq!(plane.verify(&other).unwrap(), drift);
            // Few enough that a glance looks at all of them.
            assert_ne!(plane.glance(&other).unwrap(), [], "{kind:?}, round {round}");
        }
    }
}

#[test]
fn a_second_process_takes_over_what_the_first_left() {
    if support::skipped() {
        return;
    }
    let net = Net::new();
    for (seed, kind) in (1..30).flat_map(|seed| Kind::BOTH.map(|kind| (seed, kind))) {
        let (before, after) = (some_tables(seed), some_tables(seed + 100));
        net.plane(kind).replace(&before).unwrap();
        let mut second = net.plane(kind);
        assert!(matches!(second.update(&Delta::default()), Err(Error::NotLoaded)));
        second.replace(&after).unwrap();
        assert_eq!(second.verify(&after).unwrap(), []);
    }
}

#[test]
fn other_layouts_and_broken_tables_are_made_anew() {
    if support::skipped() {
        return;
    }
    let net = Net::new();
    let tables = some_tables(5);
    let damages = [
        "delete table inet podwall\n",
        "delete table inet podwall\ntable inet podwall { comment \"podwall layout 0\"; }\n",
        "delete table inet podwall\ntable inet podwall { comment \"podwall layout 0\"
            map peer4 { type ipv4_addr : verdict; }
            chain x { type filter hook input priority 0; policy drop; }
            }\n",
        "flush chain inet podwall egress_denied\n",
        "flush chain inet podwall ingress_rows\n",
        "insert rule inet podwall postrouting_rows accept\n",
        "table inet podwall { flags dormant; }\n",
        "flush map inet podwall peer4\n",
        "flush map inet podwall block6\n",
        "add element inet podwall peer4 { 198.51.100.1 : 0x1 . 0x7 . 0x40000001 }\n",
        "add element inet podwall self4 { 198.51.100.1 . 198.51.100.2 }\n",
        "add element inet podwall by_peer { 0x1 . 0x63 : drop }\n",
    ];
    for damage in damages {
        let mut plane = net.nftables();
        plane.replace(&tables).unwrap();
        net.nft(damage);
        let drift = plane.verify(&tables).unwrap();
        assert_ne!(drift, [], "{damage}");
        // Entries that nobody asks for are for those who list whole sets.
        let unseen = damage.contains("block6") || damage.starts_with("add element");
        assert_eq!(plane.glance(&tables).unwrap().is_empty(), unseen, "{damage}");
        plane.replace(&tables).unwrap();
        assert_eq!(plane.verify(&tables).unwrap(), [], "{damage}");
    }
}

#[test]
fn an_update_over_damage_puts_the_whole_right() {
    if support::skipped() {
        return;
    }
    let net = Net::new();
    let mut plane = net.nftables();
    let (before, after) = (some_tables(5), some_tables(6));
    for damage in ["flush map inet podwall peer4\n", "delete table inet podwall\n"] {
        plane.replace(&before).unwrap();
        net.nft(damage);
        plane.update(&Delta::between(&before, &after)).unwrap();
        assert_eq!(plane.verify(&after).unwrap(), []);
    }
}

#[test]
fn foreign_tables_stay_untouched() {
    if support::skipped() {
        return;
    }
    let net = Net::new();
    let foreign = "table inet other {
        set s { type ipv4_addr; elements = { 1.2.3.4 }; }
        chain c { type filter hook postrouting priority 95; policy accept; counter accept; }
        }
        table ip podwall {
        chain c { accept; }
        }\n";
    net.nft(foreign);
    let list = |table: &str| net.command("nft", &["list", "table", "inet", table]);
    let before = list("other");
    let mut plane = net.nftables();
    plane.replace(&some_tables(3)).unwrap();
    plane.replace(&some_tables(4)).unwrap();
    plane.remove().unwrap();
    plane.remove().unwrap();
    assert_eq!(list("other"), before);
    assert_eq!(net.command("nft", &["list", "tables"]), "table inet other\ntable ip podwall\n");
    let named = Config { table: "other".into(), ..Config::default() };
    let mut plane = net.run(|| Nftables::open(named).unwrap());
    for result in [plane.replace(&some_tables(3)), plane.remove()] {
        assert!(
            matches!(&result, Err(Error::Foreign { table, .. }) if table == "other"),
            "{result:?}"
        );
    }
    assert!(plane.verify(&some_tables(3)).is_err());
    assert_eq!(list("other"), before);
}

#[test]
fn a_refused_element_is_named_and_leaves_the_old_state() {
    if support::skipped() {
        return;
    }
    let net = Net::new();
    let mut plane = net.nftables();
    let mut tables = some_tables(8);
    tables.blocks.clear();
    let block = |first: u128, last: u128| {
        let base = u128::from(u32::from_be_bytes([198, 51, 100, 0]));
        AddressRange::from_bits(Family::V4, base + first, base + last).unwrap()
    };
    tables.blocks.insert(block(0, 9), PeerId(1));
    plane.replace(&tables).unwrap();
    let mut peers = vec![(ip("10.9.9.9"), Some(pod(4)))];
    peers.extend(
        (0..3000u32)
            .map(|i| (ip("11.0.0.0"), i))
            .map(|(_, i)| (IpAddr::from(Ipv4Addr::from(0x0b00_0000 + i)), Some(pod(3)))),
    );
    // Overlaps what is there, which the contract rules out.
    let blocks_added = vec![(block(20, 30), PeerId(2)), (block(5, 15), PeerId(2))];
    let error = plane.update(&Delta { peers, blocks_added, ..Delta::default() }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("element 198.51.100.5-198.51.100.15 : class 2 of block4"), "{text}");
    assert_eq!(plane.verify(&tables).unwrap(), []);
    plane.update(&Delta::default()).unwrap();
}

#[test]
fn nft_prints_the_table_in_both_families() {
    if support::skipped() {
        return;
    }
    let net = Net::new();
    let log = Some(Log { group: 7, per_second: 100, burst: 200 });
    let config = Config { log, ..Config::default() };
    let mut plane = net.run(|| Nftables::open(config).unwrap());
    plane.replace(&full_tables()).unwrap();
    support::settle(&mut plane);
    // `command` fails the test on any word to stderr.
    let text = net.command("nft", &["list", "ruleset"]);
    assert!(net.command("nft", &["-j", "list", "ruleset"]).contains("by_protocol"));
    for part in [
        "comment \"podwall layout 6",
        "10.0.0.5 : 0x00000001 . 0x00000001",
        "elements = { confirmed }",
        "@standing",
        "fd00::5 : 0x00000001 . 0x00000001",
        "0x00000001 . 0x00000002 . tcp . 80 counter packets 0 bytes 0 : return",
        " . sctp . 8000-8999 counter packets 0 bytes 0 : break",
        "elements = { 0x00000001 counter packets 0 bytes 0, 0x00000002 counter",
        "10.0.0.5 . 10.0.0.5",
        "192.0.2.0/24 : ",
        "10.0.0.6 : 0x00000001 . 0x00000002 . 0x40000001",
        "ip saddr . ip daddr . meta l4proto . th dport vmap @by_port ip saddr . ",
        "ip saddr . ip daddr @self4 return comment \"a pod reaches itself\"",
        "limit rate 100/second burst 200 packets log prefix \"podwall egress \" group 7",
        "10.0.0.6 : 0x00000000 . 0xffffffff",
        "ip saddr 10.0.0.0/24 ip saddr . ip saddr != @self4 goto egress_stranger",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    if std::env::var_os("SHOW").is_some() {
        println!("{text}");
    }
}

/// One entry of every kind.
fn full_tables() -> NodeTables {
    let mut tables = NodeTables::default();
    for address in ["10.0.0.5", "fd00::5"].map(ip) {
        tables.subjects.insert((Direction::Egress, address), SubjectId(1));
        tables.subjects.insert((Direction::Ingress, address), SubjectId(2));
    }
    for net in ["10.0.0.0/24", "fd00::/64"] {
        let net: ipnet::IpNet = net.parse().unwrap();
        tables.pod_ranges = tables.pod_ranges.union(&AddressSet::from(net));
    }
    for address in ["10.0.0.6", "fd00::6"].map(ip) {
        tables.peers.insert(address, pod(2));
        for direction in Direction::BOTH {
            tables.subjects.insert((direction, address), SubjectId::OPEN);
        }
    }
    for (first, last) in [("192.0.2.0", "192.0.2.255"), ("2001:db8::", "2001:db8::ffff")] {
        let bits = |text| AddressRange::one(ip(text)).bits().0;
        let family = Family::of(ip(first));
        let range = AddressRange::from_bits(family, bits(first), bits(last)).unwrap();
        tables.blocks.insert(range, PeerId(3));
        tables.nets.insert(AddressRange::all(family), NetId(1));
    }
    let range = PortRange { first: 8000, last: 8999 };
    for (ports, allow) in [
        (PortKey::Port(Protocol::TCP, 80), true),
        (PortKey::Range(Protocol::SCTP, range), false),
        (PortKey::AnyPort(Protocol::UDP), true),
        (PortKey::AnyProtocol, true),
    ] {
        let group = PeerKey::Group(GroupId(1));
        for peer in [own(2), group, PeerKey::Net(NetId(1)), PeerKey::Any] {
            let key = VerdictKey { subject: SubjectId(1), peer, ports };
            tables.verdicts.insert(key, Verdict { allow, rule: None });
        }
    }
    tables
}

#[test]
fn the_ruleset_reads_well() {
    let log = Some(Log { group: 7, per_second: 100, burst: 200 });
    let plane = Nftables::open(Config { log, ..Config::default() }).unwrap();
    insta::assert_snapshot!("ruleset_full", plane.text(&full_tables()));
    insta::assert_snapshot!("ruleset_empty", plane.text(&NodeTables::default()));
}

#[test]
fn configurations_that_cannot_be_are_refused_in_words() {
    for table in ["", "1a", "a b", "pod\"wall", &"x".repeat(65)] {
        let error =
            Nftables::open(Config { table: table.into(), ..Config::default() }).err().unwrap();
        assert!(error.to_string().contains("cannot be"), "{error}");
    }
    let log = Some(Log { group: 1, per_second: 0, burst: 1 });
    assert!(Nftables::open(Config { log, ..Config::default() }).is_err());
}

/// Runs in a user namespace of its own, started by the test below.
#[test]
#[ignore = "started by a_user_namespace_is_enough"]
fn inside_a_user_namespace() {
    if std::env::var_os("PODWALL_IN_USER_NAMESPACE").is_none() {
        return;
    }
    let mut plane = Nftables::open(Config::default()).unwrap();
    for seed in 1..20 {
        plane.replace(&some_tables(seed)).unwrap();
        let next = some_tables(seed + 50);
        plane.update(&Delta::between(&some_tables(seed), &next)).unwrap();
        assert_eq!(plane.verify(&next).unwrap(), []);
    }
    // More than a send buffer without rights holds.
    let mut large = full_tables();
    for index in 0..40_000u32 {
        large.peers.insert(Ipv4Addr::from(0x0b00_0000 + index).into(), pod(index));
    }
    plane.replace(&large).unwrap();
    assert_eq!(plane.verify(&large).unwrap(), []);
    let small = full_tables();
    plane.update(&Delta::between(&large, &small)).unwrap();
    assert_eq!(plane.verify(&small).unwrap(), []);
    plane.update(&Delta::between(&small, &large)).unwrap();
    assert_eq!(plane.verify(&large).unwrap(), []);
    println!("all done inside");
}

#[test]
fn a_user_namespace_is_enough() {
    let exe = std::env::current_exe().unwrap();
    let out = Command::new("unshare")
        .args(["-rn"])
        .arg(exe)
        .args(["--exact", "inside_a_user_namespace", "--ignored", "--nocapture"])
        .env("PODWALL_IN_USER_NAMESPACE", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    if errors.contains("unshare failed") {
        eprintln!("SKIPPED: user namespaces are not allowed here: {errors}");
        return;
    }
    assert!(out.status.success() && text.contains("all done inside"), "{text}{errors}");
}
