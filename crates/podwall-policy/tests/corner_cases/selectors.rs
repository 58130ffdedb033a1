//! Cases 9 to 14: what selectors select, in subjects and in peers.

use podwall_policy::cluster::Cluster;
use podwall_policy::policy::Policy;
use podwall_policy::selector::{Operator, Selector};

use crate::support::*;
use crate::{mk_cluster, no, unknown, yes};

/// Pods a (app=a) and b (app=b, tier=back) in each of the namespaces x (env=dev), y (env=prod) and
/// z (no labels), on 10.N.0.1 and 10.N.0.2.
fn grid() -> Cluster {
    let mut cluster = mk_cluster![
        mk_namespace("x", "env=dev"),
        mk_namespace("y", "env=prod"),
        mk_namespace("z", ""),
    ];
    for (n, namespace) in ["x", "y", "z"].into_iter().enumerate() {
        let ip = |i: u8| format!("10.{}.0.{i}", n + 1);
        cluster.put_pod(mk_pod(&format!("{namespace}/a"), "app=a", &[&ip(1)]));
        cluster.put_pod(mk_pod(&format!("{namespace}/b"), "app=b,tier=back", &[&ip(2)]));
    }
    cluster
}

fn grid_with(policy: Policy) -> Cluster {
    with(&grid(), policy)
}

/// x/a lets in these peers.
fn x_a_from(peers: impl Into<Vec<podwall_policy::policy::Peer>>) -> Cluster {
    grid_with(mk_policy("x/p", "app=a").ingress([mk_rule(peers, [])]))
}

#[test]
fn case_09_an_empty_subject_selects_the_whole_namespace_and_no_other() {
    let cluster = grid_with(mk_policy("x/p", "").ingress([]));
    no!(cluster; "y/a" -> "x/a" tcp(80), "y/a" -> "x/b" tcp(80), "x/a" -> "x/b" tcp(80));
    yes!(cluster; "x/a" -> "y/a" tcp(80), "x/a" -> "z/b" tcp(80), "y/a" -> "y/b" tcp(80));
    let expressions =
        mk_selector("").and("app", mk_in(&["a", "c"])).and("tier", Operator::DoesNotExist);
    let cluster = grid_with(mk_policy("x/p", expressions).ingress([]));
    no!(cluster; "y/a" -> "x/a" tcp(80));
    yes!(cluster; "y/a" -> "x/b" tcp(80));
}

#[test]
fn case_10_selectors_in_one_peer_are_anded_and_peers_are_ored() {
    // podSelector alone: the policy's own namespace.
    let own_pods = x_a_from([own("x", "app=b")]);
    yes!(own_pods; "x/b" -> "x/a" tcp(80));
    no!(own_pods; "y/b" -> "x/a" tcp(80), "z/b" -> "x/a" tcp(80));
    // namespaceSelector alone: all pods there, and not those of the own namespace.
    let namespace = x_a_from([within("env=prod", "")]);
    yes!(namespace; "y/a" -> "x/a" tcp(80), "y/b" -> "x/a" tcp(80));
    no!(namespace; "x/b" -> "x/a" tcp(80), "z/a" -> "x/a" tcp(80));
    // Both in one peer: and.
    let and = x_a_from([within("env=prod", "app=b")]);
    yes!(and; "y/b" -> "x/a" tcp(80));
    no!(and; "y/a" -> "x/a" tcp(80), "x/b" -> "x/a" tcp(80), "z/b" -> "x/a" tcp(80));
    // Two peers: or.
    let or = x_a_from([within("env=prod", ""), own("x", "app=b")]);
    yes!(or; "y/a" -> "x/a" tcp(80), "y/b" -> "x/a" tcp(80), "x/b" -> "x/a" tcp(80));
    no!(or; "z/a" -> "x/a" tcp(80), "z/b" -> "x/a" tcp(80));
}

