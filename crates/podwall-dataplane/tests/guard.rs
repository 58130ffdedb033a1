//! Can a pod use an address that is not its own?

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests stops the test")]

mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podwall_dataplane::guard::{Allowed, Config, Guard, Interface};
use support::frames::*;
use support::hub::{Hub, MAC, OWN};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own() -> Allowed {
    Allowed { addresses: OWN.map(ip).to_vec(), mac: Some(MAC) }
}

fn guard(net: &support::Net) -> Guard {
    net.run(|| Guard::open(Config::default()).unwrap())
}

/// A guard of the pod's interface.
fn guarded(hub: &Hub, allowed: &Allowed) -> Guard {
    let mut guard = guard(&hub.node);
    guard.add(&interface(hub, "v1"), allowed).unwrap();
    guard
}

fn interface(hub: &Hub, name: &str) -> Interface {
    Interface { index: hub.index(name), name: name.to_owned() }
}

#[test]
fn smoke() {
    if support::skipped() {
        return;
    }
    let mut hub = Hub::new();
    assert!(hub.comes(&support::hub::fence()));
    let mut guard = guarded(&hub, &own());
    println!("{}", hub.node.command("nft", &["list", "table", "netdev", "podwall_guard"]));
    println!("{}", guard.text());
    assert!(hub.comes(&support::hub::fence()));
    let forged = ether(BROADCAST, MAC, IP4, &udp(ip("10.0.0.12"), ip("198.18.0.2"), (9, 9), &[]));
    assert!(!hub.comes(&forged));
    println!("{:?} {:?}", guard.dropped(), guard.verify());
    hub.node.run(|| Guard::check()).unwrap();
}
