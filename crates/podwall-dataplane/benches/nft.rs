//! What does it cost to load a large node, and to change one entry of it?
//!
//! 100,000 peers and 20,000 verdicts, 150 local pods, in a network namespace of its own (root).
#![expect(clippy::expect_used, reason = "a bench that cannot go on stops")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use criterion::{Criterion, criterion_group, criterion_main};
use nix::sched::{CloneFlags, unshare};
use podwall_compile::tables::{
    Delta, GroupId, NodeTables, Peer, PeerId, PeerKey, PortKey, SubjectId, Verdict, VerdictKey,
};
use podwall_dataplane::{Choice, Config, DataPlane, ebpf};
use podwall_policy::address::AddressRange;
use podwall_policy::policy::Direction;
use podwall_policy::port::{PortRange, Protocol};

fn address(net: u8, index: u32) -> IpAddr {
    Ipv4Addr::from(u32::from_be_bytes([net, 0, 0, 0]) + index).into()
}

fn pod(own: u32) -> Peer {
    Peer { own: PeerId(own), group: GroupId(1) }
}

fn own(class: u32) -> PeerKey {
    PeerKey::Own(PeerId(class))
}

fn large() -> NodeTables {
    let mut tables = NodeTables::default();
    for index in 0..100_000 {
        tables.peers.insert(address(10, index), pod(1 + index % 997));
    }
    for index in 0..150 {
        for direction in Direction::BOTH {
            tables.subjects.insert((direction, address(10, index)), SubjectId(1 + index % 40));
        }
    }
    for index in 0..20_000u32 {
        let (subject, peer) = (SubjectId(1 + index % 40), own(1 + index / 40));
        let ports = match index % 20 {
            0 => PortKey::Range(Protocol::TCP, PortRange { first: 8000, last: 8999 }),
            1 => PortKey::AnyPort(Protocol::UDP),
            2 => PortKey::AnyProtocol,
            _ => PortKey::Port(Protocol::TCP, 80),
        };
        let verdict = Verdict { allow: true, rule: None };
        tables.verdicts.insert(VerdictKey { subject, peer, ports }, verdict);
    }
    for index in 0..1000 {
        let first = u128::from(u32::from_be_bytes([172, 16, 0, 0]) + index * 512);
        let range =
            AddressRange::from_bits(podwall_policy::address::Family::V4, first, first + 255);
        tables.blocks.extend(range.map(|range| (range, PeerId(1000 + index % 9))));
    }
    tables
}

fn bench(c: &mut Criterion) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    let tables = large();
    for choice in [Choice::Nftables, Choice::Ebpf] {
        let pins = PathBuf::from(format!("/sys/fs/bpf/podwall-bench-{}", std::process::id()));
        let open = || {
            let config = ebpf::Config { pins: pins.clone(), ..ebpf::Config::default() };
            choice.open(config, Config::default()).expect("a data plane").plane
        };
        bench_plane(c, choice, &tables, &open);
        open().remove().expect("remove");
    }
}

fn bench_plane(
    c: &mut Criterion,
    choice: Choice,
    tables: &NodeTables,
    open: &dyn Fn() -> Box<dyn DataPlane>,
) {
    let mut plane = open();
    let mut group = c.benchmark_group(format!("{choice}, 100,000 peers, 20,000 verdicts"));
    group.sample_size(20);
    group.bench_function("load into an empty kernel", |b| {
        b.iter_batched(
            || {
                open().remove().expect("remove");
                open()
            },
            |mut fresh| fresh.replace(tables).expect("replace"),
            criterion::BatchSize::PerIteration,
        );
    });
    group.bench_function("take over, all the same", |b| {
        b.iter(|| plane.replace(black_box(tables)).expect("replace"));
    });
    group.bench_function("verify", |b| {
        b.iter(|| plane.verify(black_box(tables)).expect("verify"));
    });
    let mut class = 0;
    group.bench_function("one peer changes its class", |b| {
        b.iter(|| {
            class += 1;
            let peers = vec![(address(10, 77), Some(pod(class % 2 + 1)))];
            plane.update(&Delta { peers, ..Delta::default() }).expect("update");
        });
    });
    group.bench_function("one verdict comes and goes", |b| {
        let ports = PortKey::Port(Protocol::TCP, 9);
        let key = VerdictKey { subject: SubjectId(1), peer: own(7), ports };
        b.iter(|| {
            for verdict in [Some(Verdict { allow: true, rule: None }), None] {
                let verdicts = vec![(key, verdict)];
                plane.update(&Delta { verdicts, ..Delta::default() }).expect("update");
            }
        });
    });
    group.bench_function("one range of addresses comes and goes", |b| {
        let range = AddressRange::one(address(192, 5));
        b.iter(|| {
            let blocks_added = vec![(range, PeerId(3))];
            plane.update(&Delta { blocks_added, ..Delta::default() }).expect("update");
            let blocks_removed = vec![range];
            plane.update(&Delta { blocks_removed, ..Delta::default() }).expect("update");
        });
    });
    group.bench_function("one range of ports comes and goes", |b| {
        let ports = PortKey::Range(Protocol::TCP, PortRange { first: 1, last: 9 });
        let key = VerdictKey { subject: SubjectId(1), peer: own(7), ports };
        b.iter(|| {
            for verdict in [Some(Verdict { allow: true, rule: None }), None] {
                let verdicts = vec![(key, verdict)];
                plane.update(&Delta { verdicts, ..Delta::default() }).expect("update");
            }
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