#[test]
fn case_11_namespace_selectors_know_every_namespace_and_its_name() {
    let all = x_a_from([within("", "app=b")]);
    yes!(all; "x/b" -> "x/a" tcp(80), "y/b" -> "x/a" tcp(80), "z/b" -> "x/a" tcp(80));
    no!(all; "y/a" -> "x/a" tcp(80), "10.99.0.1" -> "x/a" tcp(80));
    let by_name = x_a_from([within("kubernetes.io/metadata.name=z", "")]);
    yes!(by_name; "z/a" -> "x/a" tcp(80));
    no!(by_name; "y/a" -> "x/a" tcp(80));
    // NotIn and DoesNotExist match what lacks the key.
    let not_prod = x_a_from([within(mk_selector("").and("env", mk_not_in(&["prod"])), "")]);
    yes!(not_prod; "x/b" -> "x/a" tcp(80), "z/a" -> "x/a" tcp(80));
    no!(not_prod; "y/a" -> "x/a" tcp(80));
    let no_env = x_a_from([within(Selector::everything().and("env", Operator::DoesNotExist), "")]);
    yes!(no_env; "z/a" -> "x/a" tcp(80));
    no!(no_env; "x/b" -> "x/a" tcp(80), "y/a" -> "x/a" tcp(80));
    let some_env = x_a_from([within(Selector::everything().and("env", Operator::Exists), "")]);
    no!(some_env; "z/a" -> "x/a" tcp(80));
    yes!(some_env; "y/a" -> "x/a" tcp(80));
    let back = x_a_from([own("x", Selector::everything().and("tier", mk_not_in(&["front"])))]);
    yes!(back; "x/b" -> "x/a" tcp(80));
    // The name is known even of a namespace that nobody states; other labels are not.
    let late = |peer| with(&x_a_from([peer]), mk_pod("late/a", "app=a", &["10.9.0.1"]));
    yes!(late(within("kubernetes.io/metadata.name=late", "")); "late/a" -> "x/a" tcp(80));
    no!(late(within("kubernetes.io/metadata.name=z", "")); "late/a" -> "x/a" tcp(80));
    unknown!(late(within("env=prod", "")); "late/a" -> "x/a" tcp(80));
}

#[test]
fn case_12_no_peers_mean_anybody_and_selectors_mean_pods_only() {
    let anybody = x_a_from([]);
    yes!(anybody; "y/a" -> "x/a" tcp(80), "198.51.100.9" -> "x/a" tcp(80));
    let pods = x_a_from([within("", "")]);
    yes!(pods; "y/a" -> "x/a" tcp(80), "10.2.0.1" -> "x/a" tcp(80));
    no!(pods; "198.51.100.9" -> "x/a" tcp(80), "10.2.0.77" -> "x/a" tcp(80));
    // Even one that asks that a label be absent.
    let absent = Selector::everything().and("app", Operator::DoesNotExist);
    no!(x_a_from([within(absent, "")]); "198.51.100.9" -> "x/a" tcp(80));
    // And for egress.
    let out = grid_with(mk_policy("x/p", "app=a").egress([mk_rule([within("", "")], [])]));
    yes!(out; "x/a" -> "y/a" tcp(80));
    no!(out; "x/a" -> "198.51.100.9" tcp(443));
    let out = grid_with(mk_policy("x/p", "app=a").egress([mk_rule([], [])]));
    yes!(out; "x/a" -> "198.51.100.9" tcp(443));
}

#[test]
fn case_13_peers_and_ports_must_both_match() {
    let rule = mk_rule([own("x", "app=b")], [port(tcp(0).0, 80)]);
    let cluster = grid_with(mk_policy("x/p", "app=a").ingress([rule]));
    yes!(cluster; "x/b" -> "x/a" tcp(80));
    no!(cluster; "x/b" -> "x/a" tcp(81), "y/b" -> "x/a" tcp(80));
    // A peer of one rule does not go with the ports of another.
    let rules = [
        mk_rule([own("x", "app=b")], [port(tcp(0).0, 80)]),
        mk_rule([within("env=prod", "")], [port(tcp(0).0, 81)]),
    ];
    let cluster = grid_with(mk_policy("x/p", "app=a").ingress(rules));
    yes!(cluster; "x/b" -> "x/a" tcp(80), "y/a" -> "x/a" tcp(81));
    no!(cluster; "x/b" -> "x/a" tcp(81), "y/a" -> "x/a" tcp(80));
}

#[test]
fn case_14_a_selector_that_nothing_can_meet_does_not_open() {
    // A selector that is no selector cannot be built; the nearest that can is one that contradicts
    // itself, and `In` without values.
    let never = mk_selector("app=b").and("app", Operator::DoesNotExist);
    no!(x_a_from([own("x", never.clone())]); "x/b" -> "x/a" tcp(80), "y/b" -> "x/a" tcp(80));
    no!(x_a_from([within("", Selector::everything().and("app", mk_in(&[])))]); "x/b" -> "x/a" tcp(80));
    // As a subject it selects nobody, so it isolates nobody.
    yes!(grid_with(mk_policy("x/p", never).ingress([])); "y/b" -> "x/a" tcp(80));
}
