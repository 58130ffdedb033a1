//! How long do compilation, changes and lookups take in a large cluster?

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use podwall_compile::compiler::{NodeCompiler, compile};
use podwall_compile::tables::{Packet, PeerId};
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::realistic::{self, NODE, Shape};
use podwall_policy::address::IpBlock;
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Pod;
use podwall_policy::policy::{NamespaceScope, Peer, PodScope, Policy, Rule};
use podwall_policy::port::Protocol;
use podwall_policy::selector::Selector;

fn compiled(cluster: &Cluster) -> NodeCompiler {
    let mut compiler = NodeCompiler::new(Some(NODE.into()));
    compiler.put_cluster(cluster);
    compiler.commit();
    compiler
}

/// Resident memory of this process in MiB, 0 where the kernel does not say.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kilobytes.unwrap_or(0) / 1024
}

/// Policies that each change a compiler in another way, and what they are called.
fn policies(cluster: &Cluster) -> Vec<(&'static str, Policy)> {
    let mut small = cluster.policies.values().next().cloned().unwrap_or_else(|| policy(Vec::new()));
    small.name.name = "one-more".into();
    let everybody = PodScope {
        namespaces: NamespaceScope::Matching(Selector::everything()),
        pods: Selector::everything(),
    };
    let team = PodScope {
        namespaces: NamespaceScope::Matching(Selector::labels([("team", "t3")])),
        pods: Selector::everything(),
    };
    let any: Vec<Peer> =
        "0.0.0.0/0".parse().into_iter().map(|cidr| Peer::Block(IpBlock::new(cidr, []))).collect();
    vec![
        ("small policy", small),
        ("policy for all pods", policy(vec![Peer::Pods(everybody)])),
        ("policy for a team's namespaces", policy(vec![Peer::Pods(team)])),
        ("policy for 0.0.0.0/0", policy(any)),
        ("policy for anybody", policy(Vec::new())),
    ]
}

fn policy(peers: Vec<Peer>) -> Policy {
    let mut policy = Policy::network_policy("ns-1", "one-more", Selector::everything());
    policy.ingress = Some(vec![Rule::allow(peers, Vec::new())]);
    policy
}

fn benches(c: &mut Criterion) {
    let cluster = realistic::cluster(&Shape::LARGE);
    let before = resident();
    let mut compiler = compiled(&cluster);
    println!("compiler holds about {} MiB; {:#?}", resident() - before, compiler.stats());

    let mut slow = c.benchmark_group("full");
    slow.sample_size(10);
    slow.bench_function("compile", |b| b.iter_with_large_drop(|| compile(&cluster, Some(NODE))));
    slow.finish();

    let peers: Vec<&Pod> = cluster
        .pods
        .values()
        .filter(|pod| pod.node.as_deref() != Some(NODE))
        .filter(|pod| pod.ips.iter().all(|ip| compiler.tables().peer(*ip).own != PeerId::OTHER))
        .collect();
    let local: Vec<&Pod> =
        cluster.pods.values().filter(|pod| pod.node.as_deref() == Some(NODE)).collect();
    let mut change = c.benchmark_group("change and back");
    for (name, pods, label) in
        [("label of a peer pod", &peers, "id"), ("label of a local pod", &local, "half-3")]
    {
        let mut next = pods.iter().cycle();
        change.bench_function(name, |b| {
            b.iter(|| {
                let Some(pod) = next.next() else { return };
                let mut changed = (*pod).clone();
                changed.labels = changed.labels.without(label);
                compiler.put_pod(&changed);
                black_box(compiler.commit());
                compiler.put_pod(pod);
                black_box(compiler.commit());
            });
        });
    }
    let mut next = peers.iter().cycle();
    change.bench_function("peer pod", |b| {
        b.iter(|| {
            let Some(pod) = next.next() else { return };
            compiler.remove_pod(&pod.name);
            black_box(compiler.commit());
            compiler.put_pod(pod);
            black_box(compiler.commit());
        });
    });
    for (name, policy) in policies(&cluster) {
        change.bench_function(name, |b| {
            b.iter(|| {
                compiler.put_policy(policy.clone());
                black_box(compiler.commit());
                compiler.remove_policy(policy.tier, &policy.name);
                black_box(compiler.commit());
            });
        });
    }
    change.finish();

    let tables = compiler.tables();
    let mut dice = Dice::seeded(7);
    let remote: Vec<IpAddr> = peers.iter().flat_map(|pod| pod.ips.iter().copied()).collect();
    c.bench_function("decide", |b| {
        b.iter_batched_ref(
            || Packet {
                src: *dice.pick(&remote),
                dst: dice.pick(&local).ips.first().copied().unwrap_or(remote[0]),
                protocol: Protocol::TCP,
                port: u16::try_from(dice.below(20_000)).unwrap_or_default(),
                from_node: false,
                to_node: false,
            },
            |packet| tables.decide(packet),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(all, benches);
criterion_main!(all);
