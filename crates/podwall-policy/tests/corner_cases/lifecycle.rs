//! Cases 39 to 50, as far as they are questions of meaning.

use podwall_policy::address::{AddressSet, Family};
use podwall_policy::cluster::{Cluster, Strangers};
use podwall_policy::evaluate::Exempt;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::policy::Direction;

use crate::support::*;
use crate::{mk_cluster, no, unknown, yes};

/// demo/db lets in app=web of its namespace and 10.7.0.0/16.
fn db() -> Cluster {
    let rule = mk_rule([own("demo", "app=web"), block("10.7.0.0/16", &[])], []);
    mk_cluster![
        mk_namespace("demo", "env=prod"),
        mk_pod("demo/db", "app=db", &["10.1.0.1"]),
        mk_pod("demo/web", "app=web", &["10.1.0.2"]),
        mk_policy("demo/p", "app=db").ingress([rule]),
    ]
}

#[test]
fn case_37_a_pod_without_an_address_is_isolated_already() {
    let cluster = with(&db(), mk_pod("demo/db", "app=db", &[]));
    no!(cluster; "198.51.100.9" -> "demo/db" tcp(5432));
    yes!(cluster; "demo/web" -> "demo/db" tcp(5432));
    let side = evaluations(&cluster, "demo/web", "demo/db").remove(0).ingress;
    assert!(side.is_isolated());
}

/// A new pod's address is known only after its containers run.
#[test]
fn case_37_an_address_that_nobody_knows_yet_is_isolated_where_its_node_says_so() {
    let mut cluster = db();
    cluster.put_node(mk_node("n1", &["10.1.0.254"]));
    let free = cluster.clone();
    yes!(free; "10.1.0.9" -> "demo/web" tcp(80), "demo/web" -> "10.1.0.9" tcp(80));
    let net: ipnet::IpNet = "10.1.0.0/24".parse().unwrap();
    let strangers = Strangers { ranges: AddressSet::from(net), ..Strangers::default() };
    cluster.strangers.insert("n1".into(), strangers);
    no!(cluster; "10.1.0.9" -> "demo/web" tcp(80), "demo/web" -> "10.1.0.9" tcp(80),
        "10.1.0.9" -> "10.1.0.9" tcp(80), "10.1.0.9" -> "198.51.100.9" PING);
    yes!(cluster; "node/n1" -> "10.1.0.9" tcp(80), "10.1.0.254" -> "10.1.0.9" tcp(80),
        "demo/web" -> "demo/db" tcp(5432), "10.1.0.2" -> "198.51.100.9" tcp(80));
    let side = evaluations(&cluster, "demo/web", "10.1.0.9").remove(0).ingress;
    assert_eq!(side.stranger_on.as_deref(), Some("n1"));
    assert!(side.rules.is_empty() && !side.is_isolated());
    // As soon as a pod has it, it is the pod's, wherever that runs; when it ends nobody's.
    let known = with(&cluster, mk_pod("demo/new", "app=new", &["10.1.0.9"]).on("n2"));
    yes!(known; "10.1.0.9" -> "demo/web" tcp(80), "demo/web" -> "10.1.0.9" tcp(80));
    let ended = with(&cluster, mk_pod("demo/new", "app=new", &["10.1.0.9"]).terminated());
    no!(ended; "10.1.0.9" -> "demo/web" tcp(80));
    // Let go after a time.
    let strangers = cluster.strangers.values_mut();
    strangers.for_each(|its| its.released = ["10.1.0.9".parse().unwrap()].into());
    yes!(cluster; "10.1.0.9" -> "demo/web" tcp(80));
    no!(cluster; "10.1.0.10" -> "demo/web" tcp(80));
}

#[test]
fn case_39_a_pod_that_has_ended_counts_for_nothing() {
    yes!(db(); "demo/web" -> "demo/db" tcp(5432), "10.1.0.2" -> "demo/db" tcp(5432));
    // The object and its address are still there: no selector matches it, nor its address by it.
    let ended = with(&db(), mk_pod("demo/web", "app=web", &["10.1.0.2"]).terminated());
    no!(ended; "demo/web" -> "demo/db" tcp(5432), "10.1.0.2" -> "demo/db" tcp(5432));
    let by_block = with(&db(), mk_pod("demo/web", "app=web", &["10.7.0.2"]).terminated());
    no!(by_block; "demo/web" -> "demo/db" tcp(5432));
    yes!(by_block; "10.7.0.2" -> "demo/db" tcp(5432)); // whoever has the address now
    // It is no subject either.
    let subject = with(&db(), mk_pod("demo/db", "app=db", &["10.1.0.1"]).terminated());
    let both = evaluations(&subject, "demo/web", "demo/db").remove(0);
    assert_eq!(both.ingress.exempt, Some(Exempt::Terminated));
    // Its address passed on to another pod is that pod's.
    let next = with(&ended, mk_pod("demo/batch", "app=batch", &["10.1.0.2"]));
    assert_eq!(party(&next, "10.1.0.2"), party(&next, "demo/batch"));
    no!(next; "10.1.0.2" -> "demo/db" tcp(5432));
    // One that is being deleted still runs: the phase stays Alive, so it is a pod like any other.
}

