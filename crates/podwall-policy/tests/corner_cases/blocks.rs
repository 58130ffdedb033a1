//! Cases 25 to 30: addresses in ipBlocks.

use podwall_policy::address::{Family, IpBlock};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::evaluate;
use podwall_policy::flow::Flow;
use podwall_policy::policy::{Peer, Rule};

use crate::support::*;
use crate::{mk_cluster, no, yes};

/// demo/web, and demo/in and demo/hole whose addresses lie in 10.1.0.0/16 and 10.1.5.0/24.
fn pods() -> Cluster {
    mk_cluster![
        mk_node("n1", &["192.168.0.1", "fd00:aaaa::1"]),
        mk_node("n2", &["192.168.0.2"]),
        mk_pod("demo/web", "app=web", &["10.9.0.1"]),
        mk_pod("demo/in", "app=in", &["10.1.0.1"]).on("n2"),
        mk_pod("demo/hole", "app=hole", &["10.1.5.1"]).on("n2"),
    ]
}

/// The web pod may reach these peers.
fn to(rules: impl Into<Vec<Rule>>) -> Cluster {
    with(&pods(), mk_policy("demo/p", "app=web").egress(rules))
}

fn peers(peers: impl Into<Vec<Peer>>) -> Rule {
    mk_rule(peers, [])
}

#[test]
fn case_25_an_exception_is_a_hole_in_its_own_block_only() {
    let hole = || block("10.1.0.0/16", &["10.1.5.0/24"]);
    let alone = to([peers([hole()])]);
    yes!(alone; "demo/web" -> "demo/in" tcp(80), "demo/web" -> "10.1.4.255" tcp(80),
        "demo/web" -> "10.1.6.0" tcp(80), "demo/web" -> "10.1.255.255" tcp(80));
    no!(alone; "demo/web" -> "demo/hole" tcp(80), "demo/web" -> "10.1.5.0" tcp(80),
        "demo/web" -> "10.1.5.255" tcp(80), "demo/web" -> "10.2.0.0" tcp(80));
    // Another peer, another rule and another policy may still allow what is excepted.
    let small = || block("10.1.5.0/30", &[]);
    let by_peer = to([peers([hole(), small()])]);
    let by_rule = to([peers([hole()]), peers([own("demo", "app=hole")])]);
    let by_policy = with(&alone, mk_policy("demo/q", "app=web").egress([peers([small()])]));
    for cluster in [by_peer, by_rule, by_policy] {
        yes!(cluster; "demo/web" -> "demo/hole" tcp(80), "demo/web" -> "demo/in" tcp(80));
        no!(cluster; "demo/web" -> "10.1.5.99" tcp(80));
    }
    // Two blocks of a rule, the exception of one being the other's range.
    let crossed = to([peers([block("10.1.5.0/24", &["10.1.5.0/25"]), hole()])]);
    no!(crossed; "demo/web" -> "10.1.5.1" tcp(80));
    yes!(crossed; "demo/web" -> "10.1.5.200" tcp(80));
    // The ports go with the block.
    let with_port =
        to([mk_rule([hole()], [port(tcp(0).0, 80)]), mk_rule([small()], [port(tcp(0).0, 81)])]);
    yes!(with_port; "demo/web" -> "demo/hole" tcp(81));
    no!(with_port; "demo/web" -> "demo/hole" tcp(80), "demo/web" -> "demo/in" tcp(81));
}

#[test]
fn case_26_a_block_covers_pods_and_nodes() {
    let cluster = to([peers([block("10.1.0.0/16", &[]), block("192.168.0.2/32", &[])])]);
    yes!(cluster; "demo/web" -> "demo/in" tcp(80), "demo/web" -> "node/n2" tcp(80),
        "demo/web" -> "192.168.0.2" tcp(80));
    no!(cluster; "demo/web" -> "node/n1" tcp(80));
    // The other way round: pods and nodes as sources.
    let policy = mk_policy("demo/p", "app=in").ingress([peers([block("10.9.0.0/24", &[])])]);
    let cluster = with(&pods(), policy);
    yes!(cluster; "demo/web" -> "demo/in" tcp(80));
    no!(cluster; "demo/hole" -> "demo/in" tcp(80), "node/n1" -> "demo/in" tcp(80));
}

