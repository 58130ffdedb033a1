//! Do IPv6 and dual-stack clusters get the verdicts that IPv4 clusters get?
//!
//! ```text
//!   conformance case ─┬─ every address a.b.c.d becomes fd00::a.b.c.d, every block likewise ─▶ same grids
//!                     ├─ pods have both, blocks are doubled ──▶ same grids in both families
//!                     └─ pods have both, blocks stay IPv4 ────▶ in IPv6 they match nobody
//! ```

#[cfg(test)]
mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podwall_policy::address::{Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Verdict, evaluate};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::{Peer, Policy};
use support::conformance::{Step, steps};
use support::{block, mk_net};

/// fd00:: with the IPv4 address in the low 32 bits.
fn six(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv6Addr::from_bits((0xfd00 << 112) | u128::from(v4.to_bits())).into(),
        v6 @ IpAddr::V6(_) => v6,
    }
}

/// The block of exactly the mapped addresses.
fn six_net(net: &IpNet) -> IpNet {
    mk_net(&format!("{}/{}", six(net.addr()), 96 + net.prefix_len()))
}

fn six_peer(peer: &Peer) -> Peer {
    match peer {
        Peer::Block(block) => {
            Peer::Block(IpBlock::new(six_net(&block.cidr), block.except.iter().map(six_net)))
        }
        pods @ Peer::Pods(_) => pods.clone(),
    }
}

/// The step's cluster with each pod's addresses and each rule's peers rewritten.
fn rewrite(
    step: &Step,
    ips: impl Fn(IpAddr) -> Vec<IpAddr>,
    peers: impl Fn(&Peer) -> Vec<Peer>,
) -> Cluster {
    let mut cluster = step.cluster.clone();
    for pod in cluster.pods.values_mut() {
        pod.ips = pod.ips.iter().flat_map(|ip| ips(*ip)).collect();
    }
    for policy in cluster.policies.values_mut() {
        let Policy { ingress, egress, .. } = policy;
        for rule in [ingress, egress].into_iter().flatten().flatten() {
            rule.peers = rule.peers.iter().flat_map(&peers).collect();
        }
    }
    cluster
}

/// Evaluates every cell in one family and gives the grid of each port.
fn grids(step: &Step, cluster: &Cluster, family: Family) -> Vec<Vec<Vec<bool>>> {
    let pods: Vec<&Pod> = step.pods.iter().map(|name| &cluster.pods[name]).collect();
    let mut grids = vec![vec![vec![false; pods.len()]; pods.len()]; step.expected.len()];
    for (i, src) in pods.iter().enumerate() {
        for (j, dst) in pods.iter().enumerate() {
            // As in the grids, a pod's way to itself is that to a twin.
            let twin =
                Pod { name: Name::new(dst.name.namespace.clone(), "twin"), ..(*dst).clone() };
            let dst = Party::Pod(if i == j { &twin } else { dst });
            let src = Party::Pod(src);
            assert!(Flow::between(src, dst).iter().any(|flow| flow.family == family));
            let evaluation = evaluate(cluster, &Flow { src, dst, family });
            for (grid, e) in grids.iter_mut().zip(&step.expected) {
                let verdict = evaluation.verdict(e.protocol, e.port);
                assert_ne!(verdict, Verdict::Unknown, "{}: everything is known", step.title);
                grid[i][j] = verdict == Verdict::Allowed;
            }
        }
    }
    grids
}

fn expected(step: &Step) -> Vec<Vec<Vec<bool>>> {
    step.expected.iter().map(|e| e.combined.clone()).collect()
}

fn blocks(step: &Step) -> usize {
    let rules = step.cluster.policies.values().flat_map(|p| [&p.ingress, &p.egress]);
    let peers = rules.flatten().flatten().flat_map(|rule| &rule.peers);
    peers.filter(|peer| matches!(peer, Peer::Block(_))).count()
}

#[test]
fn an_ipv6_cluster_has_the_verdicts_of_its_ipv4_twin() {
    let Some(steps) = steps() else { return };
    for step in &steps {
        let cluster = rewrite(step, |ip| vec![six(ip)], |peer| vec![six_peer(peer)]);
        assert_eq!(grids(step, &cluster, Family::V6), expected(step), "{}", step.title);
    }
}

#[test]
fn a_dual_stack_cluster_has_them_in_both_families() {
    let Some(steps) = steps() else { return };
    for step in &steps {
        let both = |peer: &Peer| match peer {
            Peer::Block(_) => vec![peer.clone(), six_peer(peer)],
            Peer::Pods(_) => vec![peer.clone()],
        };
        let cluster = rewrite(step, |ip| vec![ip, six(ip)], both);
        for family in Family::BOTH {
            assert_eq!(grids(step, &cluster, family), expected(step), "{} {family}", step.title);
        }
    }
}

#[test]
fn an_ipv4_block_matches_nobody_in_ipv6() {
    let Some(steps) = steps() else { return };
    let mut differ = 0;
    for step in &steps {
        let cluster = rewrite(step, |ip| vec![six(ip), ip], |peer| vec![peer.clone()]);
        assert_eq!(grids(step, &cluster, Family::V4), expected(step), "{}", step.title);
        let in_v6 = grids(step, &cluster, Family::V6);
        if blocks(step) == 0 {
            assert_eq!(in_v6, expected(step), "{}", step.title);
            continue;
        }
        // The same as if the block were one that holds no pod.
        let nobody = |peer: &Peer| match peer {
            Peer::Block(_) => vec![block("192.0.2.0/32", &[])],
            Peer::Pods(_) => vec![peer.clone()],
        };
        let without = rewrite(step, |ip| vec![ip], nobody);
        assert_eq!(in_v6, grids(step, &without, Family::V4), "{}", step.title);
        differ += usize::from(in_v6 != expected(step));
    }
    assert!(differ > 5, "blocks made a difference in {differ} steps only");
}

#[test]
fn the_mapping_keeps_the_bits() {
    assert_eq!(six(Ipv4Addr::new(10, 244, 1, 5).into()).to_string(), "fd00::af4:105");
    assert_eq!(six_net(&mk_net("10.244.3.0/24")).to_string(), "fd00::af4:300/120");
    assert_eq!(six_net(&mk_net("0.0.0.0/0")).to_string(), "fd00::/96");
}
