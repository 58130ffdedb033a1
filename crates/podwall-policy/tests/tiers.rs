//! In which order do the tiers decide?
//!
//! ```text
//!   Admin, by priority ── Pass ──▶ NetworkPolicies ── not isolated ──▶ Baseline ──▶ open
//! ```
//!
//! Source: the API document of `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.

#[cfg(test)]
mod support;

use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::Verdict;
use podwall_policy::policy::{Action, Direction, Policy, Tier};
use podwall_policy::port::{PortSpec, Protocol};
use support::*;

const ALLOW: Action = Action::Allow;
const DENY: Action = Action::Deny;
const PASS: Action = Action::Pass;

fn pods() -> Cluster {
    mk_cluster![
        mk_namespace("demo", "env=prod"),
        mk_namespace("ops", "env=ops"),
        mk_pod("demo/db", "app=db", &["10.1.0.1"]),
        mk_pod("demo/web", "app=web", &["10.1.0.2"]),
        mk_pod("ops/tool", "app=tool", &["10.2.0.1"]),
        mk_node("n1", &["192.168.0.1"]),
    ]
}

/// A tier policy for the pods of namespaces env=prod with these ingress rules for anybody.
fn tier(tier: Tier, priority: u16, name: &str, actions: &[(Action, &[PortSpec])]) -> Policy {
    let rules: Vec<_> =
        actions.iter().map(|(action, ports)| mk_action(*action, [], *ports)).collect();
    mk_tier(tier, priority, name, "env=prod", "").ingress(rules)
}

fn admin(priority: u16, name: &str, action: Action) -> Policy {
    tier(Tier::Admin, priority, name, &[(action, &[])])
}

fn baseline(action: Action) -> Policy {
    tier(Tier::Baseline, 0, "base", &[(action, &[])])
}

/// A NetworkPolicy that lets nobody in, and one that lets everybody in.
fn shut() -> Policy {
    mk_policy("demo/np", "").ingress([])
}
fn open() -> Policy {
    mk_policy("demo/np", "").ingress([mk_rule([], [])])
}

fn cluster(policies: impl IntoIterator<Item = Policy>) -> Cluster {
    policies.into_iter().fold(pods(), |cluster, policy| with(&cluster, policy))
}

#[test]
fn the_first_tier_that_has_a_word_decides() {
    let table: Vec<(Vec<Policy>, bool)> = vec![
        (vec![], true),
        (vec![admin(0, "a", DENY)], false),
        (vec![admin(0, "a", DENY), open()], false),
        (vec![admin(0, "a", ALLOW), shut()], true),
        (vec![admin(0, "a", ALLOW), shut(), baseline(DENY)], true),
        (vec![admin(0, "a", PASS), shut()], false),
        (vec![admin(0, "a", PASS), open(), baseline(DENY)], true),
        (vec![admin(0, "a", PASS), baseline(DENY)], false),
        (vec![admin(0, "a", PASS)], true),
        (vec![baseline(DENY)], false),
        (vec![baseline(DENY), open()], true),
        (vec![baseline(ALLOW), shut()], false),
        (vec![baseline(PASS)], true),
    ];
    for (policies, passes) in table {
        let names: Vec<String> = policies.iter().map(|p| format!("{:?}", p.tier)).collect();
        let verdict = can(&cluster(policies), "ops/tool", "demo/db", tcp(5432));
        assert_eq!(verdict == Verdict::Allowed, passes, "{names:?}");
        assert_ne!(verdict, Verdict::Unknown);
    }
}

#[test]
fn in_a_tier_the_lower_priority_number_decides_and_then_the_earlier_rule() {
    let two = |a, b| cluster([admin(a, "a", ALLOW), admin(b, "b", DENY)]);
    yes!(two(1, 2); "ops/tool" -> "demo/db" tcp(1));
    no!(two(2, 1); "ops/tool" -> "demo/db" tcp(1));
    let rules = |list: &[(Action, &[PortSpec])]| cluster([tier(Tier::Admin, 5, "a", list)]);
    let eighty = [port(Protocol::TCP, 80)];
    let hole = rules(&[(ALLOW, &eighty), (DENY, &[])]);
    yes!(hole; "ops/tool" -> "demo/db" tcp(80));
    no!(hole; "ops/tool" -> "demo/db" tcp(81), "ops/tool" -> "demo/db" PING);
    no!(rules(&[(DENY, &[]), (ALLOW, &eighty)]); "ops/tool" -> "demo/db" tcp(80));
}