#[test]
fn case_28_blocks_are_canonical_whatever_the_object_says() {
    let host_bits = to([peers([block("10.161.0.0/8", &["10.1.5.77/24"])])]);
    yes!(host_bits; "demo/web" -> "demo/in" tcp(80), "demo/web" -> "10.0.0.1" tcp(80));
    no!(host_bits; "demo/web" -> "demo/hole" tcp(80), "demo/web" -> "11.0.0.1" tcp(80));
    assert_eq!(
        IpBlock::new(mk_net("10.161.0.0/8"), []),
        IpBlock::new(mk_net("10.0.0.0/8"), []),
        "two spellings of a block are one block"
    );
    // Old objects may write IPv4 as IPv6.
    let mapped = to([peers([block("::ffff:10.1.0.0/112", &["::ffff:10.1.5.0/120"])])]);
    yes!(mapped; "demo/web" -> "demo/in" tcp(80));
    no!(mapped; "demo/web" -> "demo/hole" tcp(80), "demo/web" -> "10.2.0.1" tcp(80));
    let wide = IpBlock::new(mk_net("::/0"), []);
    assert_eq!(wide.cidr, mk_net("::/0"), "a block that is wider than IPv4 stays IPv6");
}

#[test]
fn case_29_a_block_of_the_other_family_does_not_match_and_does_no_harm() {
    let v6_only = to([peers([block("fd00::/8", &[]), block("::/0", &[])])]);
    no!(v6_only; "demo/web" -> "demo/in" tcp(80), "demo/web" -> "198.51.100.9" tcp(80));
    let both = to([peers([block("::/0", &[]), block("10.1.0.0/16", &["fd00::/8"])])]);
    yes!(both; "demo/web" -> "demo/in" tcp(80));
    let why =
        why(&v6_only, "demo/web", "demo/in", podwall_policy::policy::Direction::Egress, tcp(80));
    assert!(why.undecided.is_empty() && why.near_misses.len() == 1);
}

#[test]
fn case_30_the_whole_of_ipv4_is_not_anybody() {
    let dual = mk_pod("demo/web", "app=web", &["10.9.0.1", "fd00:9::1"]);
    let dual_in = mk_pod("demo/in", "app=in", &["10.1.0.1", "fd00:1::1"]);
    let dual_of = |cluster: &Cluster| with(&with(cluster, dual.clone()), dual_in.clone());
    let of = |cluster: &Cluster, family| {
        let (src, dst) = (party(cluster, "demo/web"), party(cluster, "demo/in"));
        assert_eq!(Flow::between(src, dst).len(), 2);
        evaluate(cluster, &Flow { src, dst, family }).allowed().is_everything()
    };
    let v4 = dual_of(&to([peers([block("0.0.0.0/0", &[])])]));
    assert_eq!([of(&v4, Family::V4), of(&v4, Family::V6)], [true, false]);
    no!(v4; "demo/web" -> "2001:db8::1" tcp(443));
    yes!(v4; "demo/web" -> "198.51.100.9" tcp(443));
    let v6 = dual_of(&to([peers([block("::/0", &[])])]));
    assert_eq!([of(&v6, Family::V4), of(&v6, Family::V6)], [false, true]);
    let anybody = dual_of(&to([peers([])]));
    assert_eq!([of(&anybody, Family::V4), of(&anybody, Family::V6)], [true, true]);
    yes!(anybody; "demo/web" -> "2001:db8::1" tcp(443), "demo/web" -> "198.51.100.9" tcp(443));
}