#[test]
fn case_40_a_peer_without_an_address_matches_selectors_and_leaves_blocks_open() {
    let no_address = with(&db(), mk_pod("demo/web", "app=web", &[]));
    yes!(no_address; "demo/web" -> "demo/db" tcp(5432));
    let other = with(&db(), mk_pod("demo/job", "app=job", &[]));
    unknown!(other; "demo/job" -> "demo/db" tcp(5432));
    let why = why(&other, "demo/job", "demo/db", Direction::Ingress, tcp(5432));
    assert_eq!(
        why.undecided[0].1[0].to_string(),
        "the IPv4 address of pod demo/job (status.podIPs)"
    );
    // Two facts are enough to decide without it: everything is covered, or the node's pod CIDR is.
    let mut node = mk_node("n1", &["192.168.0.1"]);
    node.pod_cidrs = vec![mk_net("10.7.3.0/24")];
    yes!(with(&other, node.clone()); "demo/job" -> "demo/db" tcp(5432));
    node.pod_cidrs = vec![mk_net("10.8.0.0/24")];
    no!(with(&other, node.clone()); "demo/job" -> "demo/db" tcp(5432));
    node.pod_cidrs = vec![mk_net("10.6.0.0/15")];
    unknown!(with(&other, node); "demo/job" -> "demo/db" tcp(5432));
    let anywhere = mk_policy("demo/q", "app=db").ingress([mk_rule([block("0.0.0.0/0", &[])], [])]);
    yes!(with(&other, anywhere); "demo/job" -> "demo/db" tcp(5432));
}

#[test]
fn case_41_both_addresses_of_a_pod_count() {
    let rule = mk_rule([block("10.7.0.0/16", &[]), block("fd00:7::/64", &[])], []);
    let cluster = mk_cluster![
        mk_pod("demo/db", "app=db", &["10.1.0.1", "fd00:1::1"]),
        mk_pod("demo/dual", "app=dual", &["fd00:7::2", "10.7.0.2"]),
        mk_pod("demo/four", "app=four", &["10.7.0.3"]),
        mk_pod("demo/six", "app=six", &["fd00:7::3"]),
        mk_pod("demo/out", "app=out", &["10.8.0.3", "fd00:8::3"]),
        mk_policy("demo/p", "app=db").ingress([rule]),
    ];
    let families = |src: &str| -> Vec<Family> {
        let flows = Flow::between(party(&cluster, src), party(&cluster, "demo/db"));
        flows.iter().map(|flow| flow.family).collect()
    };
    assert_eq!(families("demo/dual"), [Family::V4, Family::V6]);
    assert_eq!(families("demo/four"), [Family::V4]);
    assert_eq!(families("demo/six"), [Family::V6]);
    yes!(cluster; "demo/dual" -> "demo/db" tcp(1), "demo/four" -> "demo/db" tcp(1),
        "demo/six" -> "demo/db" tcp(1), "fd00:7::2" -> "demo/db" tcp(1));
    no!(cluster; "demo/out" -> "demo/db" tcp(1), "fd00:8::3" -> "demo/db" tcp(1));
    // Nothing passes between pods that have no family in common.
    assert!(Flow::between(party(&cluster, "demo/four"), party(&cluster, "demo/six")).is_empty());
    // The set of families may change during a pod's life.
    let later = with(&cluster, mk_pod("demo/four", "app=four", &["10.7.0.3", "fd00:8::9"]));
    let flows = Flow::between(party(&later, "demo/four"), party(&later, "demo/db"));
    let verdicts: Vec<bool> = flows
        .iter()
        .map(|flow| podwall_policy::evaluate::evaluate(&later, flow).allowed().is_everything())
        .collect();
    assert_eq!(verdicts, [true, false]);
}

