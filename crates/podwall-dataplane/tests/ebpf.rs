//! Is what eBPF holds what it should be: when tables grow, after damage, when pieces are missing?

#![allow(clippy::unwrap_used, reason = "a helper of tests stops the test")]

mod support;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use podwall_compile::tables::{Delta, NodeTables, PeerId, PortKey, SubjectId, Verdict, VerdictKey};
use podwall_dataplane::{DataPlane, Drift, Error};
use podwall_policy::address::AddressRange;
use podwall_policy::policy::Direction;
use podwall_policy::port::{PortRange, Protocol};
use support::Net;
use support::random::{own, pod, some_tables};

const ALLOW: Verdict = Verdict { allow: true, rule: None };

/// The directory of the one program that is pinned.
fn pinned(net: &Net) -> PathBuf {
    let mut programs = std::fs::read_dir(&net.pins).unwrap();
    let path = programs.next().unwrap().unwrap().path();
    assert!(programs.next().is_none(), "two programs");
    path
}

/// One copy of a table.
fn table(net: &Net, name: &str, copy: u32) -> MapHandle {
    let outer = MapHandle::from_pinned_path(pinned(net).join(name)).unwrap();
    let id = outer.lookup(&copy.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
    MapHandle::from_map_id(u32::from_ne_bytes(id.try_into().unwrap())).unwrap()
}

/// Also a regression test: entries were lost where a table was copied in several batches.
#[test]
fn tables_grow_with_their_content() {
    if support::skipped() {
        return;
    }
    let net = Net::new();
    let mut plane = net.ebpf();
    let mut now = NodeTables::default();
    plane.replace(&now).unwrap();
    for round in 0..6_u32 {
        let mut next = now.clone();
        for n in round * 1500..(round + 1) * 1500 {
            let v4 = Ipv4Addr::from_bits(0x0b00_0000 + n);
            let v6 = Ipv6Addr::from_bits((0xfd00_u128 << 112) + u128::from(n));
            next.peers.insert(v4.into(), pod(n));
            next.peers.insert(v6.into(), pod(n));
            next.subjects.insert((Direction::Ingress, v4.into()), SubjectId(n));
            next.subjects.insert((Direction::Egress, v6.into()), SubjectId(n));
            next.blocks.insert(
                AddressRange::one(Ipv4Addr::from_bits(0x1000_0000 + 2 * n).into()),
                PeerId(n),
            );
            let first = u16::try_from(n).unwrap();
            let range = PortRange { first, last: first + 100 };
            for ports in [PortKey::Port(Protocol::TCP, first), PortKey::Range(Protocol::UDP, range)]
            {
                let key = VerdictKey { subject: SubjectId(1), peer: own(n), ports };
                next.verdicts.insert(key, ALLOW);
            }
        }
        plane.update(&Delta::between(&now, &next)).unwrap();
        now = next;
        assert_eq!(plane.verify(&now).unwrap(), [], "round {round}");
    }
}

#[test]
fn damage_is_named_and_put_right() {
    if support::skipped() {
        return;
    }
    let net = Net::new();
    let mut plane = net.ebpf();
    let tables = some_tables(5);
    plane.replace(&tables).unwrap();
    // Buckets that hold an entry at least, of one copy of a table.
    let full = |name: &str, copy: u32| {
        let map = table(&net, name, copy);
        let value = |key: &Vec<u8>| map.lookup(key, MapFlags::ANY).unwrap().unwrap();
        let keys: Vec<_> = map.keys().filter(|key| value(key).iter().any(|b| *b != 0)).collect();
        (keys[0].clone(), value(&keys[0]), map)
    };
    let damages: [(&str, &dyn Fn()); 5] = [
        ("podwall-conntrack", &|| drop(net.nft("flush ruleset\n"))),
        ("addresses4", &|| {
            let (key, mut bucket, map) = full("addresses4", 0);
            bucket[12] ^= 1;
            map.update(&key, &bucket, MapFlags::ANY).unwrap();
        }),
        ("addresses6", &|| {
            let (key, bucket, map) = full("addresses6", 1);
            map.update(&key, &vec![0; bucket.len()], MapFlags::ANY).unwrap();
        }),
        // Still there, but where no search comes along.
        ("rows", &|| {
            let (key, bucket, map) = full("rows", 0);
            let far =
                (u32::from_ne_bytes(key.clone().try_into().unwrap()) + 20) % map.max_entries();
            map.update(&far.to_ne_bytes(), &bucket, MapFlags::ANY).unwrap();
            map.update(&key, &vec![0; bucket.len()], MapFlags::ANY).unwrap();
        }),
        ("link-2-4", &|| std::fs::remove_file(pinned(&net).join("link-2-4")).unwrap()),
    ];
    for (name, damage) in damages {
        damage();
        let drift = plane.verify(&tables).unwrap();
        let words = drift.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let whole = name.starts_with("link") && words.contains("is not there");
        assert!(words.contains(name) || whole, "{name}: {words}");
        // The process that had pinned it, and then one that has just started.
        plane.replace(&tables).unwrap();
        assert_eq!(plane.verify(&tables).unwrap(), [], "{name}");
        assert_eq!(plane.glance(&tables).unwrap(), [], "{name}");
        damage();
        // Rows are for those who read whole tables.
        assert_eq!(plane.glance(&tables).unwrap().is_empty(), name == "rows", "{name}");
        plane = net.ebpf();
        plane.replace(&tables).unwrap();
        assert_eq!(plane.verify(&tables).unwrap(), [], "{name}");
    }
}

#[test]
fn nothing_is_changed_before_a_full_load_and_nothing_stays_after_removal() {
    if support::skipped() {
        return;
    }
    let net = Net::new();
    let mut plane = net.ebpf();
    assert!(matches!(plane.update(&Delta::default()), Err(Error::NotLoaded)));
    let missing = plane.verify(&NodeTables::default()).unwrap();
    assert!(matches!(missing[..], [Drift::NotThere { .. }]), "{missing:?}");
    plane.replace(&some_tables(3)).unwrap();
    assert!(pinned(&net).join("link-10-1").exists());
    plane.remove().unwrap();
    assert!(!net.pins.exists());
    plane.remove().unwrap();
    plane.replace(&some_tables(4)).unwrap();
    assert_eq!(plane.verify(&some_tables(4)).unwrap(), []);
}
