//! Cases 1 to 8: which pods are isolated, and how policies add up.

use podwall_policy::cluster::Cluster;
use podwall_policy::policy::Direction;

use crate::support::*;
use crate::{mk_cluster, no, yes};

/// Pods web, db and job in namespace demo, tool in namespace ops; no policy.
fn open() -> Cluster {
    mk_cluster![
        mk_namespace("demo", "env=prod"),
        mk_namespace("ops", "env=ops"),
        mk_pod("demo/web", "app=web", &["10.1.0.1"]),
        mk_pod("demo/db", "app=db", &["10.1.0.2"]),
        mk_pod("demo/job", "app=job", &["10.1.0.3"]),
        mk_pod("ops/tool", "app=tool", &["10.2.0.1"]),
    ]
}

#[test]
fn case_01_without_a_policy_everything_passes() {
    yes!(open(); "demo/web" -> "demo/db" tcp(5432), "ops/tool" -> "demo/db" udp(1),
        "demo/db" -> "198.51.100.9" tcp(443), "198.51.100.9" -> "demo/web" PING);
    // A policy that selects another pod is no policy for this one.
    let other = with(&open(), mk_policy("demo/job", "app=job").ingress([]).egress([]));
    yes!(other; "demo/web" -> "demo/db" tcp(5432), "198.51.100.9" -> "demo/web" sctp(7));
    no!(other; "demo/web" -> "demo/job" tcp(5432));
    // Nor is one of another namespace that would match the labels.
    let elsewhere = with(&open(), mk_policy("ops/db", "app=db").ingress([]).egress([]));
    yes!(elsewhere; "demo/web" -> "demo/db" tcp(5432));
}

#[test]
fn case_02_isolation_is_per_direction() {
    let ingress = with(&open(), mk_policy("demo/db", "app=db").ingress([]));
    no!(ingress; "demo/web" -> "demo/db" tcp(5432));
    yes!(ingress; "demo/db" -> "demo/web" tcp(80), "demo/db" -> "198.51.100.9" udp(53));
    let egress = with(&open(), mk_policy("demo/db", "app=db").egress([]));
    yes!(egress; "demo/web" -> "demo/db" tcp(5432));
    no!(egress; "demo/db" -> "demo/web" tcp(80), "demo/db" -> "198.51.100.9" udp(53));
    // Two ingress-only policies and one taken away: egress stays untouched throughout.
    let mut two = with(&ingress, mk_policy("demo/db-too", "app=db").ingress([]));
    yes!(two; "demo/db" -> "demo/web" tcp(80));
    two.policies.retain(|(_, name), _| *name.name != *"db");
    no!(two; "demo/web" -> "demo/db" tcp(5432));
    yes!(two; "demo/db" -> "demo/web" tcp(80));
}

#[test]
fn case_03_a_direction_that_policy_types_leave_out_is_not_isolated() {
    // The four states that policyTypes can leave a policy in. Defaulting itself is the manifest
    // reader's: [Ingress] where absent, with Egress if there is an egress section.
    let states = [(false, false), (true, false), (false, true), (true, true)];
    for (ingress, egress) in states {
        let mut policy = mk_policy("demo/db", "app=db");
        policy.ingress = ingress.then(Vec::new);
        policy.egress = egress.then(Vec::new);
        let cluster = with(&open(), policy);
        let both = evaluations(&cluster, "demo/web", "demo/db").remove(0);
        assert_eq!(both.ingress.is_isolated(), ingress);
        assert!(!both.egress.is_isolated(), "web is selected by nothing");
        let back = evaluations(&cluster, "demo/db", "demo/web").remove(0);
        assert_eq!(back.egress.is_isolated(), egress);
        assert_eq!(back.allowed().is_everything(), !egress, "deny-all egress denies all");
    }
}

#[test]
fn case_04_policies_add_up_in_any_order() {
    let narrow = mk_policy("demo/a-narrow", "app=db")
        .ingress([mk_rule([own("demo", "app=web")], [port(tcp(0).0, 5432)])]);
    let other = mk_policy("demo/b-other", "app=db")
        .ingress([mk_rule([own("demo", "app=job")], [port(tcp(0).0, 22)])]);
    let union = with(&with(&open(), narrow.clone()), other.clone());
    yes!(union; "demo/web" -> "demo/db" tcp(5432), "demo/job" -> "demo/db" tcp(22));
    no!(union; "demo/web" -> "demo/db" tcp(22), "demo/job" -> "demo/db" tcp(5432),
        "ops/tool" -> "demo/db" tcp(22));
    assert_eq!(union, with(&with(&open(), other), narrow.clone()), "a cluster has no order");
    // An allow-all beside a narrow policy wins, whatever their names, in both directions.
    for name in ["demo/0-all", "demo/z-all"] {
        let all = mk_policy(name, "").ingress([mk_rule([], [])]).egress([mk_rule([], [])]);
        let cluster = with(&with(&open(), narrow.clone()), all);
        yes!(cluster; "ops/tool" -> "demo/db" tcp(22), "198.51.100.9" -> "demo/db" PING);
        let closed = mk_policy("demo/m-closed", "app=db").egress([]).ingress([]);
        yes!(with(&cluster, closed); "demo/db" -> "ops/tool" tcp(22), "ops/tool" -> "demo/db" udp(1));
    }
}