#[test]
fn pass_skips_the_rest_of_its_tier_for_what_it_matches() {
    let eighty = [port(Protocol::TCP, 80)];
    let list: [(Action, &[PortSpec]); 2] = [(PASS, &eighty), (DENY, &[])];
    let passing = tier(Tier::Admin, 1, "a", &list);
    let more = admin(2, "b", DENY);
    yes!(cluster([passing.clone(), more.clone()]); "ops/tool" -> "demo/db" tcp(80));
    no!(cluster([passing.clone(), more.clone()]); "ops/tool" -> "demo/db" tcp(81));
    no!(cluster([passing, more, shut()]); "ops/tool" -> "demo/db" tcp(80));
}

#[test]
fn tiers_isolate_nobody_by_selecting_them() {
    for of in [Tier::Admin, Tier::Baseline] {
        let eighty = [port(Protocol::TCP, 80)];
        let cluster = cluster([tier(of, 0, "t", &[(ALLOW, &eighty)])]);
        yes!(cluster; "ops/tool" -> "demo/db" tcp(80), "ops/tool" -> "demo/db" tcp(81));
        let side = evaluations(&cluster, "ops/tool", "demo/db").remove(0).ingress;
        assert!(!side.is_isolated());
        yes!(cluster; "demo/db" -> "ops/tool" tcp(1));
    }
}

#[test]
fn tiers_select_by_namespace_and_leave_out_what_is_no_pod() {
    let closed = cluster([admin(0, "a", DENY)]);
    yes!(closed; "demo/db" -> "ops/tool" tcp(1), "node/n1" -> "demo/db" tcp(1),
        "demo/db" -> "demo/db" tcp(1));
    let host = mk_pod("demo/host", "", &["192.168.0.1"]).host_network();
    yes!(with(&closed, host); "ops/tool" -> "demo/host" tcp(1));
    // Of a namespace that nobody states it is unknown.
    let late = with(&closed, mk_pod("late/pod", "", &["10.3.0.1"]));
    unknown!(late; "ops/tool" -> "late/pod" tcp(1));
    let side = evaluations(&late, "ops/tool", "late/pod").remove(0).ingress;
    assert_eq!(side.missing.len(), 1, "{:?}", side.missing);
    // What a NetworkPolicy denies anyway, or an earlier rule decides, stays certain.
    let late_shut = with(&late, mk_policy("late/shut", "").ingress([]));
    no!(late_shut; "ops/tool" -> "late/pod" tcp(1));
    let eighty = [port(Protocol::TCP, 80)];
    let list: [(Action, &[PortSpec]); 2] = [(ALLOW, &eighty), (DENY, &[])];
    let hole =
        with(&cluster([tier(Tier::Admin, 0, "a", &list)]), mk_pod("late/pod", "", &["10.3.0.1"]));
    yes!(hole; "ops/tool" -> "late/pod" tcp(80));
    unknown!(hole; "ops/tool" -> "late/pod" tcp(81));
}

#[test]
fn a_dry_run_reports_and_decides_nothing() {
    for policy in [admin(0, "a", DENY), baseline(DENY), shut()] {
        let cluster = cluster([policy.dry_run()]);
        yes!(cluster; "ops/tool" -> "demo/db" tcp(1));
        let side = evaluations(&cluster, "ops/tool", "demo/db").remove(0).ingress;
        assert!(!side.is_isolated());
    }
    let cluster = cluster([shut(), Policy { name: mk_name("demo/try"), ..open() }.dry_run()]);
    no!(cluster; "ops/tool" -> "demo/db" tcp(1));
    let why = why(&cluster, "ops/tool", "demo/db", Direction::Ingress, tcp(1));
    assert!(why.allowed_by.is_empty(), "a dry-run rule gets no credit");
    assert_eq!(why.dry_run[0].to_string(), "demo/try ingress rule 1");
}

#[test]
fn an_explanation_names_who_decided_and_who_came_too_late() {
    let names = |rules: &[podwall_policy::policy::RuleRef]| -> Vec<String> {
        rules.iter().map(|rule| format!("{:?} {}", rule.tier, rule.policy.name)).collect()
    };
    let ask = |cluster: &Cluster| why(cluster, "ops/tool", "demo/db", Direction::Ingress, tcp(1));
    let all = ask(&cluster([admin(1, "a", DENY), admin(2, "b", ALLOW), open(), baseline(DENY)]));
    assert_eq!(names(&all.denied_by), ["Admin a"]);
    assert!(all.allowed_by.is_empty());
    assert_eq!(names(&all.overruled), ["Admin b", "NetworkPolicy np", "Baseline base"]);
    let np = ask(&cluster([open(), baseline(DENY)]));
    assert_eq!(names(&np.allowed_by), ["NetworkPolicy np"]);
    assert_eq!(
        (names(&np.denied_by), names(&np.overruled)),
        (vec![], vec!["Baseline base".into()])
    );
    // NetworkPolicies stand side by side: all that allow are named.
    let second = Policy { name: mk_name("demo/np-2"), ..open() };
    assert_eq!(ask(&cluster([open(), second])).allowed_by.len(), 2);
}