#[test]
fn case_42_two_claims_on_one_address_have_one_answer() {
    // Until the API shows the deletion two pods may claim an address. A live source hands over the
    // one that started last; among equals the answer must not depend on order.
    let old = mk_pod("demo/a-web", "app=web", &["10.1.0.9"]);
    let new = mk_pod("demo/b-job", "app=job", &["10.1.0.9"]);
    let one = with(&with(&db(), old.clone()), new.clone());
    let other = with(&with(&db(), new.clone()), old.clone());
    assert_eq!(party(&one, "10.1.0.9"), party(&other, "10.1.0.9"));
    no!(one; "10.1.0.9" -> "demo/db" tcp(1));
    // A claim of one that has ended or uses the node's network does not count.
    let ended = with(&with(&db(), old.clone()), new.clone().terminated());
    yes!(ended; "10.1.0.9" -> "demo/db" tcp(1));
    let host = with(&with(&db(), old), new.host_network());
    yes!(host; "10.1.0.9" -> "demo/db" tcp(1));
}

#[test]
fn case_43_a_pod_made_again_under_its_name_is_judged_anew() {
    let again = with(&db(), mk_pod("demo/web", "app=other", &["10.1.0.2"]));
    no!(again; "demo/web" -> "demo/db" tcp(1), "10.1.0.2" -> "demo/db" tcp(1));
    let moved = with(&again, mk_pod("demo/web", "app=web", &["10.1.0.66"]));
    yes!(moved; "demo/web" -> "demo/db" tcp(1), "10.1.0.66" -> "demo/db" tcp(1));
    no!(moved; "10.1.0.2" -> "demo/db" tcp(1));
}

#[test]
fn case_46_there_is_no_cap() {
    let mut cluster = db();
    for n in 0..300u16 {
        let ports: Vec<_> = (0..60).map(|i| port(tcp(0).0, 1000 + 100 * n + i)).collect();
        let peer = mk_selector("")
            .and("app", mk_in(&["web", "job"]))
            .and(format!("x{n}"), mk_not_in(&["1"]));
        let rule = mk_rule([own("demo", "app=nobody"), own("demo", peer)], ports);
        cluster.put_policy(mk_policy(&format!("demo/p{n}"), "app=db").ingress([rule]));
    }
    cluster.put_pod(mk_pod("demo/job", "app=job", &["10.1.0.3"]));
    yes!(cluster; "demo/job" -> "demo/db" tcp(1000), "demo/job" -> "demo/db" tcp(30959));
    no!(cluster; "demo/job" -> "demo/db" tcp(30960), "demo/job" -> "demo/db" tcp(999));
    let side = evaluations(&cluster, "demo/job", "demo/db").remove(0).ingress;
    assert_eq!(side.isolated_by.len(), 301);
    assert_eq!(side.allowed.iter().count(), 300);
}

#[test]
fn case_48_a_namespace_that_is_not_there_is_unknown_until_it_is() {
    let rule = mk_rule([within("env=ops", "")], []);
    let cluster = with(&db(), mk_policy("demo/p", "app=db").ingress([rule]));
    let mut cluster = with(&cluster, mk_pod("ops/tool", "app=tool", &["10.2.0.1"]));
    unknown!(cluster; "ops/tool" -> "demo/db" tcp(1));
    cluster.namespaces.clear(); // not even implied
    unknown!(cluster; "ops/tool" -> "demo/db" tcp(1));
    yes!(with(&cluster, mk_namespace("ops", "env=ops")); "ops/tool" -> "demo/db" tcp(1));
    no!(with(&cluster, mk_namespace("ops", "")); "ops/tool" -> "demo/db" tcp(1));
    // Policies need no namespace object to isolate their pods.
    no!(cluster; "198.51.100.9" -> "demo/db" tcp(1));
}

#[test]
fn case_50_behind_a_node_port_the_source_is_the_node() {
    let rule = mk_rule([block("198.51.100.0/24", &[])], []);
    let cluster = with(&db(), mk_policy("demo/p", "app=db").ingress([rule]));
    let cluster = with(&cluster, mk_node("n1", &["192.168.0.1"]));
    let cluster = with(&cluster, mk_node("n2", &["192.168.0.2"]));
    // externalTrafficPolicy Local: the client's own address arrives.
    yes!(cluster; "198.51.100.9" -> "demo/db" tcp(1));
    // Cluster, over another node: that node's address arrives, and the client's block is no help.
    no!(cluster; "192.168.0.2" -> "demo/db" tcp(1));
    // Over the pod's own node it is the own node's traffic, which is always let in.
    yes!(cluster; "192.168.0.1" -> "demo/db" tcp(1));
    assert!(matches!(party(&cluster, "192.168.0.2"), Party::Node(_)));
}