#[test]
fn case_05_an_empty_list_denies_and_an_empty_rule_allows() {
    let empty_list = with(&open(), mk_policy("demo/db", "app=db").ingress([]).egress([]));
    no!(empty_list; "demo/web" -> "demo/db" tcp(5432), "demo/web" -> "demo/db" PING,
        "demo/db" -> "demo/web" udp(53), "demo/db" -> "198.51.100.9" tcp(443));
    let empty_rule =
        mk_policy("demo/db", "app=db").ingress([mk_rule([], [])]).egress([mk_rule([], [])]);
    let empty_rule = with(&open(), empty_rule);
    yes!(empty_rule; "demo/web" -> "demo/db" tcp(5432), "198.51.100.9" -> "demo/db" PING,
        "demo/db" -> "demo/web" udp(53), "demo/db" -> "198.51.100.9" sctp(1));
    let side = evaluations(&empty_rule, "demo/web", "demo/db").remove(0).ingress;
    assert!(side.is_isolated(), "it is isolated all the same, and open by a rule");
}

#[test]
fn case_06_both_ends_must_allow() {
    let out = mk_policy("demo/out", "app=web").egress([mk_rule([own("demo", "app=db")], [])]);
    let into = mk_policy("demo/in", "app=db").ingress([mk_rule([own("demo", "app=web")], [])]);
    yes!(with(&with(&open(), out.clone()), into.clone()); "demo/web" -> "demo/db" tcp(5432));
    let closed_out = mk_policy("demo/out", "app=web").egress([]);
    let closed_in = mk_policy("demo/in", "app=db").ingress([]);
    no!(with(&with(&open(), out.clone()), closed_in); "demo/web" -> "demo/db" tcp(5432));
    no!(with(&with(&open(), closed_out), into.clone()); "demo/web" -> "demo/db" tcp(5432));
    // What passes is what both name.
    let https = |peers: Vec<_>| mk_rule(peers, [port_range(tcp(0).0, 400, 500)]);
    let high = |peers: Vec<_>| mk_rule(peers, [port_range(tcp(0).0, 443, 9000)]);
    let cluster = with(&open(), mk_policy("demo/out", "app=web").egress([https(vec![])]));
    let cluster = with(&cluster, mk_policy("demo/in", "app=db").ingress([high(vec![])]));
    let both = evaluations(&cluster, "demo/web", "demo/db").remove(0);
    assert_eq!(both.allowed().to_string(), "TCP 443-500");
    // default-deny-all with both types and an ingress rule alone: the sender stays shut.
    let deny_all = mk_policy("demo/default-deny-all", "").ingress([]).egress([]);
    let cluster = with(&with(&open(), deny_all), into);
    no!(cluster; "demo/web" -> "demo/db" tcp(5432));
    let side = evaluations(&cluster, "demo/web", "demo/db").remove(0);
    assert!(side.ingress.allowed.is_everything() && side.egress.denied.is_everything());
}

#[test]
fn case_07_directions_are_independent() {
    let policy =
        mk_policy("demo/db", "app=db").ingress([mk_rule([own("demo", "app=web")], [])]).egress([]);
    let cluster = with(&open(), policy);
    yes!(cluster; "demo/web" -> "demo/db" tcp(5432));
    no!(cluster; "demo/db" -> "demo/web" tcp(5432));
    // Between two pods of one policy on one node the sender's egress rules do not stand in for the
    // receiver's ingress rules, nor the other way round.
    let pair = mk_policy("demo/pair", "")
        .egress([mk_rule([own("demo", "app=db")], [])])
        .ingress([mk_rule([own("demo", "app=db")], [])]);
    let cluster = with(&open(), pair);
    no!(cluster; "demo/web" -> "demo/db" tcp(1), "demo/db" -> "demo/web" tcp(1));
    yes!(cluster; "demo/db" -> "demo/db" tcp(1));
    let there = evaluations(&cluster, "demo/web", "demo/db").remove(0);
    assert!(there.egress.allowed.is_everything() && there.ingress.denied.is_everything());
    let back = evaluations(&cluster, "demo/db", "demo/web").remove(0);
    assert!(back.egress.denied.is_everything() && back.ingress.allowed.is_everything());
}

#[test]
fn case_08_a_verdict_follows_policies_and_labels() {
    let closed = with(&open(), mk_policy("demo/db", "app=db").ingress([]));
    no!(closed; "ops/tool" -> "demo/db" tcp(5432));
    // The policy is updated, then deleted.
    let rule = mk_rule([within("env=ops", "")], []);
    let updated = with(&closed, mk_policy("demo/db", "app=db").ingress([rule]));
    yes!(updated; "ops/tool" -> "demo/db" tcp(5432));
    let mut deleted = closed.clone();
    deleted.policies.clear();
    yes!(deleted; "ops/tool" -> "demo/db" tcp(5432), "demo/web" -> "demo/db" tcp(5432));
    // The subject's label, a peer's namespace's label.
    yes!(with(&closed, mk_pod("demo/db", "app=db-2", &["10.1.0.2"])); "ops/tool" -> "demo/db" tcp(5432));
    no!(with(&updated, mk_namespace("ops", "env=test")); "ops/tool" -> "demo/db" tcp(5432));
    // A peer's own label.
    let rule = mk_rule([within("", "app=tool")], []);
    let by_pod = with(&closed, mk_policy("demo/db", "app=db").ingress([rule]));
    yes!(by_pod; "ops/tool" -> "demo/db" tcp(5432));
    no!(with(&by_pod, mk_pod("ops/tool", "app=was-tool", &["10.2.0.1"])); "ops/tool" -> "demo/db" tcp(5432));
    let why = why(&by_pod, "ops/tool", "demo/db", Direction::Ingress, tcp(5432));
    assert_eq!(why.allowed_by[0].to_string(), "demo/db ingress rule 1");
}
